"""Intervals and tests. Pure functions of counts, no torch; each names its reference.

Quantiles come from scipy.special: those of scipy.stats are the same numbers and ten times as slow.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import BadInput, TooFew

MOST_SKEW = 0.1
"""Skewness of a sum over groups up to which its t interval holds: moving its end gains nothing below."""

LEAST_GROUPS_HIT = 10
"""Groups with a hit below which nothing is known of how uneven they are."""


class Interval(NamedTuple):
    """A two-sided confidence interval, in the units of what it is for: a rate, a difference of rates, a count."""

    low: float
    high: float


class Excess(NamedTuple):
    """A difference of two hit rates on the same candidates, in [-1, 1]."""

    value: float
    interval: Interval


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided normal interval reaches to either side.

    Args:
        confidence: Coverage of the interval, between 0 and 1.

    Examples:
        >>> round(normal_quantile(0.95), 2)
        1.96
    """
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def t_quantile(confidence: float, freedom: float) -> float:
    """Return the same of Student's t.

    Args:
        confidence: Coverage of the interval, between 0 and 1.
        freedom: Degrees of freedom, above 0; they need be neither whole nor finite.

    Examples:
        >>> round(t_quantile(0.95, 9), 2)
        2.26
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def wilson(count: float, n: float, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a rate of `count` out of `n` (Wilson 1927, JASA 22:209).

    Args:
        count: Successes, 0 .. n.
        n: Trials, above 0. An effective sample size need not be whole.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Returns:
        Both ends, within 0 .. 1; the rate itself lies between them.

    Examples:
        >>> low, high = wilson(3, 1000)
        >>> f"{low:.4f} {high:.4f}"
        '0.0010 0.0088'
    """
    # SciPy's takes whole counts alone. They are all that a run has, so a report of one need not import statsmodels.
    if float(count).is_integer() and float(n).is_integer():
        from scipy.stats import binomtest

        # The interval does not depend on the share that is tested. At this one the p-value, which binomtest works out
        # too and nobody reads here, needs no search: that took three quarters of the time.
        whole = binomtest(int(count), int(n), count / n).proportion_ci(confidence, method="wilson")
        return Interval(float(whole.low), float(whole.high))
    # Stubs exist for neither statsmodels nor all settings of the type checker.
    from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped,unused-ignore]

    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    # Its ends at 0 and at n are a rounding error off: 3e-17 for 0 of 9.
    return Interval(
        0.0 if count <= 0 else min(float(low), count / n),
        1.0 if count >= n else max(float(high), count / n),
    )


def poisson_exact(count: float, confidence: float = 0.95) -> Interval:
    """Return the exact interval of a Poisson mean (Garwood 1936, Biometrika 28:437).

    Args:
        count: Events seen, 0 or more; may be an average.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Returns:
        Both ends of the mean, in events; the lower one of 0 events is 0.

    Examples:
        >>> low, high = poisson_exact(3)
        >>> f"{low:.3f} {high:.2f}"
        '0.619 8.77'
    """
    # A gamma quantile is half a chi-squared one. statsmodels has the same interval, but a report need not import it.
    from scipy.special import gammaincinv

    tail = (1 - confidence) / 2
    low = gammaincinv(count, tail) if count else 0.0
    return Interval(float(low), float(gammaincinv(count + 1, 1 - tail)))


