"""Check records: each against itself, against the shipped pairs, and against each other.

A record says the same thing in several ways: counts, rates and intervals, hits by candidate and by group. All of
it is computed again from the hits, so a number that was changed by hand contradicts another field, and the field is
named. What a record cannot prove about itself is challenged with the run's folder (`challenge.py`).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from ..benchmark.errors import BadRecord, SidebenchError
from ..benchmark.pairs import Pair, load_pair, pair_names
from ..benchmark.registry import make_measure
from ..benchmark.scores import SIDES
from ..benchmark.store import canonical_json
from ..benchmark.tally import cumulative_bands
from . import consistency
from .checked import SUFFIX, TOLERANCE, checked_file, read_checked
from .consistency import Found
from .record import SCHEMA, Record, command, read_content, read_record

LARGEST = 16_000_000
"""Bytes of the largest record's file that is read."""

_SECRETS = {
    "an absolute path": re.compile(r"(?:^|[\s'\"=:,(])(?:/[\w.~-]+){2,}|\b[A-Za-z]:\\|\\\\\w"),
    "an address": re.compile(r"\w://|\b\w[\w.-]*@[\w-]+\.\w"),
    "a token": re.compile(r"\b(?:hf|ghp|glpat|sk|xox[bp])[_-]\w{8,}"),
    "an image": re.compile(r"data:|iVBORw0KGgo|/9j/4"),
    "a control character": re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"),
}
"""What no text of a record may hold."""


class Problem(NamedTuple):
    """What is wrong: the file's name, the field (dots between keys) and a sentence."""

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, {self.field}: {self.message}"


def check_files(files: Iterable[Path], records: Path | None = None, today: date | None = None) -> list[Problem]:
    """Return every problem of these records, alone and together; `records` is the folder they should lie in."""
    read: dict[str, Record] = {}
    problems = []
    for file in files:
        try:
            if file.stat().st_size > LARGEST:
                raise BadRecord(f"{file.name}: is larger than {LARGEST:,} bytes")
            record = read_record(file)
        except (SidebenchError, OSError) as error:
            problems.append(_unreadable(file, error))
            continue
        read[str(file)] = record
        problems += [Problem(file.name, *found) for found in _place(record, file, records)]
        problems += [Problem(file.name, *found) for found in check_record(record, today)]
        problems += _badge(record, file, _latest(today))
    if records is not None:
        problems += _stray_badges(records)
    return problems + list(_together(read))


def check_record(record: Record, today: date | None = None) -> list[tuple[str, str]]:
    """Return (field, message) of everything in which a record contradicts itself or the shipped pairs."""
    found = [problem for rule in _FIRST for problem in rule(record)]
    if record.submitted > _latest(today):
        found.append(("submitted", f"{record.submitted} lies in the future"))
    # What follows reads fields that the first rules found to be there and of the right number.
    return found or [problem for rule in _THEN for problem in rule(record)]


def _latest(today: date | None) -> date:
    """Return the latest day that a file may name: somewhere it is tomorrow already."""
    return (today or datetime.now(UTC).date()) + timedelta(days=1)


# ---- Files ------------------------------------------------------------------------------------------


def _unreadable(file: Path, error: Exception) -> Problem:
    name, comma, rest = str(error).partition(", ")
    field, colon, message = rest.partition(": ")
    if comma and colon and name == file.name:
        return Problem(name, field, message)
    return Problem(file.name, "file", str(error).removeprefix(f"{file.name} "))


def _place(record: Record, file: Path, records: Path | None) -> Found:
    """Check that the file is where and what the record says, byte for byte; older schemas by their own text."""
    stored, content = file.read_bytes(), read_content(file)
    wanted_text = record.text() if content["schema"] == SCHEMA else canonical_json(content)
    if stored != wanted_text.encode():
        yield "file", "is not written as records are (sorted keys, each once); make it with `sidebench leaderboard add`"
    name = hashlib.sha256(wanted_text.encode()).hexdigest()[:12]
    wanted = record.file(records or file.parents[min(2, len(file.parents) - 1)], name)
    if file.name != wanted.name:
        yield "file", f"its content has the name {wanted.name}: it was changed after it was made"
    elif records is not None and file.resolve() != wanted.resolve():
        yield "file", f"belongs in {wanted.parent.parent.name}/{wanted.parent.name}"


