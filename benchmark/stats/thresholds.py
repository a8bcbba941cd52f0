"""Thresholds set so that chance hits training images at the rate q. Pure functions, no torch.

Chance is read off the held-out images: with G_X training and G_H held-out groups, (G_X / G_H) a_H of the candidates are
owned by training groups by chance, where a_H are owned by held-out ones. The candidates are split, not the held-out
images: splitting those halves the set that a best match is taken from, and doubled the false hits in a trial.
Candidates with an even number calibrate, those with an odd number are evaluated.

Ties: candidates with one score are all hits or none. tau is the loosest score seen at which the calibration
half's chance rate does not exceed q, so ties at the edge move tau to the strict side.
Scores that are not finite (NaN: a broken image) are never a hit and stay in every denominator.
"""

from typing import NamedTuple

import numpy as np

from ..errors import BadInput, TooFew
from .intervals import Interval

MIN_HITS = 10
"""q N G_H / G_X, the held-out hits expected of N candidates, must reach this, or tau rests on too few scores."""

MIN_GROUPS = 5
"""Duplicate groups that the held-out hits at tau must touch, or tau is a property of a few images."""


class Threshold(NamedTuple):
    """A calibrated threshold: a distance is a hit at or below `tau`, a similarity at or above it.

    `interval` covers the population's threshold at the level `confidence`; at tau `hits` candidates of `candidates` are
    owned by `groups` held-out groups.
    """

    tau: float
    interval: Interval
    confidence: float
    q: float
    hits: int
    groups: int
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
    ratio: float = 1.0,
    confidence: float = 0.95,
) -> Threshold:
    """Return the threshold at which chance has the share q of the calibration candidates hit a training image.

    tau's interval runs between two order statistics whose ranks are binomial quantiles: exact for a
    continuous score, wider where scores tie (David and Nagaraja 2003, Order Statistics, section 7.1). It is
    stretched to hold tau itself.

    Args:
        held_out_scores: (N,) each calibration candidate's best held-out score; NaN where a training image is nearer, or
            its image is broken.
        held_out_groups: (N,) the near-duplicate group of that match, any integers.
        q: The chance rate that is wanted, above 0 and at most 0.5.
        distance: Whether a smaller score is a closer match.
        ratio: G_X / G_H, groups of X for one of H.
        confidence: Coverage of tau's two-sided interval, between 0 and 1.

    Raises:
        TooFew: q N G_H / G_X is below 10, no score is strict enough, or the hits at tau touch fewer than 5 groups; the
            message has the numbers.
        BadInput: q lies outside (0, 0.5], or the arrays have different lengths.

    Examples:
        Of 1,000 distances 0, 0.001, 0.002, ... the ten smallest are hits at q = 1 %. The interval runs from the 4th to
        the 18th, by the quantiles of Binomial(1000, 0.01).

        >>> scores, groups = np.arange(1000) / 1000, np.arange(1000) % 20
        >>> found = calibrate(scores, groups, q=0.01, distance=True)
        >>> found.hits, found.tau, tuple(found.interval)
        (10, 0.009, (0.003, 0.017))
    """
    n, own = len(held_out_scores), min(q / ratio, 0.5)
    _check(q, ratio, n, len(held_out_groups))
    strictness = _strictness(held_out_scores, distance)
    order = np.sort(strictness)
    position = _rank_of_tau(order, q, own)
    hits = strictness <= order[position]
    groups = len(np.unique(held_out_groups[hits]))
    if groups < MIN_GROUPS:
        raise TooFew(
            f"q = {q:g} cannot be calibrated: the {int(hits.sum())} held-out hits at the threshold lie in {groups} "
            f"duplicate groups, and at least {MIN_GROUPS} are needed; use a larger q or more held-out images"
        )
    first, last = _rank_interval(n, own, 1 - confidence)
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
    )


def _check(q: float, ratio: float, n: int, groups: int) -> None:
    if not 0 < q <= 0.5:
        raise BadInput(f"q is a small rate, above 0 and at most 0.5, not {q:g}")
    if groups != n:
        raise BadInput(f"{n} held-out scores but {groups} duplicate groups: one of each per candidate is needed")
    if q * n / ratio < MIN_HITS * (1 - 1e-9):
        needed = int(np.ceil(MIN_HITS / q * ratio * (1 - 1e-9)))
        sides = "" if 0.95 < ratio < 1.05 else f" with {ratio:.3g} groups of training images for one of held-out ones"
        raise TooFew(
            f"q = {q:g} cannot be calibrated: {n} calibration candidates give {q * n / ratio:.3g} expected held-out "
            f"hits{sides}, and {MIN_HITS} are needed; at least {needed} calibration candidates or a larger q would do"
        )


def _strictness(scores: np.ndarray, distance: bool) -> np.ndarray:
    """Return scores as distances, +inf where not finite, so that smaller is always stricter."""
    signed = np.asarray(scores, dtype=np.float64) * (1.0 if distance else -1.0)
    return np.where(np.isfinite(signed), signed, np.inf)


def _rank_of_tau(order: np.ndarray, q: float, own: float) -> int:
    """Return the 0-based rank of the loosest score whose held-out rate, ties included, is at most `own`."""
    # The rate times N may be whole and its product not: 0.29 * 100 is 28.999999999999996.
    most = int(np.floor(own * len(order) * (1 + 1e-12)))
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
