"""Shares by caption family: families are what a split deals out, so they are the sampling units of a rate."""

from typing import NamedTuple

import numpy as np

from .comparison import SWAP_SEED
from .intervals import Excess, Interval, wilson
from .owned import Owned, Strata, swap_test


class FamilyRates(NamedTuple):
    """Two rates over families, their difference, and the one-sided p of the first being no larger."""

    first: Excess
    second: Excess
    difference: Excess
    p: float


def family_shares(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Return the mean value of each family that occurs, (families,).

    Args:
        values: (N,) in [0, 1].
        families: (N,) whose each of them is, whole numbers from 0.

    Examples:
        >>> family_shares(np.array([1, 0, 1]), np.array([4, 4, 7]))
        array([0.5, 1. ])
    """
    place = np.unique(families, return_inverse=True)[1]
    found: np.ndarray = np.bincount(place, weights=values) / np.bincount(place)
    return found


def family_rate(shares: np.ndarray, confidence: float = 0.95) -> Excess:
    """Return the mean share, with Wilson's interval of as many trials as there are families.

    A share within [0, 1] varies no more than a coin of the same mean, so the interval is wide enough, and where all
    shares are 0 or all are 1 it still has a width.

    Args:
        shares: (families,) in [0, 1], at least one.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Examples:
        >>> value, (low, high) = family_rate(np.array([1, 0.5, 0, 0]))
        >>> f"{value:.3f} {low:.3f} {high:.3f}"
        '0.375 0.092 0.781'
    """
    return Excess(float(shares.mean()), wilson(float(shares.sum()), len(shares), confidence))


def compare_families(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> FamilyRates:
    """Compare the mean shares of two sets of families.

    The interval of the difference is Newcombe's (1998, Stat. Med. 17:873, method 10), from the Wilson intervals of
    both. The p-value is that of a label-swap test: without a difference, which families were dealt to which set is a
    label without effect.

    Args:
        first: (families,) shares in [0, 1].
        second: (families,) the same of the other set.
        confidence: Coverage of the two-sided intervals.

    Returns:
        Both mean shares, their difference within [-1, 1], and the p-value.

    Examples:
        >>> found = compare_families(np.ones(20), np.zeros(20))
        >>> value, (low, high) = found.difference
        >>> f"{value:.2f} {low:.2f} {high:.2f} {found.p:.4f}"
        '1.00 0.77 1.00 0.0001'
    """
    ours, theirs = family_rate(first, confidence), family_rate(second, confidence)
    value = ours.value - theirs.value
    below = np.hypot(ours.value - ours.interval.low, theirs.interval.high - theirs.value)
    above = np.hypot(ours.interval.high - ours.value, theirs.value - theirs.interval.low)
    interval = Interval(max(-1.0, float(value - below)), min(1.0, float(value + above)))
    strata = Strata(np.zeros(len(first), dtype=np.int64), np.zeros(len(second), dtype=np.int64))
    test = swap_test(Owned(first[:, None], second[:, None], strata, len(first)), SWAP_SEED)
    return FamilyRates(ours, theirs, Excess(value, interval), float(test.bands[0]))
