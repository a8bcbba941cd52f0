"""Is a side owned more often than chance explains? Shares of candidates owned by training and by held-out groups.

A candidate in a band is owned by its nearest near-duplicate group of X and H together, one candidate in all, half to
either side on a tie. Without a leak the split of groups into X and H is a label without effect, so the label-swap test
is exact whatever the two sizes are, and with it the limits of a leak that are made from it. The definition, the
standardised maximum over bands and the limits are ours and rest on the simulation in docs/validity-intervals.md
(`docs/verdict_errors.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import BadInput
from .intervals import Interval

SWAPS = 9_999
"""Random label swaps; the smallest p-value is 1 / (SWAPS + 1)."""

_SAME = 1e-9
"""Relative difference up to which two sums of weighted credits count as equal: weights are ratios of whole numbers."""


class Strata(NamedTuple):
    """The size class of each near-duplicate group: labels are swapped within classes only.

    `training` (G_X,) and `held_out` (G_H,) hold class numbers 0 up; each class has groups of both sides.
    """

    training: np.ndarray
    held_out: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Groups by class and side, (classes, 2)."""
        classes = 1 + int(self.training.max())
        return np.stack([np.bincount(side, minlength=classes) for side in self], axis=1)

    @property
    def ratios(self) -> np.ndarray:
        """G_X / G_H by class, (classes,)."""
        sizes = self.sizes
        found: np.ndarray = sizes[:, 0] / sizes[:, 1]
        return found


class Owned(NamedTuple):
    """How many candidates each group owns, band by band.

    `training` (G_X, bands) and `held_out` (G_H, bands): multiples of 1/2, zeros too. `candidates` is N_G.
    """

    training: np.ndarray
    held_out: np.ndarray
    strata: Strata
    candidates: int


class SwapTest(NamedTuple):
    """p-values of "training groups own no more than chance gives them", one-sided.

    `bands` holds (bands,) p of each band for itself; `family` the same for the largest of them, so that the chance
    that any band is called wrongly is that of the test (Westfall and Young 1993, single step).
    """

    bands: np.ndarray
    family: np.ndarray


def size_classes(training: np.ndarray, held_out: np.ndarray) -> Strata:
    """Put groups into classes by their number of images: 1, 2, 3-4, 5-8, ..., merged until both sides stand in each.

    A class with groups of one side joins the next smaller one, the smallest the next larger one.

    Args:
        training: (G_X,) images in each group of X, at least 1.
        held_out: (G_H,) the same of H.

    Returns:
        Class numbers of both sides, 0 up, in the order of the groups; each class has groups of both.

    Raises:
        BadInput: a side has no group.

    Examples:
        No group of H has more than two images, so larger ones of X stand with its groups of two.

        >>> import numpy as np
        >>> found = size_classes(np.array([1, 1, 2, 5]), np.array([1, 2, 1]))
        >>> found.training, found.held_out
        (array([0, 0, 1, 1]), array([0, 1, 0]))
    """
    if not len(training) or not len(held_out):
        raise BadInput("a comparison of two sides needs near-duplicate groups on both")
    sides = [np.ceil(np.log2(np.maximum(side, 1))).astype(np.int64) for side in (training, held_out)]
    both = np.intersect1d(*sides)
    if not len(both):
        return Strata(*(np.zeros(len(side), dtype=np.int64) for side in sides))
    # The class at or below a group's own that both sides have; the smallest such class takes what lies below it.
    return Strata(*(np.maximum(np.searchsorted(both, side, side="right") - 1, 0) for side in sides))


def excess_shares(owned: Owned) -> np.ndarray:
    """Return A = sum over classes c of a_Xc - (G_Xc / G_Hc) a_Hc by band, (bands,); 0 in expectation without a leak.

    a is a side's share of the candidates. On the scale of all of X; it lies in [-max G_Xc / G_Hc, 1].

    Args:
        owned: Of any bands.

    Examples:
        Ten candidates: three owned by the two groups of X, one by the only group of H, which counts twice.

        >>> import numpy as np
        >>> strata = Strata(np.array([0, 0]), np.array([0]))
        >>> excess_shares(Owned(np.array([[3], [0]]), np.array([[1]]), strata, 10)).round(2)
        array([0.1])
    """
    weights = owned.strata.ratios[owned.strata.held_out]
    found: np.ndarray = (owned.training.sum(0) - weights @ owned.held_out) / owned.candidates
    return found


