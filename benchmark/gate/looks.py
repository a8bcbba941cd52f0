"""Claims about an excess, looked at after fixed numbers of candidates. No torch.

Which groups are held out is chance as well as which candidates are drawn, and no bet on one candidate after the other
carries that. So an excess is tested by label swaps, at looks that double the candidates, with alpha split over them.
That it lies below its limit is shown by the raw rate on the training images, whoever owns the candidates, which may be
looked at whenever one likes: a leak is at most that.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..stats.comparison import SWAP_SEED, AttackHits, compare, excess_of
from ..stats.owned import SWAPS, leak_p, least_groups, lower_limit
from .claims import Course, Finding, GateClaim, course, finding


class Look(NamedTuple):
    """What one look at an attack's tested candidates saw."""

    candidates: int
    p_fail: float
    """Of "at most the limit", at this look alone."""
    p_pass: float
    """Of "at least the limit", likewise; 1 where looks do not decide that."""
    low: float
    """Lower limit at the level that looks and hypotheses leave."""
    high: float
    """Upper limit, likewise; 1 where looks do not decide."""
    groups_hit: int
    least_groups: int | None


class LookedAt(NamedTuple):
    """A claim that is looked at at most `most` times; `raw` is the claim of the raw rate, where that shows it."""

    attack: str
    limit_name: str
    limit: float
    looks: tuple[Look, ...]
    most: int
    values: np.ndarray
    """What each tested candidate adds to the rate, (N,)."""
    raw: GateClaim | None
    least: float = -1.0

    @property
    def total(self) -> int:
        """Candidates that the claim is about."""
        return len(self.values)

    def p_fail(self) -> float:
        """Return the p-value of "the rate is at most the limit", corrected for all looks."""
        return min(1.0, self.most * min((look.p_fail for look in self.looks), default=1.0))

    def p_pass(self) -> float:
        """Return the p-value of "the rate is at least the limit"."""
        if self.raw is not None:
            return self.raw.p_pass()
        return min(1.0, self.most * min((look.p_pass for look in self.looks), default=1.0))

    def finding(self, p_fail: float, alpha: float, beta: float) -> Finding:
        """Return what is known; see `claims.finding`."""
        own = None if self.raw is None else finding(self.raw, 1.0, alpha, beta)
        failing = [look.candidates for look in self.looks if self.most * look.p_fail <= alpha]
        passing = [look.candidates for look in self.looks if self.most * look.p_pass <= beta]
        ends = [*failing, *([own.after] if own is not None and own.after and self.p_pass() <= beta else passing)]
        last = self.looks[-1] if self.looks else None
        told = self.p_fail() <= alpha or self.p_pass() <= beta
        return Finding(
            attack=self.attack,
            limit_name=self.limit_name,
            limit=self.limit,
            candidates=self.total,
            rate=float(self.values.mean()) if self.total else float("nan"),
            low=max((look.low for look in self.looks), default=self.least),
            high=own.high if own is not None else min((look.high for look in self.looks), default=1.0),
            p_fail=p_fail,
            p_pass=self.p_pass(),
            after=min(ends, default=None),
            needed=None if told or own is None else own.needed,
            note="" if told or last is None or (own is not None and own.needed) else _too_few(last),
        )

    def course(self, alpha: float, beta: float, hypotheses: int, points: int = 60) -> Course:
        """Return estimate and limits after each of at most `points` numbers of candidates; there must be candidates."""
        numbers = np.unique(np.geomspace(1, self.total, points).round().astype(int))
        low = np.array([max((k.low for k in self.looks if k.candidates <= n), default=self.least) for n in numbers])
        if self.raw is None:
            high = np.array([min((k.high for k in self.looks if k.candidates <= n), default=1.0) for n in numbers])
        else:
            own = course(self.raw, alpha, beta, hypotheses, points)
            high = np.interp(numbers, own.candidates, own.high)
        return Course(numbers, low, np.cumsum(self.values)[numbers - 1] / numbers, high)


def look_numbers(shard: int, most: int) -> list[int]:
    """Return after how many candidates to look: a shard, twice as many, and so on, and at the end of the budget.

    Examples:
        >>> look_numbers(256, 2000)
        [256, 512, 1024, 2000]
    """
    found = [shard]
    while 2 * found[-1] < most:
        found.append(2 * found[-1])
    return found if found[-1] >= most else [*found, most]


def excess_look(hits: AttackHits, limit: float, level: float) -> Look:
    """Look at an excess over held-out images; `level` is alpha over looks and hypotheses."""
    owned = hits.owned()
    swaps = max(SWAPS, int(20 / level))
    return Look(
        candidates=len(hits.training_hits),
        p_fail=leak_p(owned, 0, limit, SWAP_SEED, swaps),
        p_pass=1.0,
        low=lower_limit(owned, 0, level, SWAP_SEED, swaps),
        high=1.0,
        groups_hit=int((owned.training > 0).sum() + (owned.held_out > 0).sum()),
        least_groups=least_groups(owned.strata, level / 2),
    )


def margin_look(ours: AttackHits, theirs: AttackHits, limit: float, levels: tuple[float, float], aligned: bool) -> Look:
    """Look at an excess over the last release's; `levels` are alpha and beta over looks.

    Both hit the same groups, so differences are paired group by group (`stats.comparison.compare`). Where the
    baseline does not name its groups they cannot be (`aligned` is False): both excesses' intervals are added in
    quadrature (MOVER, Zou and Donner 2008, Stat. Med. 27:1693).
    """
    from scipy.stats import t

    if aligned:
        found = compare(ours, theirs)
        value, error, freedom = found.difference.value, found.standard_error, found.freedom
        errors = (error, error)
    else:
        first, second = (excess_of(hits) for hits in (ours, theirs))
        value, freedom = first.value - second.value, float("inf")
        reach = float(t.ppf(0.975, freedom))
        errors = (
            float(np.hypot(first.value - first.interval.low, second.interval.high - second.value)) / reach,
            float(np.hypot(first.interval.high - first.value, second.value - second.interval.low)) / reach,
        )
    below, above = (max(error, 1e-12) for error in errors)
    alpha, beta = levels
    return Look(
        candidates=len(ours.training_hits),
        p_fail=float(t.sf((value - limit) / below, freedom)),
        p_pass=float(t.sf((limit - value) / above, freedom)),
        low=max(-1.0, value - float(t.isf(alpha, freedom)) * below),
        high=min(1.0, value + float(t.isf(beta, freedom)) * above),
        groups_hit=0,
        least_groups=None,
    )


def due(looks: Sequence[Look], numbers: Sequence[int], tested: int, last: bool) -> bool:
    """Return whether it is time for the next look: its number is reached, or there will be no more candidates."""
    if len(looks) >= len(numbers) or (looks and looks[-1].candidates == tested):
        return False
    return tested >= numbers[len(looks)] or (last and tested > 0)


def _too_few(look: Look) -> str:
    """Say why no look could tell, where too few groups are hit for any label swap."""
    if look.least_groups is not None and look.groups_hit >= look.least_groups:
        return ""
    if look.least_groups is None and not look.groups_hit:
        return ""
    least = "no number of them is enough" if look.least_groups is None else f"{look.least_groups} are needed"
    return (
        f"{look.groups_hit} groups are hit, and {least} before this control can show a leak: use more held-out images "
        f"or a reference model"
    )
