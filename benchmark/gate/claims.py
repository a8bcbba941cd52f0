"""The statistics of the gate: one claim per attack and limit, each tested after every candidate. No torch.

A claim says "this rate lies below its limit". The gate fails when the opposite is shown for any claim
(Holm-corrected over all), and passes when every claim is shown: an intersection-union test, whose error is beta
without correction (Berger 1982, Technometrics 24:295).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..contracts import Measure
from ..measures import hits
from ..measures.shard_scores import SIDES, ShardScores
from ..stats.comparison import AttackHits, excess_of, holm
from ..stats.intervals import Interval
from .policy import Limits
from .sequential import (
    WEIGHTS,
    Counts,
    bounds,
    count,
    first_at_most,
    informed_weights,
    last_at_least,
    log_capital,
    needed,
    p_above,
    p_below,
)

MEANINGS = {
    "excess": "hits on training images minus hits on held-out images",
    "group_rate": "hits on the most hit near-duplicate group",
    "raw_rate": "hits on training images",
    "baseline_margin": "excess over the baseline's excess",
}


class Matched(NamedTuple):
    """Best matches of one attack's candidates, in the order of their numbers; each column (N,)."""

    numbers: np.ndarray
    broken: np.ndarray
    """NaN or constant images; they match nothing."""
    training: np.ndarray
    """Score of the best training match."""
    groups: np.ndarray
    """Position of its duplicate group, 0 up."""
    held_out: np.ndarray
    """The same against the held-out images; NaN where there are none."""
    held_out_groups: np.ndarray


class Tested(NamedTuple):
    """What the tested candidates of one attack hit; each column (N,)."""

    numbers: np.ndarray
    training: np.ndarray
    """A training image is hit (bool)."""
    held_out: np.ndarray
    groups: np.ndarray
    held_out_groups: np.ndarray
    sizes: tuple[int, int]
    """Duplicate groups of training and held-out images."""

    @property
    def signs(self) -> np.ndarray:
        """Return z (N,): 1 for a training hit only, -1 for a held-out hit only, else 0."""
        return self.training.astype(np.int8) - self.held_out.astype(np.int8)

    def over_images(self, confidence: float) -> Interval:
        """Return the interval of the excess with images as a sample too; see `intervals.excess`."""
        training = np.bincount(self.groups[self.training], minlength=self.sizes[0])
        held_out = np.bincount(self.held_out_groups[self.held_out], minlength=self.sizes[1])
        return excess_of(AttackHits(self.training, self.held_out, training, held_out), confidence).interval


class GateClaim(NamedTuple):
    """A rate and its limit, as a mean of values in [-1, 1]: value = scale * rate."""

    attack: str
    limit_name: str
    limit: float
    counts: Counts
    scale: float = 1.0
    least: float = -1.0
    """The smallest rate there can be."""
    hypotheses: int = 1
    """How many rates "any of them" means: the duplicate groups of a group_rate."""
    weights: np.ndarray = WEIGHTS
    """How the bets on a rate below the limit are weighed."""

    @property
    def mean(self) -> float:
        """The mean of the values at the limit."""
        return self.scale * self.limit

    def p_fail(self) -> float:
        """Return the p-value of "the rate is at most the limit", Bonferroni-corrected over its hypotheses."""
        return min(1.0, self.hypotheses * self._last(p_above(self.counts, self.mean)))

    def p_pass(self) -> float:
        """Return the p-value of "the rate is at least the limit"."""
        return self._last(p_below(self.counts, self.mean, self.weights))

    def _last(self, p: np.ndarray) -> float:
        return float(p[-1]) if len(p) else 1.0


class Finding(NamedTuple):
    """What is known of one claim."""

    attack: str
    limit_name: str
    limit: float
    candidates: int
    rate: float
    low: float
    """Lower bound at alpha, over its hypotheses; it holds at every time."""
    high: float
    """Upper bound at beta; it holds at every time."""
    p_fail: float
    """Holm-adjusted over all claims."""
    p_pass: float
    after: int | None
    """After how many candidates the claim was settled."""
    needed: int | None
    """Candidates in all that would settle it, were the rates to stay; None where they never would, or it is."""


class Course(NamedTuple):
    """How a claim came about, each column (points,): the bounds are those of `Finding`, after so many candidates."""

    candidates: np.ndarray
    low: np.ndarray
    rate: np.ndarray
    high: np.ndarray


class Answer(NamedTuple):
    """What the claims say together."""

    fails: bool
    passes: bool


def matched(shard: ShardScores, measure: Measure, positions: tuple[np.ndarray, np.ndarray]) -> Matched:
    """Return a shard's best matches; `positions` has each training and each held-out image's group, 0 up."""
    columns: list[np.ndarray] = []
    for side, own in zip(SIDES, positions, strict=True):
        if len(own):
            columns += [shard.best_scores(measure, side), own[shard.best_ids(side)]]
        else:
            columns += [np.full(len(shard.candidates), np.nan), np.zeros(len(shard.candidates), dtype=np.int64)]
    return Matched(shard.candidates, ~shard.valid, *columns)


def joined(parts: Sequence[Matched]) -> Matched:
    """Return the candidates of these shards together; none where there is none."""
    empty = np.zeros(0)
    nothing = Matched(empty.astype(np.int64), empty.astype(bool), empty, empty.astype(int), empty, empty.astype(int))
    return Matched(*(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True)))