def swap_test(owned: Owned, seed: int, swaps: int = SWAPS) -> SwapTest:
    """Test whether training groups own more than held-out ones, by label swaps within size classes.

    Each band's A is divided by its standard deviation under the swaps, and the largest over the bands is compared with
    the largest of each swap: raw A would follow the widest band, whose chance hits drown the others. The +1 is that of
    Phipson and Smyth (2010, Stat. Appl. Genet. Mol. Biol. 9:39). Groups that own the same are alike, so a swap costs
    as many draws as there are different rows, however many groups there are.

    Args:
        owned: Of the bands that are tested together.
        seed: The same seed gives the same p.
        swaps: Random swaps; no p is smaller than 1 / (swaps + 1).

    Returns:
        One-sided p-values in (0, 1], (bands,) each.

    Examples:
        Three groups of X own a candidate each, none of H. Of the 70 ways to call 4 of 8 groups "training", 5 have as
        many.

        >>> import numpy as np
        >>> strata = Strata(np.zeros(4, dtype=int), np.zeros(4, dtype=int))
        >>> found = swap_test(Owned(np.array([[1], [1], [1], [0]]), np.zeros((4, 1)), strata, 100), seed=0)
        >>> found.family.round(2)  # 5 / 70
        array([0.07])
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.zeros((swaps, owned.training.shape[1]))
    seen, variance = np.zeros(sums.shape[1]), np.zeros(sums.shape[1])
    for number, ratio in enumerate(owned.strata.ratios):
        ours, theirs = (credits[own == number] for credits, own in zip(owned[:2], owned.strata, strict=True))
        # Sums over one side order the swaps as A does: (1 + ratio) S_X - ratio * all; only the first part moves.
        rows, inverse, counts = np.unique(
            np.concatenate([ours, theirs]), axis=0, return_inverse=True, return_counts=True
        )
        drawn = _drawn(generator, counts, len(ours), swaps)
        centred = rows - counts @ rows / counts.sum()
        sums += (1 + ratio) * (drawn @ centred)
        seen += (1 + ratio) * centred[inverse.ravel()[: len(ours)]].sum(0)
        total = counts.sum()
        spread = counts @ centred**2 / (total - 1)
        variance += (1 + ratio) ** 2 * len(ours) * len(theirs) / total * spread
    # A band in which nothing is owned has no spread, and no say.
    deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
    sums, seen = sums / deviation, seen / deviation
    most, slack = sums.max(axis=1, initial=-np.inf), _SAME * (1 + np.abs(seen))
    bands = (1 + (sums >= seen - slack).sum(0)) / (1 + swaps)
    family = (1 + (most[:, None] >= seen - slack).sum(0)) / (1 + swaps)
    return SwapTest(bands, np.where(variance > 0, family, 1.0))


def lower_limit(owned: Owned, band: int, level: float, seed: int, swaps: int = SWAPS) -> float:
    """Return a lower limit of the leak: the share of candidates that are there because X was trained on.

    Leaked candidates are unknown, so any that could be are tried: with L of them taken from the training groups, what
    is left is a run without a leak, and the swap test must not reject it. They are taken from the least-hit training
    groups first, which leaves the rest as uneven as can be, and such a rest says the least. The largest L that is
    rejected as too small, at half the level, is a count; Clopper and Pearson's lower end of it, at the other half,
    carries the candidates' chance.

    Args:
        owned: Of any bands.
        band: Which of them.
        level: Chance that the limit lies above the leak.
        seed: The same seed gives the same limit.
        swaps: Random swaps.

    Returns:
        A share in [0, 1]; 0 where the swap test rejects nothing.

    Examples:
        Of 400 candidates 60 are owned by X, six by each of ten groups, one by H.

        >>> import numpy as np
        >>> ours, theirs = np.repeat([6, 0], [10, 90]), np.repeat([1, 0], [1, 99])
        >>> strata = Strata(np.zeros(100, dtype=int), np.zeros(100, dtype=int))
        >>> owned = Owned(ours[:, None], theirs[:, None], strata, 400)
        >>> round(lower_limit(owned, 0, 0.025, seed=0), 3), round(upper_limit(owned, 0, 0.025, seed=0), 3)
        (0.034, 0.195)
    """
    return _Residual(owned, band, seed, swaps).lower(level)


def upper_limit(owned: Owned, band: int, level: float, seed: int, swaps: int = SWAPS) -> float:
    """Return an upper limit of the leak, the mirror image of `lower_limit`, from the smallest L that is too large.

    Where no L is, all that X owns may be leaked, and the limit is that of a raw rate.

    Args:
        owned: Of any bands.
        band: Which of them.
        level: Chance that the limit lies below the leak.
        seed: The same seed gives the same limit.
        swaps: Random swaps.

    Returns:
        A share in [0, 1].

    Examples:
        Of 400 candidates 20 are owned by X and 20 by H, one by each of the same number of groups: without a sign of a
        leak, up to 5.8 % may still be one.

        >>> import numpy as np
        >>> credits, strata = np.repeat([1, 0], [20, 80]), Strata(np.zeros(100, dtype=int), np.zeros(100, dtype=int))
        >>> owned = Owned(credits[:, None], credits[:, None], strata, 400)
        >>> round(lower_limit(owned, 0, 0.025, seed=0), 3), round(upper_limit(owned, 0, 0.025, seed=0), 3)
        (0.0, 0.058)
    """
    return _Residual(owned, band, seed, swaps).upper(level)


def excess_interval(owned: Owned, band: int, confidence: float, seed: int, swaps: int = SWAPS) -> Interval:
    """Return both limits of A, half of what `confidence` leaves to each; they hold A.

    Below 0 they are the limits of a leak of H, which nothing explains but a control that does not fit: the sides
    change roles, and a share owned by H counts G_X / G_H times.

    Args:
        owned: Of any bands.
        band: Which of them.
        confidence: Coverage, between 0 and 1.
        seed: The same seed gives the same interval.
        swaps: Random swaps.

    Examples:
        >>> import numpy as np
        >>> ours, theirs = np.repeat([6, 0], [10, 90]), np.repeat([1, 0], [1, 99])
        >>> strata = Strata(np.zeros(100, dtype=int), np.zeros(100, dtype=int))
        >>> low, high = excess_interval(Owned(ours[:, None], theirs[:, None], strata, 400), 0, 0.95, seed=0)
        >>> f"{low:.3f} {high:.3f}"
        '0.034 0.195'
    """
    level = (1 - confidence) / 2
    turned = Owned(owned.held_out, owned.training, Strata(*reversed(owned.strata)), owned.candidates)
    ratio = len(owned.training) / len(owned.held_out)
    ours, theirs = (_Residual(way, band, seed, swaps) for way in (owned, turned))
    low = ours.lower(level) or -ratio * theirs.upper(level)
    against = theirs.lower(level)
    high = -ratio * against if against else ours.upper(level)
    value = float(excess_shares(owned)[band])
    return Interval(min(low, value), max(high, value))


def leak_p(owned: Owned, band: int, limit: float, seed: int, swaps: int = SWAPS) -> float:
    """Return the p-value of "the leak is at most `limit`": the smallest level at which `lower_limit` lies above it.

    Args:
        owned: Of any bands.
        band: Which of them.
        limit: A share of the candidates, in [0, 1].
        seed: The same seed gives the same p.
        swaps: Random swaps; no p is smaller than 2 / (swaps + 1).

    Examples:
        >>> import numpy as np
        >>> ours, theirs = np.repeat([6, 0], [10, 90]), np.repeat([1, 0], [1, 99])
        >>> strata = Strata(np.zeros(100, dtype=int), np.zeros(100, dtype=int))
        >>> owned = Owned(ours[:, None], theirs[:, None], strata, 400)
        >>> leak_p(owned, 0, 0.03, seed=0) < 0.025 < leak_p(owned, 0, 0.04, seed=0)
        True
    """
    return _Residual(owned, band, seed, swaps).p_above(limit)


def memorised(training: np.ndarray, held_out: np.ndarray, strata: Strata, rate: float = 0.05) -> np.ndarray:
    """Return which training groups candidates come nearer to than chance explains, (G_X,) bool.

    Each group's p-value is conformal: the share of held-out groups of its class, itself added, that candidates come at
    least as near to. Of the groups that are called, at most the share `rate` is expected to be called wrongly
    (Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57:289; for conformal p-values Bates et al. 2023, Ann. Stat.
    51:149).

    Args:
        training: (G_X,) the least distance of a candidate that the group owns; infinite where it owns none.
        held_out: (G_H,) the same of H.
        strata: The groups' classes.
        rate: False discovery rate, between 0 and 1.

    Examples:
        99 held-out groups, to none of which a candidate comes within 1, and 20 training groups that have copies.

        >>> import numpy as np
        >>> ours, theirs = np.repeat([0.1, 2.0], [20, 80]), np.full(99, 2.0)
        >>> strata = Strata(np.zeros(100, dtype=int), np.zeros(99, dtype=int))
        >>> int(memorised(ours, theirs, strata).sum())
        20
    """
    p = np.ones(len(training))
    for number in range(len(strata.sizes)):
        own, others = strata.training == number, np.sort(held_out[strata.held_out == number])
        nearer = np.searchsorted(others, training[own], side="right")
        p[own] = np.where(np.isfinite(training[own]), (1 + nearer) / (1 + len(others)), 1.0)
    order = np.sort(p)
    passed = np.flatnonzero(order <= rate * np.arange(1, len(p) + 1) / len(p))
    called: np.ndarray = p <= (order[passed[-1]] if len(passed) else -1.0)
    return called


def clopper_pearson(count: float, n: int, tail: float) -> Interval:
    """Return the exact interval of a rate with the chance `tail` on either side (Clopper and Pearson 1934).

    Args:
        count: Successes, 0 .. n.
        n: Trials, above 0.
        tail: Chance that the rate lies below the lower end, and that it lies above the upper one.

    Examples:
        >>> low, high = clopper_pearson(3, 1000, 0.025)
        >>> f"{low:.4f} {high:.4f}"
        '0.0006 0.0087'
    """
    from scipy.special import betaincinv

    low = betaincinv(count, n - count + 1, tail) if count > 0 else 0.0
    high = betaincinv(count + 1, n - count, 1 - tail) if count < n else 1.0
    return Interval(float(low), float(high))


def least_groups(strata: Strata, level: float) -> int | None:
    """Return K_min: how many groups must be hit before a swap test at this level can reject anything.

    With fewer, all of them lie in X by chance more often than `level`, as they are hit alike. Without regard to
    classes, which can only ask for more. None where even all training groups are too few.

    Args:
        strata: The groups of both sides.
        level: Of the test, between 0 and 1.

    Examples:
        >>> import numpy as np
        >>> zeros = lambda count: np.zeros(count, dtype=int)
        >>> least_groups(Strata(zeros(700), zeros(100)), 0.05), least_groups(Strata(zeros(500), zeros(500)), 0.05)
        (23, 5)
    """
    ours, theirs = len(strata.training), len(strata.held_out)
    taken = np.arange(ours)
    chance = np.cumprod((ours - taken) / (ours + theirs - taken))
    few = np.flatnonzero(chance <= level)
    return int(few[0]) + 1 if len(few) else None


def _drawn(generator: np.random.Generator, counts: np.ndarray, chosen: int, swaps: int) -> np.ndarray:
    """Return how many groups of each kind fall among the `chosen` ones, (swaps, kinds)."""
    # Descending, so that the many groups that own nothing come last: their number needs no draw.
    order = np.argsort(-np.arange(len(counts)))
    rows = max(1, 4_000_000 // len(counts))
    drawn = [
        generator.multivariate_hypergeometric(counts[order], chosen, size=min(rows, swaps - start), method="marginals")
        for start in range(0, swaps, rows)
    ]
    return np.concatenate(drawn)[:, np.argsort(order)]


def _last(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the largest number in 0 .. most for which this holds, where it holds up to some number; else None."""
    if not holds(0):
        return None
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class _Residual:
    """Swaps of one band's credits after some candidates were taken from the least-hit training groups.

    Labels are drawn once, for kinds of groups: class, side and credit. Of a kind whose members are emptied in part,
    those that are lie among its drawn members at random.
    """

    def __init__(self, owned: Owned, band: int, seed: int, swaps: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.swaps = swaps
        self.candidates = owned.candidates
        self.most = int(np.floor(owned.training[:, band].sum()))
        kinds, drawn = [], []
        for number, ratio in enumerate(owned.strata.ratios):
            sides = [credits[own == number, band] for credits, own in zip(owned[:2], owned.strata, strict=True)]
            values, counts, ours = [], [], []
            for side, credits in enumerate(sides):
                found, times = np.unique(credits[credits > 0], return_counts=True)
                values.append(found)
                counts.append(times)
                ours.append(np.full(len(found), side == 0))
            every = np.concatenate(counts)
            silent = sum(map(len, sides)) - int(every.sum())
            both = _drawn(self.generator, np.array([silent, *every]), len(sides[0]), swaps)[:, 1:]
            weights = np.full(len(every), 1 + ratio)
            kinds.append(np.stack([np.concatenate(values), every, np.concatenate(ours), weights], axis=1))
            drawn.append(both)
        table = np.concatenate(kinds)
        # Training kinds first, the least hit before the others.
        order = np.lexsort((table[:, 0], table[:, 2] == 0))
        self.credit, self.count, ours_, self.weight = table[order].T
        self.ours = ours_.astype(bool)
        self.drawn = np.concatenate(drawn, axis=1)[:, order].astype(np.float64)

    def lower(self, level: float) -> float:
        """Return `lower_limit`."""
        # The test is monotone in L but for chance: bisection finds where it turns.
        taken = _last(lambda taken: self.p_more(taken) <= level / 2, self.most)
        return clopper_pearson(taken, self.candidates, level / 2).low if taken else 0.0

    def upper(self, level: float) -> float:
        """Return `upper_limit`."""
        spared = _last(lambda spared: self.p_fewer(self.most - spared) <= level / 2, self.most)
        return clopper_pearson(self.most - (spared or 0), self.candidates, level / 2).high

    def p_above(self, limit: float) -> float:
        """Return `leak_p`."""
        from scipy.stats import binom

        def by_candidate(taken: int) -> float:
            return float(binom.sf(taken - 1, self.candidates, limit)) if taken else 1.0

        # One part rises with what is taken, the other falls: they are smallest together where they cross.
        below = _last(lambda taken: self.p_more(taken) <= by_candidate(taken), self.most)
        if below is None:
            return 1.0
        after = min(below + 1, self.most)
        best = min(by_candidate(below), max(self.p_more(after), by_candidate(after)))
        return min(1.0, 2 * best)

    def p_more(self, taken: int) -> float:
        """Return the p-value of "the rest is owned by X no more than by chance"."""
        sums, seen = self._sums(taken)
        return float((1 + (sums >= seen - _SAME * (1 + abs(seen))).sum()) / (1 + self.swaps))

    def p_fewer(self, taken: int) -> float:
        """Return the p-value of "the rest is owned by X no less than by chance"."""
        sums, seen = self._sums(taken)
        return float((1 + (sums <= seen + _SAME * (1 + abs(seen))).sum()) / (1 + self.swaps))

    def _sums(self, taken: int) -> tuple[np.ndarray, float]:
        """Return the weighted credits of what is called X, by swap and as it is."""
        training = int(self.ours.sum())
        reach = np.cumsum(self.credit[:training] * self.count[:training])
        emptied = int(np.searchsorted(reach, taken, side="right"))
        left = self.weight * self.credit
        left[:emptied] = 0
        sums = self.drawn @ left
        seen = float(left[self.ours] @ self.count[self.ours])
        if emptied < training:
            # Of this kind some members are emptied, one may keep a part.
            rest = float(taken - (reach[emptied - 1] if emptied else 0))
            seen -= self.weight[emptied] * rest
            sums -= self.weight[emptied] * self._lost(emptied, rest)
        return sums, seen

    def _lost(self, kind: int, rest: float) -> np.ndarray:
        """Return what drawn groups of this kind lose where `rest` candidates are taken from its members, by swap."""
        drawn, members, credit = self.drawn[:, kind].astype(np.int64), int(self.count[kind]), float(self.credit[kind])
        whole = int(rest // credit)
        emptied = self.generator.hypergeometric(whole, members - whole, drawn) if whole else np.zeros_like(drawn)
        # One more member loses what is left, if it is among those drawn.
        other = self.generator.random(len(drawn)) * (members - whole) < drawn - emptied
        lost: np.ndarray = emptied * credit + other * (rest - whole * credit)
        return lost
