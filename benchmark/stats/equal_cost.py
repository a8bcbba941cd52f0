"""What each attack finds at equal effort: as many denoiser calls, or as many denoiser-equivalents.

The budgets are the total costs of the run's own attacks. An attack first pays for its `prepare`; what is left buys
candidates at its own price. Under denoiser-equivalents the synthetic images that it made for itself count as candidates
too (they are plain samples and were paid for); under denoiser calls the candidates alone count.

Distinct groups at n of N candidates are rarefied, beyond N they are extrapolated, as in `richness`, among the
groups that the synthetic images have not found. No torch.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..errors import TooFew
from ..protocol import CONFIDENCE
from .intervals import Interval, normal_quantile, wilson
from .richness import MIN_SEEN, Distinct, Kind, at_rate, found_within, good_toulmin, rarefaction

ROUNDING = 1 + 1e-9
"""An attack's own total buys what it made, whatever the sums of its prices were rounded to."""

NOTHING = Distinct(0.0, Interval(0.0, 0.0))

Currency = Literal["denoiser calls", "denoiser-equivalents"]


class Finds(NamedTuple):
    """What some images hit: how many images there are, hits on either side, and finds by duplicate group of X.

    `held_out` is None without held-out images. `groups` (groups,) counts the images whose best match lies in the
    group; they add up to `training`.
    """

    images: int
    training: int
    held_out: int | None
    groups: np.ndarray


class Spending(NamedTuple):
    """An attack's candidates and synthetic images, and what they cost in one currency.

    `prepare` holds the synthetic images' price, which is `a_synthetic` each. Where `counts_synthetic` is not set
    they are paid for and nothing more.
    """

    candidates: Finds
    synthetic: Finds
    prepare: float
    generate: float
    a_synthetic: float
    counts_synthetic: bool

    @property
    def total(self) -> float:
        """The cost of the whole attack."""
        return self.prepare + self.generate


class AtBudget(NamedTuple):
    """What an attack finds for a budget: the images that it buys, expected hits, and distinct groups of X.

    `groups` is None where the extrapolation was refused, and `refused` says why; it is empty otherwise.
    """

    candidates: int
    synthetic: int
    training: Distinct
    held_out: Distinct | None
    groups: Distinct | None
    kind: Kind
    refused: str


def at_budget(attack: Spending, budget: float) -> AtBudget:
    """Return what `attack` finds for `budget`, in the currency of its prices.

    A budget below the cost of `prepare` buys synthetic images alone, as far as they count. Expected hits are the
    images bought times the hit rate of their kind; the intervals of both kinds are added in quadrature, each side
    apart (MOVER, Zou and Donner 2008, Stat. Med. 27:1693).

    Args:
        attack: What its candidates and synthetic images found, and what they cost.
        budget: What may be spent, `prepare` included, in the currency of the attack's prices.

    Examples:
        100 candidates cost 5,000 denoiser calls after a preparation of 1,000; 3,500 calls buy 50 of them, and half of
        the 12 hits.

        >>> import numpy as np
        >>> candidates = Finds(images=100, training=12, held_out=1, groups=np.array([5, 4, 2, 1, 0, 0]))
        >>> nothing = Finds(images=0, training=0, held_out=0, groups=np.zeros(6, dtype=int))
        >>> attack = Spending(candidates, nothing, 1000, 5000, a_synthetic=0, counts_synthetic=False)
        >>> found = at_budget(attack, 3500)
        >>> found.candidates, found.training.value, round(found.groups.value, 2), found.kind
        (50, 6.0, 3.17, 'rarefied')
    """
    made = attack.candidates.images
    price = attack.generate / made
    bought = max(0, int((budget - attack.prepare) / price * ROUNDING))
    shared = 0
    if attack.counts_synthetic and attack.a_synthetic:
        shared = min(attack.synthetic.images, int(budget / attack.a_synthetic * ROUNDING))
    parts = ((attack.candidates, bought), (attack.synthetic, shared))
    kind: Kind = "observed" if bought == made else "rarefied" if bought < made else "extrapolated"
    groups, refused = None, ""
    try:
        groups = _groups(attack, bought, shared)
    except TooFew as error:
        refused = str(error)
    return AtBudget(
        candidates=bought,
        synthetic=shared,
        training=_hits([(found.training, found.images, n) for found, n in parts]),
        held_out=None
        if attack.candidates.held_out is None
        else _hits([(found.held_out or 0, found.images, n) for found, n in parts]),
        groups=groups,
        kind=kind,
        refused=refused,
    )


