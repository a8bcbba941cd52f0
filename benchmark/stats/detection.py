"""How well numbers of prompts part two kinds of them: AUC and TPR at a low FPR, with families as sampling units.

Prompts of one family (paraphrases, templates, near-duplicates) say the same thing several times, so families are
resampled, not prompts. All detectors are computed from the same draws of families, which pairs them: the interval of a
difference does not hold what both have in common.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..errors import BadInput, TooFew
from .comparison import holm
from .intervals import Excess, Interval, wilson

DRAWS = 2_000
"""Of the bootstrap."""

LEAST_FAMILIES = 10
"""Of either kind; below, no interval is worth its name."""

LEAST_COMPARED = 20
"""Of either kind where detectors are compared: with 10, two equal ones differ in 10 to 13 % of draws, not 5."""

NEGATIVES_AT = {0.01: 100, 0.001: 5_000}
"""Families of negatives that a TPR at this FPR needs at least: one above the threshold, or five. Of 100 negatives in 10
families an interval held the truth in 41 %."""

_WORTH = 3
"""Trials that a family of the rarer kind is worth at most in the interval of an AUC."""

_BLOCK = 250
_BLOCK_NUMBERS = 4_000_000
"""Draws at a time, and draws times prompts at a time: both bound the memory."""


class Kinds(NamedTuple):
    """Prompts that are compared; what is drawn is drawn for all detectors alike."""

    positive: np.ndarray
    """(N,) bool: memorised."""
    families: np.ndarray
    """(N,) the caption family of each."""


class PairOfDetectors(NamedTuple):
    """Two detectors on the same prompts."""

    first: str
    second: str
    difference: Excess
    """AUC, or TPR, of the first minus that of the second."""
    p: float
    """Two-sided, of no difference."""
    adjusted: float
    """The same after Holm over all pairs."""


class Detection(NamedTuple):
    """What a set of detectors is worth on one kind of negatives."""

    aucs: Mapping[str, Excess]
    rates: Mapping[float, Mapping[str, Excess]]
    """True positive rates by FPR; an FPR with too few families of negatives is left out."""
    pairs: Sequence[PairOfDetectors]
    """By AUC; none with fewer than `LEAST_COMPARED` families of either kind."""
    rate_pairs: Mapping[float, Sequence[PairOfDetectors]]
    """By TPR, for each FPR of `rates`; none likewise."""


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive scores above a negative, a tie counting one half.

    Args:
        positive: (P,) scores, larger is more suspicious.
        negative: (N,) scores.

    Examples:
        >>> auc(np.array([3, 2]), np.array([2, 1]))
        0.875
    """
    return float(_above(positive, negative).mean())


