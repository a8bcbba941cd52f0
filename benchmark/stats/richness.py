"""Distinct finds at other numbers of candidates: rarefaction, lower bounds and extrapolation. No torch.

A species is a training image or a duplicate group; the sampling units are the candidates, and one that hits
nothing is a unit like any other. `frequencies` (species,) holds for each species the number of candidates that
found it (zeros may be left out) and `total` how many species there are. In abundance data (`ums_best`) a
candidate finds at most one species, in incidence data (`ums`) any number. Given candidates as units, the
formulas are the same.

The intervals take species as found independently of one another, or `at_once` of them together: candidates that
find many species at once make intervals too narrow (three at a time: 76 % instead of 95 % in a trial), which
frequencies alone cannot show; counted together they cover 94 to 97 %. See `intervals.unique_count`. Chao's intervals
take no account of it.
"""

from typing import Literal, NamedTuple

import numpy as np

from ..errors import BadInput, TooFew
from .intervals import Interval, normal_quantile, unique_count

MIN_SEEN = 10
"""Species below which the interval is a scaled exact Poisson interval."""

Kind = Literal["rarefied", "observed", "extrapolated"]


class Distinct(NamedTuple):
    """An expected number of distinct species, 0 to `total`, with its interval."""

    value: float
    interval: Interval


class CurvePoint(NamedTuple):
    """A row of the curve of distinct species over candidates; an extrapolated one is an estimate."""

    candidates: int
    value: float
    low: float
    high: float
    kind: Kind


def rarefaction(
    frequencies: np.ndarray, candidates: int, total: int, n: int, confidence: float = 0.95, *, at_once: float = 1.0
) -> Distinct:
    """Return the expected number of distinct species among n of the candidates, 1 <= n <= candidates.

    The value is exact given the frequencies: a species found by f of N candidates is among n of them with
    1 - C(N - f, n) / C(N, n) (Hurlbert 1971, Ecology 52:577; Colwell et al. 2012, J. Plant Ecol. 5:3, equations 4
    and 17). The interval is for the expected number under new candidates. At n = N it is that of
    `intervals.unique_count`. Below, a species is found within n with chance a(n), so the variance is the sum of
    E[phi(n)^2] - a(n)^2 with phi the value above, and a(n)^2 = 2 a(n) - a(2n): all rarefied values while 2n <= N;
    beyond, a(2n) adds new species at the mean rate of those found once, as in `unique_count`. (n / N)^2 is added
    for the error where few are found once, and below `MIN_SEEN` independent species the exact interval at N is
    scaled. The interval is ours and rests on the simulation in tests/stats/test_richness.py.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        candidates: All candidates, those that found nothing included; at least 1.
        total: How many species there are; nothing goes beyond it.
        n: Candidates to come down to, 1 .. candidates.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        at_once: Species that a find brings, at least 1; 1 where they are found independently.

    Raises:
        BadInput: the frequencies are impossible, or n lies outside the range.

    Examples:
        >>> import numpy as np
        >>> frequencies = np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1])
        >>> found = rarefaction(frequencies, candidates=50, total=100, n=25)
        >>> f"{found.value:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"
        '8.07 [5.33, 10.80]'
    """
    counts = _check(frequencies, candidates, total)
    if not 1 <= n <= candidates:
        raise BadInput(f"rarefaction goes down from {candidates} candidates to 1, not to {n}")
    whole = unique_count(counts, total, confidence, at_once=at_once)
    seen = len(counts)
    if n == candidates:
        return Distinct(float(seen), whole)
    values, species = np.unique(counts, return_counts=True)
    found = found_within(values, candidates, n)
    value = float(species @ found)
    # Too few finds for a variance: the exact interval of all of them, scaled to the value at n.
    if seen < MIN_SEEN * at_once:
        scale = value / seen if seen else n / candidates
        return Distinct(value, Interval(whole.low * scale, min(whole.high * scale, float(total))))
    # a(2n) is known from the candidates themselves up to 2n = N, and estimated beyond.
    if 2 * n <= candidates:
        double = float(species @ found_within(values, candidates, 2 * n))
    else:
        double = at_rate(values, species, 2 * n / candidates)
    variance = at_once * _variance(species, found, double) + (at_once * n / candidates) ** 2
    reach = normal_quantile(confidence) * variance**0.5
    return Distinct(value, Interval(max(value - reach, 0.0), min(value + reach, float(total))))


