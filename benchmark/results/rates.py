"""Every rate of one attack and seed, made from its stored scores alone; the keys are declared in `schema`."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..contracts import Band, Measure, Side
from ..errors import CorruptRun, TooFew
from ..measures import ams_ums, hits
from ..protocol import CALIBRATION_RATES, CONFIDENCE
from ..stats.comparison import AttackHits, Ratio, compare, excess_of, label_swap, sign_flip, verdicts
from ..stats.intervals import Interval, matched_rate, unique_count, wilson
from ..stats.richness import chao1, chao2, curve
from ..stats.thresholds import HitRate, Matches, calibrate, calibrates, evaluate
from .schema import BandResult, Calibrated, Compared, Estimate, Percentiles, Point, Rate, Result, Richness, SideResult
from .unit_scores import Groups, UnitScores

SWAP_SEED = 0
"""Draws of the label-swap tests."""


def measure_result(
    attack: str, seed: int, measure: Measure, scores: UnitScores, groups: Groups, reference: UnitScores | None = None
) -> Result:
    """Compute every rate of one unit under one measure.

    `scores` were read without the references that `shared_groups` marks; `reference` are the scores of the same
    candidates of a reference model.

    Raises:
        CorruptRun: the stored scores and the references do not fit together.
    """
    if set(scores.sides) != set(groups):
        raise CorruptRun(
            f"{attack}, seed {seed}: scores of {', '.join(scores.sides)}, references of {', '.join(groups)}"
        )
    _check_ids(f"{attack}, seed {seed}", scores, groups)
    bands = hits.all_bands(measure)
    return Result(
        attack=attack,
        seed=seed,
        measure=measure.id,
        candidates=scores.candidates,
        nan=scores.nan,
        constant=scores.constant,
        bands=[_band_result(measure, band, scores, groups, reference) for band in bands],
        calibrated=[_calibrated(measure, scores, groups, q) for q in CALIBRATION_RATES],
        richness=_richness(measure, bands[0], scores, groups["training"]) if bands else None,
        percentile_95=Percentiles(
            training=_percentile(measure, scores, "training"),
            held_out=_percentile(measure, scores, "held_out"),
            reference=None if reference is None else _percentile(measure, reference, "training"),
        ),
    )


def _check_ids(unit: str, scores: UnitScores, groups: Groups) -> None:
    ids = [(side, scores.best_ids[side]) for side in scores.sides]
    for side, named in [*ids, *((side, found) for (_, side), found in scores.pair_ids.items())]:
        if named.max(initial=-1) >= len(groups[side]):
            raise CorruptRun(
                f"{unit}: scores name {side.replace('_', '-')} image {named.max()}, and there are {len(groups[side])}; "
                f"delete the run's scores/, and the run makes them again"
            )


def attack_hits(
    measure: Measure, band: Band, scores: UnitScores, groups: Groups, reference: UnitScores | None = None
) -> AttackHits:
    """Return which candidates hit in the band, and how often each duplicate group was the best match.

    The control is the reference model's candidates on the training images, else the held-out images. Duplicate
    groups of both sides take no part.
    """
    hits, credits = _hits(measure, band, scores, groups, "training")
    if reference is not None:
        others, their_credits = _hits(measure, band, reference, groups, "training")
    elif "held_out" in groups:
        others, their_credits = _hits(measure, band, scores, groups, "held_out")
    else:
        others, their_credits = np.zeros_like(hits), np.empty(0, dtype=np.int64)
    return AttackHits(hits, others, credits, their_credits, same_groups=reference is not None)


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
            difference=Estimate.of(*result.difference),
            ratio=_ratio(result.ratio),
            ratio_refused=result.ratio.refused,
            p=verdict.p,
            verdict=verdict.words,
            smallest_difference=verdict.smallest,
        )
        for (i, j), result, verdict in zip(pairs, found, verdicts(found, CONFIDENCE), strict=True)
    ]


def _band_result(
    measure: Measure, band: Band, scores: UnitScores, groups: Groups, reference: UnitScores | None
) -> BandResult:
    hits = attack_hits(measure, band, scores, groups, reference)
    return BandResult(
        band=band.name,
        low=band.low,
        high=band.high,
        training=side_result(measure, band, scores, groups, "training"),
        held_out=side_result(measure, band, scores, groups, "held_out") if "held_out" in groups else None,
        reference=side_result(measure, band, reference, groups, "training") if reference else None,
        excess=Estimate.of(*excess_of(hits, CONFIDENCE)) if hits.controlled else None,
        label_swap_p=swap_p(hits) if hits.controlled else None,
        matched_ams=_matched_ams(measure, band, scores, groups) if "held_out" in groups else None,
    )


def side_result(measure: Measure, band: Band, scores: UnitScores, groups: Groups, side: Side) -> SideResult:
    """Count what was hit on one side, in one band, with every reference a match."""
    own = groups[side]
    frequencies = _best_frequencies(measure, band, scores, side, len(own))
    credits = ams_ums.by_group(frequencies, own)
    sizes = ams_ums.by_group(np.ones(len(own), dtype=np.int64), own)
    return SideResult(
        ams=_rate(int(frequencies.sum()), scores.candidates),
        ums=_unique(*_pair_frequencies(measure, band, scores, side, len(own)), scores.candidates),
        ums_best=_unique(frequencies, 1.0, scores.candidates),
        groups=int((credits > 0).sum()),
        largest_group=int(sizes[credits > 0].max(initial=0)),
    )


def _hits(
    measure: Measure, band: Band, scores: UnitScores, groups: Groups, side: Side
) -> tuple[np.ndarray, np.ndarray]:
    """Return which candidates hit a reference that takes part, and how often each of its groups was hit."""
    best, own = scores.matched_scores[measure.id, side], groups[side]
    ids = scores.matched_ids[side]
    frequencies = ams_ums.best_frequencies(ids, best, band, len(own), measure)
    kept = _kept(scores, own, side)
    return hits.in_band(best, band, measure), ams_ums.by_group(frequencies[kept], own[kept])


def _kept(scores: UnitScores, own: np.ndarray, side: Side) -> np.ndarray:
    """Return which references of a side take part in a comparison of both, (references,) bool."""
    kept: np.ndarray = ~scores.left_out.get(side, np.zeros(len(own), dtype=bool))
    return kept


def swap_p(hits: AttackHits) -> float:
    """Return the one-sided p of the label-swap test that fits the control."""
    if hits.same_groups:
        return sign_flip(hits.training_credits - hits.control_credits, SWAP_SEED).one_sided
    return label_swap(hits.training_credits, hits.control_credits, SWAP_SEED).one_sided


def _best_frequencies(measure: Measure, band: Band, scores: UnitScores, side: Side, references: int) -> np.ndarray:
    best = scores.best_scores[measure.id, side]
    return ams_ums.best_frequencies(scores.best_ids[side], best, band, references, measure)


def _pair_frequencies(
    measure: Measure, band: Band, scores: UnitScores, side: Side, references: int
) -> tuple[np.ndarray, float]:
    """Return how many candidates have each reference in the band, and how many a candidate has at once."""
    key = measure.id, side
    frequencies = ams_ums.ums_frequencies(scores.pair_ids[key], scores.pair_scores[key], band, references, measure)
    inside = hits.in_band(scores.pair_scores[key], band, measure)
    return frequencies, ams_ums.found_at_once(scores.pair_rows[key][inside])


def _percentile(measure: Measure, scores: UnitScores, side: Side) -> float | None:
    if side not in scores.sides:
        return None
    return ams_ums.percentile_of_best(scores.best_scores[measure.id, side], measure)


def _matched_ams(measure: Measure, band: Band, scores: UnitScores, groups: Groups) -> float | None:
    """Return the training AMS as it would be with as many training images as held-out ones."""
    kept = {side: _kept(scores, own, side) for side, own in groups.items()}
    training, held_out = int(kept["training"].sum()), int(kept["held_out"].sum())
    if training <= held_out:
        return None
    key: tuple[str, Side] = (measure.id, "training")
    inside = hits.in_band(scores.pair_scores[key], band, measure)
    inside &= kept["training"][scores.pair_ids[key]]
    in_band = np.bincount(scores.pair_rows[key][inside], minlength=scores.candidates)
    return matched_rate(in_band, training, held_out)


def _calibrated(measure: Measure, scores: UnitScores, groups: Groups, q: float) -> Calibrated:
    even = calibrates(scores.numbers)
    known = {"q": q, "candidates": int((~even).sum())}
    try:
        if "held_out" not in groups:
            raise TooFew("no held-out images")
        matches = {side: _matches(measure, scores, own, side) for side, own in groups.items()}
        halves = {
            side: [Matches(found.scores[half], found.groups[half], found.total) for half in (even, ~even)]
            for side, found in matches.items()
        }
        held_out = halves["held_out"]
        threshold = calibrate(held_out[0].scores, held_out[0].groups, q, distance=measure.distance)
        found = evaluate(threshold, halves["training"][1], held_out[1], within=partial(hits.within, measure=measure))
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
        excess=Estimate.of(*found.excess),
    )


def _matches(measure: Measure, scores: UnitScores, own: np.ndarray, side: Side) -> Matches:
    total = len(np.unique(own[_kept(scores, own, side)]))
    return Matches(scores.matched_scores[measure.id, side], own[scores.matched_ids[side]], total)


def _richness(measure: Measure, band: Band, scores: UnitScores, groups: np.ndarray) -> Richness:
    n = scores.candidates
    by_group = ams_ums.by_group(_best_frequencies(measure, band, scores, "training", len(groups)), groups)
    pairs, at_once = _pair_frequencies(measure, band, scores, "training", len(groups))
    bounds = [
        Point(candidates=n, value=found.value, low=found.interval.low, high=found.interval.high, kind="estimate")
        for found in (chao1(by_group, n, len(by_group)), chao2(pairs, n, len(pairs)))
    ]
    return Richness(
        groups=[Point(**row._asdict()) for row in curve(by_group, n, len(by_group))],
        images=[Point(**row._asdict()) for row in curve(pairs, n, len(pairs), at_once=at_once)],
        chao1_groups=bounds[0],
        chao2_images=bounds[1],
    )


def _ratio(found: Ratio) -> Estimate | None:
    return None if found.value is None or found.interval is None else Estimate.of(found.value, found.interval)


def _hit_rate(found: HitRate) -> Rate:
    return Rate(count=found.hits, value=found.value, low=found.interval.low, high=found.interval.high)


def _rate(count: int, n: int) -> Rate:
    return _hit_rate(HitRate(count, count / n, wilson(count, n, CONFIDENCE)))


def _unique(frequencies: np.ndarray, at_once: float, n: int) -> Rate:
    count = int((frequencies > 0).sum())
    low, high = unique_count(frequencies, len(frequencies), CONFIDENCE, at_once=at_once)
    return _hit_rate(HitRate(count, count / n, Interval(low / n, high / n)))
