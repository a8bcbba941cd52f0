"""The statistics of the gate: one claim per attack and limit. No torch.

Rates on training images are tested after every candidate, here; an excess at fixed looks, in `looks`. A claim says
"this rate lies below its limit". The gate fails when the opposite is shown for any claim (Holm-corrected over all), and
passes when every claim is shown: an intersection-union test, whose error is beta without correction (Berger 1982,
Technometrics 24:295).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..contracts import Measure
from ..measures import hits
from ..measures.shard_scores import SIDES, ShardScores
from ..stats.comparison import AttackHits, holm
from ..stats.owned import Strata, size_classes
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
    "excess": "candidates that training images own, less what held-out images say is chance",
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
    """What the tested candidates of one attack hit at the threshold; each column (N,)."""

    numbers: np.ndarray
    training: np.ndarray
    """A training image is hit (bool)."""
    held_out: np.ndarray
    groups: np.ndarray
    held_out_groups: np.ndarray
    owned: np.ndarray
    """Share that training images own: 1 where they are nearer, 1/2 on a tie."""
    owned_held_out: np.ndarray
    strata: Strata | None
    """Size classes of the duplicate groups; None without held-out images."""
    training_groups: int
    """Duplicate groups of training images."""

    def of(self, chosen: np.ndarray | slice) -> AttackHits:
        """Return what some candidates hit, with held-out images as the control where there are any."""
        ours, theirs = self.owned[chosen], self.owned_held_out[chosen]
        credits = np.bincount(self.groups[chosen], weights=ours, minlength=self.training_groups)
        if self.strata is None:
            return AttackHits(ours, theirs, credits, np.empty(0))
        control = np.bincount(self.held_out_groups[chosen], weights=theirs, minlength=len(self.strata.held_out))
        return AttackHits(ours, theirs, credits, control, strata=self.strata)


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
    def total(self) -> int:
        """Candidates that the claim is about."""
        return self.counts.total

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

    def finding(self, p_fail: float, alpha: float, beta: float) -> "Finding":
        """Return what is known; see `finding`."""
        return finding(self, p_fail, alpha, beta)

    def course(self, alpha: float, beta: float, hypotheses: int, points: int = 60) -> "Course":
        """Return how the claim came about; see `course`."""
        return course(self, alpha, beta, hypotheses, points)

    def _last(self, p: np.ndarray) -> float:
        return float(p[-1]) if len(p) else 1.0


class AnyClaim(Protocol):
    """A claim of either kind: tested after every candidate, or at looks."""

    @property
    def attack(self) -> str:
        """Name of the attack."""

    @property
    def limit_name(self) -> str:
        """Which limit of the policy."""

    @property
    def limit(self) -> float:
        """The limit itself."""

    @property
    def least(self) -> float:
        """The smallest rate there can be."""

    @property
    def total(self) -> int:
        """Candidates that the claim is about."""

    def p_fail(self) -> float:
        """Return the p-value of "the rate is at most the limit"."""

    def p_pass(self) -> float:
        """Return the p-value of "the rate is at least the limit"."""

    def finding(self, p_fail: float, alpha: float, beta: float) -> "Finding":
        """Return what is known, with Holm's p and alpha at Holm's strictest step."""

    def course(self, alpha: float, beta: float, hypotheses: int, points: int = 60) -> "Course":
        """Return how the claim came about."""


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
    note: str = ""
    """Why it could not be settled, where more candidates are no help."""


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


class Sides(NamedTuple):
    """How references take part: each one's duplicate group, 0 up among those that do, which are left out, and classes.

    `positions` and `left_out` hold an array per side, training first; `strata` is None without held-out images.
    """

    positions: tuple[np.ndarray, np.ndarray]
    left_out: tuple[np.ndarray, np.ndarray]
    strata: Strata | None
    groups: tuple[int, int]
    """Duplicate groups that take part, by side."""

    @classmethod
    def of(cls, groups: tuple[np.ndarray, np.ndarray], left_out: tuple[np.ndarray, np.ndarray]) -> "Sides":
        """Take each reference's group, and which references lie in groups of both sides, by side."""
        positions, images = [], []
        for own, gone in zip(groups, left_out, strict=True):
            names, place = np.unique(own[~gone], return_inverse=True)
            whole = np.zeros(len(own), dtype=np.int64)
            whole[~gone] = place
            positions.append(whole)
            images.append(np.bincount(place, minlength=len(names)))
        strata = size_classes(images[0], images[1]) if len(images[1]) and len(images[0]) else None
        return cls((positions[0], positions[1]), left_out, strata, (len(images[0]), len(images[1])))


