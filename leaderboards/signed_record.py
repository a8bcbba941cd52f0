"""What records of every track have: who claims them and since when, a name made of their content, a signature."""

import hashlib
from datetime import date

from pydantic import BaseModel, ConfigDict, Field

from ..benchmark.files import canonical_json


class Frozen(BaseModel):
    """A part of a record: complete, frozen, and without a number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SignedRecord(Frozen):
    """A claim by somebody, in one file."""

    submitter: str = Field(min_length=1, max_length=80, description="who claims it, a name of their choice")
    submitted: date = Field(description="day on which the record was made (UTC)")
    owner: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Ed25519 public key of the submitter; None: the maintainers'"
    )
    signature: str | None = Field(
        None, pattern=r"^[0-9a-f]{128}$", description="the owner's, over all else as JSON, keys sorted, no spaces"
    )

    @property
    def id(self) -> str:
        """The record's name: the first 12 digits of the SHA-256 of its content."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]

    def text(self) -> str:
        """Return the record as canonical JSON, the bytes of its file."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))
