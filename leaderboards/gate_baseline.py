"""A leaderboard record as the release gate's baseline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmark.contracts import Attack, Band, Measure
from ..benchmark.errors import BadInput, BadRecord
from ..benchmark.gate.baseline import Baseline, RunBaseline
from ..benchmark.gate.claims import Sides
from ..benchmark.gate.source import settings_difference
from ..benchmark.measures.hits import far_edge
from ..benchmark.stats.comparison import AttackHits
from . import owners
from .make_records import file_hash
from .read_records import read_content, read_record
from .record import Record, pooled_hits


def read_baseline(path: Path) -> Baseline:
    """Return the baseline in a run folder, a gate's folder, or a record's file.

    Raises:
        BadInput: it is none of these.
        BadRecord: the record's signature does not hold, or its folder has an owners.json by which it is not its
            submitter's.
    """
    return RecordBaseline(_owned(path), file_hash(path)[:12]) if path.is_file() else RunBaseline(path)


def _owned(path: Path) -> Record:
    """Return the record in a file, unless somebody else speaks in it for its submitter."""
    record, content, folder = read_record(path), read_content(path), owners.folder_of(path)
    if (folder / owners.FILE).exists():
        fault = owners.read_owners(folder).fault(record, content, file_hash(path))
    else:
        fault = owners.signature_fault(record, content)
    if fault:
        raise BadRecord(f"{path.name}, {fault[0]}: {fault[1]}")
    return record


class RecordBaseline(Baseline):
    """A record: its hits are known by candidate, at the edge of its closest band alone."""

    def __init__(self, record: Record, name: str = "") -> None:
        self.record, self.name = record, f"record {name or record.id}"
        self.aligned = False

    def facts(self) -> Mapping[str, Any]:
        """Return the facts that a record holds; the rows of the reference set are not among them."""
        victim = self.record.victim
        return {
            "protocol": self.record.protocol.model_dump(mode="json"),
            "control": victim.control,
            "reference set": {
                "data": victim.data_sha256,
                "training images": victim.training_images,
                "held_out images": victim.held_out_images,
                "training groups": victim.training_groups,
                "held_out groups": victim.held_out_groups,
            },
        }

    def seeds(self, attack: Attack, measure: Measure, tau: float | None) -> list[int]:
        """Return the record's seeds."""
        claim, record = self.record.claim, self.record
        if attack.name != claim.attack:
            raise BadInput(f"{self.name} is of {claim.attack}, not of {attack.name}")
        if not record.victim.public:
            raise BadInput(f"{self.name} says of no candidate whether it hit (images not public): name its run folder")
        if changed := settings_difference(attack, claim.settings):
            raise BadInput(f"{self.name}: {changed}")
        if measure.id != record.measure:
            raise BadInput(f"{self.name}: measure was {record.measure!r}, now {measure.id!r}")
        self._check(record.seeds[0], measure, tau)
        return record.seeds

    def candidates(self, attack: Attack, seed: int, measure: Measure, tau: float) -> int:
        """Return the record's candidates."""
        self._check(seed, measure, tau)
        return self.record.candidates

    def hits(
        self, attack: Attack, seed: int, measure: Measure, tau: float, sides: Sides, numbers: np.ndarray
    ) -> AttackHits:
        """Return what the record's candidates hit, all of them: which group each one hit is not in it."""
        self._check(seed, measure, tau)
        return pooled_hits([self.record], [seed])[0]

    def _check(self, seed: int, measure: Measure, tau: float | None) -> None:
        """Refuse any threshold but the edge at which the record says what was hit."""
        band = self.record.headline(seed).bands[0]
        edge = far_edge(Band(band.band, band.low, band.high), measure)
        if tau != edge:
            asked = "a calibrated threshold" if tau is None else f"{tau:g}"
            raise BadInput(
                f"{self.name} says what hit at {edge:g}, not at {asked}: give the policy threshold.fixed: {edge:g}"
            )
