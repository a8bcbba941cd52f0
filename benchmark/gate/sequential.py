"""Tests of a mean that may be looked at after every candidate: betting against the hypothesis. No torch.

A gambler starts with a capital of 1 and bets, candidate by candidate, that the mean is larger than m. Where
it is not, the capital is a non-negative supermartingale, so the chance that it ever reaches 1 / alpha is at
most alpha (Ville's inequality): the test may stop at any time, for any reason, and be resumed.
Waudby-Smith and Ramdas 2024, J. R. Stat. Soc. B 86:1 (arXiv 2010.09686), sections 3 and 4.

The strategy is a mixture of fixed bets (their section 4.4): part j of the capital stakes the share c_j of
the largest admissible bet on every candidate. `docs/gate_errors.py` compares it with aGRAPA. It was chosen
because the capital depends on counts alone, falls as m grows (so tests and bounds can never contradict each
other), and because its largest part bets everything: where no candidate ever hits, the upper bound is
log(1 / (w_0 beta)) / N at most, the rule of three with 4.9 in place of 3.0 for beta 5 %.

Any weights that are chosen before the first candidate are valid. Where a calibration has shown how often
held-out images are hit, most of the capital is put on the one bet that is best for a clean model there.
"""

from typing import NamedTuple

import numpy as np

from ..errors import BadInput

_PARTS = np.arange(20)
SHARES = 0.8**_PARTS
"""c_j: what each part of the capital stakes, as a share of the largest admissible bet (1 down to 0.014)."""

_DECAY = 0.85
WEIGHTS = (1 - _DECAY) * _DECAY**_PARTS / (1 - _DECAY ** len(_PARTS))
"""w_j: how the capital is divided at the start; more on the large bets, which decide where hits are rare."""

INFORMED = 0.7
"""Share of the capital on the bet that is best at a known background; the rest insures against another one."""

_RUINED = -1e6
"""Logarithm that stands for a capital of 0; -inf times a count of 0 would be NaN."""

_BISECTIONS = 50


class Counts(NamedTuple):
    """How often each value was seen so far: `levels` (L,) in [-1, 1], `seen` (L, N) cumulative counts."""

    levels: np.ndarray
    seen: np.ndarray

    @property
    def total(self) -> int:
        """The number of candidates, N."""
        return int(self.seen.shape[1])

    @property
    def mean(self) -> float:
        """The mean so far; NaN before the first candidate."""
        return float(self.levels @ self.seen[:, -1] / self.total) if self.total else float("nan")

    def until(self, candidates: int) -> "Counts":
        """Return the counts of the first so many candidates."""
        return Counts(self.levels, self.seen[:, :candidates])

    def mirrored(self) -> "Counts":
        """Return the counts of the values with their sign turned."""
        return Counts(-self.levels, self.seen)


class Bounds(NamedTuple):
    """One-sided bounds that hold at every time: the mean is below `low` with chance alpha, above `high` with beta."""

    low: float
    high: float


def count(values: np.ndarray) -> Counts:
    """Count values (N,) in [-1, 1], in the order of the candidates.

    Raises:
        BadInput: a value lies outside or is NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.all(np.abs(values) <= 1):
        raise BadInput("a sequential test takes values between -1 and 1")
    # Counts per value, not the values: a mean of hits has three levels, so every mean is tested on three rows of
    # numbers.
    levels = np.unique(values)
    return Counts(levels, np.cumsum(values == levels[:, None], axis=1))


def informed_weights(limit: float, background: float) -> np.ndarray:
    """Return the weights w_j with which a clean model is soonest shown to lie below the limit.

    z is 1 with the chance `background`, in [0, 1), else 0: what chance alone hits of the training images. The bet is
    the one whose capital grows fastest against "the mean is at least `limit`" (0 < limit < 1). Where chance alone
    reaches the limit no bet grows, and the weights are those of an unknown background.
    """
    if background >= limit:
        return WEIGHTS
    z, chance = np.array([1.0, 0.0]), np.array([background, 1 - background])
    # Growth per candidate, E[log gain]: the bet of the fastest growth ends a test soonest (Kelly).
    best = int(np.argmax(_gains(-z, -limit) @ chance))
    weights: np.ndarray = INFORMED * (np.arange(len(WEIGHTS)) == best) + (1 - INFORMED) * WEIGHTS
    return weights


def log_capital(counts: Counts, mean: float, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Return (N,) the logarithm of the capital after each candidate, against "the mean is at most `mean`".

    Part j multiplies by 1 + c_j (z - m) / (1 + m), which is 0 at worst: z = -1 with c = 1. -1 < `mean`.
    """
    parts = _gains(counts.levels, mean) @ counts.seen + np.log(weights)[:, None]
    # log sum exp with the largest part taken out: capitals reach beyond what a float holds.
    largest = parts.max(axis=0, initial=_RUINED)
    capital: np.ndarray = largest + np.log(np.exp(parts - largest).sum(axis=0))
    return capital