def matched(shard: ShardScores, measure: Measure, sides: Sides) -> Matched:
    """Return a shard's best matches among the references that take part."""
    columns: list[np.ndarray] = []
    for side, own, gone in zip(SIDES, sides.positions, sides.left_out, strict=True):
        if len(own):
            out = gone if gone.any() else None
            columns += [shard.best_scores(measure, side, out), own[shard.best_ids(side, out)]]
        else:
            columns += [np.full(len(shard.candidates), np.nan), np.zeros(len(shard.candidates), dtype=np.int64)]
    return Matched(shard.candidates, ~shard.valid, *columns)


def joined(parts: Sequence[Matched]) -> Matched:
    """Return the candidates of these shards together; none where there is none."""
    empty = np.zeros(0)
    nothing = Matched(empty.astype(np.int64), empty.astype(bool), empty, empty.astype(int), empty, empty.astype(int))
    return Matched(*(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True)))


def tested(found: Matched, tau: float, sides: Sides, measure: Measure) -> Tested:
    """Return what these candidates hit at the threshold tau."""
    ours, theirs = (hits.within(scores, tau, measure) for scores in (found.training, found.held_out))
    shares = hits.owned_shares(found.training, found.held_out, measure)
    return Tested(
        found.numbers,
        ours,
        theirs,
        found.groups,
        found.held_out_groups,
        owned=ours * shares[0],
        owned_held_out=theirs * shares[1],
        strata=sides.strata,
        training_groups=sides.groups[0],
    )


def raw_claim(attack: str, name: str, limit: float, found: Tested, background: float | None) -> GateClaim:
    """Return the claim that the rate of hits on training images, whoever owns them, lies below a limit.

    `background` is the chance rate to which the threshold was calibrated, on other candidates; it makes a pass cheaper.
    """
    weights = WEIGHTS if background is None else informed_weights(limit, background)
    return GateClaim(attack, name, limit, count(found.training), least=0.0, weights=weights)


def group_claim(attack: str, limit: float, found: Tested) -> GateClaim:
    """Return the claim that no duplicate group is hit more often than a limit."""
    return GateClaim(attack, "group_rate", limit, _most_hit(found), least=0.0, hypotheses=found.training_groups)


def decide(claims: Sequence[AnyClaim], alpha: float, beta: float, hypotheses: int) -> Answer:
    """Hold every claim against its limit; any rejection by Holm's method begins with that of the smallest p.

    `hypotheses` counts the claims that were not tested, too, so that it does not matter which were.
    """
    if not claims:
        return Answer(False, False)
    fails = min(claim.p_fail() for claim in claims) <= alpha / hypotheses
    return Answer(fails, settled(claims, beta))


def settled(claims: Sequence[AnyClaim], beta: float) -> bool:
    """Return whether every one of these claims is shown, so that more candidates would add nothing."""
    return all(claim.p_pass() <= beta for claim in claims)


def findings(claims: Sequence[AnyClaim], alpha: float, beta: float, hypotheses: int) -> list[Finding]:
    """Return estimate, bounds and what would settle it, by claim."""
    untested = [1.0] * (hypotheses - len(claims))
    adjusted = holm([*(claim.p_fail() for claim in claims), *untested])[: len(claims)]
    return [claim.finding(p, alpha / hypotheses, beta) for claim, p in zip(claims, adjusted, strict=True)]


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


def finding(claim: GateClaim, p_fail: float, alpha: float, beta: float) -> Finding:
    """Return what is known of a rate; `alpha` is that of Holm's strictest step.

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
