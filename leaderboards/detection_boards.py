"""Boards of detectors: which records share pair, prompts and labels' making, and how a record's detectors stand.

Detectors are compared inside a record alone, on one set of labels and the same draws of families. Nothing here is
ranked with attacks or defences.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..benchmark.data.pair import load_pair, pair_names
from ..benchmark.registry import find, names, ships
from ..benchmark.results.detection import AgainstNegatives, DetectorRates, DetectorUsed
from ..benchmark.results.schema import Estimate
from . import owners
from .badge import CheckedDetection
from .detection_record import SCHEMA, DetectionRecord
from .victims import outdated_pair


class DetectionEntry(NamedTuple):
    """A record of detectors with its file (relative, `/` between folders) and the SHA-256 of its bytes."""

    record: DetectionRecord
    file: str
    sha256: str
    path: Path
    schema: str = SCHEMA
    checked: CheckedDetection | None = None

    @property
    def id(self) -> str:
        """The record's name, from the bytes of its file."""
        return self.sha256[:12]


class DetectionRow(NamedTuple):
    """A record on a board; `why` says in a sentence why it no longer stands."""

    entry: DetectionEntry
    why: str = ""

    @property
    def record(self) -> DetectionRecord:
        """The record of the entry."""
        return self.entry.record


class DetectionBoard(NamedTuple):
    """Records of detectors on the same prompts of the same pair, the newest first."""

    name: str
    current: list[DetectionRow]
    stale: list[DetectionRow]

    @property
    def first(self) -> DetectionRecord:
        """A record from which all that they share can be read."""
        return (self.current or self.stale)[0].record


class Standing(NamedTuple):
    """One detector against one kind of other prompts."""

    used: DetectorUsed
    rates: DetectorRates
    best: int
    worst: int
    """Ends of its rank range by AUC: what the tests allow."""


def boards(entries: Iterable[DetectionEntry]) -> list[DetectionBoard]:
    """Return the boards of these records; their order does not matter."""
    groups: dict[str, list[DetectionEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.record.submitted, entry.file), reverse=True):
        groups.setdefault(_board_key(entry.record), []).append(entry)
    found = []
    for key, group in groups.items():
        why = _stale(group)
        name = f"{group[0].record.victim.name}-detectors-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        current = [DetectionRow(entry) for entry in group if not why[entry.file]]
        found.append(DetectionBoard(name, current, [DetectionRow(e, why[e.file]) for e in group if why[e.file]]))
    return sorted(found, key=lambda board: (board.first.victim.worked_example, board.name))


def standings(record: DetectionRecord, each: AgainstNegatives) -> list[Standing]:
    """Return the detectors of a record against one kind of other prompts, highest AUC first.

    A rank range goes from one more than the number of detectors that are shown to be better, to the number of all less
    those that are shown to be worse; without pairs (too few families) every rank is possible.
    """
    used = {one.detector: one for one in record.detectors}
    better = dict.fromkeys(used, 0)
    worse = dict.fromkeys(used, 0)
    for pair in each.pairs:
        if not pair.tie:
            high, low = (pair.first, pair.second) if pair.difference.value > 0 else (pair.second, pair.first)
            better[low] += 1
            worse[high] += 1
    count = len(used)
    return [
        Standing(used[rates.detector], rates, 1 + better[rates.detector], count - worse[rates.detector])
        for rates in each.rates
    ]


def has_figures(board: DetectionBoard) -> bool:
    """Return whether a record of the board that still stands has a rate."""
    return any(each.rates for row in board.current for each in row.record.against)


def rows(board: DetectionBoard) -> list[dict[str, Any]]:
    """Return the board's table as a row per record, kind of other prompts and detector, numbers raw."""
    return [
        {
            "record": row.entry.id,
            "submitter": row.record.submitter,
            "against": each.negatives,
            "best rank": found.best,
            "worst rank": found.worst,
            "detector": found.used.detector,
            "version": found.used.version,
            **_estimate("AUC", found.rates.auc),
            **_tprs(found.rates),
            "NFE a prompt": found.used.nfe / max(1, found.used.prompts),
            "made_again": row.entry.checked.checked if row.entry.checked else None,
            "made_again_agreed": row.entry.checked.agreed if row.entry.checked else None,
        }
        for row in board.current
        for each in row.record.against
        for found in standings(row.record, each)
    ]


def _tprs(rates: DetectorRates) -> dict[str, float]:
    named = {f"TPR at {fpr} FPR": value for fpr, value in sorted(rates.tpr.items(), reverse=True)}
    return {key: number for name, value in named.items() for key, number in _estimate(name, value).items()}


def _estimate(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}, low": found.low, f"{name}, high": found.high}


def _board_key(record: DetectionRecord) -> str:
    """Return what records on one board share: the pair, the prompts, and how labels are made."""
    shared = record.model_dump(mode="json", include={"prompts_sha256", "replay"}, exclude={"replay": {"nfe"}})
    victim = record.victim.model_dump(mode="json", exclude={"control_check", "sources"})
    return json.dumps({**shared, "victim": victim}, sort_keys=True)


def _stale(entries: Sequence[DetectionEntry]) -> dict[str, str]:
    """Return why a record of one board no longer stands, by file; entries are newest first."""
    shipped = {name: load_pair(name) for name in pair_names()}
    found: dict[str, str] = {}
    newest: dict[str, DetectionEntry] = {}
    for entry in entries:
        record = entry.record
        found[entry.file] = outdated_pair(record.victim, shipped.get(record.victim.name)) or _older(record)
        if found[entry.file]:
            continue
        methods = [one.model_dump(mode="json", include={"detector", "settings"}) for one in record.detectors]
        key = json.dumps([record.owner, owners.normal(record.submitter), record.seed, methods], sort_keys=True)
        newer = newest.setdefault(key, entry)
        if newer is not entry:
            found[entry.file] = f"superseded by record {newer.id} of {newer.record.submitted}, same submitter and claim"
    return found


def _older(record: DetectionRecord) -> str:
    """Return which detector is at a newer version than in the record, or nothing."""
    for used in record.detectors:
        if used.detector in names("detector") and ships("detector", used.detector):
            latest = find("detector", used.detector).version
            if used.version < latest:
                return f"version {used.version} of {used.detector}; {latest} is the current one"
    return ""