def p_above(counts: Counts, limit: float, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Return (N,) p-values of "the mean is at most `limit`", valid at every time; they never rise."""
    # Ville bounds the chance that the capital EVER reaches 1 / p, so a height once reached counts for good.
    best = np.maximum.accumulate(log_capital(counts, limit, weights))
    p: np.ndarray = np.exp(-np.maximum(best, 0.0))
    return p


def p_below(counts: Counts, limit: float, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Return (N,) p-values of "the mean is at least `limit`", valid at every time; they never rise."""
    return p_above(counts.mirrored(), -limit, weights)


def first_at_most(p_values: np.ndarray, level: float) -> int | None:
    """Return after how many candidates p first reached the level, or None."""
    reached = p_values <= level
    return int(reached.argmax()) + 1 if reached.any() else None


def last_at_least(log_capitals: np.ndarray, level: float) -> int | None:
    """Return after how many candidates the capital was last at least 1 / level, or None."""
    reached = np.flatnonzero(log_capitals >= -np.log(level))
    return int(reached[-1]) + 1 if len(reached) else None


def bounds(counts: Counts, alpha: float, beta: float, weights: np.ndarray = WEIGHTS) -> Bounds:
    """Return the lower bound at alpha and the upper bound at beta, from what is known after the last candidate.

    They hold at every time together, so they may be read whenever one stops. -1 and 1 before the first candidate.
    `weights` are those of the bets on a low mean, from which the upper bound comes.
    """
    return Bounds(_lower(counts, alpha, WEIGHTS), -_lower(counts.mirrored(), beta, weights))


def needed(counts: Counts, limit: float, level: float, weights: np.ndarray = WEIGHTS, most: float = 1e4) -> int | None:
    """Return how many candidates "the mean is at most `limit`" would take to be rejected, were the shares to stay.

    A plan, not a promise. None where the shares do not contradict it within `most` times as many candidates.
    """
    if not counts.total or counts.mean <= limit:
        return None
    # More candidates with the shares seen so far; the grid's steps are coarse, as is such a guess.
    for factor in np.geomspace(1, most, 200):
        grown = Counts(counts.levels, counts.seen[:, -1:] * factor)
        if log_capital(grown, limit, weights)[0] >= -np.log(level):
            return int(np.ceil(counts.total * factor))
    return None


def _gains(levels: np.ndarray, mean: float) -> np.ndarray:
    """Return (parts, L) the logarithm by which each value multiplies each part of the capital."""
    # The largest admissible bet is 1 / (1 + m): a loss of everything at z = -1, and never a debt.
    factors = 1 + SHARES[:, None] * (levels - mean) / (1 + mean)
    return np.where(factors > 0, np.log(np.maximum(factors, 1e-300)), _RUINED)


def _lower(counts: Counts, level: float, weights: np.ndarray) -> float:
    """Return the largest mean that is rejected as too small, by bisection: the capital falls as m grows."""
    # Bets do not look at the order of values, so the capital now follows from the last counts. A mean that was rejected
    # earlier and is not any more lies above this bound: the bound is safe, if not the tightest.
    wanted, last = -np.log(level), Counts(counts.levels, counts.seen[:, -1:])
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if log_capital(last, middle, weights).max(initial=0.0) >= wanted:
            low = middle
        else:
            high = middle
    return low
