"""Check records: each against itself, against the shipped pairs, and against each other.

A record says the same thing in several ways: counts, rates and intervals, hits by candidate and by group. All of
it is computed again from the hits, so a number that was changed by hand contradicts another field, and the field is
named. What a record cannot prove about itself is challenged with the run's folder (`challenge.py`).
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ..benchmark.errors import BadRecord, SidebenchError
from ..benchmark.files import canonical_json
from . import check_detection, check_fields, check_numbers, detection_record, owners
from .badge import SUFFIX, TOLERANCE, Badge, Checked, CheckedDetection, checked_file, read_badge
from .check_numbers import Found
from .detection_record import AnyRecord, DetectionRecord
from .read_records import read_any, read_content
from .record import SCHEMA, Record

FIRST: Sequence[Callable[[Record], Found]] = (
    check_fields.texts,
    check_fields.seeds,
    check_fields.privacy,
    check_fields.track,
    check_fields.claim,
    check_fields.results,
    check_fields.victim,
    check_fields.control,
    check_fields.command,
    check_fields.tuning,
)
THEN: Sequence[Callable[[Record], Found]] = (check_numbers.counts, check_numbers.hits, check_numbers.costs)


class Problem(NamedTuple):
    """What is wrong: the file's name, the field (dots between keys) and a sentence."""

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, {self.field}: {self.message}"


def check_files(
    files: Iterable[Path],
    records: Path | None = None,
    today: date | None = None,
    registry: owners.Owners | None = None,
) -> list[Problem]:
    """Return every problem of these records, alone and together.

    `records` is the folder they should lie in, `registry` says who owns which name, in place of that folder's own.
    """
    read: dict[str, AnyRecord] = {}
    problems = [] if records is None or registry else check_registry(records)
    owners_of = functools.cache(owners.read_owners)
    for file in files:
        try:
            record = read_any(file)
            fault = _fault(record, file, registry or owners_of(records or owners.folder_of(file)))
            found = [*_place(record, file, records), *fault, *check_record(record, today)]
            badge = list(_badge(record, file, _latest(today)))
        except (SidebenchError, OSError) as error:
            problems.append(_unreadable(file, error))
            continue
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            # A number or name that no rule looked for; the others are checked all the same.
            problems.append(Problem(file.name, "record", f"cannot be checked ({type(error).__name__}: {error})"))
            continue
        if not fault:  # a forged record says nothing about a genuine one
            read[str(file)] = record
        problems += [*(Problem(file.name, *each) for each in found), *badge]
    if records is not None:
        problems += _stray_badges(records)
    return problems + list(_together(read))


def check_record(record: AnyRecord, today: date | None = None) -> list[tuple[str, str]]:
    """Return (field, message) of everything in which a record contradicts itself or the shipped pairs."""
    found = list(_by_rules(record, FIRST, check_detection.FIRST))
    if record.submitted > _latest(today):
        found.append(("submitted", f"{record.submitted} lies in the future"))
    # What follows reads fields that the first rules found to be there and of the right number.
    return found or list(_by_rules(record, THEN, check_detection.THEN))


def _by_rules(
    record: AnyRecord,
    rules: Sequence[Callable[[Record], Found]],
    of_detectors: Sequence[Callable[[DetectionRecord], Found]],
) -> Found:
    if isinstance(record, DetectionRecord):
        for rule in of_detectors:
            yield from rule(record)
        return
    for own in rules:
        yield from own(record)


def _latest(today: date | None) -> date:
    """Return the latest day that a file may name: somewhere it is tomorrow already."""
    return (today or datetime.now(UTC).date()) + timedelta(days=1)


# ---- Files ------------------------------------------------------------------------------------------


def check_registry(records: Path) -> list[Problem]:
    """Return what is wrong with the file that says who owns which name."""
    file = records / owners.FILE
    if not file.exists():
        return []
    try:
        if owners.read_owners(records).text().encode() == file.read_bytes():
            return []
        return [Problem(file.name, "file", "is not written as sidebench does (sorted keys, each once)")]
    except BadRecord as error:
        return [_unreadable(file, error)]


def _fault(record: AnyRecord, file: Path, registry: owners.Owners) -> list[tuple[str, str]]:
    found = registry.fault(record, read_content(file), hashlib.sha256(file.read_bytes()).hexdigest())
    return [found] if found else []


def _unreadable(file: Path, error: Exception) -> Problem:
    name, comma, rest = str(error).partition(", ")
    field, colon, message = rest.partition(": ")
    if comma and colon and name == file.name:
        return Problem(name, field, message)
    return Problem(file.name, "file", str(error).removeprefix(f"{file.name} "))