def chao1(frequencies: np.ndarray, candidates: int, total: int, confidence: float = 0.95) -> Distinct:
    """Return a lower bound on the number of species that can be found, from abundance data.

    Chao (1984, Scand. J. Stat. 11:265), with all candidates as the sample, and the log-normal interval of Chao
    (1987, Biometrics 43:783): from the number seen upwards, capped at `total`. An estimate: a lower bound
    in expectation only.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        candidates: All candidates, those that found nothing included; at least 1.
        total: How many species there are; nothing goes beyond it.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Raises:
        BadInput: the frequencies are impossible, or add up to more than the candidates.

    Examples:
        12 seen, 6 of them once, 3 twice: 12 + (49 / 50) 6^2 / (2 * 3).

        >>> import numpy as np
        >>> found = chao1(np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1]), candidates=50, total=100)
        >>> f"{found.value:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"
        '17.88 [13.05, 45.01]'
    """
    counts = _check(frequencies, candidates, total)
    if counts.sum() > candidates:
        raise BadInput(
            f"{int(counts.sum())} finds by {candidates} candidates are incidence data, where a candidate finds several "
            "species: take chao2"
        )
    return _chao(counts, candidates, total, confidence)


def chao2(frequencies: np.ndarray, candidates: int, total: int, confidence: float = 0.95) -> Distinct:
    """Return a lower bound on the number of species that can be found, from incidence data (Chao 1987).

    As `chao1`, but a candidate may find several species.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        candidates: All candidates, those that found nothing included; at least 1.
        total: How many species there are; nothing goes beyond it.
        confidence: Coverage of the two-sided interval, between 0 and 1.

    Raises:
        BadInput: the frequencies are impossible.

    Examples:
        The finds are more than the candidates here, which `chao1` refuses: 12 + (19 / 20) 6^2 / (2 * 3).

        >>> import numpy as np
        >>> found = chao2(np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1]), candidates=20, total=100)
        >>> round(found.value, 2)
        17.7
    """
    return _chao(_check(frequencies, candidates, total), candidates, total, confidence)


def good_toulmin(
    frequencies: np.ndarray, candidates: int, total: int, t: float, confidence: float = 0.95, *, at_once: float = 1.0
) -> Distinct:
    """Estimate the number of distinct species after (1 + t) times as many candidates, capped at `total`.

    The series of Good and Toulmin (1956, Biometrika 43:45), its terms weighted by P(Binomial(k, 2 / (2 + t)) >= i),
    with k = log3(m t^2 / (t - 1)) / 2 rounded up and m the number of finds (Orlitsky, Suresh and Wu 2016, PNAS
    113:13283). That k grows without end towards t = 1; it is kept at most log3 m rounded up, also for t <= 1:
    a bias of about one species, and the parity of common species no longer adds noise. The range is
    t <= max(1, ln m), as the error is small only for t of the order of ln m.

    The interval is for the expected number, normal, with the variance of `rarefaction` and the weights in place
    of phi, (1 + t)^2 added; it leaves out the bias of the weights, so it is an estimate beyond t = 1. It may begin
    below the number seen. The bound on k and the variance are ours and rest on the simulation in
    tests/stats/test_richness.py.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        candidates: All candidates, those that found nothing included; at least 1.
        total: How many species there are; nothing goes beyond it.
        t: Candidates added, as a multiple of `candidates`; above 0 and at most `extrapolates_to(frequencies)`.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        at_once: Species that a find brings, at least 1; 1 where they are found independently.

    Returns:
        The number and its interval; the number is at least what was seen.

    Raises:
        TooFew: there is no find, or t lies beyond the range.
        BadInput: t is not a positive number, or the frequencies are impossible.

    Examples:
        Twice the candidates, k = 3: 12 + 6 (26 / 27) - 3 (20 / 27) + 1 (8 / 27).

        >>> import numpy as np
        >>> frequencies = np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1])
        >>> found = good_toulmin(frequencies, candidates=50, total=100, t=1.0)
        >>> f"{found.value:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"
        '15.85 [7.42, 24.28]'
    """
    counts = _check(frequencies, candidates, total)
    if not 0 < t < np.inf:
        raise BadInput(f"t is how many times as many candidates are added, above 0, not {t}")
    limit = extrapolates_to(counts)
    if t > limit:
        raise TooFew(
            f"{int(counts.sum())} finds allow an extrapolation by t = {limit:.3g} times as many candidates, not {t:.3g}"
        )
    seen = len(counts)
    values, species = np.unique(counts, return_counts=True)
    weights = 1 + _series(values, t, int(counts.sum()))
    plain = float(species @ weights)
    double = _at_rates(values, species, 2 * (1 + t))
    variance = at_once * _variance(species, weights, double) + (at_once * (1 + t)) ** 2
    reach = normal_quantile(confidence) * variance**0.5
    # What was seen stays seen: the series may fall below it, its expectation cannot.
    value = min(max(plain, float(seen)), float(total))
    low = min(max(plain - reach, 0.0), value)
    return Distinct(value, Interval(low, max(min(plain + reach, float(total)), value)))


