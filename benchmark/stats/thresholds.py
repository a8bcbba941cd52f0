"""Thresholds set so that the held-out hit rate is q, and the rates at them. Pure functions, no torch.

The candidates are split, not the held-out images: splitting those halves the set that a best match is
taken from, and doubled the false hits in a trial. Candidates with an even number calibrate, those with an
odd number are evaluated.

Ties: candidates with one score are all hits or none. tau is the loosest score seen at which the calibration
half's held-out hit rate does not exceed q, so ties at the edge move tau to the strict side.
Scores that are not finite (NaN: a broken image) are never a hit and stay in every denominator.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import BadInput, TooFew
from .comparison import AttackHits, excess_of
from .intervals import Excess, Interval, normal_quantile, wilson

MIN_HITS = 10
"""q times the calibration candidates must reach this, or tau rests on too few scores."""

MIN_GROUPS = 5
"""Duplicate groups that the held-out hits at tau must touch, or tau is a property of a few images."""

STEPS = 9
"""Thresholds at which the excess is taken, evenly spaced by rank over tau's interval and a little beyond."""

STRETCH = 1.1
"""How far the region of tau's error and the excess' error goes, in normal quantiles; see `evaluate`."""


Within = Callable[[np.ndarray, float], np.ndarray]
"""Says which scores, (N,), are hits at a threshold, (N,) bool.

This module only puts scores in order. What counts as a hit at an edge, with its rounding, is decided in one place,
`measures.hits.within`, which the caller hands in: measures stand above statistics, and nothing here knows of them.
"""


class Matches(NamedTuple):
    """The best matches of the candidates on one side.

    `scores` (N,) best-match scores; `groups` (N,) the duplicate group of that best match, any integers
    (ignored where the score is not finite); `total` how many groups this side has, untouched ones too.
    """

    scores: np.ndarray
    groups: np.ndarray
    total: int


class Threshold(NamedTuple):
    """A calibrated threshold: a distance is a hit at or below `tau`, a similarity at or above it.

    `interval` covers the population's q-quantile of the held-out best score at the level `confidence`. `around` holds
    the thresholds at which the excess is taken, strictest first, and how many standard errors of tau's rank each lies
    from tau; tau itself is among them.
    """

    tau: float
    interval: Interval
    confidence: float
    q: float
    hits: int
    groups: int
    candidates: int
    around: tuple[tuple[float, float], ...]


class HitRate(NamedTuple):
    """Hits among the evaluated candidates, with the Wilson interval of the rate at this very tau."""

    hits: int
    value: float
    interval: Interval


class CalibratedRates(NamedTuple):
    """Rates of the evaluation half at tau; only the interval of `excess` carries tau's uncertainty."""

    training: HitRate
    held_out: HitRate
    excess: Excess
    candidates: int


def calibrates(numbers: np.ndarray) -> np.ndarray:
    """Return (N,) bool: which candidates, by number, belong to the calibration half; the others are evaluated.

    Args:
        numbers: (N,) candidates' numbers, as in `Candidates.numbers`.

    Examples:
        >>> calibrates(np.array([0, 1, 2, 5]))
        array([ True, False,  True, False])
    """
    even: np.ndarray = np.asarray(numbers) % 2 == 0
    return even


