"""A tuning: every point that was tried, as it is stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..errors import BadInput, CorruptRun
from ..files import read_json
from .schema import BandResult

SCHEMA = "sidebench-tuning/1"


class TriedPoint(BaseModel):
    """Values of the settings and what they found on the shadow victim."""

    values: dict[str, Any]
    result: BandResult


class Used(BaseModel):
    """What a tuning looked at; a run with its settings must not."""

    model: dict[str, str]
    """SHA-256 by file of the model that was attacked."""
    seed: int
    """Of the candidates."""
    data: str
    """Fingerprint of the data set."""
    rows: list[int]
    """Its images in it, training and held-out."""


class Curve(BaseModel):
    """A tuning: every point of the grid that was tried, in order."""

    attack: str
    settings: dict[str, Any] = {}
    """What was set beside the values that were tried."""
    used: Used | None = None
    on: str = "a shadow victim"
    """What was attacked, in words."""
    defences: list[str] = []
    measure: str
    candidates: int
    points: list[TriedPoint] = Field(min_length=1)

    def __repr__(self) -> str:
        return f"Curve(attack={self.attack!r}, on={self.on!r}, {len(self.points)} points, best={self.best().values})"

    __str__ = __repr__

    def best(self) -> TriedPoint:
        """Return the point with the highest excess AMS in the closest band, the earlier one on a tie.

        A pair without held-out images has no excess; its highest AMS is taken.
        """
        return max(self.points, key=lambda point: (point.result.excess or point.result.training.ams).value)


def read_curve(file: Path) -> tuple[Curve, str]:
    """Read a curve that was stored, and the identity of the pair that it was tuned on.

    Raises:
        BadInput: the file cannot be read, is no curve, or not a complete one.
    """
    content = read_json(file)
    if content.get("schema") != SCHEMA:
        raise BadInput(f"{file.name} is not a curve of `sidebench tune` (schema {SCHEMA})")
    try:
        return Curve.model_validate(content["curve"]), str(content["plan"]["pair"])
    except (ValidationError, KeyError, TypeError):
        raise _incomplete(file) from None


def _incomplete(file: Path) -> BadInput:
    return BadInput(f"{file.name} holds no complete curve; run `sidebench tune` again to finish it")


def read_curves(files: Sequence[Path]) -> dict[str, Curve]:
    """Read the curves that a run's settings are to come from, by file name.

    Raises:
        BadInput: a file is no curve, or one of before tunings stored what they used; or two are of one attack.
    """
    curves: dict[str, Curve] = {}
    for file in files:
        try:
            curve, _ = read_curve(file)
        except CorruptRun:
            raise _incomplete(file) from None
        if curve.used is None:
            raise BadInput(f"{file.name} does not say which images and candidates it used; run `sidebench tune` again")
        if curve.attack in {other.attack for other in curves.values()}:
            raise BadInput(f"{file.name} is the second curve of {curve.attack}; give one for each attack")
        curves[file.name] = curve
    return curves


def with_tuned(settings: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    """Return the user's settings by attack over those of each curve's best point."""
    tuned = {curve.attack: {**curve.settings, **curve.best().values} for curve in curves.values()}
    return {name: {**tuned.get(name, {}), **settings.get(name, {})} for name in {**tuned, **settings}}


def as_stored(curves: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    """Return by attack what a run's folder keeps of the curves that its settings come from."""
    return {curve.attack: {"schema": SCHEMA, "curve": curve.model_dump(mode="json")} for curve in curves.values()}