def extrapolates_to(frequencies: np.ndarray) -> float:
    """Return the largest t at which `good_toulmin` answers: max(1, ln finds), 0 without a find.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.

    Examples:
        >>> import numpy as np
        >>> round(extrapolates_to(np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1])), 3)  # ln 24
        3.178
    """
    finds = int(np.asarray(frequencies).sum())
    return max(1.0, float(np.log(finds))) if finds else 0.0


def curve(
    frequencies: np.ndarray,
    candidates: int,
    total: int,
    points: int = 20,
    reach: float = 1.0,
    confidence: float = 0.95,
    *,
    at_once: float = 1.0,
) -> list[CurvePoint]:
    """Return rows of distinct species over candidates, at `points` steps up to all of them and on in equal steps.

    Rows up to N are rarefied, N itself is observed, rows beyond up to (1 + `reach`) N are extrapolated, as far
    as `good_toulmin` goes, and no farther than where its alternating series would make the number fall, which no
    expected number of distinct species can.

    Args:
        frequencies: (species,) for each species the number of candidates that found it; zeros may be left out.
        candidates: All candidates, those that found nothing included; at least 1.
        total: How many species there are; nothing goes beyond it.
        points: Steps up to all candidates, at least 1; the extrapolation goes on in the same steps.
        reach: How far to extrapolate, as a multiple of `candidates`; 1 goes to twice as many.
        confidence: Coverage of the two-sided interval, between 0 and 1.
        at_once: Species that a find brings, at least 1; 1 where they are found independently.

    Raises:
        BadInput: the frequencies are impossible, or there is no point.

    Examples:
        >>> import numpy as np
        >>> frequencies = np.array([5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1])
        >>> for row in curve(frequencies, candidates=50, total=100, points=2):
        ...     print(row.candidates, round(row.value, 1), row.kind)
        25 8.1 rarefied
        50 12.0 observed
        75 14.4 extrapolated
        100 15.9 extrapolated
    """
    if points < 1:
        raise BadInput(f"a curve has at least 1 point, not {points}")
    numbers = np.unique(np.linspace(candidates / points, candidates, points).round().astype(int).clip(min=1))
    rows = []
    for n in numbers.tolist():
        kind: Kind = "rarefied" if n < candidates else "observed"
        rows.append(_row(n, rarefaction(frequencies, candidates, total, n, confidence, at_once=at_once), kind))
    for step in range(1, int(points * min(reach, extrapolates_to(frequencies)) + 1e-9) + 1):
        found = good_toulmin(frequencies, candidates, total, step / points, confidence, at_once=at_once)
        if found.value < rows[-1].value:
            break
        # More candidates find no fewer: an upper end that falls is that of a poorer approximation.
        high = max(found.interval.high, rows[-1].high)
        found = found._replace(interval=found.interval._replace(high=high))
        rows.append(_row(round(candidates * (1 + step / points)), found, "extrapolated"))
    return rows


def found_within(values: np.ndarray, candidates: int, n: int) -> np.ndarray:
    """Return the chance that n of the candidates hold a species, 1 - C(N - f, n) / C(N, n), for frequencies f >= 1.

    A product of f factors, so small n keep their digits.

    Args:
        values: (species,) frequencies f, whole numbers in 1 .. candidates.
        candidates: All candidates, N.
        n: How many of them are taken, 1 .. N.

    Returns:
        (species,) chances in [0, 1].

    Examples:
        >>> import numpy as np
        >>> found_within(np.array([1, 2]), candidates=4, n=2).round(4)  # 1 / 2, 5 / 6
        array([0.5   , 0.8333])
    """
    chance = np.ones(len(values))
    few = values <= candidates - n
    factors = np.arange(int(values[few].max(initial=0)))
    missed = np.cumsum(np.log1p(-n / (candidates - factors)))
    chance[few] = -np.expm1(missed[values[few] - 1])
    return chance


def at_rate(values: np.ndarray, species: np.ndarray, times: float) -> float:
    """Return the expected number of species at `times` >= 1 times the candidates.

    New ones come at the mean rate of those found once, 2 Q2 / Q1 (Good 1953), as in `intervals.unique_count`.

    Args:
        values: Different frequencies, at least 1 each.
        species: How many species have each of them.
        times: How many times as many candidates, at least 1.

    Examples:
        Six found once, three twice: 9 + 6 (1 - exp(-1)) at twice the candidates.

        >>> import numpy as np
        >>> round(at_rate(np.array([1, 2]), np.array([6, 3]), times=2.0), 4)
        12.7927
    """
    once, rate = _found_once(values, species)
    return float(species.sum() + once * (-np.expm1(-rate * (times - 1)) / rate if rate else times - 1))