def calibrate(
    held_out_scores: np.ndarray,
    held_out_groups: np.ndarray,
    q: float,
    *,
    distance: bool,
    confidence: float = 0.95,
) -> Threshold:
    """Return the threshold at which the share q of the calibration candidates hits a held-out image.

    tau's interval runs between two order statistics whose ranks are binomial quantiles: exact for a
    continuous score, wider where scores tie (David and Nagaraja 2003, Order Statistics, section 7.1). It is
    stretched to hold tau itself.

    Args:
        held_out_scores: (N,) each calibration candidate's best held-out score, NaN where its image is broken.
        held_out_groups: (N,) the near-duplicate group of that match, any integers.
        q: The held-out hit rate that is wanted, above 0 and at most 0.5.
        distance: Whether a smaller score is a closer match.
        confidence: Coverage of tau's two-sided interval, between 0 and 1.

    Raises:
        TooFew: q N is below 10, no score is strict enough, or the hits at tau touch fewer than 5 groups; the message
            has the numbers.
        BadInput: q lies outside (0, 0.5], or the arrays have different lengths.

    Examples:
        Of 1,000 distances 0, 0.001, 0.002, ... the ten smallest are hits at q = 1 %. The interval runs from the 4th to
        the 18th, by the quantiles of Binomial(1000, 0.01).

        >>> scores, groups = np.arange(1000) / 1000, np.arange(1000) % 20
        >>> found = calibrate(scores, groups, q=0.01, distance=True)
        >>> found.hits, found.tau, tuple(found.interval)
        (10, 0.009, (0.003, 0.017))
    """
    n = len(held_out_scores)
    _check(q, n, len(held_out_groups))
    strictness = _strictness(held_out_scores, distance)
    order = np.sort(strictness)
    position = _rank_of_tau(order, q)
    hits = strictness <= order[position]
    groups = len(np.unique(held_out_groups[hits]))
    if groups < MIN_GROUPS:
        raise TooFew(
            f"q = {q:g} cannot be calibrated: the {int(hits.sum())} held-out hits at the threshold lie in {groups} "
            f"duplicate groups, and at least {MIN_GROUPS} are needed; use a larger q or more held-out images"
        )
    first, last = _rank_interval(n, q, 1 - confidence)
    finite = int(np.isfinite(order).sum())
    if last >= finite:
        raise TooFew(
            f"q = {q:g} cannot be calibrated: {n} candidates have {finite} finite held-out scores, and the interval of "
            f"the threshold needs {last + 1}"
        )
    sign = 1.0 if distance else -1.0
    ends = sorted(sign * float(order[rank]) for rank in (min(first, position), max(last, position)))
    return Threshold(
        tau=sign * float(order[position]),
        interval=Interval(*ends),
        confidence=confidence,
        q=q,
        hits=int(hits.sum()),
        groups=groups,
        candidates=n,
        around=tuple((sign * float(order[rank]), error) for rank, error in _around(n, q, position, finite, confidence)),
    )


def evaluate(threshold: Threshold, training: Matches, held_out: Matches, *, within: Within) -> CalibratedRates:
    """Return hit rates and excess of the evaluation half, (N,) candidates that did not calibrate tau.

    The excess is estimated at tau; its interval is that of the excess at the population's threshold, of which
    tau is an estimate from other candidates. Two independent errors come together: that of the excess at a given
    threshold (`intervals.excess`), and that of tau. The interval goes over all thresholds t around tau, u standard
    errors away, and takes the excess at t with its reach times sqrt(s^2 - (u / z)^2), z the normal quantile of the
    confidence: the projection of a joint region. If the excess moved evenly with the threshold, s = 1 would be exact
    (MOVER, Zou and Donner 2008, Stat. Med. 27:1693); with s = 1.25 at 95 % (Scheffe) it would hold for any course.
    s = 1.1 covers 96 to 97 % where copies end just at tau, the hardest case in the simulation of docs/coverage.py, and
    99 % elsewhere. Adding the errors in quadrature covered 87 to 91 % there; the union of the intervals over tau's
    interval, with alpha split, 99.9 % elsewhere.

    Args:
        threshold: From `calibrate`, of other candidates; every interval has the confidence that it was calibrated with.
        training: The evaluated candidates' best matches among the training images.
        held_out: The same candidates' best matches among the held-out images, in the same order.
        within: Says which scores are hits at a threshold.

    Raises:
        BadInput: the sides have different lengths, are empty, or touch more groups than `total`.

    Examples:
        At a threshold where 2 % hit a held-out image, 100 of 1,000 other candidates hit a training image and 20 a
        held-out one.

        >>> numbers = np.arange(1000)
        >>> groups = numbers % 20
        >>> threshold = calibrate((numbers + 1) / 1000, groups, q=0.02, distance=True)
        >>> training = Matches(np.where(numbers < 100, 0.001, 0.5), groups, total=20)
        >>> held_out = Matches(np.where(numbers < 20, 0.01, 0.5), groups, total=20)
        >>> found = evaluate(threshold, training, held_out, within=lambda scores, tau: scores <= tau)
        >>> found.training.value, found.held_out.value, found.excess.value
        (0.1, 0.02, 0.08)
    """
    n = len(training.scores)
    if not n or n != len(held_out.scores) or any(len(side.groups) != n for side in (training, held_out)):
        raise BadInput(
            f"calibrated rates need one best match per candidate on both sides, got {n} training scores, "
            f"{len(training.groups)} groups, {len(held_out.scores)} held-out scores, {len(held_out.groups)} groups"
        )
    given = _excess_at(threshold.tau, training, held_out, within, threshold.confidence)
    low = high = given.value
    z, stretch = normal_quantile(threshold.confidence), STRETCH if len(threshold.around) > 1 else 1.0
    for tau, error in threshold.around:
        found = _excess_at(tau, training, held_out, within, threshold.confidence)
        share = math.sqrt(max(0.0, stretch**2 - (error / z) ** 2))
        low = min(low, found.value - share * (found.value - found.interval.low))
        high = max(high, found.value + share * (found.interval.high - found.value))
    return CalibratedRates(
        training=_hit_rate(training, threshold, within),
        held_out=_hit_rate(held_out, threshold, within),
        excess=Excess(given.value, Interval(max(low, -1.0), min(high, 1.0))),
        candidates=n,
    )


