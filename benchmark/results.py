"""Every key of metrics.json, declared once with a sentence; and its making from committed scores."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from . import tally
from .calibration import HitRate, Matches, calibrate, calibrates, evaluate
from .comparison import AttackHits, Ratio, compare, excess_of, label_swap, verdicts
from .contracts import Band, Measure, Side
from .errors import TooFew
from .extrapolation import chao1, chao2, curve
from .protocol import CALIBRATION_RATES, CONFIDENCE
from .scoring import ShardScores
from .shift import matched_rate
from .statistics import Excess, unique_count, wilson

SCHEMA = "sidebench-metrics/1"

SWAP_SEED = 0
"""Draws of the label-swap test."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rate(_Record):
    """A count of candidates over N_G, with its interval."""

    count: int = Field(description="candidates in the band")
    value: float = Field(description="count / N_G")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")


class Difference(_Record):
    """A difference or ratio of two rates, with its interval."""

    value: float = Field(description="the estimate")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")


class Calibrated(_Record):
    """Rates at a threshold calibrated so that held-out images are hit at the rate q."""

    q: float = Field(description="held-out hit rate that the threshold was calibrated to")
    refused: str = Field(description="why the run cannot support q; empty where it can")
    tau: float | None = Field(description="threshold, from the candidates with even numbers")
    tau_low: float | None = Field(description="lower end of the threshold's interval")
    tau_high: float | None = Field(description="upper end of the threshold's interval")
    candidates: int = Field(description="candidates with odd numbers, on which the rates are taken")
    training: Rate | None = Field(description="AMS on training images at tau")
    held_out: Rate | None = Field(description="AMS on held-out images at tau")
    excess: Difference | None = Field(description="their difference; its interval carries tau's uncertainty on")


class Point(_Record):
    """Distinct images expected from a number of candidates."""

    candidates: int = Field(description="number of candidates")
    value: float = Field(description="expected number of distinct species")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")
    kind: str = Field(description="rarefied, observed, or extrapolated (an estimate)")


class Richness(_Record):
    """How many could be found: curves in the closest band, and lower bounds on all that can be found."""

    groups: list[Point] = Field(description="duplicate groups among best matches (abundance data)")
    images: list[Point] = Field(description="images that any candidate has in the band (incidence data)")
    chao1_groups: Point = Field(description="lower bound on the groups that can be found; an estimate")
    chao2_images: Point = Field(description="lower bound on the images that can be found; an estimate")


class SideResult(_Record):
    """What was hit on one side, in one band."""

    ams: Rate = Field(description="candidates whose best match is in the band (Wilson interval)")
    ums: Rate = Field(description="distinct references that any candidate has in the band, over N_G")
    ums_best: Rate = Field(description="distinct best matches in the band, over N_G")
    groups: int = Field(description="distinct duplicate groups among the best matches in the band")
    largest_group: int = Field(description="images in the largest duplicate group hit (k of k-eidetic)")


class BandResult(_Record):
    """One band on both sides."""

    band: str = Field(description="name; high+mid is the union of both")
    low: float = Field(description="lower edge of the score")
    high: float = Field(description="upper edge of the score")
    training: SideResult = Field(description="against the training images")
    held_out: SideResult = Field(description="against the held-out images, the control")
    excess: Difference = Field(description="AMS on training minus AMS on held-out images")
    label_swap_p: float = Field(description="one-sided p of the label-swap test: more hits in X than by chance")
    matched_ams: float | None = Field(
        description="AMS on training images matched to the held-out number; None where both numbers are equal"
    )


class Percentiles(_Record):
    """The best-match score that 95 % of the candidates stay short of."""

    training: float | None = Field(description="against the training images")
    held_out: float | None = Field(description="against the held-out images")


class Result(_Record):
    """One attack, seed and measure."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure, with its preprocessing")
    candidates: int = Field(description="N_G, broken images included")
    nan: int = Field(description="images with values that are not finite; never a match")
    constant: int = Field(description="images of one single value; never a match")
    bands: list[BandResult] = Field(description="fixed bands, closest first, then their unions")
    calibrated: list[Calibrated] = Field(description="one per calibration rate q")
    richness: Richness | None = Field(description="of the closest band; None without bands")
    percentile_95: Percentiles = Field(description="95th percentile of the best-match score")


class Compared(_Record):
    """Two attacks on the same candidates, by the headline measure's closest band."""

    first: str = Field(description="name of the first attack")
    second: str = Field(description="name of the second attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure")
    band: str = Field(description="name of the band")
    difference: Difference = Field(description="excess of the first minus excess of the second")
    ratio: Difference | None = Field(description="excess of the first over excess of the second; None if refused")
    ratio_refused: str = Field(description="why there is no ratio; empty where there is one")
    p: float = Field(description="two-sided p, Holm-corrected over all comparisons of the run")
    verdict: str = Field(description="finds more, finds fewer, or no difference seen")
    smallest_difference: float = Field(description="excess difference that this run sees with a chance of 80 %")