def _badge(record: Record, file: Path, latest: date) -> Iterator[Problem]:
    """Check the badge beside a record: of these bytes, of so many candidates, within the stated tolerance."""
    try:
        badge = read_checked(file, hashlib.sha256(file.read_bytes()).hexdigest())
    except BadRecord as error:
        yield _unreadable(checked_file(file), error)
        return
    if badge is None:
        return
    name, total = checked_file(file).name, record.candidates * len(record.seeds)
    if badge.of != total:
        yield Problem(name, "of", f"is {badge.of}, the record has {total} candidates under all seeds")
    if badge.tolerance > TOLERANCE:
        yield Problem(name, "tolerance", f"is {badge.tolerance:g}, at most {TOLERANCE:g} counts as the same")
    if badge.passed and badge.largest > badge.tolerance:
        yield Problem(name, "largest", f"a difference of {badge.largest:g} cannot be in a badge that all agree with")
    if not record.submitted - timedelta(days=1) <= badge.day <= latest:
        yield Problem(name, "day", f"{badge.day} is before the record was submitted, or lies in the future")


def _stray_badges(records: Path) -> Iterator[Problem]:
    for file in sorted(records.rglob(f"*{SUFFIX}")):
        if not file.with_name(file.name.removesuffix(SUFFIX) + ".json").is_file():
            yield Problem(file.name, "record", "stands beside no record; delete it")


def _together(read: dict[str, Record]) -> Iterator[Problem]:
    """Find records that claim the same, and pairs that share a name but nothing else."""
    claims: dict[str, str] = {}
    pairs: dict[tuple[str, int], tuple[str, str]] = {}
    for path, record in read.items():
        file = Path(path).name
        first = claims.setdefault(_claimed(record), file)
        if first != file:
            yield Problem(file, "claim", f"is claimed by {first} already, by the same submitter")
        identity, first = pairs.setdefault((record.victim.name, record.victim.revision), (record.victim.identity, file))
        if identity != record.victim.identity:
            yield Problem(file, "victim.identity", f"is another pair than that of {first}, under the same name")


def claims_same(first: Record, second: Record) -> bool:
    """Return whether two records are one submitter's claim of the same: a repetition by somebody else is welcome."""
    return _claimed(first) == _claimed(second)


def _claimed(record: Record) -> str:
    kept = {"submitter", "claim", "victim", "protocol", "candidates", "seeds", "measure"}
    # A repetition under a newer schema, which says where the victim came from, is a repetition still.
    return record.model_dump_json(include=kept, exclude={"victim": {"sources"}})


# ---- Rules that need nothing ------------------------------------------------------------------------


def _texts(record: Record) -> Found:
    """No text may hold a path, an address, a token or an image."""

    def walk(value: Any, field: str) -> Found:
        if isinstance(value, dict):
            for key, entry in value.items():
                yield from walk(str(key), field)
                yield from walk(entry, f"{field}.{key}" if field else str(key))
        elif isinstance(value, list):
            for position, entry in enumerate(value):
                yield from walk(entry, f"{field}.{position}")
        elif isinstance(value, str):
            for what, pattern in _SECRETS.items():
                if pattern.search(value):
                    yield field, f"holds {what}, which no record may"

    content = record.model_dump(mode="json", by_alias=True)
    for hits in content["hits"]:  # packed bits: any text may occur in base64
        del hits["training"], hits["control"]
    yield from walk(content, "")


def _seeds(record: Record) -> Found:
    seeds = record.seeds
    if sorted(set(seeds)) != seeds or seeds[0] < 0:
        yield "seeds", "must be in order, each once, none negative"
    stored = {"costs": [cost.seed for cost in record.costs], "hits": [hits.seed for hits in record.hits]}
    for field, found in stored.items():
        if found != seeds:
            yield field, "must have one entry per seed, in order"
    for field, hashes in (("hashes.scores", record.hashes.scores), ("hashes.state", record.hashes.state)):
        if set(hashes) != {str(seed) for seed in seeds}:
            yield field, "must have one hash per seed"
        if not all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values()):
            yield field, "holds something that is no SHA-256"
    attacks = {"results": {found.attack for found in record.results}, "costs": {cost.attack for cost in record.costs}}
    for field, names in attacks.items():
        if names != {record.claim.attack}:
            yield field, f"are of {', '.join(sorted(names))}, the claim of {record.claim.attack}"


def _results(record: Record) -> Found:
    measures = _measures(record)
    if record.measure not in measures:
        yield "measure", "has no result"
    elif measures[0] != record.measure:
        yield "measure", f"the first result is of {measures[0]}: the headline measure comes first"
    wanted = [(seed, measure) for seed in record.seeds for measure in measures]
    if [(result.seed, result.measure) for result in record.results] != wanted:
        yield "results", "must have one entry per seed and measure, in the run's order"
    for number, result in enumerate(record.results):
        field = f"results.{number}"
        try:
            measure = make_measure(result.measure)
        except SidebenchError as error:
            yield f"{field}.measure", str(error)
            continue
        bands = [*measure.bands, *cumulative_bands(measure.bands, distance=measure.distance)]
        if [(band.band, band.low, band.high) for band in result.bands] != [tuple(vars(b).values()) for b in bands]:
            yield f"{field}.bands", f"are not the bands of {measure.id}"
        if (result.richness is not None) != (result.measure == record.measure):
            yield f"{field}.richness", "belongs to the headline measure alone"
        if result.measure == record.measure and (not bands or record.band != bands[0].name):
            yield "band", f"is not the closest band of {measure.id}"