def unique_count(frequencies: np.ndarray, total: int, confidence: float = 0.95, *, at_once: float = 1.0) -> Interval:
    """Return an interval for the expected number of distinct species, from how often each was found.

    A species is a training image or a near-duplicate group, a sampling unit a candidate. With q the chance that a
    species is missed, Var(S) = sum q (1 - q). For a species found lambda times on average that term is
    exp(-lambda) (1 - exp(-lambda)), which is the chance to be found exactly once times (1 - exp(-lambda)) / lambda.
    The mean lambda of the species found once is 2 Q2 / Q1 (Good 1953, Biometrika 40:237), so Var(S) is estimated by
    Q1 f(2 Q2 / Q1) + 1 with f the ratio and 1 for the error of Q1 itself where it is small. Species found
    independently make S less variable than a Poisson count, so below ten species the exact Poisson interval is used,
    a conservative one. The analytic variance S (1 - S / S_est) with Chao2 (Colwell et al. 2012) was tried first: it
    covered 32 % where common and very rare species mix. A plain bootstrap is biased downwards.

    `at_once` is how many species a find brings (`ams_ums.found_at_once`): near-copies are found together, so S
    varies as if there were S / at_once species of that weight. Both terms and the exact interval are scaled so; the
    cluster's joint rate is that of its members, hence the same f. The first-order jackknife with candidates as units,
    sum u_j^2 - (sum u_j)^2 / n over the species u_j that candidate j alone found (Heltshe and Forrester 1983,
    Biometrics 39:1), has no term for what was never found: it covered 69 to 98 % where this covers 93 to 100 %
    (docs/coverage.py). Neither sees a large cluster that no candidate has found.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        total: How many species there are; no interval goes beyond it.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        at_once: Species that a find brings, at least 1; 1 where they are found independently.

    Returns:
        Both ends, numbers of species in 0 .. total.

    Examples:
        Twelve images found, six of them once and three twice: 12 -+ 1.96 sqrt(6 (1 - exp(-1)) + 1).

        >>> import numpy as np
        >>> low, high = unique_count(np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1]), total=100)
        >>> f"{low:.2f} {high:.2f}"
        '7.71 16.29'
    """
    # Below ten finds Q1 and Q2 are too small to say anything of each other.
    seen = int((frequencies > 0).sum())
    if seen < 10 * at_once:
        exact = poisson_exact(seen / at_once, confidence)
        return Interval(exact.low * at_once, min(exact.high * at_once, total))
    once, twice = int((frequencies == 1).sum()), int((frequencies == 2).sum())
    rate = 2 * twice / once if once else 0.0
    # f(lambda) = (1 - exp(-lambda)) / lambda tends to 1 where none was found twice.
    ratio = -np.expm1(-rate) / rate if rate else 1.0
    reach = normal_quantile(confidence) * (at_once * once * ratio + at_once**2) ** 0.5
    return Interval(float(max(0.0, seen - reach)), float(min(seen + reach, total)))


def unique_bound(seen: int, alone: np.ndarray, confidence: float = 0.95) -> float:
    """Return a one-sided lower bound of the expected number of distinct species, where they come in rare clusters.

    A large cluster that no candidate has found yet is in no sample, so there is no upper end: `unique_count` covered 76
    to 78 % where a few rare clusters of 8 to 100 images stand beside common single ones. The variance is the
    first-order jackknife's, sum u_j^2 over the species u_j that candidate j alone found (Heltshe and Forrester 1983,
    Biometrics 39:1), plus the largest such term for what it misses. It held in 96 to 100 % (docs/coverage.py).

    Args:
        seen: Distinct species found.
        alone: (candidates,) species that each candidate alone found; candidates without one may be left out.
        confidence: Chance that the bound lies below the expected number.

    Examples:
        >>> import numpy as np
        >>> round(unique_bound(30, np.array([8, 8, 1, 1])), 1)  # 30 - 1.645 sqrt(130 + 64)
        7.1
    """
    # One candidate may find a whole cluster at once: it is the unit that is left out, not the species.
    u = np.asarray(alone, dtype=np.float64)
    variance = float((u**2).sum()) + max(1.0, float(u.max(initial=0.0))) ** 2
    return float(max(0.0, seen - normal_quantile(2 * confidence - 1) * variance**0.5))


