"""Two attacks on one pair, and the label-swap tests of one. Pure functions of hits and credits, no torch.

The attacks start from the same noise, candidate by candidate, and are scored against the same duplicate
groups, so both kinds of sampling unit are paired; every variance here is one of differences.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import BadInput
from .intervals import Excess, Interval, excess, group_reaches, group_terms, t_quantile

POWER = 0.8
"""Chance with which the smallest difference of a verdict would have been seen."""

SWAPS = 9_999
"""Random label swaps; the smallest p-value is 1 / (SWAPS + 1)."""


class AttackHits(NamedTuple):
    """What one attack hit, and what its control hit.

    `*_hits` (N,) bool by candidate, `*_credits` (groups,) candidates whose best match lies in the duplicate group
    (zeros too), each in the same order for both attacks. The control is the same candidates on the held-out
    images, or, with `same_groups`, the same attack's candidates of a reference model on the training images.
    Without a control no candidate hits it and `control_credits` is empty; every excess is then the AMS itself.
    """

    training_hits: np.ndarray
    control_hits: np.ndarray
    training_credits: np.ndarray
    control_credits: np.ndarray
    same_groups: bool = False

    @property
    def controlled(self) -> bool:
        """Whether there is a control."""
        return len(self.control_credits) > 0

    def terms(self) -> list[np.ndarray]:
        """Return the independent sums over groups; see `intervals.group_terms`."""
        return group_terms(self.training_credits, self.control_credits, same_groups=self.same_groups)


class Ratio(NamedTuple):
    """A ratio of two excess rates; None where refused, and then `refused` says why in a sentence."""

    value: float | None
    interval: Interval | None
    refused: str


class Comparison(NamedTuple):
    """The first attack against the second. Rates lie in [-1, 1], so their difference lies in [-2, 2].

    `controlled` says whether the rates are excesses; without a control they are AMS.
    `p` is two-sided and uncorrected; `standard_error` and `freedom` are of the difference, for its power.
    """

    first: Excess
    second: Excess
    difference: Excess
    ratio: Ratio
    p: float
    standard_error: float
    freedom: float
    controlled: bool = True


class Verdict(NamedTuple):
    """What may be said: `words` is "finds more", "finds fewer" or "no difference seen".

    Of raw rates, without a control, it is "hits more", "hits fewer" or "no difference seen", "(raw rate)" added.
    `p` is Holm's adjusted p-value; `smallest` is the smallest difference of excess rates that this run would
    have seen with a chance of 80 %, were this comparison held to the strictest of Holm's levels.
    """

    words: str
    p: float
    smallest: float


class LabelSwap(NamedTuple):
    """p-values of the label-swap test: of more training hits than held-out ones, and of any imbalance."""

    one_sided: float
    two_sided: float
    swaps: int


class _Spread(NamedTuple):
    """Covariance (2, 2) of both excess rates under one kind of sampling unit; t quantiles have `freedom`."""

    covariance: np.ndarray
    freedom: float


def pooled(found: Sequence[AttackHits]) -> AttackHits:
    """Return the hits of several runs of one attack together: candidates one after the other, credits added up.

    Args:
        found: One entry per run (seed), at least one, all with the same groups and the same kind of control.

    Examples:
        >>> import numpy as np
        >>> run = AttackHits(np.array([True, False]), np.array([False, False]), np.array([1, 0]), np.array([0, 0]))
        >>> both = pooled([run, run])
        >>> both.training_hits, both.training_credits
        (array([ True, False,  True, False]), array([2, 0]))
    """
    return AttackHits(
        np.concatenate([hits.training_hits for hits in found]),
        np.concatenate([hits.control_hits for hits in found]),
        np.sum([hits.training_credits for hits in found], axis=0),
        np.sum([hits.control_credits for hits in found], axis=0),
        same_groups=found[0].same_groups,
    )


def excess_of(attack: AttackHits, confidence: float = 0.95) -> Excess:
    """Return the excess AMS of one attack; see `intervals.excess`.

    Args:
        attack: Hits and credits of the attack and of its control.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Examples:
        60 of 400 candidates hit, six in each of ten groups, and none hits the control.

        >>> import numpy as np
        >>> hits, none = np.arange(400) < 60, np.zeros(400, dtype=bool)
        >>> found = excess_of(AttackHits(hits, none, np.full(10, 6), np.zeros(10, dtype=int)))
        >>> f"{found.value:.2f} [{found.interval.low:.3f}, {found.interval.high:.3f}]"
        '0.15 [0.118, 0.188]'
    """
    ours, theirs = attack.training_hits.astype(bool), attack.control_hits.astype(bool)
    return excess(
        attack.training_credits,
        attack.control_credits,
        int((ours & ~theirs).sum()),
        int((theirs & ~ours).sum()),
        len(ours),
        confidence,
        same_groups=attack.same_groups,
    )


def compare(first: AttackHits, second: AttackHits, confidence: float = 0.95) -> Comparison:
    """Return difference and ratio of the excess AMS of two attacks, with candidates and groups as sampling units.

    Where the attacks have no control, of their AMS.

    As in `intervals.excess`, each kind of unit gives an interval and the result is their envelope: by groups a
    t interval of per-group differences; by candidates the adjusted Wald interval of Bonett and Price (2012,
    J. Educ. Behav. Stat. 37:479), which adds one candidate on either side. `p` is the larger of both p-values,
    so it is below alpha exactly where the envelope excludes 0. The ratio's intervals are Fieller's (1954,
    J. R. Stat. Soc. B 16:175). Where a few groups make most of the difference, its end away from 0 is moved out
    (`intervals.group_reaches`), which moves no p. The envelope and the extension of Bonett and Price to differences of
    differences are ours and rest on the simulation in tests/stats/test_comparison.py.

    The ratio is refused where the lower bound of the second attack's excess reaches 0.

    Args:
        first: What the first attack and its control hit.
        second: The same of the second attack, on the same candidates and groups, in the same order.
        confidence: Coverage of the two-sided intervals, between 0 and 1.

    Raises:
        BadInput: the attacks have different candidates or groups, or credits that do not add up to the hits.

    Examples:
        >>> import numpy as np
        >>> none, nowhere = np.zeros(400, dtype=bool), np.zeros(10, dtype=int)
        >>> more = AttackHits(np.arange(400) < 60, none, np.full(10, 6), nowhere)
        >>> fewer = AttackHits(np.arange(400) < 20, none, np.full(10, 2), nowhere)
        >>> found = compare(more, fewer)
        >>> f"{found.difference.value:.2f} [{found.difference.interval.low:.3f}, {found.difference.interval.high:.3f}]"
        '0.10 [0.069, 0.130]'
        >>> round(found.ratio.value, 2)
        3.0
    """
    _check(first, second)
    n = len(first.training_hits)
    alone = [excess_of(attack, confidence) for attack in (first, second)]
    values = np.array([found.value for found in alone])
    spreads = [_by_candidate(first, second)]
    if min(len(term) for term in first.terms()) > 1:
        spreads.append(_by_group(first, second))
    contrast = np.array([1.0, -1.0])
    difference = float(contrast @ values)
    # One candidate on either side moves the difference towards 0 and widens it.
    centre = difference * n / (n + 2)
    errors = [float(contrast @ spread.covariance @ contrast) ** 0.5 for spread in spreads]
    errors[0] = _adjusted_error(first, second, centre)
    ends, chances = [], []
    for middle, error, spread in zip((centre, difference), errors, spreads, strict=False):
        reach = t_quantile(confidence, spread.freedom) * error
        ends.append(Interval(middle - reach, middle + reach))
        chances.append(_two_sided(middle, error, spread.freedom))
    if len(spreads) > 1:
        gaps = [ours - theirs for ours, theirs in zip(first.terms(), second.terms(), strict=True)]
        below, above = (reach / n for reach in group_reaches(gaps, confidence))
        ends.append(Interval(difference - below, difference + above))
    widest = int(np.argmax(errors))
    return Comparison(
        first=alone[0],
        second=alone[1],
        difference=Excess(difference, _envelope(ends)),
        ratio=_ratio(values, alone[1], spreads, confidence, first.controlled),
        p=max(chances),
        standard_error=errors[widest],
        freedom=spreads[widest].freedom,
        controlled=first.controlled,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the same order (Holm 1979, Scand. J. Stat. 6:65).

    Args:
        p_values: Any number of p-values, in [0, 1]; none gives none.

    Examples:
        The smallest times 3, the next times 2; the last may not be smaller than the one before.

        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    # statsmodels has the same, but collects all garbage of the process in each call: 0.2 s where torch is loaded.
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [float(value) for value in np.minimum(adjusted, 1)[np.argsort(order)]]


def verdicts(comparisons: Sequence[Comparison], confidence: float = 0.95) -> list[Verdict]:
    """Return the verdict of each comparison, Holm-corrected over all of them.

    `smallest` takes the level alpha / m of Holm's first step, which no comparison can fall below.

    Args:
        comparisons: Those that are reported together, all with the confidence that is given here.
        confidence: 1 - alpha; a difference is claimed where Holm's adjusted p lies below alpha.

    Examples:
        >>> import numpy as np
        >>> none, nowhere = np.zeros(400, dtype=bool), np.zeros(10, dtype=int)
        >>> more = AttackHits(np.arange(400) < 60, none, np.full(10, 6), nowhere)
        >>> fewer = AttackHits(np.arange(400) < 20, none, np.full(10, 2), nowhere)
        >>> [found.words for found in verdicts([compare(more, fewer), compare(more, more)])]
        ['finds more', 'no difference seen']
    """
    from scipy.stats import t

    adjusted = holm([found.p for found in comparisons])
    found = []
    for comparison, p in zip(comparisons, adjusted, strict=True):
        strict = 1 - (1 - confidence) / len(comparisons)
        reach = t_quantile(strict, comparison.freedom) + float(t.ppf(POWER, comparison.freedom))
        verb, raw = ("finds", "") if comparison.controlled else ("hits", " (raw rate)")
        seen = f"{verb} {'more' if comparison.difference.value > 0 else 'fewer'}"
        words = (seen if p < 1 - confidence else "no difference seen") + raw
        found.append(Verdict(words, p, reach * comparison.standard_error))
    return found


def label_swap(training_credits: np.ndarray, held_out_credits: np.ndarray, seed: int, swaps: int = SWAPS) -> LabelSwap:
    """Test whether duplicate groups called "training" are hit more than those called "held-out".

    Under no memorization the split of groups into X and H is a label without effect, so swapping the labels at
    random, as many groups on each side as there are, draws the hits from their null distribution given the
    credits (Fisher's permutation test; the +1 of Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39).
    Groups of equal credit are alike: how many of each credit land in X is multivariate hypergeometric, so a swap
    costs as many draws as there are different credits, however many groups there are. The statistic is the sum of
    training hits, which orders swaps as the excess does; the two-sided p compares distances from its mean.

    Args:
        training_credits: (groups,) hits by near-duplicate group of X, whole numbers of at least 0, zeros too.
        held_out_credits: (groups,) the same of H.
        seed: The same seed gives the same p.
        swaps: Random swaps; no p is smaller than 1 / (swaps + 1).

    Raises:
        BadInput: credits are negative or fractional, or a side has no group.

    Examples:
        Three groups of X were hit, none of H. Of the 70 ways to call 4 of 8 groups "training", 5 have as many hits.

        >>> import numpy as np
        >>> found = label_swap(np.array([2, 1, 1, 0]), np.array([0, 0, 0, 0]), seed=0)
        >>> round(found.one_sided, 2)  # 5 / 70
        0.07
    """
    sides = [_whole(side) for side in (training_credits, held_out_credits)]
    every = np.concatenate(sides)
    groups = len(sides[0])
    # Descending, so that the groups without a credit come last: their number needs no draw.
    credits, sizes = (column[::-1] for column in np.unique(every, return_counts=True))
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, 4_000_000 // len(credits))
    sums = np.concatenate(
        [
            generator.multivariate_hypergeometric(sizes, groups, size=min(rows, swaps - start), method="marginals")
            @ credits
            for start in range(0, swaps, rows)
        ]
    )
    seen, total = int(sides[0].sum()), int(every.sum())
    # Whole numbers, so that ties are ties: distances from the mean times the number of groups.
    away = np.abs(sums * len(every) - total * groups)
    return LabelSwap(
        one_sided=float((1 + (sums >= seen).sum()) / (1 + swaps)),
        two_sided=float((1 + (away >= abs(seen * len(every) - total * groups)).sum()) / (1 + swaps)),
        swaps=swaps,
    )


def sign_flip(differences: np.ndarray, seed: int, swaps: int = SWAPS) -> LabelSwap:
    """Test whether the first of two models hits duplicate groups more often than the second.

    If the groups mean nothing to either model, the labels "victim" and "reference" may be swapped in each group, so its
    difference has a random sign (Fisher's randomisation test for pairs; the +1 as in `label_swap`). Groups of the same
    absolute difference are alike: how many of them are positive is binomial.

    Args:
        differences: (groups,) the first model's credits minus the second's, whole numbers, zeros too.
        seed: The same seed gives the same p.
        swaps: Random swaps; no p is smaller than 1 / (swaps + 1).

    Raises:
        BadInput: a difference is fractional, or there is no group.

    Examples:
        Three groups in favour of the first model: 1 of 8 ways to turn the signs has as many.

        >>> import numpy as np
        >>> found = sign_flip(np.array([1, 1, 1, 0]), seed=0)
        >>> round(found.one_sided, 1), round(found.two_sided, 1)  # 1 / 8, 2 / 8
        (0.1, 0.2)
    """
    gaps = np.asarray(differences)
    if gaps.ndim != 1 or not len(gaps) or not np.all(gaps == np.floor(gaps)):
        raise BadInput("differences of credits are one whole number per duplicate group, and there is a group")
    sizes, counts = np.unique(np.abs(gaps[gaps != 0]).astype(np.int64), return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = (2 * generator.binomial(counts, 0.5, size=(swaps, len(counts))) - counts) @ sizes
    seen = int(gaps.sum())
    return LabelSwap(
        one_sided=float((1 + (sums >= seen).sum()) / (1 + swaps)),
        two_sided=float((1 + (np.abs(sums) >= abs(seen)).sum()) / (1 + swaps)),
        swaps=swaps,
    )


def _check(first: AttackHits, second: AttackHits) -> None:
    if first.same_groups != second.same_groups:
        raise BadInput("paired attacks need the same kind of control")
    for name, ours, theirs in zip(AttackHits._fields[:4], first[:4], second[:4], strict=True):
        if ours.shape != theirs.shape or ours.ndim != 1 or not (len(ours) or name == "control_credits"):
            raise BadInput(
                f"paired attacks need the same candidates and groups: {name} has {len(ours)} entries and {len(theirs)}"
            )
    for attack in (first, second):
        if len(attack.training_hits) != len(attack.control_hits):
            raise BadInput(
                f"each candidate is matched on both sides, got {len(attack.training_hits)} training hits and "
                f"{len(attack.control_hits)} control hits"
            )
        for hits, credits in (attack[:4:2], attack[1:4:2]):
            if int(hits.sum()) != int(credits.sum()):
                raise BadInput(f"{int(hits.sum())} candidates hit, but the groups' credits add up to {credits.sum()}")


def _signs(attack: AttackHits) -> np.ndarray:
    """Return (N,) 1 for a training hit only, -1 for a control hit only, else 0."""
    signs: np.ndarray = attack.training_hits.astype(np.int8) - attack.control_hits.astype(np.int8)
    return signs


def _by_candidate(first: AttackHits, second: AttackHits) -> _Spread:
    """Return the spread with candidates as units, with one on either side of 0 added to both attacks."""
    signs = np.stack([_signs(first), _signs(second)]).astype(np.float64)
    n = signs.shape[1]
    mean = signs.sum(axis=1) / (n + 2)
    second_moments = (signs @ signs.T + 2 * np.eye(2)) / (n + 2)
    return _Spread((second_moments - np.outer(mean, mean)) / (n + 2), np.inf)


def _adjusted_error(first: AttackHits, second: AttackHits, centre: float) -> float:
    gaps = _signs(first) - _signs(second)
    n = len(gaps) + 2
    return math.sqrt(((int((gaps**2).sum(dtype=np.int64)) + 2) / n - centre**2) / n)


def _by_group(first: AttackHits, second: AttackHits) -> _Spread:
    """Return the spread with duplicate groups as units: sums over groups, paired by group."""
    covariance = np.zeros((2, 2))
    terms = list(zip(first.terms(), second.terms(), strict=True))
    for both in terms:
        covariance += len(both[0]) * np.cov(np.stack(both).astype(np.float64))
    n = len(first.training_hits)
    return _Spread(covariance / n**2, min(len(ours) for ours, _ in terms) - 1)


def _two_sided(value: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    if not error:
        return 0.0 if value else 1.0
    return float(2 * t.sf(abs(value) / error, freedom))


def _envelope(ends: Sequence[Interval]) -> Interval:
    return Interval(float(min(end.low for end in ends)), float(max(end.high for end in ends)))


def _ratio(
    values: np.ndarray, denominator: Excess, spreads: Sequence[_Spread], confidence: float, controlled: bool
) -> Ratio:
    ends = [_fieller(values, spread, confidence) for spread in spreads]
    what = "excess" if controlled else "AMS"
    if denominator.interval.low <= 0 or any(end is None for end in ends):
        return Ratio(
            None,
            None,
            f"no ratio: the second attack's {what} of {denominator.value:.4%} has a lower bound of "
            f"{min(denominator.interval.low, 0.0):.4%}, which reaches 0",
        )
    return Ratio(float(values[0] / values[1]), _envelope([end for end in ends if end is not None]), "")


def _fieller(values: np.ndarray, spread: _Spread, confidence: float) -> Interval | None:
    """Return all r at which first - r second does not differ from 0, or None where they are no interval."""
    square = np.outer(values, values) - t_quantile(confidence, spread.freedom) ** 2 * spread.covariance
    if square[1, 1] <= 0:
        return None
    root = max(0.0, square[0, 1] ** 2 - square[0, 0] * square[1, 1]) ** 0.5
    return Interval(float((square[0, 1] - root) / square[1, 1]), float((square[0, 1] + root) / square[1, 1]))


def _whole(credits: np.ndarray) -> np.ndarray:
    found = np.asarray(credits)
    if found.ndim != 1 or not len(found) or not np.all(found == np.floor(found)) or found.min() < 0:
        raise BadInput("credits are one whole number of at least 0 per duplicate group, and each side has a group")
    return found.astype(np.int64)