def _place(record: AnyRecord, file: Path, records: Path | None) -> Found:
    """Check that the file is where and what the record says, byte for byte; older schemas by their own text."""
    stored, content = file.read_bytes(), read_content(file)
    current = content["schema"] in (SCHEMA, detection_record.SCHEMA)
    wanted_text = record.text() if current else canonical_json(content)
    if stored != wanted_text.encode():
        yield "file", "is not written as records are (sorted keys, each once); make it with `sidebench leaderboard add`"
    name = hashlib.sha256(wanted_text.encode()).hexdigest()[:12]
    wanted = record.file(records or file.parents[min(2, len(file.parents) - 1)], name)
    if file.name != wanted.name:
        yield "file", f"its content has the name {wanted.name}: it was changed after it was made"
    elif records is not None and file.resolve() != wanted.resolve():
        yield "file", f"belongs in {wanted.parent.parent.name}/{wanted.parent.name}"


def _badge(record: AnyRecord, file: Path, latest: date) -> Iterator[Problem]:
    """Check the badge beside a record: of these bytes, of so many candidates, within the stated tolerance."""
    kind: type[Badge] = CheckedDetection if isinstance(record, DetectionRecord) else Checked
    try:
        badge = read_badge(file, hashlib.sha256(file.read_bytes()).hexdigest(), kind)
    except BadRecord as error:
        yield _unreadable(checked_file(file), error)
        return
    if badge is None:
        return
    name, (total, what) = checked_file(file).name, _drawn_from(record)
    if badge.of != total:
        yield Problem(name, "of", f"is {badge.of}, the record has {total} {what}")
    if badge.tolerance > TOLERANCE:
        yield Problem(name, "tolerance", f"is {badge.tolerance:g}, at most {TOLERANCE:g} counts as the same")
    if badge.passed and badge.largest > badge.tolerance:
        yield Problem(name, "largest", f"a difference of {badge.largest:g} cannot be in a badge that all agree with")
    if not record.submitted - timedelta(days=1) <= badge.day <= latest:
        yield Problem(name, "day", f"{badge.day} is before the record was submitted, or lies in the future")

    if isinstance(record, DetectionRecord) and isinstance(badge, CheckedDetection):
        for field, message in check_detection.badge(record, badge):
            yield Problem(name, field, message)


def _drawn_from(record: AnyRecord) -> tuple[int, str]:
    """Return of how many a challenge draws, and what they are."""
    if isinstance(record, DetectionRecord):
        return record.labelled, "prompts"
    return record.candidates * len(record.seeds), "candidates under all seeds"


def _stray_badges(records: Path) -> Iterator[Problem]:
    for file in sorted(records.rglob(f"*{SUFFIX}")):
        if not file.with_name(file.name.removesuffix(SUFFIX) + ".json").is_file():
            yield Problem(file.name, "record", "stands beside no record; delete it")


def _together(read: dict[str, AnyRecord]) -> Iterator[Problem]:
    """Find records that claim the same, and pairs that share a name but nothing else."""
    claims: dict[str, str] = {}
    copied: dict[str, str] = {}
    pairs: dict[tuple[str, int], tuple[str, str]] = {}
    for path, record in read.items():
        file = Path(path).name
        first = claims.setdefault(_claimed(record), file)
        if first != file:
            yield Problem(file, "claim", f"is claimed by {first} already, by the same submitter")
        for digest in made_of(record):
            if (original := copied.setdefault(digest, file)) != file and first == file:
                yield Problem(file, "hashes", f"are those of {original}: a record is copied, and a repetition is not")
                break
        identity, first = pairs.setdefault((record.victim.name, record.victim.revision), (record.victim.identity, file))
        if identity != record.victim.identity:
            yield Problem(file, "victim.identity", f"is another pair than that of {first}, under the same name")


def made_of(record: AnyRecord) -> list[str]:
    """Return what nobody else's record has: by preparation, the hashes of manifest, scores and state together.

    A manifest says when and where its run was made, so a repetition has another one; of a detection provenance.json
    does.
    """
    if isinstance(record, DetectionRecord):
        return [f"{record.hashes.provenance} {record.hashes.scores}"]
    return [
        f"{record.hashes.manifest} {record.hashes.scores[str(seed)]} {record.hashes.state[str(seed)]}"
        for seed in record.seeds
        if {str(seed)} <= record.hashes.scores.keys() & record.hashes.state.keys()
    ]


def claims_same(first: AnyRecord, second: AnyRecord) -> bool:
    """Return whether two records are one submitter's claim of the same: a repetition by somebody else is welcome."""
    return _claimed(first) == _claimed(second)


def _claimed(record: AnyRecord) -> str:
    if isinstance(record, DetectionRecord):
        return check_detection.claimed(record)
    kept = {"submitter", "claim", "victim", "protocol", "candidates", "seeds", "measure"}
    # A repetition under a newer schema, which says where the victim came from, is a repetition still; and so is one
    # under another spelling of the name.
    record = record.model_copy(update={"submitter": owners.normal(record.submitter)})
    return record.model_dump_json(include=kept, exclude={"victim": {"sources"}})
