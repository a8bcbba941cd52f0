"""Every rate of one attack and seed, made from its stored scores alone; the keys are declared in `schema`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..contracts import Band, Measure, Side
from ..errors import CorruptRun, TooFew
from ..measures import ams_ums, hits
from ..measures.shard_scores import SIDES
from ..protocol import CALIBRATION_RATES, CONFIDENCE
from ..stats.comparison import SWAP_SEED, AttackHits, Ratio, compare, excess_of, holm, no_leak_test, verdicts
from ..stats.intervals import Excess, matched_rate, unique_bound, unique_count, wilson
from ..stats.owned import least_groups, lower_limit, memorised, size_classes, upper_limit
from ..stats.preparations import Over, Prepared, compare_prepared, rate_over_preparations
from ..stats.richness import chao1, chao2, curve
from ..stats.thresholds import Threshold, calibrate, calibrates
from .schema import (
    AttackRatio,
    BandClaim,
    BandResult,
    Calibrated,
    Compared,
    Estimate,
    LeakClaim,
    Percentiles,
    Point,
    Rate,
    Result,
    Richness,
    Says,
    SideResult,
)
from .unit_scores import Groups, UnitScores

CLUSTER = 3
"""Images that a find brings, or that a duplicate group has, from which on they come in clusters."""

RARE = 0.2
"""Share of images found by one candidate alone above which clusters may be missing altogether."""


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
                f"delete the run's scores/, and the run rebuilds them"
            )


def attack_hits(
    measure: Measure, band: Band, scores: UnitScores, groups: Groups, reference: UnitScores | None = None
) -> AttackHits:
    """Return which candidates hit in the band, and how often each duplicate group was the best match.

    The control is the reference model's candidates on the training images, else the held-out images: then a candidate
    is owned by the nearer of its two best matches. Duplicate groups of both sides take no part.
    """
    best = {side: _Best.of(measure, scores, own, side) for side, own in groups.items()}
    if reference is not None:
        return best["training"].against(_Best.of(measure, reference, groups["training"], "training"), measure, band)
    return best["training"].owned(best.get("held_out"), measure, band)


class _Best(NamedTuple):
    """Candidates' best matches on one side, among the references that take part in a comparison."""

    scores: np.ndarray
    """(N,)"""
    ids: np.ndarray
    """(N,) the reference."""
    groups: np.ndarray
    """Each reference's duplicate group."""
    kept: np.ndarray
    """Which references take part."""

    @classmethod
    def of(cls, measure: Measure, scores: UnitScores, own: np.ndarray, side: Side) -> "_Best":
        return cls(scores.matched_scores[measure.id, side], scores.matched_ids[side], own, _kept(scores, own, side))

    def rows(self, chosen: np.ndarray) -> "_Best":
        """Return the best matches of some candidates."""
        return self._replace(scores=self.scores[chosen], ids=self.ids[chosen])

    def against(self, other: "_Best", measure: Measure, band: Band) -> AttackHits:
        """Return hits on the same references of a model's candidates and of a reference model's."""
        ours, theirs = (hits.in_band(side.scores, band, measure).astype(np.float64) for side in (self, other))
        return AttackHits(ours, theirs, self.credits(ours), other.credits(theirs), same_groups=True)

    def owned(self, other: "_Best | None", measure: Measure, band: Band) -> AttackHits:
        """Return hits that this side owns and those that the other side does."""
        if other is None:
            ours = hits.in_band(self.scores, band, measure).astype(np.float64)
            return AttackHits(ours, np.zeros_like(ours), self.credits(ours), np.empty(0))
        ours, theirs = (hits.in_band(side.scores, band, measure).astype(np.float64) for side in (self, other))
        if measure.decides:
            shares = hits.owned_shares(self.scores, other.scores, measure)
            ours, theirs = ours * shares[0], theirs * shares[1]
        strata = size_classes(self.images(), other.images())
        return AttackHits(ours, theirs, self.credits(ours), other.credits(theirs), strata=strata)

    def credits(self, shares: np.ndarray) -> np.ndarray:
        """Return the shares by group that takes part, (groups,), zeros too."""
        each = np.bincount(self.ids[shares > 0], weights=shares[shares > 0], minlength=len(self.groups))
        return ams_ums.by_group(each[self.kept], self.groups[self.kept])

    def nearest(self, owned: np.ndarray, measure: Measure) -> np.ndarray:
        """Return the least distance of an owned candidate by group that takes part, (groups,), infinite without one."""
        chosen = owned & np.isfinite(self.scores)
        each = np.full(len(self.groups), np.inf)
        np.minimum.at(each, self.ids[chosen], hits.as_distances(self.scores[chosen], measure))
        names, place = np.unique(self.groups[self.kept], return_inverse=True)
        found = np.full(len(names), np.inf)
        np.minimum.at(found, place, each[self.kept])
        return found

    def images(self) -> np.ndarray:
        """Return how many images each group that takes part has, (groups,)."""
        own = self.groups[self.kept]
        return ams_ums.by_group(np.ones(len(own), dtype=np.int64), own)


