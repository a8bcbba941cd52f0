"""Check a folder of records against what is merged: nothing of it is changed, and nobody speaks for another.

A folder alone cannot show that: whoever sends one may write its `owners.json` as they like.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from ..benchmark.errors import BadInput, BadRecord
from .badge import checked_file
from .check import Problem, check_files, check_registry
from .owners import FILE, Owners, normal, read_owners
from .read_records import read_any, record_files


def check_on_base(records: Path, base: Path, today: date | None = None) -> list[Problem]:
    """Return every problem of a folder of records, on top of the folder of records `base` that is merged already.

    Names belong to whom they belong in `base`; this folder's own registry counts for new names alone.

    Raises:
        BadInput: `base` has no registry, so it is no such folder.
        BadRecord: its registry cannot be read.
    """
    if not (base / FILE).is_file():
        raise BadInput(f"--base {base}: holds no {FILE}; name the folder of records in a checkout of what is merged")
    merged = read_owners(base)
    problems = check_registry(records)
    try:
        own = read_owners(records)
    except BadRecord:  # named above
        own = merged
    problems += [Problem(FILE, *found) for found in own.changes(merged)]
    problems += [*_changed(records, base), *_unused(records, own, merged)]
    return problems + check_files(record_files(records), records, today, own.after(merged))


def _changed(records: Path, base: Path) -> Iterator[Problem]:
    """Find what is merged and not the same here, and badges that are new beside merged records."""
    for file in sorted(base.rglob("*.json")):
        here = records / file.relative_to(base)
        if file == base / FILE:
            continue
        if not here.is_file():
            yield Problem(file.name, "file", "is merged and missing here; merge what is there, and remove nothing")
        elif here.read_bytes() != file.read_bytes():
            yield Problem(file.name, "file", "differs from what is merged: records and badges are never changed")
    for file in record_files(base):
        badge = checked_file(records / file.relative_to(base))
        if badge.is_file() and not checked_file(file).is_file():
            yield Problem(badge.name, "file", "is a badge for a merged record; the maintainers make these")


def _unused(records: Path, own: Owners, merged: Owners) -> Iterator[Problem]:
    """Find new names under which nobody submits anything: entries that only keep others from a name."""
    new = own.names.keys() - merged.names.keys()
    if not new:
        return
    used = set()
    for file in record_files(records):
        try:
            used.add(normal(read_any(file).submitter))
        except (BadRecord, ValueError, LookupError, TypeError, ArithmeticError):  # `check_files` says what is wrong
            continue
    for name in sorted(new - used):
        yield Problem(FILE, f"names.{name}", "is new, and no record here is under that name")