def _check(q: float, n: int, groups: int) -> None:
    if not 0 < q <= 0.5:
        raise BadInput(f"q is a small rate, above 0 and at most 0.5, not {q:g}")
    if groups != n:
        raise BadInput(f"{n} held-out scores but {groups} duplicate groups: one of each per candidate is needed")
    if q * n < MIN_HITS * (1 - 1e-9):
        needed = int(np.ceil(MIN_HITS / q * (1 - 1e-9)))
        raise TooFew(
            f"q = {q:g} cannot be calibrated: {n} calibration candidates give {q * n:.3g} expected hits, and "
            f"{MIN_HITS} are needed; at least {needed} calibration candidates or a larger q would do"
        )


def _strictness(scores: np.ndarray, distance: bool) -> np.ndarray:
    """Return scores as distances, +inf where not finite, so that smaller is always stricter."""
    signed = np.asarray(scores, dtype=np.float64) * (1.0 if distance else -1.0)
    return np.where(np.isfinite(signed), signed, np.inf)


def _rank_of_tau(order: np.ndarray, q: float) -> int:
    """Return the 0-based rank of the loosest score whose hit rate, ties included, is at most q."""
    # q N may be whole and its product not: 0.29 * 100 is 28.999999999999996.
    most = int(np.floor(q * len(order) * (1 + 1e-12)))
    # The first score beyond the allowance must stay outside, and with it everything that ties with it.
    allowed = int(np.searchsorted(order, order[most], side="left")) if most < len(order) else most
    if not allowed or not np.isfinite(order[allowed - 1]):
        tied = int(np.searchsorted(order, order[0], side="right")) if np.isfinite(order[0]) else 0
        raise TooFew(
            f"q = {q:g} cannot be calibrated: {tied} of {len(order)} calibration candidates share the best "
            f"held-out score, and at most {most} may be hits"
        )
    return allowed - 1


def _rank_interval(n: int, q: float, alpha: float) -> tuple[int, int]:
    """Return 0-based ranks whose order statistics hold the q-quantile with at least 1 - alpha."""
    from scipy.stats import binom

    # The number of scores up to the quantile is Binomial(n, q); each side leaves at most alpha / 2.
    low = int(binom.ppf(alpha / 2, n, q))
    high = int(binom.ppf(1 - alpha / 2, n, q)) + 1
    return max(low, 1) - 1, min(high, n) - 1


def _around(n: int, q: float, position: int, finite: int, confidence: float) -> list[tuple[int, float]]:
    """Return 0-based ranks around tau's and how many standard errors of the rank each lies from it."""
    first, last = _rank_interval(n, q, _two_sided(STRETCH * normal_quantile(confidence)))
    ranks = np.linspace(min(first, position), max(min(last, finite - 1), position), STEPS).round().astype(int)
    # A rank is a binomial count; its standard error is the unit in which a threshold's distance from tau is told.
    error = math.sqrt(n * q * (1 - q))
    return [(int(rank), (int(rank) - position) / error) for rank in np.union1d(ranks, position)]


def _two_sided(z: float) -> float:
    from scipy.stats import norm

    return float(2 * norm.sf(z))


def _excess_at(tau: float, training: Matches, held_out: Matches, within: Within, confidence: float) -> Excess:
    ours, theirs = within(training.scores, tau), within(held_out.scores, tau)
    return excess_of(AttackHits(ours, theirs, _credits(training, ours), _credits(held_out, theirs)), confidence)


def _credits(side: Matches, hits: np.ndarray) -> np.ndarray:
    """Return (total,) hits by group, in no particular order, zeros for groups without a hit."""
    _, counts = np.unique(side.groups[hits], return_counts=True)
    if len(counts) > side.total:
        raise BadInput(f"hits lie in {len(counts)} duplicate groups, but this side has only {side.total}")
    return np.concatenate([counts, np.zeros(side.total - len(counts), dtype=np.int64)])


def _hit_rate(side: Matches, threshold: Threshold, within: Within) -> HitRate:
    n = len(side.scores)
    count = int(within(side.scores, threshold.tau).sum())
    return HitRate(count, count / n, wilson(count, n, threshold.confidence))
