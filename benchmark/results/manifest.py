"""What a manifest must hold to be worked with: a folder may come from anybody, and its names become parts of paths."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..data.pair import Control
from ..errors import CorruptRun, first_problem

UNIT_PATTERN = r"^[a-z0-9][a-z0-9_-]*\.s[0-9]+$"
"""A unit's name: its attack, as registered, and its seed."""

MOST_CANDIDATES = 2**40


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Unit(_Part):
    attack: str
    seed: Annotated[int, Field(ge=0)]
    settings: dict[str, Any]
    code: dict[str, str] = {}


class _Model(_Part):
    family: str
    sha256: dict[str, str]


class _Rules(_Part):
    top_k: Annotated[int, Field(ge=1)]


class _Identity(_Part):
    pair: str
    pair_identity: str
    measures: Annotated[list[str], Field(min_length=1)]
    defences: dict[str, dict[str, Any]]
    protocol: _Rules
    model: _Model
    code: dict[str, dict[str, str]] = {}
    candidates: Annotated[int, Field(ge=0, le=MOST_CANDIDATES)] | None = None
    """Of `sidebench/1`; later ones keep it outside."""


class _Data(_Part):
    sha256: str


class _Manifest(_Part):
    identity: _Identity
    units: dict[Annotated[str, Field(pattern=UNIT_PATTERN, max_length=200)], _Unit]
    control: Control
    candidates: Annotated[int, Field(ge=0, le=MOST_CANDIDATES)] | None = None
    data: _Data | None = None

    @model_validator(mode="after")
    def _one_number(self) -> "_Manifest":
        if self.candidates is None and self.identity.candidates is None:
            raise ValueError("it does not say how many candidates were asked for")
        return self

    @model_validator(mode="after")
    def _units_are_named(self) -> "_Manifest":
        for name, unit in self.units.items():
            if name != unit_name(unit.attack, unit.seed):
                raise ValueError(f"unit {name} is of {unit.attack} under seed {unit.seed}")
        return self


def unit_name(attack: str, seed: int) -> str:
    """Return what one attack under one seed is called in manifests, costs and the names of files.

    Examples:
        >>> unit_name("side", 0)
        'side.s0'
    """
    return f"{attack}.s{seed}"


def check_manifest(content: Mapping[str, Any], name: str) -> None:
    """Refuse a manifest that lacks what every reader of a run relies on, or has it of another type.

    Args:
        content: What the file holds.
        name: How messages name the file.

    Raises:
        CorruptRun: a key is missing or impossible; it is named.
    """
    try:
        _Manifest.model_validate(dict(content))
    except ValidationError as error:
        raise CorruptRun(first_problem(error).of(name)) from None
