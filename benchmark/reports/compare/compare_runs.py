"""`sidebench compare`: what changed between finished runs of one pair, with what it cost.

Before and after are rates over all candidates of both runs: no worst case of an earlier run is picked out and
looked at again, so regression to the mean cannot pass as an effect. Runs with the same seeds start from the
same noise and are compared candidate by candidate; a seed under which other settings of a defence were tried is
flagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...contracts import Band, Measure, Side
from ...data.references import shared_groups
from ...errors import BadInput
from ...files import difference, read_json, read_table
from ...measures import hits
from ...measures.shard_scores import SIDES
from ...protocol import CONFIDENCE
from ...registry import make_measure
from ...results.rates import attack_hits
from ...results.run_folder import RunFolder, asked_candidates, believed, rules_of
from ...results.schema import Estimate, Metrics, load_metrics
from ...results.score_files import read_all_scores
from ...results.unit_scores import UnitScores
from ...stats.comparison import AttackHits, compare, excess_of, pooled, verdicts
from .schema import OF_TEXT, QUALITY, SCHEMA, ComparedRun, Comparing, Leak, Price
from .tried_settings import other_settings


class HitRule(NamedTuple):
    """One way to count hits. Without a band a hit is a candidate that is nearer to one side than to the other."""

    name: str
    measure: Measure
    band: Band | None


class _Spent(NamedTuple):
    """Wall seconds, processor seconds (0: not recorded) and denoiser-equivalents, per candidate."""

    wall: float
    processor: float
    work: float


@dataclass(frozen=True)
class _Run:
    """A run folder, read."""

    folder: RunFolder
    manifest: dict[str, Any]
    metrics: Metrics
    label: str
    references: dict[Side, tuple[np.ndarray, np.ndarray]]
    """Rows in the data set and duplicate groups."""

    @property
    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["identity"]
        return found

    @property
    def candidates(self) -> int:
        """The number that its results are of."""
        return asked_candidates(self.manifest)

    def units(self) -> dict[str, list[tuple[int, str]]]:
        """Return (seed, unit name) by attack, of units with results, seeds in order."""
        done = {(cost.attack, cost.seed) for cost in self.metrics.costs}
        found: dict[str, list[tuple[int, str]]] = {}
        for name, unit in self.manifest["units"].items():
            if (unit["attack"], unit["seed"]) in done:
                found.setdefault(unit["attack"], []).append((unit["seed"], name))
        return {attack: sorted(units) for attack, units in found.items()}


def compare_runs(folders: Sequence[RunFolder]) -> Comparing:
    """Compare finished runs of one pair; the baseline is the first one without a defence, else the first one.

    Raises:
        BadInput: fewer than two runs, one without results, or runs that cannot be compared: the field is named.
    """
    if len({folder.path.resolve() for folder in folders}) < max(2, len(folders)):
        raise BadInput("compare needs two different runs or more")
    with believed(*folders):
        return _compared(_read(baseline_first(folders)))


def _compared(runs: Sequence[_Run]) -> Comparing:
    for run in runs:
        if not run.metrics.held_out_images:
            raise BadInput(f"{run.metrics.run_id} has control {run.metrics.control}: compare needs held-out images")
    baseline, *others = runs
    for run in others:
        _check_comparable(baseline, run)
    yardsticks = _yardsticks(runs)
    leaks = _leaks(baseline, others, yardsticks)
    quality = read_json(baseline.folder.path / "quality.json").get("training images", {})
    return Comparing(
        schema=SCHEMA,
        baseline=baseline.label,
        runs=[_described(run, baseline) for run in runs],
        leaks=leaks,
        prices=[price for run in runs for price in _prices(run, baseline)],
        real={key: quality.get(key) for key in (*QUALITY, *OF_TEXT)},
        flags=_flags(baseline, others, yardsticks, leaks),
    )


def baseline_first(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the folders with the baseline in front: the first one without a defence, else the first one."""
    plain = (
        place for place, folder in enumerate(folders) if not read_json(folder.manifest_file)["identity"]["defences"]
    )
    place = next(plain, 0)
    return [folders[place], *folders[:place], *folders[place + 1 :]]


# ---- Reading ----------------------------------------------------------------------------------------


def _read(folders: Sequence[RunFolder]) -> list[_Run]:
    manifests = [read_json(folder.manifest_file) for folder in folders]
    labels = [" + ".join(manifest["identity"]["defences"]) or "no defence" for manifest in manifests]
    runs = []
    for folder, manifest, label in zip(folders, manifests, labels, strict=True):
        where = folder.path.resolve()
        unique = label if labels.count(label) == 1 else f"{label} ({where.parent.name}/{where.name})"
        runs.append(_Run(folder, manifest, load_metrics(folder), unique, _references(folder)))
    return runs


def _references(folder: RunFolder) -> dict[Side, tuple[np.ndarray, np.ndarray]]:
    table = read_table(folder.references_file)
    sides = table["side"].to_numpy(zero_copy_only=False)
    rows, groups = table["row"].to_numpy(), table["group"].to_numpy()
    return {side: (rows[sides == side], groups[sides == side]) for side in SIDES}