class Cost(_Record):
    """Logical work of one attack and seed, whatever was resumed or shared."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    nfe: dict[str, int] = Field(description="denoiser calls (one sample each) by phase")
    flops: dict[str, float] = Field(description="operations outside the denoiser by phase")
    denoiser_flops: int = Field(description="operations of one denoiser call on one sample")
    denoiser_equivalents: float = Field(description="nfe plus flops / denoiser_flops, over all phases")
    synthetic_images: int = Field(description="plain samples that the attack made for its own use; they may hit too")
    synthetic_hits: int = Field(description="how many of them hit, by the headline measure's closest band")
    hits: int = Field(description="candidates that hit, by the same band")
    hits_per_1000_equivalents: float = Field(
        description="hits of candidates and synthetic images per 1,000 denoiser-equivalents: equal cost"
    )
    skipped_steps: int = Field(description="steps at which guidance was singular and left out")


class ControlCheck(_Record):
    """Is the held-out set a fair control for the training set?"""

    auc: float = Field(description="two-sample classifier's AUC between X and H, cross-validated; 0.5: no difference")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")
    told_apart: bool = Field(description="the interval excludes 0.5: read the control as surrogate")
    overlapping_groups: int = Field(description="duplicate groups with images on both sides")


class Metrics(_Record):
    """metrics.json: functions of the committed score shards and of logical cost, nothing that varies."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    run_id: str = Field(description="deterministic id of the run")
    pair: str = Field(description="name of the pair")
    pair_revision: int = Field(description="revision of the pair")
    protocol: str = Field(description="protocol version")
    control: str = Field(description="kind of control: iid, surrogate, reference-model, none")
    defences: dict[str, dict[str, Any]] = Field({}, description="settings of the defences by name; empty without any")
    training_images: int = Field(description="|X|")
    held_out_images: int = Field(description="|H|")
    training_groups: int = Field(description="duplicate groups in X")
    held_out_groups: int = Field(description="duplicate groups in H")
    control_check: ControlCheck = Field(description="whether X and H can be told apart")
    results: list[Result] = Field(description="one per attack, seed and measure")
    comparisons: list[Compared] = Field(description="every two attacks under the same seed")
    costs: list[Cost] = Field(description="one per attack and seed")
    flags: list[str] = Field(description="what a reader must know before using the numbers")

    @property
    def claims_excess(self) -> bool:
        """Whether the held-out set is a fair control, so that the excess and calibrated rates mean something."""
        return self.control == "iid" and not self.control_check.told_apart


class UnitScores:
    """The columns of one unit that metrics need: best matches and pairs, for one measure."""

    def __init__(self, shards: Iterable[ShardScores], measures: Sequence[Measure]) -> None:
        self.candidates = self.nan = self.constant = 0
        best: dict[tuple[str, Side], list[np.ndarray]] = {}
        ids: dict[Side, list[np.ndarray]] = {"training": [], "held_out": []}
        pair_ids: dict[tuple[str, Side], list[np.ndarray]] = {}
        pair_scores: dict[tuple[str, Side], list[np.ndarray]] = {}
        pair_rows: dict[tuple[str, Side], list[np.ndarray]] = {}
        numbers: list[np.ndarray] = []
        for shard in shards:
            before = self.candidates
            self.candidates += len(shard.candidates)
            self.nan += int(shard.nan.sum())
            self.constant += int(shard.constant.sum())
            numbers.append(shard.candidates)
            for side in ids:
                ids[side].append(shard.best_ids(side))
                for measure in measures:
                    key = (measure.id, side)
                    best.setdefault(key, []).append(shard.best_scores(measure, side))
                    rows, found, scores = shard.pair_scores(measure, side)
                    pair_rows.setdefault(key, []).append(rows + before)
                    pair_ids.setdefault(key, []).append(found)
                    pair_scores.setdefault(key, []).append(scores)
        self.numbers = np.concatenate(numbers)
        self.best_ids = {side: np.concatenate(parts) for side, parts in ids.items()}
        self.best_scores = {key: np.concatenate(parts) for key, parts in best.items()}
        self.pair_ids = {key: np.concatenate(parts) for key, parts in pair_ids.items()}
        self.pair_rows = {key: np.concatenate(parts) for key, parts in pair_rows.items()}
        self.pair_scores = {key: np.concatenate(parts) for key, parts in pair_scores.items()}


