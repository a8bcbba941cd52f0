"""A victim is its hashes: what a name of a pair first stood for is kept, and nothing else gets boards of that name.

`victims.json` lies beside the records. For each pair and revision it holds the hashes and sizes of model, images and
sides, as the first record that was merged had them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..benchmark.errors import BadRecord, first_problem
from ..benchmark.files import canonical_json, parse_json, read_bytes, write_text
from .record import Record

FILE = "victims.json"

FIELDS = (
    *("identity", "family", "control", "model_sha256", "reference_sha256", "data_sha256", "sides_sha256"),
    *("training_images", "held_out_images", "training_groups", "held_out_groups"),
)
"""What two records of one pair and revision share, whoever made them and under whichever schema."""

Victims = Mapping[str, Mapping[str, Any]]


class _Listed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    victims: dict[str, dict[str, Any]]


def read_victims(records: Path) -> Victims:
    """Return what is written down in a folder of records: facts by "name@revision"; none in a new one.

    Raises:
        BadRecord: the file cannot be read.
    """
    file = records / FILE
    if not file.exists():
        return {}
    try:
        return _Listed.model_validate(parse_json(read_bytes(file))).victims
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(FILE)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadRecord(f"{FILE} cannot be read: {why}") from None


def write_victims(records: Path, made: Iterable[Record]) -> None:
    """Write down the pairs of these records that are not there yet; those that are stay as they are.

    Raises:
        BadRecord: a record is of another victim than the one of its name.
    """
    known = dict(read_victims(records))
    before = dict(known)
    for record in made:
        if problem := other_victim(record, known):
            field, message = problem
            raise BadRecord(f"{record.claim.attack}, {field}: {message}")
        known.setdefault(_key(record), facts(record))
    if known != before:
        write_text(records / FILE, canonical_json({"victims": known}))


def other_victim(record: Record, known: Victims) -> tuple[str, str] | None:
    """Return (field, message) of the first fact in which a record's victim is not the one of its name."""
    wanted, found = known.get(_key(record)), facts(record)
    if wanted is None:
        return None
    for name in FIELDS:
        if wanted.get(name) != found[name]:
            said = f"is not that of the pair {record.victim.name}, revision {record.victim.revision}"
            return f"victim.{name}", f"{said}, as its first record has it: give another model or data another name"
    return None


def facts(record: Record) -> dict[str, Any]:
    """Return what a record says of its victim, as far as it belongs to the name."""
    return record.victim.model_dump(mode="json", include=set(FIELDS))


def _key(record: Record) -> str:
    return f"{record.victim.name}@{record.victim.revision}"
