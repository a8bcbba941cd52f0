"""The badge of a record: how many of its candidates, or of its prompts, were reproduced, and how many agreed.

It stands in a file of its own beside the record, `<name>.checked.json` beside `<name>.json`, and names the record's
bytes: a record that was changed afterwards has no badge.
"""

from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..benchmark.errors import BadRecord, first_problem
from ..benchmark.files import parse_json, read_bytes

SUFFIX = ".checked.json"

TOLERANCE = 0.01
"""Largest difference of a best-match score that counts as the same: other devices round otherwise."""


Prepared = Literal["the same", "others"]


class Badge(BaseModel):
    """What the badges of all tracks say."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_: Any = Field(alias="schema", description="name and version of the schema; each track has its own")
    record: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the record's bytes")
    draw: str = Field(pattern=r"^[0-9a-f]{32}$", description="random seed of the draw, made at the check")
    checked: int = Field(ge=1, description="candidates that were drawn and made again")
    agreed: int = Field(ge=0, description="those whose hits are the same and whose scores differ within the tolerance")
    of: int = Field(ge=1, description="candidates of the record under all seeds")
    tolerance: float = Field(ge=0, description="largest difference of a best-match score that counts as agreement")
    largest: float = Field(ge=0, description="largest difference seen")
    device: str = Field(max_length=16, description="kind of device of the check")
    day: date = Field(description="day of the check (UTC)")

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if not self.agreed <= self.checked <= self.of:
            raise ValueError("agreed, checked and of must not fall")
        return self

    @property
    def passed(self) -> bool:
        """Whether every reproduced candidate agreed."""
        return self.agreed == self.checked

    @property
    def words(self) -> str:
        """Return the badge, e.g. "reproduced 32 of 1,024"."""
        if self.passed:
            return f"reproduced {self.checked:,} of {self.of:,}"
        return f"{self.checked - self.agreed:,} of {self.checked:,} reproduced candidates differ"

    @property
    def brief(self) -> str:
        """Return the badge under a column that says what it counts, e.g. "32 of 1,024"."""
        return self.words.replace("reproduced ", "").replace("candidates ", "")

    @property
    def drawn(self) -> str:
        """Return the badge for a page, "32 of 32": of those drawn, as of all candidates it reads like 1 %."""
        return f"{self.agreed:,} of {self.checked:,}"

    def wrong_at_most(self, confidence: float = 0.95) -> float:
        """Return the largest share of wrong candidates that so many agreeing draws leave possible (the 3 / n rule)."""
        return float(1 - (1 - confidence) ** (1 / self.checked)) if self.passed else 1.0


class Checked(Badge):
    """The outcome of a challenge."""

    schema_: Literal["sidebench-challenge/1"] = Field(alias="schema", description="name and version of this schema")
    prepared: Prepared | None = Field(
        None,
        description="whether preparing the attack again gave the same states, bit for bit, or others, as other "
        "hardware does; None where that was not done",
    )


DETECTION_SCHEMA: Literal["sidebench-detection-challenge/1"] = "sidebench-detection-challenge/1"


class CheckedDetection(Badge):
    """The outcome of a challenge of a record of detectors."""

    schema_: Literal["sidebench-detection-challenge/1"] = Field(
        DETECTION_SCHEMA, alias="schema", description="name and version of this schema"
    )
    checked: int = Field(ge=1, description="prompts that were drawn, labelled again and scored again")
    replayed: int = Field(ge=0, description="of those, captions of training images, replayed for their label")
    agreed: int = Field(ge=0, description="those with the same label and with scores that differ within the tolerance")
    of: int = Field(ge=1, description="prompts of the record, ambiguous ones included")
    tolerance: float = Field(
        ge=0,
        description="largest difference of a score that counts as agreement, in widths of the middle half of the "
        "scores of its detector",
    )
    largest: float = Field(ge=0, description="largest difference seen, in the same unit")
    differ: dict[str, int] = Field(
        {}, description="drawn prompts that differ, by what differs: `label`, or a detector's name; none where 0 do"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wrong = self.checked - self.agreed
        if self.replayed > self.checked or bool(self.differ) != bool(wrong):
            raise ValueError("checked, replayed and differ must fit together")
        if any(not 1 <= count <= wrong for count in self.differ.values()):
            raise ValueError("differ must count prompts that do not agree")
        return self

    @property
    def words(self) -> str:
        """Return the badge, e.g. "reproduced 32 of 1,024 prompts"."""
        return f"{super().words} prompts" if self.passed else super().words.replace("candidates", "prompts")

    def wrong_at_most(self, confidence: float = 0.95) -> float:
        """Return the largest share of wrong prompts that is left possible in either kind, of which one was drawn."""
        drawn = [count for count in (self.replayed, self.checked - self.replayed) if count]
        return float(1 - (1 - confidence) ** (1 / min(drawn))) if self.passed else 1.0


_Badge = TypeVar("_Badge", bound=Badge)


def checked_file(record: Path) -> Path:
    """Return where the badge of a record's file stands."""
    return record.with_name(record.name.removesuffix(".json") + SUFFIX)


def read_checked(record: Path, sha256: str) -> Checked | None:
    """Return the badge of a record of extraction; see `read_badge`."""
    return read_badge(record, sha256, Checked)


def read_badge(record: Path, sha256: str, kind: type[_Badge]) -> _Badge | None:
    """Return the badge of a record whose bytes have this SHA-256, or None where there is none.

    Raises:
        BadRecord: the badge cannot be read, or is of other bytes.
    """
    file = checked_file(record)
    if not file.is_file():
        return None
    try:
        found = kind.model_validate(parse_json(read_bytes(file)))
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(file.name)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadRecord(f"{file.name} cannot be read: {why}") from None
    if found.record != sha256:
        raise BadRecord(f"{file.name}, record: is the hash of another record; challenge this one again")
    return found