def measure_result(
    attack: str, seed: int, measure: Measure, scores: UnitScores, groups: dict[Side, np.ndarray]
) -> Result:
    """Compute every rate of one unit under one measure; `groups` has each reference's duplicate group."""
    bands = [*measure.bands, *tally.cumulative_bands(measure.bands, distance=measure.distance)]
    best = {side: scores.best_scores[measure.id, side] for side in groups}
    return Result(
        attack=attack,
        seed=seed,
        measure=measure.id,
        candidates=scores.candidates,
        nan=scores.nan,
        constant=scores.constant,
        bands=[_band_result(measure, band, scores, groups) for band in bands],
        calibrated=[_calibrated(measure, scores, groups, q) for q in CALIBRATION_RATES],
        richness=_richness(measure, bands[0], scores, groups["training"]) if bands else None,
        percentile_95=Percentiles(
            training=tally.percentile_of_best(best["training"], distance=measure.distance),
            held_out=tally.percentile_of_best(best["held_out"], distance=measure.distance),
        ),
    )


def attack_hits(measure: Measure, band: Band, scores: UnitScores, groups: dict[Side, np.ndarray]) -> AttackHits:
    """Return which candidates hit in the band, and how often each duplicate group was the best match."""
    found: dict[Side, tuple[np.ndarray, np.ndarray]] = {}
    for side, own_groups in groups.items():
        hits = tally.in_band(scores.best_scores[measure.id, side], band, distance=measure.distance)
        frequencies = _best_frequencies(measure, band, scores, side, len(own_groups))
        found[side] = hits, tally.by_group(frequencies, own_groups)
    (training, training_credits), (held_out, held_out_credits) = found["training"], found["held_out"]
    return AttackHits(training, held_out, training_credits, held_out_credits)


def compare_attacks(
    units: Sequence[tuple[str, int]], hits: Sequence[AttackHits], measure: Measure, band: Band
) -> list[Compared]:
    """Compare every two attacks under the same seed, Holm-corrected over all comparisons."""
    pairs = [(i, j) for j in range(len(units)) for i in range(j + 1, len(units)) if units[i][1] == units[j][1]]
    found = [compare(hits[i], hits[j], CONFIDENCE) for i, j in pairs]
    return [
        Compared(
            first=units[i][0],
            second=units[j][0],
            seed=units[i][1],
            measure=measure.id,
            band=band.name,
            difference=_difference(result.difference),
            ratio=_ratio(result.ratio),
            ratio_refused=result.ratio.refused,
            p=verdict.p,
            verdict=verdict.words,
            smallest_difference=verdict.smallest,
        )
        for (i, j), result, verdict in zip(pairs, found, verdicts(found, CONFIDENCE), strict=True)
    ]


def _band_result(measure: Measure, band: Band, scores: UnitScores, groups: dict[Side, np.ndarray]) -> BandResult:
    hits = attack_hits(measure, band, scores, groups)
    return BandResult(
        band=band.name,
        low=band.low,
        high=band.high,
        training=_side_result(measure, band, scores, groups["training"], "training", hits.training_credits),
        held_out=_side_result(measure, band, scores, groups["held_out"], "held_out", hits.held_out_credits),
        excess=_difference(excess_of(hits, CONFIDENCE)),
        label_swap_p=label_swap(hits.training_credits, hits.held_out_credits, SWAP_SEED).one_sided,
        matched_ams=_matched(measure, band, scores, groups),
    )


def _side_result(
    measure: Measure, band: Band, scores: UnitScores, groups: np.ndarray, side: Side, credits: np.ndarray
) -> SideResult:
    frequencies = _best_frequencies(measure, band, scores, side, len(groups))
    sizes = tally.by_group(np.ones(len(groups), dtype=np.int64), groups)
    return SideResult(
        ams=_rate(int(frequencies.sum()), scores.candidates),
        ums=_unique(_pair_frequencies(measure, band, scores, side, len(groups)), scores.candidates),
        ums_best=_unique(frequencies, scores.candidates),
        groups=int((credits > 0).sum()),
        largest_group=int(sizes[credits > 0].max(initial=0)),
    )


def _best_frequencies(measure: Measure, band: Band, scores: UnitScores, side: Side, references: int) -> np.ndarray:
    best = scores.best_scores[measure.id, side]
    return tally.best_frequencies(scores.best_ids[side], best, band, references, distance=measure.distance)


def _pair_frequencies(measure: Measure, band: Band, scores: UnitScores, side: Side, references: int) -> np.ndarray:
    ids, values = scores.pair_ids[measure.id, side], scores.pair_scores[measure.id, side]
    return tally.ums_frequencies(ids, values, band, references, distance=measure.distance)