def tpr_at(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float:
    """Return the share of positives above the lowest threshold with at most this share of the negatives above it.

    Args:
        positive: (P,) scores.
        negative: (N,) scores.
        fpr: Allowed false positive rate; it is never exceeded, where some take the nearest point of the ROC curve.

    Examples:
        Of 150 negatives one may lie above the threshold, since two are more than 1 %.

        >>> negative = np.arange(150)
        >>> tpr_at(np.array([148.5, 147.5, 149.5]), negative, 0.01)
        0.6666666666666666
    """
    once = (np.ones((1, len(positive))), np.ones((1, len(negative))))
    return float(_rates(positive, negative, *once, fpr)[0])


def check_kinds(kinds: Kinds) -> None:
    """Refuse prompts of too few families for an interval, on either side.

    Args:
        kinds: What each prompt is.

    Raises:
        TooFew: memorised or other prompts are of fewer than 10 families.

    Examples:
        >>> check_kinds(Kinds(np.arange(12) < 3, np.arange(12)))
        Traceback (most recent call last):
        sidebench.benchmark.errors.TooFew: 3 families of memorised prompts: AUC and TPR need 10 of either kind
    """
    for name, chosen in (("memorised", kinds.positive), ("other", ~kinds.positive)):
        count = len(np.unique(kinds.families[chosen]))
        if count < LEAST_FAMILIES:
            raise TooFew(
                f"{count} {'family' if count == 1 else 'families'} of {name} prompts: "
                f"AUC and TPR need {LEAST_FAMILIES} of either kind"
            )


def detection(
    scores: Mapping[str, np.ndarray],
    kinds: Kinds,
    fprs: Sequence[float] = (0.01, 0.001),
    *,
    seed: int = 0,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> Detection:
    """Return AUC and TPR of each detector, and all pairs of detectors compared by either.

    The AUC is over pairs of prompts of different families.

    All intervals come from a bootstrap over families, in which families of positives alone, of negatives alone and of
    both are drawn apart. That of an AUC A is Wilson's of as many trials as give the variance of the draws, A (1 - A)
    over it, but at most three times as many as the rarer kind has families: percentiles of the draws, which near 1 are
    too narrow, hold the truth in 72 % with 12 families and A = 0.98 (0.975 so), in 91 % with 30 and 0.92 (0.97).
    Those of a TPR and of a difference are percentiles. Where all draws agree, as where a detector makes no mistake, it
    is Wilson's of as many trials as there are families: the variance of an AUC is at most A (1 - A) over the number of
    the rarer kind (Birnbaum and Klose 1957, Ann. Math. Stat. 28:933).

    Differences of AUCs and of TPRs come from the same draws, in which each draw has its own threshold. p-values are
    after Holm over all pairs of one statistic.

    Args:
        scores: (N,) by detector, larger is more suspicious.
        kinds: What each prompt is.
        fprs: False positive rates; one with too few families of negatives (`NEGATIVES_AT`) is left out.
        seed: Of the draws.
        confidence: Of the intervals.
        draws: How many, at least; more where so few could not show any of many differences after Holm.

    Raises:
        TooFew: memorised or other prompts are of fewer than 10 families.
        BadInput: a score is not finite.

    Examples:
        >>> kinds = Kinds(np.arange(40) < 20, np.arange(40))
        >>> found = detection({"good": -np.arange(40.0), "none": np.zeros(40)}, kinds, draws=200)
        >>> value, (low, high) = found.aucs["good"]
        >>> f"{value:.2f} {low:.2f} {high:.2f}", found.aucs["none"].value, found.pairs[0].adjusted < 0.05
        ('1.00 0.84 1.00', 0.5, True)
    """
    check_kinds(kinds)
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise BadInput(f"{name}: a score is not finite")
    parts = {name: (values[kinds.positive], values[~kinds.positive]) for name, values in scores.items()}
    trials = [len(np.unique(kinds.families[chosen])) for chosen in (kinds.positive, ~kinds.positive)]
    asked = [fpr for fpr in fprs if trials[1] >= needed(fpr)]
    draws = draws_for(len(scores), draws, confidence)
    # Two prompts of one family would count once more in every draw that holds the family twice.
    apart = (kinds.families[kinds.positive][:, None] != kinds.families[~kinds.positive][None, :]).astype(float)
    above = {name: _above(*part) * apart for name, part in parts.items()}
    drawn_aucs, drawn_rates = _drawn(parts, above, apart, asked, _weights(kinds, seed, draws))
    whole = {name: float(each.sum() / apart.sum()) for name, each in above.items()}
    aucs = {name: _scored(whole[name], drawn, min(trials), confidence) for name, drawn in drawn_aucs.items()}
    rates = {
        fpr: {
            name: _estimate(tpr_at(*parts[name], fpr), drawn, trials[0], confidence) for name, drawn in by_name.items()
        }
        for fpr, by_name in drawn_rates.items()
    }
    if min(trials) < LEAST_COMPARED:
        return Detection(aucs, rates, [], {fpr: [] for fpr in asked})
    rate_pairs = {fpr: _pairs(rates[fpr], drawn_rates[fpr], confidence) for fpr in asked}
    return Detection(aucs, rates, _pairs(aucs, drawn_aucs, confidence), rate_pairs)


def _drawn(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    above: Mapping[str, np.ndarray],
    apart: np.ndarray,
    fprs: Sequence[float],
    weights: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, np.ndarray], dict[float, dict[str, np.ndarray]]]:
    """Return the AUC of every draw by detector, and its TPR by FPR and detector, each (draws,)."""
    aucs: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    rates: dict[float, dict[str, list[np.ndarray]]] = {fpr: {name: [] for name in parts} for fpr in fprs}
    for ours, theirs in weights:
        compared = _weighted(apart, ours, theirs)
        for name, part in parts.items():
            aucs[name].append(_weighted(above[name], ours, theirs) / compared)
            for fpr in fprs:
                rates[fpr][name].append(_rates(*part, ours, theirs, fpr))
    return _joined(aucs), {fpr: _joined(by_name) for fpr, by_name in rates.items()}


def _joined(drawn: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(blocks) for name, blocks in drawn.items()}


def needed(fpr: float) -> int:
    """Return how many families of negatives a TPR at this FPR needs.

    Args:
        fpr: False positive rate, between 0 and 1.

    Examples:
        >>> needed(0.01), needed(0.001)
        (100, 5000)
    """
    return NEGATIVES_AT.get(fpr, round(5 / fpr))


def draws_for(detectors: int, draws: int = DRAWS, confidence: float = 0.95) -> int:
    """Return how many draws compare so many detectors: more where few could show no difference after Holm.

    Args:
        detectors: How many are compared, each with each.
        draws: The fewest to take.
        confidence: Of the intervals; 1 minus it is the level that a p-value after Holm must be able to reach.

    Examples:
        >>> draws_for(7), draws_for(64)
        (2000, 161280)
    """
    return max(draws, math.ceil(4 * math.comb(detectors, 2) / (1 - confidence)))


def block_of(prompts: int) -> int:
    """Return how many draws of so many prompts are held at a time, at least one.

    Args:
        prompts: How many prompts one draw gives a weight to.

    Examples:
        >>> block_of(5_769), block_of(65_536)
        (250, 61)
    """
    return max(1, min(_BLOCK, _BLOCK_NUMBERS // max(1, prompts)))


def _above(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return 1 where a positive scores above a negative, 1/2 on a tie, 0 below, P x N."""
    found: np.ndarray = (np.sign(positive[:, None] - negative[None, :]) + 1) / 2
    return found


def _weighted(pairs: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the sum over pairs (P x N) of each draw, (B,), given the weights of both kinds (B x P and B x N)."""
    found: np.ndarray = ((ours @ pairs) * theirs).sum(1)
    return found


def _weights(kinds: Kinds, seed: int, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield how often each positive and each negative is drawn, in blocks of draws: B x P and B x N."""
    rng = np.random.Generator(np.random.PCG64(seed))
    known, place = np.unique(kinds.families, return_inverse=True)
    holds = np.stack([np.bincount(place, kinds.positive, len(known)), np.bincount(place, ~kinds.positive, len(known))])
    strata = [np.flatnonzero(both) for both in ((holds[0] > 0) & (holds[1] == 0), (holds[0] == 0), (holds > 0).all(0))]
    block = block_of(len(kinds.families))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        times = np.zeros((count, len(known)))
        for stratum in strata:
            if len(stratum):
                times[:, stratum] = rng.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)), count)
        yield times[:, place[kinds.positive]], times[:, place[~kinds.positive]]


def _rates(positive: np.ndarray, negative: np.ndarray, ours: np.ndarray, theirs: np.ndarray, fpr: float) -> np.ndarray:
    """Return the TPR at the FPR of each draw, (B,), given the weights of positives (B x P) and negatives (B x N)."""
    order = np.argsort(-negative, kind="stable")
    total = np.cumsum(theirs[:, order], axis=1)
    # As many as may lie above; the next negative is the threshold, and what ties with it is not above.
    allowed = (total <= fpr * total[:, -1:] * (1 + 1e-12)).sum(1)
    thresholds = negative[order][np.minimum(allowed, len(negative) - 1)]
    found: np.ndarray = (ours * (positive[None, :] > thresholds[:, None])).sum(1) / ours.sum(1)
    return found


def _scored(value: float, drawn: np.ndarray, trials: int, confidence: float) -> Excess:
    """Return an AUC with Wilson's interval of as many trials as the draws say that it is worth."""
    variance = float(drawn.var(ddof=1)) * trials / (trials - 1)
    worth = min(value * (1 - value) / variance, _WORTH * trials) if variance else trials
    return Excess(value, wilson(value * worth, worth, confidence))


def _estimate(value: float, drawn: np.ndarray, trials: int, confidence: float) -> Excess:
    if np.ptp(drawn) == 0:
        return Excess(value, wilson(value * trials, trials, confidence))
    return Excess(value, _percentiles(drawn, confidence))


def _percentiles(drawn: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _pairs(whole: Mapping[str, Excess], drawn: Mapping[str, np.ndarray], confidence: float) -> list[PairOfDetectors]:
    """Compare all pairs by one statistic, given its values and those of every draw, (draws,) by detector."""
    found = []
    for first, second in combinations(whole, 2):
        (one, own), (two, other) = whole[first], whole[second]
        gaps = drawn[first] - drawn[second]
        tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
        p = min(1.0, 2 * (int(tail) + 1) / (len(gaps) + 1))
        # Draws that all agree on a difference say nothing of how sure it is: the ends are those of both intervals.
        vary = np.ptp(gaps) > 0 or not gaps.any()
        ends = _percentiles(gaps, confidence) if vary else Interval(own.low - other.high, own.high - other.low)
        found.append((first, second, Excess(one - two, ends), p))
    adjusted = holm([p for *_, p in found])
    return [PairOfDetectors(*row, after) for row, after in zip(found, adjusted, strict=True)]
