"""A victim is its hashes: what a name of a pair first stood for is kept, and nothing else gets boards of that name."""

from collections.abc import Mapping
from typing import Any

from ..benchmark.data.pair import Pair
from .detection_record import AnyRecord
from .record import Victim

FIELDS = (
    *("identity", "family", "control", "model_sha256", "reference_sha256", "data_sha256", "sides_sha256"),
    *("training_images", "held_out_images", "training_groups", "held_out_groups"),
)
"""What two records of one pair and revision share, whoever made them and under whichever schema."""

Victims = Mapping[str, Mapping[str, Any]]
"""`facts` by `name_of`."""


def name_of(record: AnyRecord) -> str:
    """Return the name and revision of a record's pair, e.g. "digits@1"."""
    return f"{record.victim.name}@{record.victim.revision}"


def facts(record: AnyRecord) -> dict[str, Any]:
    """Return what a record says of its victim, as far as it belongs to the name."""
    return record.victim.model_dump(mode="json", include=set(FIELDS))


def other_victim(record: AnyRecord, known: Victims) -> tuple[str, str] | None:
    """Return (field, message) of the first fact in which a record's victim is not the one of its name."""
    wanted, found = known.get(name_of(record)), facts(record)
    if wanted is None:
        return None
    for name in FIELDS:
        if wanted.get(name) != found[name]:
            said = f"is not that of {name_of(record)} as its first record has it"
            return f"victim.{name}", f"{said}: another model, or other images, need a pair of another name"
    return None


def outdated_pair(victim: Victim, pair: Pair | None) -> str:
    """Return why results on a victim no longer stand, or nothing where they do; `pair` ships under its name."""
    if pair is None and not (victim.made_by or {"model", "data"} <= victim.sources.keys()):
        return f"nobody else has the pair {victim.name}: it neither ships nor comes from the Hub, and made_by is empty"
    if pair is None:
        return ""
    if victim.revision < pair.revision:
        return f"revision {victim.revision} of the pair; {pair.revision} is the current one"
    if victim.revision > pair.revision:
        return f"revision {victim.revision} of the pair is not known here, {pair.revision} is; update sidebench"
    if victim.identity != pair.identity():
        return f"another pair than the {victim.name} that ships with sidebench"
    return ""
