"""Read records from their files, and bring those of an older schema up to the present one."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..benchmark.errors import BadInput, BadRecord, first_problem
from ..benchmark.files import parse_json, read_bytes
from ..benchmark.protocol import CONFIDENCE
from ..benchmark.results.rates import swap_p
from ..benchmark.results.schema import Estimate, Result
from ..benchmark.stats.comparison import AttackHits, excess_of
from . import owners
from .badge import SUFFIX
from .detection_record import AnyRecord, is_detection, parse_detection
from .record import OF_TEXT, SCHEMA, Record, pooled_hits


def _with_sources(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not say from where model and images came; whoever needs it asks for the run's manifest."""
    victim = content.get("victim")
    if isinstance(victim, dict) and "sources" in victim:
        raise BadRecord("victim.sources: belongs to sidebench-record/2, the schema is sidebench-record/1")
    if isinstance(victim, dict):
        victim = {**victim, "sources": {}}
    return {**content, "victim": victim, "schema": "sidebench-record/2"}


def _with_far_ends(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 has the same fields; `parse_record` computes its intervals again, which takes the whole record."""
    return {**content, "schema": "sidebench-record/3"}


def _with_batching_apart(content: dict[str, Any]) -> dict[str, Any]:
    """Version 3 kept how the work was cut among the rules, and did not say of which code a plug-in was.

    It had no signatures.
    """
    if field := next((field for field in ("owner", "signature") if field in content), None):
        raise BadRecord(f"{field}: belongs to sidebench-record/4, the schema is an older one")
    protocol, made, claim = (dict(part) if isinstance(part := content.get(k), dict) else part for k in _MOVED)
    if isinstance(protocol, dict) and isinstance(made, dict):
        protocol.pop("shard", None)
        made["micro_batch"] = protocol.pop("micro_batch", None)
    if isinstance(claim, dict):
        claim["code"] = {}
    moved = dict(zip(_MOVED, (protocol, made, claim), strict=True))
    return {**content, **moved, "schema": "sidebench-record/4"}


def _with_tracks(content: dict[str, Any]) -> dict[str, Any]:
    """Version 4 knew one version of each attack, and told images that were given by the family of the victim."""
    victim, claim = content.get("victim"), content.get("claim")
    for part, field in ((content, "track"), (claim, "version")):
        if isinstance(part, dict) and field in part:
            raise BadRecord(f"{field}: belongs to sidebench-record/5, the schema is an older one")
    given = isinstance(victim, dict) and victim.get("family") == "images"
    if isinstance(claim, dict):
        settings = claim.get("settings")
        second = isinstance(settings, dict) and not settings.keys().isdisjoint(_OF_VERSION_2)
        claim = {**claim, "version": 2 if second else 1}
    return {**content, "claim": claim, "track": "images" if given else "extraction", "schema": "sidebench-record/5"}


def _with_captions_shown(content: dict[str, Any]) -> dict[str, Any]:
    """Version 5 knew the quality of images in pixels alone."""
    quality = content.get("quality")
    if isinstance(quality, dict) and (field := next((name for name in OF_TEXT if name in quality), None)):
        raise BadRecord(f"quality.{field}: belongs to sidebench-record/6, the schema is an older one")
    return {**content, "schema": "sidebench-record/6"}


_OF_VERSION_2 = {"rejected", "miscalibration", "denoise"}
"""Settings that came with version 2 of `side` and `carlini-cond`, while records still had schema 4."""

_MOVED = ("protocol", "made", "claim")

UPGRADES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sidebench-record/1": _with_sources,
    "sidebench-record/2": _with_far_ends,
    "sidebench-record/3": _with_batching_apart,
    "sidebench-record/4": _with_tracks,
    "sidebench-record/5": _with_captions_shown,
}
"""From an older schema to the next one, by the older one's name."""


_WITH_SHARES = (SCHEMA, "sidebench-record/5", "sidebench-record/4")
"""Versions whose excess is that of now."""


WANTED = "a record is a .json file that `sidebench leaderboard add RUN --as NAME` writes"

LARGEST = 16_000_000
"""Bytes of the largest record's file that is read."""

MOST = 2**26
"""Candidates under all seeds, and images of either side by seed, of the largest record that is read: the tests of a
board hold a number for each."""


def record_files(records: Path) -> list[Path]:
    """Return every record's file below a folder, sorted."""
    registry = records / owners.FILE
    return sorted(file for file in records.rglob("*.json") if not file.name.endswith(SUFFIX) and file != registry)


def read_record(path: Path) -> Record:
    """Read one record's file; raises `BadRecord` as `parse_record`."""
    return parse_record(read_content(path), path.name)


def read_any(path: Path) -> AnyRecord:
    """Read one record's file, of whichever track; raises `BadRecord` as `parse_record`."""
    content = read_content(path)
    return parse_detection(content, path.name) if is_detection(content) else parse_record(content, path.name)


def read_content(path: Path) -> Any:
    """Return the JSON value in a record's file, as it stands there; raises `BadRecord` where it holds none."""
    try:
        return parse_json(read_bytes(path, LARGEST))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadRecord(f"{path.name} {_no_record(path) or f'cannot be read: {why}'}") from None


def _no_record(path: Path) -> str:
    """Say what is at a path where a record is wanted, if that is no file at all."""
    if not os.path.lexists(path):
        return f"is not there: {WANTED}"
    if not path.is_dir():
        return ""
    if (path / "manifest.json").is_file():
        return f"is a run folder, no record: {WANTED}"
    return f"is a folder that holds no record: {WANTED}"


def parse_record(content: Any, name: str) -> Record:
    """Return the record of a JSON value; `name` is what an error calls it.

    Up to version 3 an excess was the difference of both sides' rates, with the ends of a t interval over groups; since
    then it is that of the groups' shares (`stats.owned`). In the closest band of an older record it is computed again
    from its hits, as if all groups were of one class and each hit owned, so that records of every version stand side
    by side. Its other bands do not say what they hit and keep theirs.

    Raises:
        BadRecord: a field is missing, unknown or impossible, or the schema is newer than this version's.
    """
    if not isinstance(content, dict):
        raise BadRecord(f"{name} holds no object")
    if is_detection(content):
        raise BadRecord(f"{name} is a record of detectors: it has no candidates, and this is about extraction")
    first = content.get("schema")
    while (schema := content.get("schema")) != SCHEMA:
        if not isinstance(schema, str) or not schema.startswith("sidebench-record/"):
            raise BadRecord(f"{name} is no record of sidebench: its schema is not one; {WANTED}")
        if schema not in UPGRADES:
            raise BadRecord(f"{name}, schema: {schema!r} is not known here, {SCHEMA} is; update sidebench")
        try:
            content = UPGRADES[schema](content)
        except BadRecord as error:
            raise BadRecord(f"{name}, {error}") from None
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(name)) from None
    _check_sizes(record, name)
    return record if first in _WITH_SHARES else _with_shares(record)