def nearest_by_group(measure: Measure, scores: UnitScores, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Return the least distance of a candidate that each group owns, of X and of H; infinite where it owns none."""
    sides = [_Best.of(measure, scores, groups[side], side) for side in SIDES]
    ours, theirs = hits.owned_shares(sides[0].scores, sides[1].scores, measure)
    return sides[0].nearest(ours > 0, measure), sides[1].nearest(theirs > 0, measure)


def memorised_groups(nearest: Sequence[tuple[np.ndarray, np.ndarray]], groups: Groups, left_out: Groups) -> list[int]:
    """Return the duplicate groups of X that some candidate comes nearer to than chance explains.

    `nearest` holds what `nearest_by_group` says of each preparation of an attack.
    """
    kept = [groups[side][~left_out[side]] for side in SIDES]
    ours, theirs = (np.min([found[number] for found in nearest], axis=0) for number in (0, 1))
    called = memorised(ours, theirs, size_classes(*(np.unique(own, return_counts=True)[1] for own in kept)))
    return [int(number) for number in np.unique(kept[0])[called]]


def attack_claim(
    attack: str,
    seeds: Sequence[int],
    bands: Sequence[tuple[Band, AttackHits]],
    measure: Measure,
    attacks: int,
    found_groups: Sequence[int] = (),
) -> LeakClaim:
    """Return what an attack shows in the nested bands, closest first; its preparations are taken together.

    The level is divided by the number of attacks that are judged together, and by that of the bands where each has a
    limit of its own; the test takes all bands at once (`stats.owned.swap_test`).
    """
    every = [hits for _, hits in bands]
    alpha = (1 - CONFIDENCE) / attacks
    chances = np.minimum(1.0, attacks * no_leak_test(every).family)
    claims = [
        BandClaim(band=band.name, p=float(p), at_least=low, at_most=high)
        for (band, hits), p in zip(bands, chances, strict=True)
        for low, high in [_limits(hits, alpha / len(bands))]
    ]
    found = [claim.band for claim in claims if claim.p <= 1 - CONFIDENCE]
    widest = every[-1]
    hit = int((widest.training_credits > 0).sum()) + int((widest.control_credits > 0).sum())
    least = None if widest.same_groups else least_groups(widest.owned().strata, alpha)
    owned = float(widest.training_hits.sum() + widest.control_hits.sum())
    # So many hits in so few groups may be a leak or chance. Of fewer hits the upper limit says all there is to say.
    concentrated = not widest.same_groups and hit > 0 and (least is None or hit < least <= owned)
    return LeakClaim(
        attack=attack,
        seeds=list(seeds),
        measure=measure.id,
        candidates=len(widest.training_hits),
        says=_says(every, bool(found), concentrated),
        closest=found[0] if found else None,
        widest=found[-1] if found else None,
        bands=claims,
        memorised=list(found_groups),
        groups_hit=hit,
        least_groups=least,
    )


def _says(bands: Sequence[AttackHits], found: bool, too_few: bool) -> Says:
    if found:
        return "excess"
    # An interval wholly below 0: held-out images are hit more often than labels alone explain.
    if any(excess_of(hits, 1 - (1 - CONFIDENCE) / len(bands)).interval.high < 0 for hits in bands):
        return "control does not fit"
    return "cannot tell" if too_few else "none seen"


def _limits(hits: AttackHits, level: float) -> tuple[float, float]:
    """Return the lower limit of the leak at the level that the family leaves, and the upper one at 5 %."""
    if hits.same_groups:
        low, high = excess_of(hits, 1 - 2 * level).interval.low, excess_of(hits, 2 * CONFIDENCE - 1).interval.high
        return max(0.0, low), max(0.0, high)
    owned = hits.owned()
    return lower_limit(owned, 0, level, SWAP_SEED), upper_limit(owned, 0, 1 - CONFIDENCE, SWAP_SEED)


def compare_attacks(
    units: Sequence[tuple[str, int]], hits: Sequence[Sequence[AttackHits]], measure: Measure, bands: Sequence[Band]
) -> list[Compared]:
    """Compare every two attacks under the same seed in every band, Holm-corrected over all comparisons.

    `hits` holds one entry per unit, and in it one per band.
    """
    pairs = [
        (i, j, band)
        for j in range(len(units))
        for i in range(j + 1, len(units))
        if units[i][1] == units[j][1]
        for band in range(len(bands))
    ]
    found = [compare(hits[i][band], hits[j][band], CONFIDENCE) for i, j, band in pairs]
    return [
        Compared(
            first=units[i][0],
            second=units[j][0],
            seed=units[i][1],
            measure=measure.id,
            band=bands[band].name,
            difference=Estimate.of(*result.difference),
            ratio=_ratio(result.ratio),
            ratio_refused=result.ratio.refused,
            p=verdict.p,
            verdict=verdict.words,
            smallest_difference=verdict.smallest,
        )
        for (i, j, band), result, verdict in zip(pairs, found, verdicts(found, CONFIDENCE), strict=True)
    ]


def compare_prepared_attacks(
    prepared: Sequence[Sequence[Prepared]], measure: Measure, bands: Sequence[Band]
) -> list[AttackRatio]:
    """Compare every two attacks over the seeds that they share, two or more, Holm-corrected over all ratios.

    `prepared` holds one entry per band, and in it one per attack, in the same order.
    """
    found = [
        (band, attacks[i], attacks[j], compare_prepared(attacks[i], attacks[j], attacks, CONFIDENCE))
        for j in range(len(prepared[0]))
        for i in range(j + 1, len(prepared[0]))
        if len(set(prepared[0][i].hits) & set(prepared[0][j].hits)) > 1
        for band, attacks in zip(bands, prepared, strict=True)
    ]
    rates = {
        (band.name, attack.attack): rate_over_preparations(attack, attacks, CONFIDENCE)
        for band, attacks in zip(bands, prepared, strict=True)
        for attack in attacks
    }
    chances = holm([over.p for _, _, _, over in found])
    return [
        AttackRatio(
            first=first.attack,
            second=second.attack,
            seeds=sorted(set(first.hits) & set(second.hits)),
            preparations=over.preparations,
            measure=measure.id,
            band=band.name,
            first_rate=_estimate(rates[band.name, first.attack]),
            second_rate=_estimate(rates[band.name, second.attack]),
            spread=over.spread,
            ratio=_ratio(over.ratio),
            ratio_refused=over.ratio.refused,
            p=p,
            verdict=_ratio_words(over, p),
        )
        for (band, first, second, over), p in zip(found, chances, strict=True)
    ]


def _ratio_words(over: Over, p: float) -> str:
    if over.ratio.value is None:
        return "no ratio"
    verb, raw = ("finds", "") if over.controlled else ("hits", " (raw rate)")
    seen = f"{verb} {'more' if over.ratio.value > 1 else 'fewer'}"
    return (seen if p < 1 - CONFIDENCE else "no difference seen") + raw


def _estimate(found: Excess | None) -> Estimate | None:
    return None if found is None else Estimate.of(*found)


def _band_result(
    measure: Measure, band: Band, scores: UnitScores, groups: Groups, reference: UnitScores | None
) -> BandResult:
    hits = attack_hits(measure, band, scores, groups, reference)
    # A reference model's candidates are measured against the same images, so any measure is fair to both.
    decides = hits.controlled and (measure.decides or hits.same_groups)
    owned = decides and not hits.same_groups
    return BandResult(
        band=band.name,
        low=band.low,
        high=band.high,
        training=side_result(measure, band, scores, groups, "training"),
        held_out=side_result(measure, band, scores, groups, "held_out") if "held_out" in groups else None,
        reference=side_result(measure, band, reference, groups, "training") if reference else None,
        owned_training=float(hits.training_hits.sum()) if owned else None,
        owned_held_out=float(hits.control_hits.sum()) if owned else None,
        excess=Estimate.of(*excess_of(hits, CONFIDENCE)) if decides else None,
        label_swap_p=swap_p(hits) if decides else None,
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
        ums=_ums(measure, band, scores, side, own),
        ums_best=_unique(frequencies, 1.0, scores.candidates),
        groups=int((credits > 0).sum()),
        largest_group=int(sizes[credits > 0].max(initial=0)),
    )


def _kept(scores: UnitScores, own: np.ndarray, side: Side) -> np.ndarray:
    """Return which references of a side take part in a comparison of both, (references,) bool."""
    kept: np.ndarray = ~scores.left_out.get(side, np.zeros(len(own), dtype=bool))
    return kept


def swap_p(hits: AttackHits) -> float:
    """Return the one-sided p of the test of "no leak" that fits the control, for this band alone."""
    return float(no_leak_test([hits]).bands[0])


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
        if not measure.decides:
            raise TooFew(f"{measure.id} measures both sides by rulers of their own")
        sides = {side: _Best.of(measure, scores, own, side) for side, own in groups.items()}
        threshold = _threshold(measure, {side: best.rows(even) for side, best in sides.items()}, q)
    except TooFew as error:
        nothing = dict.fromkeys(("tau", "tau_low", "tau_high", "training", "held_out", "excess"))
        return Calibrated(**known, refused=str(error), **nothing)
    band = hits.band_to(threshold.tau, measure)
    rest = {side: best.rows(~even) for side, best in sides.items()}
    rates = {
        side: _rate(int(hits.in_band(best.scores, band, measure).sum()), len(best.ids)) for side, best in rest.items()
    }
    found = rest["training"].owned(rest["held_out"], measure, band)
    return Calibrated(
        **known,
        refused="",
        tau=threshold.tau,
        tau_low=threshold.interval.low,
        tau_high=threshold.interval.high,
        training=rates["training"],
        held_out=rates["held_out"],
        excess=Estimate.of(*excess_of(found, CONFIDENCE)),
    )


def _threshold(measure: Measure, sides: Mapping[Side, _Best], q: float) -> Threshold:
    ours, theirs = sides["training"], sides["held_out"]
    own = hits.owned_by_control(ours.scores, theirs.scores, measure)
    ratio = len(ours.images()) / len(theirs.images())
    return calibrate(own, theirs.groups[theirs.ids], q, distance=measure.distance, ratio=ratio)


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


def _rate(count: int, n: int) -> Rate:
    low, high = wilson(count, n, CONFIDENCE)
    return Rate(count=count, value=count / n, low=low, high=high)


def _ums(measure: Measure, band: Band, scores: UnitScores, side: Side, own: np.ndarray) -> Rate:
    """Return UMS, without an upper end where images come in clusters that are found rarely."""
    frequencies, at_once = _pair_frequencies(measure, band, scores, side, len(own))
    seen, once = int((frequencies > 0).sum()), int((frequencies == 1).sum())
    largest = int(np.bincount(np.unique(own, return_inverse=True)[1]).max(initial=0))
    if max(at_once, largest) < CLUSTER or once <= RARE * seen:
        return _unique(frequencies, at_once, scores.candidates)
    key, n = (measure.id, side), scores.candidates
    inside = hits.in_band(scores.pair_scores[key], band, measure)
    alone = ams_ums.found_alone(scores.pair_rows[key][inside], scores.pair_ids[key][inside])
    return Rate(
        count=seen, value=seen / n, low=unique_bound(seen, alone, CONFIDENCE) / n, high=seen / n, one_sided=True
    )


def _unique(frequencies: np.ndarray, at_once: float, n: int) -> Rate:
    count = int((frequencies > 0).sum())
    low, high = unique_count(frequencies, len(frequencies), CONFIDENCE, at_once=at_once)
    return Rate(count=count, value=count / n, low=low / n, high=high / n)