def _victim(record: Record) -> Found:
    victim = record.victim
    for side in SIDES:
        images, groups = getattr(victim, f"{side}_images"), getattr(victim, f"{side}_groups")
        if groups > images or (images and not groups):
            yield f"victim.{side}_groups", f"{groups} groups cannot hold {images} images"
    if not all(re.fullmatch("[0-9a-f]{64}", value) for value in victim.model_sha256.values()):
        yield "victim.model_sha256", "holds something that is no SHA-256"
    if any(name.startswith("/") or ".." in name.split("/") for name in victim.model_sha256):
        yield "victim.model_sha256", "names a file outside the model's folder"
    if victim.same_groups != bool(victim.reference_sha256):
        yield "victim.reference_sha256", "is there exactly where the control is a reference model"
    if (victim.control in ("none", "reference-model")) != (victim.held_out_images == 0):
        yield "victim.held_out_images", f"does not fit the control {victim.control}"
    check = victim.control_check
    if (check is None) != (victim.held_out_images == 0):
        yield "victim.control_check", "is there exactly where held-out images are"
    if check is not None:
        if not 0 <= check.low <= check.auc <= check.high <= 1:
            yield "victim.control_check", "the AUC must lie in its interval, and that in [0, 1]"
        if check.overlapping_groups > min(victim.training_groups, victim.held_out_groups):
            yield "victim.control_check.overlapping_groups", "cannot be more than a side's groups"
        if check.told_apart != (not check.low <= 0.5 <= check.high):
            yield "victim.control_check.told_apart", "does not follow from the AUC's interval"
    if victim.name in pair_names():
        yield from _shipped(record, load_pair(victim.name))
    elif victim.worked_example:
        yield "victim.worked_example", "is said of a pair that does not ship with sidebench"


def _shipped(record: Record, pair: Pair) -> Found:
    """Compare the victim with the shipped pair of its name, where the revision is the same."""
    victim = record.victim
    if victim.revision > pair.revision:
        yield "victim.revision", f"is {victim.revision}, the shipped pair's {pair.revision}; update sidebench"
    if victim.revision != pair.revision:
        return
    wanted: dict[str, Any] = {
        "identity": pair.identity(),
        "control": pair.control,
        "family": pair.model.family,
        "worked_example": pair.model.location.startswith("zoo:"),
    }
    for part, source in victim.sources.items():
        own = {"model": pair.model.repo, "data": pair.data.repo}.get(part)
        if own is not None and source.repo != own:
            yield f"victim.sources.{part}", f"is {source.repo}, the pair {pair.name} takes {own}"
    if any(victim.model_sha256.get(name) != digest for name, digest in pair.model.sha256.items()):
        yield "victim.model_sha256", f"is not that of the pair {pair.name}: attack the pair's own model"
    if pair.data.split is not None:
        wanted |= {"training_images": pair.data.split.training, "held_out_images": pair.data.split.held_out}
    if pair.data.sha256:
        wanted["data_sha256"] = pair.data.sha256
    for key, value in wanted.items():
        if getattr(victim, key) != value:
            yield f"victim.{key}", f"is not that of the pair {pair.name}, revision {pair.revision}"


def _command(record: Record) -> Found:
    wanted = command(
        record.victim.name,
        {record.claim.attack: record.claim.settings},
        record.claim.defences,
        record.candidates,
        record.seeds,
        _measures(record),
    )
    if record.command != wanted:
        yield "command", "is not the command of these settings"


def _tuning(record: Record) -> Found:
    """Every point of a tuning gives values to the same settings, which the attack has."""
    points = record.tuning.points if record.tuning else []
    for number, point in enumerate(points):
        if set(point.values) != set(points[0].values) or not set(point.values) <= set(record.claim.settings):
            yield f"tuning.points.{number}.values", "must be settings of the attack, the same at every point"
        if not -1 <= point.excess.low <= point.excess.value <= point.excess.high <= 1:
            yield f"tuning.points.{number}.excess", "must lie in its interval, and that in [-1, 1]"


def _measures(record: Record) -> list[str]:
    return list(dict.fromkeys(result.measure for result in record.results))


_FIRST: Sequence[Callable[[Record], Found]] = (_texts, _seeds, _results, _victim, _command, _tuning)
_THEN: Sequence[Callable[[Record], Found]] = (consistency.counts, consistency.hits, consistency.costs)