def _check_comparable(baseline: _Run, run: _Run) -> None:
    """Refuse runs whose rates are of different things, naming the field."""
    refused = f"{run.label} cannot be compared with {baseline.label}: "
    for key in ("control", "data"):
        if found := difference(baseline.manifest.get(key), run.manifest.get(key), key):
            raise BadInput(refused + found)
    for side in SIDES:
        for ours, theirs, what in zip(baseline.references[side], run.references[side], ("rows", "groups"), strict=True):
            if not np.array_equal(ours, theirs):
                raise BadInput(f"{refused}data.split gave other {side} images (their {what} differ)")


def _marks(run: _Run, baseline: _Run) -> list[str]:
    """Name the fields in which a run differs from the baseline, other than its defences and attacks."""
    marks = []
    for key in ("pair", "pair_revision"):
        if found := difference(baseline.identity.get(key), run.identity.get(key), key):
            marks.append(found)
    if found := difference(baseline.candidates, run.candidates, "candidates"):
        marks.append(found)
    before, now = rules_of(baseline.manifest), rules_of(run.manifest)
    for key in sorted({*before, *now}):
        if found := difference(before.get(key), now.get(key), f"protocol.{key}"):
            marks.append(found)
    if baseline.identity["model"] != run.identity["model"]:
        marks.append("model: other weights")
    if baseline.identity["measures"] != run.identity["measures"]:
        marks.append("measures: those of both are used")
    return marks


def _described(run: _Run, baseline: _Run) -> ComparedRun:
    return ComparedRun(
        label=run.label,
        run_id=run.metrics.run_id,
        pair=run.metrics.pair,
        defences=run.identity["defences"],
        candidates=run.candidates,
        marks=_marks(run, baseline),
    )


# ---- Leaks ------------------------------------------------------------------------------------------


def _yardsticks(runs: Sequence[_Run]) -> list[HitRule]:
    """Return the nested bands of the first common measure that decides, and `nearer` in each common space."""
    common = [name for name in runs[0].identity["measures"] if all(name in r.identity["measures"] for r in runs)]
    if not common:
        raise BadInput(
            "the runs have no measure in common: "
            + "; ".join(f"{run.label} has {', '.join(run.identity['measures'])}" for run in runs)
        )
    measures = [make_measure(name) for name in common]
    measures = [measure for measure in measures if measure.decides] or measures
    banded = next((measure for measure in measures if measure.bands), None)
    bands = hits.nested_bands(banded) if banded else []
    found = [HitRule(f"{banded.id}, {band.name}", banded, band) for band in bands if banded]
    spaces = {measure.space: measure for measure in reversed(measures)}
    for space in dict.fromkeys(measure.space for measure in measures):
        found.append(HitRule(f"nearer in {space}", spaces[space], None))
    return found


def _leaks(baseline: _Run, others: Sequence[_Run], yardsticks: Sequence[HitRule]) -> list[Leak]:
    """Compare every run's attacks with the baseline's, Holm-corrected over everything that was compared."""
    kept: dict[tuple[str, str, str], AttackHits] = {}

    def hits(run: _Run, attack: str, yardstick: HitRule, seeds: int, count: int) -> AttackHits:
        key = (run.label, attack, f"{yardstick.name} {seeds} {count}")
        if key not in kept:
            kept[key] = _hits(run, [name for _, name in run.units()[attack]][:seeds], yardstick, count)
        return kept[key]

    rows, tests = [], []
    for run, attack, against in _counterparts(baseline, others):
        ours, theirs = run.units()[attack], baseline.units()[against]
        seeds = min(len(ours), len(theirs))
        count = min(run.candidates, baseline.candidates)
        for yardstick in yardsticks:
            before = hits(baseline, against, yardstick, seeds, count)
            after = hits(run, attack, yardstick, seeds, count)
            tests.append(compare(after, before, CONFIDENCE))
            rows.append(
                {
                    "run": run.label,
                    "attack": attack,
                    "against": against,
                    "settings": _settings_changed(baseline, theirs[0][1], run, ours[0][1]),
                    "yardstick": yardstick.name,
                    "space": yardstick.measure.space,
                    "candidates": seeds * count,
                    "paired": [s for s, _ in ours[:seeds]] == [s for s, _ in theirs[:seeds]],
                    "before": Estimate.of(*excess_of(before, CONFIDENCE)),
                    "after": Estimate.of(*excess_of(after, CONFIDENCE)),
                }
            )
    words = {"finds more": "leaks more", "finds fewer": "leaks less"}
    return [
        Leak(
            **row,
            change=Estimate.of(*test.difference),
            p=verdict.p,
            verdict=words.get(verdict.words, verdict.words),
        )
        for row, test, verdict in zip(rows, tests, verdicts(tests, CONFIDENCE), strict=True)
    ]


def _counterparts(baseline: _Run, others: Sequence[_Run]) -> list[tuple[_Run, str, str]]:
    """Return (run, attack, the baseline's attack): the same one, or every one where it is not in the baseline."""
    known = list(baseline.units())
    return [
        (run, attack, against)
        for run in others
        for attack in run.units()
        for against in ([attack] if attack in known else known)
    ]


