"""A victim is its hashes: what a name of a pair first stood for is kept, and nothing else gets boards of that name."""

from collections.abc import Mapping
from typing import Any

from .record import Record

FIELDS = (
    *("identity", "family", "control", "model_sha256", "reference_sha256", "data_sha256", "sides_sha256"),
    *("training_images", "held_out_images", "training_groups", "held_out_groups"),
)
"""What two records of one pair and revision share, whoever made them and under whichever schema."""

Victims = Mapping[str, Mapping[str, Any]]
"""`facts` by `name_of`."""


def name_of(record: Record) -> str:
    """Return the name and revision of a record's pair, e.g. "digits@1"."""
    return f"{record.victim.name}@{record.victim.revision}"


def facts(record: Record) -> dict[str, Any]:
    """Return what a record says of its victim, as far as it belongs to the name."""
    return record.victim.model_dump(mode="json", include=set(FIELDS))


def other_victim(record: Record, known: Victims) -> tuple[str, str] | None:
    """Return (field, message) of the first fact in which a record's victim is not the one of its name."""
    wanted, found = known.get(name_of(record)), facts(record)
    if wanted is None:
        return None
    for name in FIELDS:
        if wanted.get(name) != found[name]:
            said = f"is not that of {name_of(record)} as its first record has it"
            return f"victim.{name}", f"{said}: another model, or other images, need a pair of another name"
    return None
