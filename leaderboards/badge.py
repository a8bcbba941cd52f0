"""The badge of a record: how many of its candidates were reproduced, and how many agreed.

It stands in a file of its own beside the record, `<name>.checked.json` beside `<name>.json`, and names the record's
bytes: a record that was changed afterwards has no badge.
"""

from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..benchmark.errors import BadRecord, first_problem
from ..benchmark.files import parse_json, read_bytes

SUFFIX = ".checked.json"

TOLERANCE = 0.01
"""Largest difference of a best-match score that counts as the same: other devices round otherwise."""


Prepared = Literal["the same", "others"]


class Checked(BaseModel):
    """The outcome of a challenge."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_: Literal["sidebench-challenge/1"] = Field(alias="schema", description="name and version of this schema")
    record: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the record's bytes")
    draw: str = Field(pattern=r"^[0-9a-f]{32}$", description="random seed of the draw, made at the check")
    checked: int = Field(ge=1, description="candidates that were drawn and made again")
    agreed: int = Field(ge=0, description="those whose hits are the same and whose scores differ within the tolerance")
    of: int = Field(ge=1, description="candidates of the record under all seeds")
    tolerance: float = Field(ge=0, description="largest difference of a best-match score that counts as agreement")
    largest: float = Field(ge=0, description="largest difference seen")
    device: str = Field(max_length=16, description="kind of device of the check")
    day: date = Field(description="day of the check (UTC)")
    prepared: Prepared | None = Field(
        None,
        description="whether preparing the attack again gave the same states, bit for bit, or others, as other "
        "hardware does; None where that was not done",
    )

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


def checked_file(record: Path) -> Path:
    """Return where the badge of a record's file stands."""
    return record.with_name(record.name.removesuffix(".json") + SUFFIX)


def read_checked(record: Path, sha256: str) -> Checked | None:
    """Return the badge of a record whose bytes have this SHA-256, or None where there is none.

    Raises:
        BadRecord: the badge cannot be read, or is of other bytes.
    """
    file = checked_file(record)
    if not file.is_file():
        return None
    try:
        found = Checked.model_validate(parse_json(read_bytes(file)))
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(file.name)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadRecord(f"{file.name} cannot be read: {why}") from None
    if found.record != sha256:
        raise BadRecord(f"{file.name}, record: is the hash of another record; challenge this one again")
    return found