def _row(n: int, found: Distinct, kind: Kind) -> CurvePoint:
    return CurvePoint(n, found.value, found.interval.low, found.interval.high, kind)


def _check(frequencies: np.ndarray, candidates: int, total: int) -> np.ndarray:
    """Return the frequencies of the species that were found."""
    counts = np.asarray(frequencies)
    if counts.ndim != 1 or (len(counts) and not (np.all(counts == np.floor(counts)) and counts.min() >= 0)):
        raise BadInput("frequencies are one whole number of at least 0 per species")
    found = counts[counts > 0].astype(np.int64)
    if candidates < 1 or found.max(initial=0) > candidates:
        raise BadInput(f"a species was found by {found.max(initial=0)} of {candidates} candidates")
    if len(found) > total:
        raise BadInput(f"{len(found)} species were found, but there are only {total}")
    return found


def _at_rates(values: np.ndarray, species: np.ndarray, times: float) -> float:
    """Return the same where the rates of those found once spread like a gamma variable of shape 2.

    One rate for all gives the least that is possible, which matters at several times the candidates.
    """
    once, rate = _found_once(values, species)
    return float(species.sum() + once * 2 * (times - 1) / (2 + rate * (times - 1)))


def _found_once(values: np.ndarray, species: np.ndarray) -> tuple[int, float]:
    """Return Q1 and 2 Q2 / Q1 (0 where Q1 is)."""
    once, twice = (int(species[values == each].sum()) for each in (1, 2))
    return once, 2 * twice / once if once else 0.0


def _variance(species: np.ndarray, weights: np.ndarray, double: float) -> float:
    """Return the variance of a sum of weights whose means are the chances a to be found: sum E[w^2] - 2 a + a(2n)."""
    return max(float(species @ (weights**2 - 2 * weights)) + double, 0.0)


def _series(values: np.ndarray, t: float, finds: int) -> np.ndarray:
    """Return what a species found i times adds to the smoothed series of new species, for each i in `values`."""
    from scipy.stats import binom

    # Good and Toulmin's series has terms t^i, which explode beyond t = 1; weights that fall off at `steps` hold them.
    # The bound log3 m also below t = 1: there the plain series lets the parity of common species decide.
    steps = int(np.ceil(np.log(finds) / np.log(3)))
    if t > 1:
        steps = min(steps, int(np.ceil(np.log(finds * t**2 / (t - 1)) / np.log(3) / 2)))
    steps = max(steps, 1)
    weights = np.zeros(len(values))
    # P(Binomial(steps, .) >= i) is 0 beyond i = steps; t^i would overflow there.
    few = values <= steps
    signs = np.where(values[few] % 2, 1.0, -1.0)
    weights[few] = signs * t ** values[few] * binom.sf(values[few] - 1, steps, 2 / (2 + t))
    return weights


def _chao(counts: np.ndarray, candidates: int, total: int, confidence: float) -> Distinct:
    seen = len(counts)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # Q1^2 / (2 Q2), or without doubletons the bias-corrected form, which does not divide by Q2.
    k = (candidates - 1) / candidates
    unseen = k * (once**2 / (2 * twice) if twice else once * (once - 1) / 2)
    if not unseen:
        return _all_seen(counts, total, confidence)
    if twice:
        ratio = once / twice
        variance = twice * (k / 2 * ratio**2 + k**2 * ratio**3 + k**2 / 4 * ratio**4)
    else:
        variance = unseen + k**2 * once * (2 * once - 1) ** 2 / 4 - k**2 * once**4 / (4 * (seen + unseen))
    # Log-normal in the unseen number, so that the interval cannot begin below what was seen.
    stretch = float(np.exp(normal_quantile(confidence) * np.log1p(max(variance, 0.0) / unseen**2) ** 0.5))
    ends = (min(seen + each, float(total)) for each in (unseen / stretch, unseen, unseen * stretch))
    low, value, high = ends
    return Distinct(value, Interval(low, high))


def _all_seen(counts: np.ndarray, total: int, confidence: float) -> Distinct:
    """Return the number seen where no unseen species is estimated, with the interval of Colwell et al. 2012, app. G.

    A species found i times would be missed with exp(-i).
    """
    seen = len(counts)
    if not seen:
        return Distinct(0.0, unique_count(counts, total, confidence))
    missed = np.exp(-counts.astype(float))
    share = float(missed.sum()) / seen
    reach = normal_quantile(confidence) * float((missed - missed**2).sum()) ** 0.5 / (1 - share)
    high = min(seen / (1 - share) + reach, float(total))
    return Distinct(float(seen), Interval(float(seen), max(high, float(seen))))