def _groups(attack: Spending, bought: int, shared: int) -> Distinct:
    if not bought:
        return _at(attack.synthetic.groups, attack.synthetic.images, shared) if shared else NOTHING
    if not shared:
        return _at(attack.candidates.groups, attack.candidates.images, bought)
    return distinct(attack.candidates, bought, attack.synthetic)


def distinct(candidates: Finds, bought: int, synthetic: Finds) -> Distinct:
    """Return the expected number of distinct groups found by `bought` candidates and all the synthetic images.

    The value is the number of groups that the synthetic images found and, among the others, the rarefied or
    extrapolated number of the candidates: exact given the frequencies where rarefied. There the variance is that of
    `richness.rarefaction` with the chance 1 for a group that the synthetic images found; where extrapolated, and
    below `MIN_SEEN` groups, the interval has the reach that as many images of both kinds pooled have. The intervals
    are ours and rest on the simulation in tests/stats/test_equal_cost.py.

    Args:
        candidates: What all candidates of the run found.
        bought: How many candidates are counted, at least 1; more than there are is extrapolated.
        synthetic: What the attack's synthetic images found, on the same groups.

    Raises:
        TooFew: the finds do not allow an extrapolation so far.

    Examples:
        The synthetic images found the first group; half of the candidates find 2.19 of the others.

        >>> import numpy as np
        >>> candidates = Finds(images=100, training=12, held_out=1, groups=np.array([5, 4, 2, 1, 0, 0]))
        >>> synthetic = Finds(images=20, training=3, held_out=0, groups=np.array([3, 0, 0, 0, 0, 0]))
        >>> round(distinct(candidates, 50, synthetic).value, 2)
        3.19
    """
    if not synthetic.images:
        return _at(candidates.groups, candidates.images, bought)
    known, total = synthetic.groups > 0, len(synthetic.groups)
    value = float(known.sum()) + _at(candidates.groups[~known], candidates.images, bought).value
    pooled, images = candidates.groups + synthetic.groups, candidates.images + synthetic.images
    if bought > candidates.images or (pooled > 0).sum() < MIN_SEEN:
        whole = _at(pooled, images, bought + synthetic.images)
        below, above = whole.value - whole.interval.low, whole.interval.high - whole.value
    else:
        below = above = _reach(candidates, bought, known, pooled, images)
    return Distinct(value, Interval(max(0.0, value - below), min(float(total), value + above)))


def _reach(candidates: Finds, bought: int, known: np.ndarray, pooled: np.ndarray, images: int) -> float:
    """Return how far the interval goes on either side: Var(S) = sum E[w^2] - 2 a + a(2n), w the chance to be found."""
    chances = known.astype(float)
    open_ = ~known & (candidates.groups > 0)
    chances[open_] = found_within(candidates.groups[open_], candidates.images, bought)
    twice = 2 * (images - candidates.images + bought)
    if twice <= images:
        double = rarefaction(pooled, images, len(pooled), twice).value
    else:
        double = at_rate(*np.unique(pooled[pooled > 0], return_counts=True), twice / images)
    variance = max(float((chances**2 - 2 * chances).sum()) + double, 0.0) + 1.0
    return float(normal_quantile(CONFIDENCE) * variance**0.5)


def _at(frequencies: np.ndarray, images: int, n: int) -> Distinct:
    total = len(frequencies)
    if n <= images:
        return rarefaction(frequencies, images, total, n)
    return good_toulmin(frequencies, images, total, n / images - 1)


def _hits(parts: Sequence[tuple[int, int, int]]) -> Distinct:
    """Return expected hits from (hits, images they were counted on, images bought) of independent kinds."""
    value, below, above = 0.0, 0.0, 0.0
    for hits, images, n in parts:
        if not n:
            continue
        rate, interval = hits / images, wilson(hits, images)
        value += n * rate
        below += (n * (rate - interval.low)) ** 2
        above += (n * (interval.high - rate)) ** 2
    return Distinct(value, Interval(value - below**0.5, value + above**0.5))