def tested(found: Matched, tau: float, sizes: tuple[int, int], measure: Measure) -> Tested:
    """Return what these candidates hit at the threshold tau."""
    ours, theirs = (hits.within(scores, tau, measure) for scores in (found.training, found.held_out))
    return Tested(found.numbers, ours, theirs, found.groups, found.held_out_groups, sizes)


def claims_of(
    attack: str, found: Tested, limits: Limits, baseline: np.ndarray | None, background: float | None
) -> list[GateClaim]:
    """Return the claims of one attack, one per limit; `baseline` is z by candidate number from 0.

    Candidates that the baseline does not have say nothing about the margin and are left out of it. `background` is
    the held-out hit rate to which the threshold was calibrated, on other candidates; it makes a pass cheaper.
    """
    claims = []
    if limits.excess is not None:
        weights = WEIGHTS if background is None else informed_weights(limits.excess, background)
        claims.append(GateClaim(attack, "excess", limits.excess, count(found.signs), weights=weights))
    if limits.raw_rate is not None:
        claims.append(GateClaim(attack, "raw_rate", limits.raw_rate, count(found.training), least=0.0))
    if limits.group_rate is not None:
        counts = _most_hit(found)
        claims.append(GateClaim(attack, "group_rate", limits.group_rate, counts, least=0.0, hypotheses=found.sizes[0]))
    if limits.baseline_margin is not None and baseline is not None:
        both = found.numbers < len(baseline)
        gaps = (found.signs[both] - baseline[found.numbers[both]]) / 2
        claims.append(GateClaim(attack, "baseline_margin", limits.baseline_margin, count(gaps), 0.5, -2.0))
    return claims


def decide(claims: Sequence[GateClaim], alpha: float, beta: float, hypotheses: int) -> Answer:
    """Hold every claim against its limit; any rejection by Holm's method begins with that of the smallest p.

    `hypotheses` counts the claims that were not tested, too, so that it does not matter which were.
    """
    if not claims:
        return Answer(False, False)
    fails = min(claim.p_fail() for claim in claims) <= alpha / hypotheses
    return Answer(fails, settled(claims, beta))


def settled(claims: Sequence[GateClaim], beta: float) -> bool:
    """Return whether every one of these claims is shown, so that more candidates would add nothing."""
    return all(claim.p_pass() <= beta for claim in claims)


def findings(claims: Sequence[GateClaim], alpha: float, beta: float, hypotheses: int) -> list[Finding]:
    """Return estimate, bounds and what would settle it, by claim."""
    untested = [1.0] * (hypotheses - len(claims))
    adjusted = holm([*(claim.p_fail() for claim in claims), *untested])[: len(claims)]
    return [_finding(claim, p, alpha / hypotheses, beta) for claim, p in zip(claims, adjusted, strict=True)]


def course(claim: GateClaim, alpha: float, beta: float, hypotheses: int, points: int = 60) -> Course:
    """Return estimate and bounds after each of at most `points` numbers of candidates; there must be candidates."""
    own = alpha / hypotheses / claim.hypotheses
    numbers = np.unique(np.geomspace(1, claim.counts.total, points).round().astype(int))
    seen = [claim.counts.until(int(n)) for n in numbers]
    ends = [bounds(counts, own, beta, claim.weights) for counts in seen]
    return Course(
        candidates=numbers,
        low=np.maximum([end.low / claim.scale for end in ends], claim.least),
        rate=np.array([counts.mean / claim.scale for counts in seen]),
        high=np.array([end.high / claim.scale for end in ends]),
    )


def _finding(claim: GateClaim, p_fail: float, alpha: float, beta: float) -> Finding:
    """Return what is known; `alpha` is that of Holm's strictest step.

    Bounds are those after the last candidate at which the claim was answered: evidence may fade again, an answer
    that was reached at a stated error does not.
    """
    limit, own = claim.mean, alpha / claim.hypotheses
    mirrored, weights = claim.counts.mirrored(), claim.weights
    above, below = log_capital(claim.counts, limit), log_capital(mirrored, -limit, weights)
    last = last_at_least(above, own) or last_at_least(below, beta)
    counts = claim.counts.until(last or claim.counts.total)
    ends = bounds(counts, own, beta, weights)
    more = needed(counts, limit, own) or needed(counts.mirrored(), -limit, beta, weights)
    return Finding(
        attack=claim.attack,
        limit_name=claim.limit_name,
        limit=claim.limit,
        candidates=counts.total,
        rate=counts.mean / claim.scale,
        low=max(ends.low / claim.scale, claim.least),
        high=ends.high / claim.scale,
        p_fail=p_fail,
        p_pass=claim.p_pass(),
        after=first_at_most(p_above(claim.counts, limit), own)
        or first_at_most(p_below(claim.counts, limit, weights), beta),
        needed=None if last else more,
    )


def _most_hit(found: Tested) -> Counts:
    """Return counts of hits and misses of whichever group has been hit most often so far.

    The capital against a group rises with its hits, so the most hit group alone decides both ways: it is the first
    to be shown above the limit and the last to be shown below.
    """
    most = np.zeros(len(found.numbers), dtype=np.int64)
    hits: dict[int, int] = {}
    for row in np.flatnonzero(found.training):
        group = int(found.groups[row])
        hits[group] = hits.get(group, 0) + 1
        most[row] = hits[group]
    most = np.maximum.accumulate(most)
    return Counts(np.array([0.0, 1.0]), np.stack([np.arange(1, len(most) + 1) - most, most]))