def _check_sizes(record: Record, name: str) -> None:
    """Refuse a record of sizes that nobody has and that would fill the memory of whoever ranks it."""
    victim = record.victim
    sizes = {
        "candidates": record.candidates,
        "victim.training_images": victim.training_images,
        "victim.held_out_images": victim.held_out_images,
        "victim.training_groups": victim.training_groups,
        "victim.held_out_groups": victim.held_out_groups,
    }
    for field, size in sizes.items():
        if size * len(record.seeds) > MOST:
            raise BadRecord(f"{name}, {field}: {size:,} under {len(record.seeds)} seeds are more than is read")


def chosen_files(files: Sequence[Path], records: Path) -> list[Path]:
    """Return the records that a user named, those below folders that were named, or every one below `records`.

    Raises:
        BadInput: there is none.
    """
    if not files and not records.is_dir():
        raise BadInput(f"no such folder of records: {records}; give --records FOLDER, or the files")
    named = [record_files(file) or [file] if _holds_records(file) else [file] for file in files]
    found = [file for below in named for file in below] or record_files(records)
    if not found:
        raise BadInput(f"{records} holds no records; make some with `sidebench leaderboard add RUN --as NAME`")
    return found


def _holds_records(path: Path) -> bool:
    """Return whether a path is a folder that may hold records; a run folder holds other files of JSON."""
    return path.is_dir() and not (path / "manifest.json").exists()


def _with_shares(record: Record) -> Record:
    """Return the record with its excess as its hits have it.

    A record whose parts do not fit together comes back as it is: `check.py` says what is wrong with it.
    """
    headlines = {found.seed: found for found in record.results if found.measure == record.measure and found.bands}
    if not record.seeds == [hits.seed for hits in record.hits] == list(headlines):
        return record
    try:
        together = pooled_hits([record], record.seeds)[0]
        each = [pooled_hits([record], [seed])[0] for seed in record.seeds]
    except BadRecord:
        return record
    again = {seed: _headline(headlines[seed], hits) for seed, hits in zip(record.seeds, each, strict=True)}
    results = [again[found.seed] if found is headlines.get(found.seed) else found for found in record.results]
    return record.model_copy(update={"excess": Estimate.of(*excess_of(together, CONFIDENCE)), "results": results})


def _headline(result: Result, hits: AttackHits) -> Result:
    closest, *others = result.bands
    if closest.excess is None:
        return result
    p = None if closest.label_swap_p is None else swap_p(hits)
    closest = closest.model_copy(update={"excess": Estimate.of(*excess_of(hits, CONFIDENCE)), "label_swap_p": p})
    return result.model_copy(update={"bands": [closest, *others]})
