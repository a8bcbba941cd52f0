"""Intervals against known values, other implementations, and their coverage."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, chi2, kstat, multinomial, norm, poisson, t
from statsmodels.stats.rates import confint_poisson  # type: ignore[import-untyped,unused-ignore]

from sidebench.benchmark.measures.ams_ums import found_at_once
from sidebench.benchmark.stats.intervals import (
    excess,
    group_reaches,
    matched_rate,
    paired_difference,
    poisson_exact,
    unique_bound,
    unique_count,
    wilson,
)

Z = float(norm.ppf(0.975))


# ---- wilson, poisson ----


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        # Newcombe 1998, Stat. Med. 17:857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_has_the_published_values(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 17), (10, 10), (12, 50_000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_ends_are_z_away_from_the_estimate(count: int, n: int, confidence: float) -> None:
    z = norm.ppf((1 + confidence) / 2)
    for end in wilson(count, n, confidence):
        if 0 < end < 1:
            assert abs(count / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(z, rel=1e-6)
        else:
            assert end == count / n


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_poisson_ends_leave_the_tails(count: int) -> None:
    low, high = poisson_exact(count)
    assert poisson.cdf(count, high) == pytest.approx(0.025, rel=1e-6)
    assert low == 0 if count == 0 else poisson.sf(count - 1, low) == pytest.approx(0.025, rel=1e-6)


def test_poisson_has_the_known_values() -> None:
    assert poisson_exact(0) == pytest.approx((0, 3.6889), abs=1e-4)
    assert poisson_exact(10) == pytest.approx((4.7954, 18.3904), abs=1e-4)


def test_intervals_are_the_written_out_formulas_and_those_of_statsmodels() -> None:
    # scipy's Wilson interval of whole counts, Wilson's formula for any n, Garwood's quantiles of chi-squared.
    rng = np.random.default_rng(4)
    pairs = []
    for _ in range(500):
        n, confidence = int(rng.integers(1, 10 ** rng.integers(1, 7))), float(rng.uniform(0.5, 0.999))
        count, tail = int(rng.integers(0, n + 1)), (1 - confidence) / 2
        old = binomtest(count, n).proportion_ci(confidence, method="wilson")
        pairs.append((wilson(count, n, confidence), (old.low, old.high)))
        rate, size, z2 = rng.uniform(), float(rng.uniform(1, 1000)), norm.ppf(1 - tail) ** 2
        reach = (z2 * (rate * (1 - rate) / size + z2 / (4 * size**2))) ** 0.5
        ends = [(rate + z2 / (2 * size) + sign * reach) / (1 + z2 / size) for sign in (-1, 1)]
        pairs.append((wilson(rate * size, size, confidence), ends))
        mean = float(rng.uniform(0, 10 ** rng.integers(0, 6)))
        ends = [chi2.ppf(tail, 2 * mean) / 2, chi2.ppf(1 - tail, 2 * mean + 2) / 2]
        pairs.append((poisson_exact(mean, confidence), ends))
        pairs.append(
            (poisson_exact(mean, confidence), confint_poisson(mean, 1, method="exact-c", alpha=1 - confidence))
        )
    ours, theirs = (np.array(column) for column in zip(*pairs, strict=True))
    largest = (np.abs(ours - theirs) / np.maximum(theirs, 1e-300)).max()
    assert largest <= 1e-12, largest


def test_wilson_ends_hold_the_rate_exactly() -> None:
    for n in range(1, 1000):
        assert wilson(0, n).low == 0 and wilson(n, n).high == 1


# ---- unique counts ----


def test_unique_count_holds_the_count_and_stays_below_the_total() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        frequencies = rng.binomial(200, rng.beta(0.2, 20, 40))
        seen = int((frequencies > 0).sum())
        low, high = unique_count(frequencies, 40)
        assert 0 <= low <= seen <= high <= 40


def test_few_species_get_the_poisson_interval() -> None:
    frequencies = np.array([3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert unique_count(frequencies, 1000) == poisson_exact(4)
    assert unique_count(frequencies, 6) == (poisson_exact(4).low, 6)


def test_the_lower_bound_of_clusters_by_hand() -> None:
    # Candidates that alone found 8, 8, 1 and 1 images, and one more like the largest that none has found.
    z = float(norm.ppf(0.95))
    assert unique_bound(30, np.array([8, 8, 1, 1])) == pytest.approx(30 - z * math.sqrt(64 + 64 + 1 + 1 + 64))
    assert unique_bound(5, np.array([0, 0])) == pytest.approx(5 - z)
    assert unique_bound(1, np.array([4])) == 0


RNG = np.random.default_rng(0)
CHANCES = {
    "lognormal, 100": np.minimum(RNG.lognormal(-7, 1.5, 100), 0.5),
    "lognormal, 300, rare": np.minimum(RNG.lognormal(-9, 2, 300), 0.5),
    "a few common, 200": np.r_[np.full(5, 0.05), np.full(195, 2e-4)],
    "pareto, 150": np.minimum(1e-4 * (1 + RNG.pareto(0.7, 150)), 0.3),
    "beta, 50": RNG.beta(0.2, 60, 50),
    "two kinds, 100": np.r_[np.full(60, 0.02), np.full(40, 3e-5)],
    "all nearly found, 50": np.full(50, 4e-3),
}


@pytest.mark.simulation(few=2000, full=2000)
@pytest.mark.parametrize("name", CHANCES)
def test_unique_count_covers(name: str, draws: int) -> None:
    chances, n = CHANCES[name], 1000
    expected = (1 - (1 - chances) ** n).sum()
    drawn = np.random.default_rng(1).binomial(n, chances, size=(draws, len(chances)))
    ends = np.array([unique_count(frequencies, len(chances)) for frequencies in drawn])
    coverage = ((ends[:, 0] <= expected) & (expected <= ends[:, 1])).mean()
    assert coverage >= 0.93, f"{name}: covers {coverage:.4f} of the draws, E[S] = {expected:.1f} of {len(chances)}"


# ---- paired differences ----


def log_likelihood(only_first: int, only_second: int, n: int, delta: float, q: float) -> float:
    cells = ((only_first, q + delta), (only_second, q), (n - only_first - only_second, 1 - 2 * q - delta))
    return sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)


def score_statistic(only_first: int, only_second: int, n: int, delta: float) -> float:
    """Return the score statistic, the nuisance parameter found by a numerical search."""
    bounds = (max(0.0, -delta), (1 - delta) / 2)
    found = minimize_scalar(
        lambda q: -log_likelihood(only_first, only_second, n, delta, q),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-12},
    )
    variance = (2 * found.x + delta - delta**2) / n
    return float(((only_first - only_second) / n - delta) / math.sqrt(variance))


@pytest.mark.parametrize(
    ("b", "c", "n"), [(12, 5, 50), (3, 9, 30), (1, 1, 20), (40, 20, 160), (7, 6, 13), (90, 2, 1000)]
)
def test_ends_solve_the_score_equation(b: int, c: int, n: int) -> None:
    low, high = paired_difference(b, c, n)
    assert score_statistic(b, c, n, low) == pytest.approx(Z, abs=1e-3)
    assert score_statistic(b, c, n, high) == pytest.approx(-Z, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 9, 24])
def test_every_table_is_sound_and_swaps(n: int) -> None:
    for b in range(n + 1):
        for c in range(n + 1 - b):
            low, high = paired_difference(b, c, n)
            assert -1 <= low <= (b - c) / n <= high <= 1
            assert high - low > 0
            assert paired_difference(c, b, n) == pytest.approx((-high, -low), abs=1e-7)


@pytest.mark.parametrize("n", [13, 25, 26, 50, 100, 50_000])
def test_all_discordant_one_way(n: int) -> None:
    low, high = paired_difference(0, n, n)
    assert low == pytest.approx(-1) and -1 < high < 0
    assert paired_difference(n, 0, n) == pytest.approx((-high, -low), abs=1e-7)


@pytest.mark.parametrize("n", [1, 50, 1024])
def test_no_discordant_pair_has_a_known_interval(n: int) -> None:
    # With b = c = 0 the statistic is delta sqrt(n / (|delta| (1 - |delta|))): |delta| = z^2 / (n + z^2).
    reach = Z**2 / (n + Z**2)
    assert paired_difference(0, 0, n) == pytest.approx((-reach, reach), rel=1e-6)


def test_more_confidence_is_wider() -> None:
    ends = [paired_difference(12, 5, 50, level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert all(wide.low < thin.low and thin.high < wide.high for thin, wide in itertools.pairwise(ends))


@pytest.mark.parametrize("n", [15, 24, 40])
def test_paired_difference_covers(n: int) -> None:
    tables = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b) if c < n])
    ends = np.array([paired_difference(b, c, n) for b, c in tables])
    coverages = []
    for first in (0.02, 0.05, 0.1, 0.2, 0.3, 0.45):
        for second in (0.02, 0.05, 0.1, 0.2, 0.3, 0.45):
            cells = np.c_[tables, n - tables.sum(1)]
            chance = multinomial.pmf(cells, n, [first, second, 1 - first - second])
            delta = first - second
            coverages.append(chance[(ends[:, 0] <= delta) & (delta <= ends[:, 1])].sum())
    # Exact coverages; a score interval dips a little below its level where one cell is rare.
    assert min(coverages) >= 0.925, min(coverages)
    assert 0.945 <= np.mean(coverages) <= 0.98, np.mean(coverages)


# ---- excess ----


def shares(weights: np.ndarray, hits: float) -> np.ndarray:
    scaled: np.ndarray = weights / weights.sum() * hits
    return scaled


GROUPS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "equal, 512": lambda rng: shares(np.ones(512), 0.9),
    "lognormal, 512": lambda rng: shares(rng.lognormal(0, 1.5, 512), 0.3),
    "lognormal, 512, few hits": lambda rng: shares(rng.lognormal(0, 1.5, 512), 0.02),
    "pareto, 200": lambda rng: shares(1 + rng.pareto(1.0, 200), 0.3),
    "ten heavy of 60": lambda rng: shares(np.r_[np.full(10, 40.0), np.ones(50)], 0.4),
    "five heavy of 100": lambda rng: shares(np.r_[np.full(5, 20.0), np.ones(95)], 0.4),
}


def draw_splits(name: str, seed: int, draws: int) -> np.ndarray:
    """Return hits by group, the groups in a random order: the first half is "training"."""
    rng = np.random.default_rng(seed)
    chances = GROUPS[name](rng)
    drawn = rng.multinomial(1000, [*chances, 1 - chances.sum()], size=draws)[:, :-1]
    return rng.permuted(drawn, axis=1)


@pytest.mark.simulation(few=400, full=2000)
@pytest.mark.parametrize("name", GROUPS)
def test_excess_covers_zero_under_a_random_split(name: str, draws: int) -> None:
    drawn = draw_splits(name, 2, draws)
    half = drawn.shape[1] // 2
    covered = 0
    for row in drawn:
        training, held_out = row[:half], row[half:]
        found = excess(training, held_out, int(training.sum()), int(held_out.sum()), 1000)
        covered += found.interval.low <= 0 <= found.interval.high
    assert covered / draws >= 0.93, f"{name}: zero lies inside in {covered / draws:.4f} of the splits"


@pytest.mark.simulation(few=100, full=500)
def test_candidates_alone_are_not_enough(draws: int) -> None:
    # The reason why `excess` looks at groups: heavy groups fall on one side by chance.
    drawn = draw_splits("ten heavy of 60", 2, draws)
    ends = [paired_difference(int(row[:30].sum()), int(row[30:].sum()), 1000) for row in drawn]
    assert np.mean([low <= 0 <= high for low, high in ends]) < 0.8


def test_excess_by_hand() -> None:
    training, held_out = np.array([3, 1, 0, 0]), np.array([1, 0, 0, 0])
    value, (low, high) = excess(training, held_out, 4, 1, 50)
    assert value == pytest.approx(3 / 50)
    # variances 2 and 0.25 by group, four groups each; t with 3 degrees of freedom
    reach = 3.18244630 * math.sqrt(4 * 2 + 4 * 0.25) / 50
    alone = paired_difference(4, 1, 50)
    assert (low, high) == pytest.approx((min(alone.low, value - reach), max(alone.high, value + reach)), rel=1e-6)


def test_one_group_a_side_leaves_the_candidates_interval() -> None:
    found = excess(np.array([4]), np.array([1]), 4, 1, 50)
    assert found.interval == paired_difference(4, 1, 50)


def test_groups_that_are_hit_alike_leave_the_candidates_interval() -> None:
    even, none = np.ones(10, dtype=int), np.zeros(10, dtype=int)
    assert excess(even, none, 10, 0, 50).interval == paired_difference(10, 0, 50)
    assert excess(even, none[:0], 10, 0, 50).interval == wilson(10, 50)


def test_the_matched_rate_is_the_mean_over_every_part() -> None:
    # Six images, of which m are in band; two, three or all are drawn in every way there is.
    for drawn in (2, 3, 6):
        parts = list(itertools.combinations(range(6), drawn))
        every = [np.mean([min(part) < m for part in parts]) for m in range(7)]
        assert [matched_rate(np.array([m]), 6, drawn) for m in range(7)] == pytest.approx(every)
        assert matched_rate(np.arange(7), 6, drawn) == pytest.approx(np.mean(every))


def test_a_clear_excess_excludes_zero() -> None:
    rng = np.random.default_rng(3)
    training, held_out = rng.poisson(3.0, 200), rng.poisson(1.0, 200)
    found = excess(training, held_out, int(training.sum()), int(held_out.sum()), 1000)
    assert found.interval.low > 0


# ---- few groups that draw most hits ----

UNEVEN = np.array([40, 12, 6, 3, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0])


def test_the_end_on_the_long_tail_is_moved_out() -> None:
    n, d = len(UNEVEN), UNEVEN - UNEVEN.mean()
    variance = n * UNEVEN.var(ddof=1)
    skewness = n * kstat(UNEVEN, 3) / variance**1.5
    freedom = 2 * variance**2 / (n * (d**2).var(ddof=1))
    quantile = t.ppf(0.975, freedom)
    below, above = group_reaches([UNEVEN])
    assert below == pytest.approx(t.ppf(0.975, n - 1) * variance**0.5)
    assert above == pytest.approx((quantile + skewness * (2 * quantile**2 + 1) / 6) * variance**0.5)
    assert above > 1.5 * below


def test_the_end_near_zero_stays_on_either_side() -> None:
    assert group_reaches([-UNEVEN]) == pytest.approx(group_reaches([UNEVEN])[::-1])
    # The long tail points to 0: a sum of many small hits, less those of a few heavy groups.
    towards = np.r_[np.full(200, 1), -UNEVEN]
    assert group_reaches([towards]) == pytest.approx((t.ppf(0.975, 213) * (214 * towards.var(ddof=1)) ** 0.5,) * 2)


def test_even_groups_and_few_hits_have_the_t_interval() -> None:
    rng = np.random.default_rng(4)
    for term in (rng.poisson(3, 400), np.r_[5, 1, 1, np.zeros(97)], np.zeros(20), np.array([3, 0])):
        reach = t.ppf(0.975, len(term) - 1) * (len(term) * term.var(ddof=1)) ** 0.5
        assert group_reaches([term]) == pytest.approx((reach, reach))


def test_an_excess_drawn_by_a_few_groups_reaches_further_up_only() -> None:
    held_out, hits = np.zeros(len(UNEVEN), dtype=int), int(UNEVEN.sum())
    value, (low, high) = excess(UNEVEN, held_out, hits, 0, 1000)
    below, above = (reach / 1000 for reach in group_reaches([UNEVEN, held_out]))
    assert (value - low, high - value) == pytest.approx((below, above))
    assert above > 1.5 * below


# ---- near-copies, found together ----


def test_finds_of_one_candidate_are_counted_together() -> None:
    # Candidates 0, 2 and 5 have 3, 1 and 2 references in band: (9 + 1 + 4) / 6.
    assert found_at_once(np.array([0, 0, 0, 2, 5, 5])) == pytest.approx(14 / 6)
    assert found_at_once(np.array([4, 1, 7])) == 1.0 == found_at_once(np.empty(0, dtype=np.int64))


def test_near_copies_scale_the_interval() -> None:
    once = np.array([1] * 20 + [2] * 5 + [0] * 75)
    tripled = np.repeat(once, 3)
    alone, together = unique_count(once, 100), unique_count(tripled, 300, at_once=3.0)
    assert together == pytest.approx((3 * alone.low, 3 * alone.high))
    few, many = np.array([1, 2, 0, 0]), np.repeat(np.array([1, 2, 0, 0]), 3)
    assert unique_count(many, 100, at_once=3.0) == pytest.approx([3 * end for end in unique_count(few, 100)])


@pytest.mark.simulation(few=400, full=2000)
def test_finds_of_several_near_copies_at_once_are_covered(draws: int) -> None:
    rng = np.random.default_rng(8)
    clusters, size, n = 60, 3, 1000
    rates = np.full(clusters, 1e-3)
    truth = size * (1 - (1 - rates) ** n).sum()
    held = naive = 0
    for found in rng.multinomial(n, [*rates, 1 - rates.sum()], size=draws)[:, :-1]:
        frequencies = np.repeat(found, size)
        low, high = unique_count(frequencies, clusters * size, at_once=float(size))
        held += low <= truth <= high
        low, high = unique_count(frequencies, clusters * size)
        naive += low <= truth <= high
    assert 0.935 <= held / draws <= 0.98
    assert naive / draws < 0.8, "the reason why finds are counted together"
