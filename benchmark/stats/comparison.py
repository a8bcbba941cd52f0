"""An attack's excess, two attacks on one pair. Pure functions of hits and credits, no torch.

The attacks start from the same noise, candidate by candidate, and are scored against the same duplicate
groups, so both kinds of sampling unit are paired; every variance here is one of differences.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import BadInput
from .intervals import Excess, Interval, excess, group_reaches, group_terms, t_quantile
from .owned import SWAPS, Owned, Strata, SwapTest, excess_interval, excess_shares, swap_test

POWER = 0.8
"""Chance with which the smallest difference of a verdict would have been seen."""

SWAP_SEED = 0
"""Draws of the label swaps."""

INTERVAL_SWAPS = 1_999
"""Label swaps for the ends of an interval, whose levels are no smaller than some thousandths."""


class AttackHits(NamedTuple):
    """What one attack hit, and what its control hit, in one band.

    `*_hits` (N,) by candidate and `*_credits` (groups,) by duplicate group, zeros too, each in the same order for all
    attacks that are compared. The control is one of three:

    - Held-out images. A candidate is owned by its nearest group of X and H together: its share is 1 on that side, on a
      tie 1/2 on either (`owned`). Each share of H counts as many times as there are groups of X for one of H, class
      of sizes by class (`strata`; all groups are one class without it).
    - With `same_groups`, the same attack's candidates of a reference model, hits (bool) on the training images.
    - None: no candidate hits it and `control_credits` is empty; every excess is then the AMS itself.
    """

    training_hits: np.ndarray
    control_hits: np.ndarray
    training_credits: np.ndarray
    control_credits: np.ndarray
    same_groups: bool = False
    strata: Strata | None = None

    @property
    def controlled(self) -> bool:
        """Whether there is a control."""
        return len(self.control_credits) > 0

    @property
    def weights(self) -> np.ndarray:
        """How often a hit of each control group counts, (groups,)."""
        if self.same_groups or not self.controlled:
            return np.ones(len(self.control_credits))
        strata = self._strata()
        found: np.ndarray = strata.ratios[strata.held_out]
        return found

    @property
    def values(self) -> np.ndarray:
        """What each candidate adds to the excess, (N,): its mean is the excess.

        Which class a candidate's group is of is not kept by candidate, so each has the mean weight of its side.
        """
        total = self.control_credits.sum()
        weight = self.weights @ self.control_credits / total if total else 1.0
        return self.training_hits.astype(np.float64) - weight * self.control_hits

    def terms(self) -> list[np.ndarray]:
        """Return the independent sums over groups; see `intervals.group_terms`."""
        weighted = self.weights * self.control_credits
        return group_terms(self.training_credits, weighted, same_groups=self.same_groups)

    def owned(self) -> Owned:
        """Return the shares that groups of X and of H own; the control is held-out images."""
        return Owned(
            self.training_credits[:, None], self.control_credits[:, None], self._strata(), len(self.training_hits)
        )

    def _strata(self) -> Strata:
        if self.strata is not None:
            return self.strata
        return Strata(*(np.zeros(len(side), dtype=np.int64) for side in (self.training_credits, self.control_credits)))


class Ratio(NamedTuple):
    """A ratio of two excess rates; None where refused, and then `refused` says why in a sentence."""

    value: float | None
    interval: Interval | None
    refused: str


class Comparison(NamedTuple):
    """The first attack against the second. Rates lie in [-1, 1], so their difference lies in [-2, 2].

    `first` and `second` are the two rates; `controlled` says whether they are excesses; without a control they are AMS.
    `p` is two-sided and uncorrected; `standard_error` and `freedom` are of the difference, for its power.
    """

    first: float
    second: float
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
        strata=found[0].strata,
    )


def excess_of(attack: AttackHits, confidence: float = 0.95, swaps: int = INTERVAL_SWAPS) -> Excess:
    """Return the excess of one attack, with its limits.

    Over held-out images it is `owned.excess_shares`, with the limits of `owned.excess_interval`; over a reference
    model, and without a control, see `intervals.excess`.

    Args:
        attack: Hits and credits of the attack and of its control.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        swaps: Random label swaps, where held-out images are the control.

    Examples:
        60 of 400 candidates are owned by X, six by each of ten groups of 100, and none by one of the 100 groups of H.

        >>> import numpy as np
        >>> hits, none = np.arange(400) < 60, np.zeros(400, dtype=bool)
        >>> found = excess_of(AttackHits(hits, none, np.repeat([6, 0], [10, 90]), np.zeros(100, dtype=int)))
        >>> f"{found.value:.2f} [{found.interval.low:.3f}, {found.interval.high:.3f}]"
        '0.15 [0.034, 0.195]'
    """
    if attack.controlled and not attack.same_groups:
        owned = attack.owned()
        return Excess(float(excess_shares(owned)[0]), excess_interval(owned, 0, confidence, SWAP_SEED, swaps))
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


def no_leak_test(bands: Sequence[AttackHits], swaps: int = SWAPS) -> SwapTest:
    """Test one attack against "no leak" in several bands together, by the test that fits its control.

    Over held-out images that of `owned.swap_test`. Over a reference model, labels "victim" and "reference" may be
    swapped in each group if the groups mean nothing to either, so each group's difference has a random sign, the same
    in all bands (Fisher's randomisation test for pairs).

    Args:
        bands: What the attack hit in each band, all with the same groups and the same control; there is a control.
        swaps: Random swaps; no p is smaller than 1 / (swaps + 1).

    Returns:
        One-sided p-values in (0, 1], (bands,) each.

    Examples:
        Of three groups of 4 + 4 that own a candidate all lie in X: 5 of 70 ways to divide them have as many.

        >>> import numpy as np
        >>> hits = AttackHits(np.ones(3), np.zeros(3), np.array([1, 1, 1, 0]), np.zeros(4))
        >>> no_leak_test([hits]).family.round(2)
        array([0.07])
    """
    if bands[0].same_groups:
        gaps = np.stack([hits.training_credits - hits.control_credits for hits in bands], axis=1)
        return _flips(gaps.astype(np.float64), swaps)
    every = [hits.owned() for hits in bands]
    together = Owned(
        np.concatenate([owned.training for owned in every], axis=1),
        np.concatenate([owned.held_out for owned in every], axis=1),
        every[0].strata,
        every[0].candidates,
    )
    return swap_test(together, SWAP_SEED, swaps)


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

    The ratio is refused where Fieller's set is no interval, as where the second attack's excess may be 0.

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
    values = np.array([float(sum(term.sum() for term in attack.terms())) / n for attack in (first, second)])
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
        first=float(values[0]),
        second=float(values[1]),
        difference=Excess(difference, _envelope(ends)),
        ratio=_ratio(values, spreads, confidence, first.controlled),
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


def _flips(gaps: np.ndarray, swaps: int) -> SwapTest:
    """Return the p-values of differences by group and band, (groups, bands), under random signs of the groups."""
    rows, counts = np.unique(gaps[gaps.any(1)], axis=0, return_counts=True)
    # A row and its negative are alike up to the sign, which is drawn anyway; those alike share one binomial draw.
    positive = np.random.Generator(np.random.PCG64(SWAP_SEED)).binomial(counts, 0.5, size=(swaps, len(counts)))
    deviation = np.sqrt((gaps**2).sum(0))
    silent = deviation == 0
    scale = np.where(silent, 1.0, deviation)
    sums, seen = (2 * positive - counts) @ rows / scale, gaps.sum(0) / scale
    slack = 1e-9 * (1 + np.abs(seen))
    bands = (1 + (sums >= seen - slack).sum(0)) / (1 + swaps)
    largest = sums.max(axis=1, initial=-np.inf)[:, None]
    family = (1 + (largest >= seen - slack).sum(0)) / (1 + swaps)
    return SwapTest(bands, np.where(silent, 1.0, family))


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
            if float(hits.sum()) != float(credits.sum()):
                raise BadInput(f"{hits.sum():g} candidates hit, but the groups' credits add up to {credits.sum():g}")


def _pseudo(*attacks: AttackHits) -> float:
    """Return the size of what Bonett and Price add on either side of 0: the largest that a candidate may count."""
    return max(1.0, *(float(attack.weights.max(initial=1.0)) for attack in attacks))


def _by_candidate(first: AttackHits, second: AttackHits) -> _Spread:
    """Return the spread with candidates as units, with one on either side of 0 added to both attacks."""
    values = np.stack([first.values, second.values])
    n = values.shape[1]
    mean = values.sum(axis=1) / (n + 2)
    second_moments = (values @ values.T + 2 * _pseudo(first, second) ** 2 * np.eye(2)) / (n + 2)
    return _Spread((second_moments - np.outer(mean, mean)) / (n + 2), np.inf)


def _adjusted_error(first: AttackHits, second: AttackHits, centre: float) -> float:
    gaps = first.values - second.values
    n = len(gaps) + 2
    return math.sqrt(((float(gaps @ gaps) + 2 * _pseudo(first, second) ** 2) / n - centre**2) / n)


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


def _ratio(values: np.ndarray, spreads: Sequence[_Spread], confidence: float, controlled: bool) -> Ratio:
    ends = [_fieller(values, spread, confidence) for spread in spreads]
    if values[1] <= 0 or any(end is None for end in ends):
        what = "excess" if controlled else "AMS"
        return Ratio(None, None, f"no ratio: the second attack's {what} of {values[1]:.4%} may be 0")
    return Ratio(float(values[0] / values[1]), _envelope([end for end in ends if end is not None]), "")


def _fieller(values: np.ndarray, spread: _Spread, confidence: float) -> Interval | None:
    """Return all r at which first - r second does not differ from 0, or None where they are no interval."""
    square = np.outer(values, values) - t_quantile(confidence, spread.freedom) ** 2 * spread.covariance
    if square[1, 1] <= 0:
        return None
    root = max(0.0, square[0, 1] ** 2 - square[0, 0] * square[1, 1]) ** 0.5
    return Interval(float((square[0, 1] - root) / square[1, 1]), float((square[0, 1] + root) / square[1, 1]))
