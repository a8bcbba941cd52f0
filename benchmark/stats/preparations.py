"""Attacks over their preparations: a claim about an attack, and not about one preparation of it. No torch.

A preparation draws what an attack has in hand for all its candidates (synthetic images, clusters, a classifier), so
no number of candidates tells how another one would do. Preparations are the sampling units here, on log rates, since
they multiply what an attack finds. Three kinds of chance meet:

- Between preparations. The variance of log rates over preparations holds it.
- Of the candidates. That variance holds it too, as each preparation has candidates of its own, so it is never added:
  it is taken off where the variance between preparations is wanted alone.
- Of the images. All preparations hit the same near-duplicate groups, so this does not fall with their number and is in
  no variance over them. What groups vary beyond their candidates (the variance with groups as units less that with
  candidates as units, no less than 0) is added.

With five preparations or more of two attacks the variance is that of their paired log ratios. Fewer say too little: the
variance between preparations is then pooled over the attacks of the run, which supposes that it is the same for all of
them. The combination is ours and rests on the simulation in docs/validity-intervals.md (`docs/preparation_errors.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import BadInput
from .comparison import AttackHits, Ratio, compare, excess_of, pooled
from .intervals import Excess, Interval, t_quantile

ENOUGH = 5
"""Preparations from which on an attack's own ones say how much they vary."""


class Prepared(NamedTuple):
    """What one attack hit in one band, by run seed; `random`: another seed is another preparation."""

    attack: str
    hits: Mapping[int, AttackHits]
    random: bool

    @property
    def rates(self) -> np.ndarray:
        """Excess by seed (without a control: AMS), (seeds,)."""
        return np.array([hits.values.mean() for hits in self.hits.values()])

    def under(self, seeds: Sequence[int]) -> "Prepared":
        """Return the same under some of its seeds."""
        return self._replace(hits={seed: self.hits[seed] for seed in seeds})


class Over(NamedTuple):
    """A ratio of two attacks' rates, each the geometric mean over preparations.

    `preparations` is 1 where another one would say something else, and None where the seeds make no preparation: then
    candidates and images are all that varies. `spread` is the standard deviation of log rates between preparations,
    None where it is not known. `p` is two-sided and uncorrected, of "the ratio is 1"; 1 without a ratio.
    """

    ratio: Ratio
    p: float
    preparations: int | None
    spread: float | None
    controlled: bool

    @property
    def conditional(self) -> str:
        """What the claim is about, in words that follow it."""
        if self.preparations is None:
            return ""
        return "of this preparation" if self.preparations == 1 else f"over {self.preparations} preparations"


class _Variance(NamedTuple):
    """A variance with its degrees of freedom."""

    value: float
    freedom: float

    def plus(self, other: "_Variance") -> "_Variance":
        """Return the sum of two independent ones, its degrees of freedom after Satterthwaite."""
        total = self.value + other.value
        error = self.value**2 / self.freedom + other.value**2 / other.freedom
        return _Variance(total, total**2 / error if error else math.inf)