def paired_difference(only_first: int, only_second: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of p1 - p2 for paired binary outcomes (Tango 1998, Stat. Med. 17:891).

    Args:
        only_first: Pairs in which the first alone happened, such as candidates that hit a training image only.
        only_second: Pairs in which the second alone happened.
        n: All pairs, those in which both or neither happened included; above 0.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Returns:
        Both ends of the difference of rates, within [-1, 1].

    Examples:
        >>> low, high = paired_difference(12, 2, 50)
        >>> f"{low:.4f} {high:.4f}"
        '0.0611 0.3447'
    """
    from scipy.optimize import brentq

    z = normal_quantile(confidence)
    b, c = only_first, only_second

    def statistic(delta: float) -> float:
        # q is the restricted maximum-likelihood estimate of P(only second) under difference delta.
        linear = -b - c + (2 * n - b + c) * delta
        # Rounding may leave the discriminant just below 0 where every pair is discordant one way.
        discriminant = max(0.0, linear**2 + 8 * n * c * delta * (1 - delta))
        q = (discriminant**0.5 - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        gap = b - c - n * delta
        return float(gap / max(variance, 1e-300) ** 0.5)

    # The ends are the differences at which the statistic is z and -z. It falls as delta grows and is 0 at the estimate,
    # so each bracket holds one root.
    # At a difference of -1 or 1 the variance is 0: the statistic is taken just inside. Where every pair is discordant
    # one way, the end is that edge itself and there is no root to look for.
    estimate, edge = (b - c) / n, 1 - 1e-12
    low = brentq(lambda d: statistic(d) - z, -edge, estimate) if statistic(-edge) > z and b - c > -n else -1.0
    high = brentq(lambda d: statistic(d) + z, estimate, edge) if statistic(edge) < -z and b - c < n else 1.0
    return Interval(float(low), float(high))


def group_terms(training_credits: np.ndarray, control_credits: np.ndarray, *, same_groups: bool) -> list[np.ndarray]:
    """Return the sums over duplicate groups that an excess is made of; each term is one group's, and independent.

    Two sums for two sets of groups, the control's with a minus, one of differences where both sides count hits of the
    same groups, and the training one alone where there is no control (`control_credits` empty).

    Args:
        training_credits: (groups,) hits by near-duplicate group of the training images, zeros too.
        control_credits: (groups,) the same of the control; with `same_groups` in the same order.
        same_groups: Whether both sides count hits of the same groups, as with a reference model.

    Examples:
        >>> import numpy as np
        >>> training, control = np.array([4, 0, 2]), np.array([1, 0, 0])
        >>> group_terms(training, control, same_groups=False)
        [array([4, 0, 2]), array([-1,  0,  0])]
        >>> group_terms(training, control, same_groups=True)
        [array([3, 0, 2])]
    """
    if same_groups:
        return [training_credits - control_credits]
    return [credits for credits in (training_credits, -control_credits) if len(credits)]


def group_reaches(terms: Sequence[np.ndarray], confidence: float = 0.95) -> tuple[float, float]:
    """Return how far below and above a sum over groups the ends of its interval lie.

    Both reaches are those of a t
    interval, except where a few groups draw most of the hits. The sum is then skewed, and the truth lay beyond the end
    on its long tail in 11 % of the draws instead of 2.5 (100 groups, log-normal weights with sigma 1.5). There the
    end away from 0 gets the quantile of the studentised sum, t + k (2 t^2 + 1) / 6, with k the skewness of the sum
    (Hall 1992, The Bootstrap and Edgeworth Expansion, section 2.6), and t for the freedom 2 V^2 / Var(V) that the
    estimated variance V has (Satterthwaite 1946, Biometrics Bull. 2:110). The end near 0 stays, and with it every
    p-value. Below `LEAST_GROUPS_HIT` groups with a hit, and up to `MOST_SKEW`, both ends stay.

    Args:
        terms: One array per independent sum, at least two groups each, from `group_terms`.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Returns:
        Two distances of at least 0, in hits; divided by the number of candidates they are rates.

    Examples:
        Few groups: the plain t interval on either side, t(3) = 3.182 times the standard error 3.830.

        >>> import numpy as np
        >>> below, above = group_reaches([np.array([4, 0, 2, 0])])
        >>> f"{below:.3f} {above:.3f}"
        '12.188 12.188'
    """
    fewest = min(len(term) for term in terms)
    variance = sum(len(term) * term.var(ddof=1) for term in terms)
    reach = float(t_quantile(confidence, fewest - 1) * variance**0.5)
    value = float(sum(term.sum() for term in terms))
    # No spread, no direction, or too few groups to know how uneven they are: the t interval as it is.
    if not variance or not value or sum(int((term != 0).sum()) for term in terms) < LEAST_GROUPS_HIT or fewest < 3:
        return reach, reach
    deviations = [term - term.mean() for term in terms]
    # Unbiased third cumulant of each sum, and the variance of its estimated variance.
    third = sum(len(d) ** 2 / ((len(d) - 1) * (len(d) - 2)) * (d**3).sum() for d in deviations)
    spread = sum(len(d) * (d**2).var(ddof=1) for d in deviations)
    skewness = float(np.sign(value) * third / variance**1.5)
    if skewness <= MOST_SKEW:
        return reach, reach
    freedom = min(max(2 * variance**2 / spread, 1.0), fewest - 1)
    quantile = t_quantile(confidence, freedom)
    far = max(reach, float((quantile + skewness * (2 * quantile**2 + 1) / 6) * variance**0.5))
    return (reach, far) if value > 0 else (far, reach)


def excess(
    training_credits: np.ndarray,
    control_credits: np.ndarray,
    only_training: int,
    only_control: int,
    candidates: int,
    confidence: float = 0.95,
    *,
    same_groups: bool = False,
) -> Excess:
    """Return the training hit rate minus the control's, with both kinds of sampling unit.

    The control's groups are those of the held-out images; with `same_groups` its hits are another model's, on
    the same groups in the same order, so that groups are paired. Without control (`control_credits` empty) the
    value is the training hit rate itself.

    Images are a sample as well as candidates: an interval from candidates alone missed zero in 28-35 % of clean
    splits in a trial. The variance of a sum over groups contains the candidates' binomial noise, so the group
    interval is the wider one unless hits are few; the result is the envelope of it and of the candidates' score
    interval (Wilson's without control). For the excess on these very images it covers more than it says; as a
    statement on other images of the same kind it falls short where few groups draw most hits
    (docs/validity-intervals.md).

    Args:
        training_credits: (groups,) candidates whose best match lies in each near-duplicate group, zeros too.
        control_credits: (groups,) the same of the control; empty without one.
        only_training: Candidates that hit on the training side alone.
        only_control: Candidates that hit on the control's side alone.
        candidates: All candidates, N_G, those without a hit included.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        same_groups: Whether both credits count the same groups in the same order.

    Returns:
        The difference of rates and its interval, both within [-1, 1].

    Examples:
        15 of 100 candidates hit a training image, one a held-out one.

        >>> import numpy as np
        >>> training, held_out = np.array([2, 1, 3, 2, 1, 2, 0, 1, 2, 1]), np.array([0, 0, 1, 0, 0])
        >>> found = excess(training, held_out, only_training=15, only_control=1, candidates=100)
        >>> f"{found.value:.2f} [{found.interval.low:.3f}, {found.interval.high:.3f}]"
        '0.14 [0.060, 0.225]'
    """
    # Candidates are one sample, images the other. First the candidates, by a score interval, which holds near 0
    # hits, where a variance that is estimated from the hits themselves would be 0.
    value = (training_credits.sum() - control_credits.sum()) / candidates
    if len(control_credits):
        by_candidate = paired_difference(only_training, only_control, candidates, confidence)
    else:
        by_candidate = wilson(only_training, candidates, confidence)
    terms = group_terms(training_credits, control_credits, same_groups=same_groups)
    # One group has no variance between groups: the candidates alone speak.
    if min(len(term) for term in terms) < 2:
        return Excess(float(value), by_candidate)
    # The envelope of both: with few hits the candidates' interval is the wider one, with many hits of few groups the
    # groups' one.
    below, above = (reach / candidates for reach in group_reaches(terms, confidence))
    low = max(-1.0, min(by_candidate.low, value - below))
    high = min(1.0, max(by_candidate.high, value + above))
    return Excess(float(value), Interval(float(low), float(high)))


def matched_rate(hits_per_candidate: np.ndarray, training: int, held_out: int) -> float:
    """Return the hit rate expected if the training set were a random part of it, of the held-out set's size.

    More images lie nearer to anything, so rates on sets of different size do not compare. The mean over candidates of 1
    - C(|X| - m, |H|) / C(|X|, |H|), where m of the |X| training images are in band (`hits_per_candidate`, integers of 0
    .. |X|). The ratio is a product over j < m of 1 - |H| / (|X| - j), summed in logarithms: exact to rounding even
    where the chance is tiny, which differences of log-gamma values are not.

    Args:
        hits_per_candidate: (N,) whole numbers, how many training images each candidate has in the band.
        training: Training images, |X|.
        held_out: Held-out images, |H|, at most |X|.

    Returns:
        A rate in [0, 1].

    Raises:
        BadInput: |H| is above |X| (then cut the held-out set instead), or a count is impossible.
        TooFew: there are no candidates, or a set is empty.

    Examples:
        Four images, of which two are drawn: one image in band is drawn with chance 1/2, one of two with 5/6.

        >>> import numpy as np
        >>> round(matched_rate(np.array([1, 0, 2, 0]), training=4, held_out=2), 4)  # (1/2 + 5/6) / 4
        0.3333
    """
    hits = np.asarray(hits_per_candidate)
    if min(training, held_out) < 1 or not hits.size:
        raise TooFew("a matched rate needs candidates, training and held-out images")
    if held_out > training:
        raise BadInput(f"{held_out} held-out images cannot be matched by a part of {training} training images")
    if hits.ndim != 1 or not np.issubdtype(hits.dtype, np.integer):
        raise BadInput(f"hits per candidate must be a row of integers, were {hits.dtype} of shape {hits.shape}")
    if hits.min() < 0 or hits.max() > training:
        raise BadInput(f"hits per candidate must lie in 0 .. {training}, were {hits.min()} .. {hits.max()}")
    left = np.arange(training, training - int(hits.max()), -1, dtype=np.float64)
    with np.errstate(divide="ignore"):  # log 0: so many hits that no part can miss them all
        terms = np.log1p(-np.minimum(1.0, held_out / left))
    logs = np.concatenate([[0.0], np.cumsum(terms)])
    return float(-np.expm1(logs[hits]).mean())