def _matched(measure: Measure, band: Band, scores: UnitScores, groups: dict[Side, np.ndarray]) -> float | None:
    """Return the training AMS as it would be with as many training images as held-out ones."""
    training, held_out = len(groups["training"]), len(groups["held_out"])
    if training <= held_out:
        return None
    key: tuple[str, Side] = (measure.id, "training")
    inside = tally.in_band(scores.pair_scores[key], band, distance=measure.distance)
    in_band = np.bincount(scores.pair_rows[key][inside], minlength=scores.candidates)
    return matched_rate(in_band, training, held_out)


def _calibrated(measure: Measure, scores: UnitScores, groups: dict[Side, np.ndarray], q: float) -> Calibrated:
    even = calibrates(scores.numbers)
    matches = {
        side: Matches(scores.best_scores[measure.id, side], own[scores.best_ids[side]], len(np.unique(own)))
        for side, own in groups.items()
    }
    halves = {
        side: [Matches(found.scores[half], found.groups[half], found.total) for half in (even, ~even)]
        for side, found in matches.items()
    }
    held_out = halves["held_out"]
    known = {"q": q, "candidates": int((~even).sum())}
    try:
        threshold = calibrate(held_out[0].scores, held_out[0].groups, q, distance=measure.distance)
        found = evaluate(threshold, halves["training"][1], held_out[1], distance=measure.distance)
    except TooFew as error:
        nothing = dict.fromkeys(("tau", "tau_low", "tau_high", "training", "held_out", "excess"))
        return Calibrated(**known, refused=str(error), **nothing)
    return Calibrated(
        **known,
        refused="",
        tau=threshold.tau,
        tau_low=threshold.interval.low,
        tau_high=threshold.interval.high,
        training=_hit_rate(found.training),
        held_out=_hit_rate(found.held_out),
        excess=_difference(found.excess),
    )


def _richness(measure: Measure, band: Band, scores: UnitScores, groups: np.ndarray) -> Richness:
    n = scores.candidates
    by_group = tally.by_group(_best_frequencies(measure, band, scores, "training", len(groups)), groups)
    pairs = _pair_frequencies(measure, band, scores, "training", len(groups))
    bounds = [
        Point(candidates=n, value=found.value, low=found.interval.low, high=found.interval.high, kind="estimate")
        for found in (chao1(by_group, n, len(by_group)), chao2(pairs, n, len(pairs)))
    ]
    return Richness(
        groups=[Point(**row._asdict()) for row in curve(by_group, n, len(by_group))],
        images=[Point(**row._asdict()) for row in curve(pairs, n, len(pairs))],
        chao1_groups=bounds[0],
        chao2_images=bounds[1],
    )


def _difference(found: Excess) -> Difference:
    return Difference(value=found.value, low=found.interval.low, high=found.interval.high)


def _ratio(found: Ratio) -> Difference | None:
    if found.value is None or found.interval is None:
        return None
    return _difference(Excess(found.value, found.interval))


def _hit_rate(found: HitRate) -> Rate:
    return Rate(count=found.hits, value=found.value, low=found.interval.low, high=found.interval.high)


def _rate(count: int, n: int) -> Rate:
    interval = wilson(count, n, CONFIDENCE)
    return Rate(count=count, value=count / n, low=interval.low, high=interval.high)


def _unique(frequencies: np.ndarray, n: int) -> Rate:
    count = int((frequencies > 0).sum())
    interval = unique_count(frequencies, len(frequencies), CONFIDENCE)
    return Rate(count=count, value=count / n, low=interval.low / n, high=interval.high / n)


def rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Flatten the results to one row per attack, seed, measure and band, for metrics.csv."""
    table = []
    for result in metrics.results:
        head = result.model_dump(include={"attack", "seed", "measure", "candidates", "nan", "constant"})
        for band in result.bands:
            row = {**head, "band": band.band}
            for side in ("training", "held_out"):
                found: SideResult = getattr(band, side)
                for name in ("ams", "ums", "ums_best"):
                    rate: Rate = getattr(found, name)
                    row |= {f"{side}_{name}{suffix}": value for suffix, value in _columns(rate).items()}
                row[f"{side}_groups"] = found.groups
            row |= {
                "excess": band.excess.value,
                "excess_low": band.excess.low,
                "excess_high": band.excess.high,
            }
            table.append(row)
    return table


def _columns(rate: Rate) -> dict[str, float]:
    return {"_count": rate.count, "": rate.value, "_low": rate.low, "_high": rate.high}