def compare_prepared(
    first: Prepared, second: Prepared, attacks: Sequence[Prepared] = (), confidence: float = 0.95
) -> Over:
    """Return the ratio of two attacks over their preparations, paired by seed.

    - `ENOUGH` preparations or more: a t interval of the mean log ratio.
    - 2 to 4: the variance between preparations is pooled over `attacks` (`_between`), once for each of the two that is
      prepared at random, and the candidates' variance of the paired ratio is added. No less than the latter alone.
    - 1, or neither attack prepared at random: the candidates' interval (`comparison.compare`) of all candidates.

    Args:
        first: The first attack.
        second: The second one; the seeds that both have are used.
        attacks: All attacks on the pair whose preparations may be taken to vary alike, these two among them or not.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Raises:
        BadInput: the attacks have no seed in common, or different groups.

    Examples:
        One attack finds twice what the other does, in each of five preparations of either.

        >>> import numpy as np
        >>> def found(rates):
        ...     none, nowhere = np.zeros(400, dtype=bool), np.zeros(100, dtype=int)
        ...     return {s: AttackHits(np.arange(400) < n, none, np.repeat([1, 0], [n, 100 - n]), nowhere)
        ...             for s, n in enumerate(rates)}
        >>> more = Prepared("more", found([40, 50, 60, 40, 60]), random=True)
        >>> fewer = Prepared("fewer", found([20, 24, 30, 22, 29]), random=True)
        >>> over = compare_prepared(more, fewer)
        >>> f"{over.ratio.value:.2f} [{over.ratio.interval.low:.2f}, {over.ratio.interval.high:.2f}]"
        '1.99 [1.61, 2.46]'
        >>> over.conditional
        'over 5 preparations'
    """
    seeds = sorted(set(first.hits) & set(second.hits))
    if not seeds:
        raise BadInput(f"{first.attack} and {second.attack} have no seed in common")
    first, second = first.under(seeds), second.under(seeds)
    ours, theirs = (pooled(list(attack.hits.values())) for attack in (first, second))
    plain, turned = compare(ours, theirs, confidence), compare(theirs, ours, confidence)
    random = [attack for attack in (first, second) if attack.random]
    if len(seeds) == 1 or not random:
        return Over(plain.ratio, plain.p, 1 if random else None, None, plain.controlled)
    pool = _pool(first, second, attacks)
    between = _between(pool) if pool else None
    spread = None if between is None else math.sqrt(max(0.0, between.value))
    refused = _refused(first, second) or plain.ratio.refused or turned.ratio.refused.replace("second", "first")
    if refused:
        return Over(Ratio(None, None, refused), 1.0, len(seeds), spread, plain.controlled)
    logs = np.log(first.rates) - np.log(second.rates)
    within = float(np.mean([_by_candidate(first.hits[seed], second.hits[seed]) for seed in seeds]))
    if len(seeds) >= ENOUGH:
        own = _Variance(float(logs.var(ddof=1)), len(seeds) - 1)
    else:
        assert between is not None
        own = _Variance(within + len(random) * max(0.0, between.value), between.freedom)
    interval, p = _of_mean(logs, own, _images(ours, theirs), confidence)
    ratio = Ratio(math.exp(logs.mean()), Interval(*(math.exp(end) for end in interval)), "")
    return Over(ratio, p, len(seeds), spread, plain.controlled)


def rate_over_preparations(
    attack: Prepared, attacks: Sequence[Prepared] = (), confidence: float = 0.95
) -> Excess | None:
    """Return an attack's rate, the geometric mean over its preparations, with its interval; see `compare_prepared`.

    Args:
        attack: The attack under all its seeds.
        attacks: All attacks on the pair whose preparations may be taken to vary alike.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Returns:
        The excess, without a control the AMS; that of all candidates where no more can be said (one preparation, or
        none at random). None where a preparation has no excess, whose logarithm there is not.

    Examples:
        >>> import numpy as np
        >>> none, nowhere = np.zeros(400, dtype=bool), np.zeros(100, dtype=int)
        >>> hits = {s: AttackHits(np.arange(400) < n, none, np.repeat([1, 0], [n, 100 - n]), nowhere)
        ...         for s, n in enumerate([40, 50, 60, 40, 60])}
        >>> rate = rate_over_preparations(Prepared("side", hits, random=True))
        >>> f"{rate.value:.3f} [{rate.interval.low:.3f}, {rate.interval.high:.3f}]"
        '0.123 [0.095, 0.159]'
    """
    together = pooled(list(attack.hits.values()))
    if len(attack.hits) == 1 or not attack.random:
        return excess_of(together, confidence)
    if (attack.rates <= 0).any():
        return None
    logs = np.log(attack.rates)
    if len(logs) >= ENOUGH:
        own = _Variance(float(logs.var(ddof=1)), len(logs) - 1)
    else:
        between = _between(_pool(attack, attack, attacks))
        own = _Variance(_within(attack) + max(0.0, between.value), between.freedom)
    interval, _ = _of_mean(logs, own, _images(together), confidence)
    return Excess(math.exp(logs.mean()), Interval(*(math.exp(end) for end in interval)))