def _hits(run: _Run, units: Sequence[str], yardstick: HitRule, count: int) -> AttackHits:
    """Return the hits of the first `count` candidates of each unit, the units one after another.

    Duplicate groups of both sides take no part.
    """
    measure = yardstick.measure
    groups = {side: run.references[side][1] for side in SIDES}
    shared = shared_groups(groups)
    # Without a band all that counts is which side is nearer.
    band = yardstick.band or hits.band_to(np.inf if measure.distance else -np.inf, measure)
    found = []
    for unit in units:
        scores = UnitScores(read_all_scores(run.folder, unit, measure.space, count), [measure], shared)
        found.append(attack_hits(measure, band, scores, groups))
    return pooled(found)


def _settings_changed(baseline: _Run, theirs: str, run: _Run, ours: str) -> str:
    """Say how an attack's settings differ from the baseline's; nothing for another attack."""
    before, after = baseline.manifest["units"][theirs], run.manifest["units"][ours]
    if before["attack"] != after["attack"]:
        return ""
    changed = [key for key in after["settings"] if after["settings"][key] != before["settings"].get(key)]
    return ", ".join(f"{key} = {after['settings'][key]} (was {before['settings'].get(key)})" for key in changed)


# ---- Prices and flags -------------------------------------------------------------------------------


def _prices(run: _Run, baseline: _Run) -> list[Price]:
    from ...measures.image_quality import FEATURES

    figures = read_json(run.folder.path / "quality.json")
    base = {attack: _spent(baseline, attack) for attack in baseline.units()}
    found = []
    for attack, units in run.units().items():
        stored = [figures.get(name, {}) for _, name in units]
        seconds, processor, work = _spent(run, attack)
        before = base.get(attack)
        found.append(
            Price(
                run=run.label,
                attack=attack,
                features=FEATURES,
                **{key: _mean([figure.get(key) for figure in stored]) for key in (*QUALITY, *OF_TEXT)},
                seconds=seconds * len(units) * run.candidates,
                seconds_ratio=seconds / before.wall if before and before.wall else None,
                processor_ratio=processor / before.processor if before and before.processor and processor else None,
                work_ratio=work / before.work if before and before.work else None,
            )
        )
    return found


def _spent(run: _Run, attack: str) -> _Spent:
    units = run.units()[attack]
    stored = read_json(run.folder.path / "costs.json")["units"]
    seconds = sum(stored[name]["prepare_seconds"] + stored[name]["generate_seconds"] for _, name in units)
    processor = sum(stored[name].get("processor_seconds", 0.0) for _, name in units)
    work = sum(cost.denoiser_equivalents for cost in run.metrics.costs if cost.attack == attack)
    candidates = len(units) * run.candidates
    return _Spent(seconds / candidates, processor / candidates, work / candidates)


def _flags(baseline: _Run, others: Sequence[_Run], yardsticks: Sequence[HitRule], leaks: Sequence[Leak]) -> list[str]:
    flags = []
    spaces = {yardstick.measure.space for yardstick in yardsticks}
    if baseline.identity["defences"]:
        flags.append(f"no run is without a defence: {baseline.label} is the baseline")
    for run in [baseline, *others]:
        if not run.metrics.claims_excess:
            flags.append(f"{run.label}: the control is a surrogate, so differences of sides are no proof of a leak")
        for defence, optimised in run.manifest.get("optimised_spaces", {}).items():
            if optimised and spaces <= set(optimised):
                flags.append(
                    f"{defence} optimises distances in {', '.join(optimised)}, and every yardstick here is one of "
                    "them: run both sides again with a measure of another space beside it (--measure zncc, say)"
                )
    compared = [run.folder for run in (baseline, *others)]
    flags += [words for folder in compared for words in other_settings(folder, compared)]
    training, held_out = (len(baseline.references[side][0]) for side in SIDES)
    if training != held_out:
        flags.append(f"{training} training and {held_out} held-out images: 'nearer' favours the larger set")
    return [*flags, *_only_moved(leaks)]


def _only_moved(leaks: Sequence[Leak]) -> list[str]:
    """Name the runs in which one yardstick falls to nothing while another still shows a leak."""
    found: dict[tuple[str, str, str], list[Leak]] = {}
    for run, attack in dict.fromkeys((leak.run, leak.attack) for leak in leaks):
        own = [leak for leak in leaks if (leak.run, leak.attack) == (run, attack)]
        gone = [leak for leak in own if leak.verdict == "leaks less" and leak.after.low <= 0]
        left = [leak for leak in own if leak.after.low > 0]
        left.sort(key=lambda leak: leak.space in {found.space for found in gone})
        if gone and left:
            found.setdefault((run, gone[0].yardstick, left[0].yardstick), []).append(left[0])
    return [
        f"{run}: of {', '.join(leak.attack for leak in kept)} nothing is left by {gone}, but by {left} "
        f"{100 * min(leak.after.low for leak in kept):.1f} % or more: one yardstick alone would have hidden that"
        for (run, gone, left), kept in found.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
