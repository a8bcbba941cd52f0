"""The last release as a yardstick: what it hit, candidate by candidate, and whether the two can be compared."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts import Attack, Measure
from ..errors import BadInput, CorruptRun, UnknownName
from ..files import difference, read_json, read_table, short_hash
from ..results.run_folder import RunFolder, believed, read_run, rules_of, unit_name
from ..results.score_files import read_scores
from ..results.shards import Shard
from ..results.unit_scores import stored_groups
from ..stats.comparison import AttackHits
from .claims import Matched, Sides, joined, matched, tested
from .source import GATE_MANIFEST, code_difference, read_gate, settings_difference


class Baseline(ABC):
    """What a release before this one hit. Seeds make the candidates, so both releases started from the same noise."""

    name: str
    aligned: bool = True
    """Whether its candidates and groups are known one by one, so that both releases' differences are paired."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Return what must be the same in both: protocol, control, reference set."""

    @abstractmethod
    def seeds(self, attack: Attack, measure: Measure, tau: float | None) -> list[int]:
        """Return the seeds under which this attack was run; `tau` is the policy's threshold, None if to be calibrated.

        Raises:
            BadInput: the baseline has not this attack, settings, measure or threshold; it says which.
        """

    @abstractmethod
    def candidates(self, attack: Attack, seed: int, measure: Measure, tau: float) -> int:
        """Return how many candidates are known at threshold tau.

        Raises:
            BadInput: what was hit at this threshold is not known.
        """

    @abstractmethod
    def hits(
        self, attack: Attack, seed: int, measure: Measure, tau: float, sides: Sides, numbers: np.ndarray
    ) -> AttackHits:
        """Return what candidates of these numbers hit at threshold tau; all that are known, where not `aligned`.

        Raises:
            BadInput: what was hit at this threshold is not known.
        """


class BaselineAttack:
    """One attack's candidates in the last release, for the same attack's in this one."""

    def __init__(self, baseline: Baseline, attack: Attack, seed: int, measure: Measure, tau: float | None) -> None:
        """Choose the seed: the same one, so that both releases start from the same noise, or else its first.

        Independent candidates are compared as validly as paired ones, only less sharply.
        """
        own = baseline.seeds(attack, measure, tau)
        self.name, self.paired = f"baseline {baseline.name}", seed in own
        self.seed = seed if self.paired else own[0]
        self.aligned = baseline.aligned
        self._baseline, self._attack, self._measure = baseline, attack, measure

    def candidates(self, tau: float) -> int:
        """Return how many candidates are known at threshold tau."""
        return self._baseline.candidates(self._attack, self.seed, self._measure, tau)

    def hits(self, tau: float, sides: Sides, numbers: np.ndarray) -> AttackHits:
        """Return what candidates of these numbers hit at threshold tau; all that are known, where not `aligned`."""
        return self._baseline.hits(self._attack, self.seed, self._measure, tau, sides, numbers)


class RunBaseline(Baseline):
    """A run folder or a gate's folder. Its stored scores answer for any threshold."""

    def __init__(self, path: Path) -> None:
        gate = (path / GATE_MANIFEST).is_file()
        self.folder: RunFolder = read_gate(path) if gate else read_run(path)
        self.name = path.name
        self.manifest = read_json(self.folder.manifest_file)
        self._read: dict[str, Matched] = {}

    def facts(self) -> Mapping[str, Any]:
        """Return the facts of the stored run."""
        with believed(self.folder):
            return stored_facts(self.folder, self.manifest)

    def seeds(self, attack: Attack, measure: Measure, tau: float | None) -> list[int]:
        """Return the seeds of the attack's units that have scores."""
        if measure.id not in self.manifest["identity"]["measures"]:
            raise UnknownName(f"measure of baseline {self.name}", measure.id, self.manifest["identity"]["measures"])
        units = {name: unit for name, unit in self.manifest["units"].items() if self._scored(name, measure)}
        own = {name: unit for name, unit in units.items() if unit["attack"] == attack.name}
        if not own:
            known = {unit["attack"] for unit in units.values()}
            raise UnknownName(f"attack of baseline {self.name}", attack.name, known)
        for unit in own.values():
            if changed := settings_difference(attack, unit["settings"]) or code_difference(attack, unit):
                raise BadInput(f"baseline {self.name}: {changed}")
        return sorted(int(unit["seed"]) for unit in own.values())

    def candidates(self, attack: Attack, seed: int, measure: Measure, tau: float) -> int:
        """Return how many candidates have scores."""
        return sum(len(shard.numbers) for shard in self._shards(attack, seed, measure))

    def hits(
        self, attack: Attack, seed: int, measure: Measure, tau: float, sides: Sides, numbers: np.ndarray
    ) -> AttackHits:
        """Return what candidates of these numbers hit, from the stored scores."""
        unit = unit_name(attack.name, seed)
        with believed(self.folder):
            if unit not in self._read:
                shards = self._shards(attack, seed, measure)
                stored = (read_scores(self.folder, unit, measure.space, shard) for shard in shards)
                self._read[unit] = joined([matched(scores, measure, sides) for scores in stored])
            return tested(self._read[unit], tau, sides, measure).of(numbers)

    def _shards(self, attack: Attack, seed: int, measure: Measure) -> list[Shard]:
        return self.folder.score_shards(unit_name(attack.name, seed), measure.space)

    def _scored(self, unit: str, measure: Measure) -> bool:
        return bool(self.folder.score_shards(unit, measure.space))


def stored_facts(folder: RunFolder, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two releases must share to be compared, from a folder's manifest and references."""
    groups = stored_groups(folder)
    table = read_table(folder.references_file)
    try:
        return {
            "protocol": rules_of(manifest),
            "control": manifest["control"],
            "reference set": {
                "data": manifest["data"]["sha256"],
                "split": short_hash([table["side"].to_pylist(), table["row"].to_pylist()]),
                **{f"{side} images": len(own) for side, own in groups.items()},
                **{f"{side} groups": len(np.unique(own)) for side, own in groups.items()},
            },
        }
    except KeyError as error:
        raise CorruptRun(f"{folder.path.name}: {error} is missing from what the run has stored") from None


def check_comparable(baseline: Baseline, ours: Mapping[str, Any]) -> None:
    """Refuse a baseline of another protocol, control or reference set.

    A fact that the baseline does not hold (a record has no list of rows) is not compared.

    Raises:
        BadInput: the first field that differs, with both values.
    """
    theirs = baseline.facts()
    known = {name: value for name, value in ours["reference set"].items() if name in theirs["reference set"]}
    changed = difference(theirs, {**ours, "reference set": known})
    if changed:
        raise BadInput(f"baseline {baseline.name} cannot be compared: {changed}")