def _of_mean(
    logs: np.ndarray, own: _Variance, images: _Variance, confidence: float
) -> tuple[tuple[float, float], float]:
    """Return the interval of a mean of logarithms, and the two-sided p of 0; `own` is of one of them."""
    from scipy.special import stdtr

    mean, total = float(logs.mean()), own._replace(value=own.value / len(logs)).plus(images)
    error = math.sqrt(total.value)
    reach = t_quantile(confidence, total.freedom) * error
    p = float(2 * stdtr(total.freedom, -abs(mean) / error)) if error else float(mean == 0)
    return (mean - reach, mean + reach), p


def _refused(first: Prepared, second: Prepared) -> str:
    """Say which preparation has no logarithm; empty where all have."""
    for attack in (first, second):
        for seed, rate in zip(attack.hits, attack.rates, strict=True):
            if rate <= 0:
                what = "excess" if attack.hits[seed].controlled else "AMS"
                return f"no ratio: the {what} of {attack.attack} under seed {seed} is {rate:.4%}, and has no logarithm"
    return ""


def _pool(first: Prepared, second: Prepared, attacks: Sequence[Prepared]) -> list[Prepared]:
    """Return the attacks whose preparations tell how much those of these two vary.

    Those that find so little that their own candidates hide it are left out: their logarithms are noise.
    """
    own = {attack.attack: attack for attack in (first, second) if _tells(attack)}
    most = max((_within(attack) for attack in own.values()), default=0.0)
    others = {attack.attack: attack for attack in attacks if attack.attack not in own and _tells(attack)}
    return [*own.values(), *(attack for attack in others.values() if _within(attack) <= most)]


def _tells(attack: Prepared) -> bool:
    return attack.random and len(attack.hits) > 1 and bool((attack.rates > 0).all())


def _between(pool: Sequence[Prepared]) -> _Variance:
    """Return the variance of log rates between preparations, pooled over attacks; it may come out below 0.

    Each attack gives its variance over preparations less its candidates' own, weighted by its degrees of freedom.
    """
    freedoms = [len(attack.hits) - 1 for attack in pool]
    gains = [float(np.log(attack.rates).var(ddof=1)) - _within(attack) for attack in pool]
    return _Variance(float(np.average(gains, weights=freedoms)), float(sum(freedoms)))


def _within(attack: Prepared) -> float:
    """Return the variance of one preparation's log rate that its candidates explain, the mean over preparations."""
    return float(np.mean([_by_candidate(hits) for hits in attack.hits.values()]))


def _by_candidate(first: AttackHits, second: AttackHits | None = None) -> float:
    """Return the variance of a log rate, or log ratio, with candidates as units (delta method)."""
    values = first.values / first.values.mean()
    if second is not None:
        values = values - second.values / second.values.mean()
    return float(values.var(ddof=1)) / len(values)


def _images(first: AttackHits, second: AttackHits | None = None) -> _Variance:
    """Return what near-duplicate groups vary beyond their candidates, which all preparations share; likewise."""
    attacks = [first] if second is None else [first, second]
    terms = [[term / (len(own.values) * own.values.mean()) for term in own.terms()] for own in attacks]
    gaps = terms[0] if second is None else [ours - theirs for ours, theirs in zip(*terms, strict=True)]
    fewest = min(map(len, gaps))
    if fewest < 2:
        return _Variance(0.0, math.inf)
    by_group = sum(len(gap) * float(gap.var(ddof=1)) for gap in gaps)
    return _Variance(max(0.0, by_group - _by_candidate(first, second)), fewest - 1)
