"""Rarefaction, lower bounds and extrapolation: hand-computed cases, and what the intervals cover."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.stats.intervals import poisson_exact, unique_count
from sidebench.benchmark.stats.richness import chao1, chao2, curve, extrapolates_to, good_toulmin, rarefaction

N = 1000

RNG = np.random.default_rng(0)
CHANCES = {
    "lognormal, 300": np.minimum(RNG.lognormal(-7, 1.5, 300), 0.5),
    "rare, 300": np.minimum(RNG.lognormal(-9, 2, 300), 0.5),
    "a few common, 200": np.r_[np.full(5, 0.05), np.full(195, 2e-4)],
    "two kinds, 100": np.r_[np.full(60, 0.02), np.full(40, 3e-5)],
    "all nearly found, 50": np.full(50, 4e-3),
}
FEW = np.array([3, 2, 2, 1, 1, 1, 1, 0, 0])


# ---- rarefaction ----


def test_rarefaction_is_the_mean_over_every_choice_of_candidates() -> None:
    found_by = [{0, 1, 2}, {0, 3}, {4}, {2}, {5}]
    counts = np.array([len(each) for each in found_by])
    for n in range(1, 7):
        choices = [set(each) for each in itertools.combinations(range(6), n)]
        mean = np.mean([sum(bool(each & species) for species in found_by) for each in choices])
        assert rarefaction(counts, 6, 9, n).value == pytest.approx(mean)


@pytest.mark.parametrize("n", [1, 7, 500_000, 999_999])
def test_rarefaction_is_hypergeometric_at_a_million_candidates(n: int) -> None:
    counts = np.array([1, 2, 40, 3000, 1_000_000])
    expected = sum(hypergeom.sf(0, 1_000_000, f, n) for f in counts[1:4]) + n / 1e6 + 1
    assert rarefaction(counts, 1_000_000, 9, n).value == pytest.approx(expected, rel=1e-6)


def test_one_candidate_finds_the_mean_number() -> None:
    assert rarefaction(FEW, 50, 9, 1).value == pytest.approx(FEW.sum() / 50, rel=1e-12)


def test_candidates_that_find_nothing_are_effort() -> None:
    # Half of 20 candidates keep a species found once with chance 1/2, whatever the other 19 did.
    assert rarefaction(np.array([1]), 20, 5, 10).value == pytest.approx(0.5)
    assert rarefaction(np.array([1]), 40, 5, 10).value == pytest.approx(0.25)


def test_all_candidates_have_the_interval_of_the_unique_count() -> None:
    counts = np.random.default_rng(1).binomial(N, CHANCES["lognormal, 300"])
    assert rarefaction(counts, N, 300, N) == (int((counts > 0).sum()), unique_count(counts, 300))


def test_the_interval_closes_on_that_of_the_unique_count() -> None:
    counts = np.random.default_rng(1).binomial(10**6, np.minimum(CHANCES["lognormal, 300"] / 1000, 1))
    near, whole = rarefaction(counts, 10**6, 300, 10**6 - 1), rarefaction(counts, 10**6, 300, 10**6)
    assert near.interval == pytest.approx(whole.interval, abs=0.01)


def test_rarefaction_rises_within_its_interval() -> None:
    counts = np.random.default_rng(2).binomial(N, CHANCES["rare, 300"])
    found = [rarefaction(counts, N, 300, n) for n in range(1, N + 1, 37)]
    assert all(a.value < b.value for a, b in itertools.pairwise(found))
    assert all(0 <= each.interval.low <= each.value <= each.interval.high <= 300 for each in found)


def test_few_species_get_the_scaled_poisson_interval() -> None:
    low, high = poisson_exact(7)
    found = rarefaction(FEW, 50, 1000, 25)
    assert found.interval == pytest.approx((low * found.value / 7, high * found.value / 7))
    none = rarefaction(np.zeros(9, int), 50, 1000, 25)
    assert none.value == 0 and none.interval == pytest.approx((0, poisson_exact(0).high / 2))


@pytest.mark.simulation(few=1000, full=2000)
@pytest.mark.parametrize("name", CHANCES)
@pytest.mark.parametrize("n", [N // 10, N // 2, 4 * N // 5])
def test_rarefaction_covers(name: str, n: int, draws: int) -> None:
    chances = CHANCES[name]
    expected = (1 - (1 - chances) ** n).sum()
    drawn = np.random.default_rng(3).binomial(N, chances, size=(draws, len(chances)))
    ends = np.array([rarefaction(counts, N, len(chances), n).interval for counts in drawn])
    coverage = ((ends[:, 0] <= expected) & (expected <= ends[:, 1])).mean()
    assert coverage >= 0.93, f"{name}, {n} of {N}: covers {coverage:.4f}, E[S] = {expected:.1f} of {len(chances)}"


@pytest.mark.simulation(few=400, full=2000)
def test_rarefaction_covers_where_a_candidate_finds_at_most_one(draws: int) -> None:
    chances = CHANCES["lognormal, 300"] * 0.5 / CHANCES["lognormal, 300"].sum()
    drawn = np.random.default_rng(4).multinomial(N, np.r_[chances, 1 - chances.sum()], size=draws)[:, :-1]
    expected = (1 - (1 - chances) ** (N // 2)).sum()
    ends = np.array([rarefaction(counts, N, 300, N // 2).interval for counts in drawn])
    assert ((ends[:, 0] <= expected) & (expected <= ends[:, 1])).mean() >= 0.93


# ---- Chao1 and Chao2 ----


def test_chao_by_hand() -> None:
    # 7 seen, four once, two twice: 7 + (49/50) 16/4; ratio 2.
    found = chao1(FEW, 50, 1000)
    k = 49 / 50
    assert found.value == pytest.approx(7 + k * 4)
    variance = 2 * (k / 2 * 4 + k**2 * 8 + k**2 / 4 * 16)
    stretch = math.exp(1.959964 * math.sqrt(math.log(1 + variance / (4 * k) ** 2)))
    assert found.interval == pytest.approx((7 + 4 * k / stretch, 7 + 4 * k * stretch), rel=1e-6)
    assert chao2(FEW, 50, 1000) == found


def test_chao_without_a_species_found_twice() -> None:
    found = chao1(np.array([1, 1, 1, 3]), 10, 1000)
    assert found.value == pytest.approx(4 + 0.9 * 3 * 2 / 2)
    assert 4 < found.interval.low < found.value < found.interval.high


def test_chao_stays_below_the_total() -> None:
    found = chao1(FEW, 50, 9)
    assert found.value == 9 and found.interval.high == 9 and 7 <= found.interval.low <= 9


@pytest.mark.parametrize("counts", [[4, 5, 6], [1], [1, 7, 7]])
def test_chao_where_nothing_unseen_is_estimated(counts: list[int]) -> None:
    found = chao2(np.array(counts), 50, 1000)
    assert found.value == len(counts) == found.interval.low <= found.interval.high < 2 * len(counts) + 3


def test_chao_without_a_find() -> None:
    assert chao1(np.zeros(5, int), 50, 1000) == (0, poisson_exact(0))


def test_chao1_refuses_incidence_data() -> None:
    counts = np.array([30, 30])
    with pytest.raises(BadInput, match=r"60 finds by 50 candidates .* chao2"):
        chao1(counts, 50, 100)
    chao2(counts, 50, 100)


@pytest.mark.simulation(few=400, full=2000)
def test_chao_finds_the_species_of_an_even_community(draws: int) -> None:
    drawn = np.random.default_rng(5).binomial(N, 1.2e-3, size=(draws, 200))
    found = [chao2(counts, N, 10_000) for counts in drawn]
    assert np.mean([each.value for each in found]) == pytest.approx(200, rel=0.03)
    assert np.mean([each.interval.low <= 200 <= each.interval.high for each in found]) >= 0.93


@pytest.mark.simulation(few=100, full=500)
def test_chao_is_a_lower_bound_on_an_uneven_community(draws: int) -> None:
    drawn = np.random.default_rng(6).binomial(N, CHANCES["rare, 300"], size=(draws, 300))
    means = np.mean([(chao2(counts, N, 10_000).value, (counts > 0).sum()) for counts in drawn], axis=0)
    assert means[1] + 10 < means[0] < 300


# ---- extrapolation ----


def test_good_toulmin_by_hand() -> None:
    # Q1 = 4, Q2 = 2, Q3 = 1, 11 finds, so k = 3; at t = 1 the tails of Bin(3, 2/3) are 26/27, 20/27, 8/27.
    found = good_toulmin(FEW, 50, 1000, 1.0)
    assert found.value == pytest.approx(7 + (4 * 26 - 2 * 20 + 8) / 27)
    # Weights 53/27, 7/27, 35/27; four times as many: 7 + 4 * 2 * 3 / (2 + 3) at rate 1.
    weights = np.repeat([53 / 27, 7 / 27, 35 / 27], [4, 2, 1])
    variance = (weights**2 - 2 * weights).sum() + 7 + 4 * 6 / 5 + 4
    reach = 1.959964 * math.sqrt(variance)
    assert found.interval == pytest.approx((max(found.value - reach, 0), found.value + reach), rel=1e-6)
    assert good_toulmin(FEW, 50, 1000, 0.5).value == pytest.approx(7 + 4 * 0.5 * 0.992 - 2 * 0.25 * 0.896 + 0.064)


def test_smoothing_weights_by_hand() -> None:
    # 11 finds, t = 2: log3(11 * 4 / 1) / 2 = 1.72, so k = 2; P(Bin(2, 1/2) >= 1) = 3/4, P(>= 2) = 1/4.
    assert good_toulmin(FEW, 50, 1000, 2.0).value == pytest.approx(7 + 4 * 2 * 3 / 4 - 2 * 4 / 4)


def test_extrapolation_beyond_its_range_is_refused_with_the_numbers() -> None:
    assert extrapolates_to(FEW) == pytest.approx(math.log(11))
    with pytest.raises(TooFew, match=r"11 finds .* t = 2\.4 .* not 2\.5"):
        good_toulmin(FEW, 50, 1000, 2.5)
    with pytest.raises(TooFew, match="0 finds"):
        good_toulmin(np.zeros(5, int), 50, 1000, 0.5)
    assert extrapolates_to(np.array([1])) == 1
    for t in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BadInput, match="t is"):
            good_toulmin(FEW, 50, 1000, t)


def test_extrapolation_stays_between_the_seen_and_the_total() -> None:
    found = good_toulmin(FEW, 50, 8, 1.0)
    assert found.value == found.interval.high == 8 and found.interval.low < 7
    # A series that turns negative: nothing new is the least there can be.
    assert good_toulmin(np.array([2, 2, 2, 2]), 50, 9, 1.0).value == 4


@pytest.mark.simulation(few=2000, full=2000)
@pytest.mark.parametrize("name", CHANCES)
def test_extrapolation_to_twice_as_many_is_close(name: str, draws: int) -> None:
    chances = CHANCES[name]
    truth = (1 - (1 - chances) ** (2 * N)).sum()
    drawn = np.random.default_rng(7).binomial(N, chances, size=(draws, len(chances)))
    found = [good_toulmin(counts, N, 10_000, 1.0) for counts in drawn]
    values = np.array([each.value for each in found])
    seen = (1 - (1 - chances) ** N).sum()
    assert abs(values.mean() - truth) < 1.5
    assert np.sqrt(((values - truth) ** 2).mean()) < 2 + 2.4 * math.sqrt(truth - seen)
    assert np.mean([each.interval.low <= truth <= each.interval.high for each in found]) >= 0.93


@pytest.mark.simulation(few=100, full=500)
def test_smoothing_tames_the_series(draws: int) -> None:
    chances = CHANCES["lognormal, 300"]
    truth = (1 - (1 - chances) ** (4 * N)).sum()
    drawn = np.random.default_rng(8).binomial(N, chances, size=(draws, 300))
    smooth = np.array([good_toulmin(counts, N, 10**6, 3.0).value for counts in drawn])
    assert np.sqrt(((smooth - truth) ** 2).mean()) < 0.2 * truth
    rough = [(counts > 0).sum() - ((-3.0) ** counts[counts > 0]).sum() for counts in drawn]
    assert np.sqrt(((np.array(rough) - truth) ** 2).mean()) > 1000 * truth


def test_a_species_that_every_candidate_finds_does_not_move_it() -> None:
    counts = np.r_[FEW, 100_000]
    for t in (0.5, 1.0):
        plain, added = (good_toulmin(each, 100_000, 1000, t) for each in (FEW, counts))
        assert added.value - plain.value == pytest.approx(1, abs=0.7)


# ---- the curve ----


def test_curve_has_equal_steps_through_the_observed_number() -> None:
    counts = np.random.default_rng(9).binomial(N, CHANCES["lognormal, 300"])
    rows = curve(counts, N, 300)
    assert [row.candidates for row in rows] == list(range(50, 2001, 50))
    assert [row.kind for row in rows] == 19 * ["rarefied"] + ["observed"] + 20 * ["extrapolated"]
    assert rows[19].value == (counts > 0).sum()
    assert (rows[19].low, rows[19].high) == unique_count(counts, 300)
    assert rows[9][1:4] == (lambda found: (found.value, *found.interval))(rarefaction(counts, N, 300, 500))
    assert rows[-1].value == good_toulmin(counts, N, 300, 1.0).value
    assert all(row.low <= row.value <= row.high <= 300 for row in rows)


def test_curve_goes_as_far_as_its_range() -> None:
    assert {row.kind for row in curve(np.zeros(5, int), 100, 5)} == {"rarefied", "observed"}
    assert curve(FEW, 50, 1000, points=10, reach=9.0)[-1].candidates == 50 + 5 * int(10 * math.log(11))
    assert {row.kind for row in curve(FEW, 50, 1000, reach=0.0)} == {"rarefied", "observed"}


def test_curve_ends_before_the_estimate_falls() -> None:
    # Few found once, many found twice: the series turns down within one more N.
    frequencies = np.repeat([1, 2, 3], [20, 40, 10])
    far = good_toulmin(frequencies, 1000, 500, 1.0)
    near = good_toulmin(frequencies, 1000, 500, 0.25)
    assert far.value < near.value, "the example does not fall, so the test would show nothing"
    values = [point.value for point in curve(frequencies, 1000, 500)]
    assert len(values) < 40 and values == sorted(values)


def test_upper_end_of_a_curve_never_falls() -> None:
    # Two found once each: exact up to N, where so few allow seven, and a normal approximation beyond.
    ends = [point.high for point in curve(np.array([1, 1]), 1000, 500)]
    assert len(ends) > 20 and ends == sorted(ends)


def test_curve_of_few_candidates_has_a_row_for_each() -> None:
    assert [row.candidates for row in curve(np.array([1, 2]), 3, 9, reach=0.0)] == [1, 2, 3]


# ---- bad input ----


@pytest.mark.parametrize(
    ("counts", "candidates", "total", "message"),
    [
        ([1, -1], 50, 9, "whole number"),
        ([0.5], 50, 9, "whole number"),
        ([51], 50, 9, "found by 51 of 50"),
        ([1, 1, 1], 50, 2, "3 species were found, but there are only 2"),
        ([0], 0, 2, "0 candidates"),
    ],
)
def test_impossible_frequencies_are_refused(counts: list[float], candidates: int, total: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        chao2(np.array(counts), candidates, total)
    with pytest.raises(BadInput, match=message):
        rarefaction(np.array(counts), candidates, total, 1)


@pytest.mark.parametrize("n", [0, 51])
def test_rarefaction_goes_down_only(n: int) -> None:
    with pytest.raises(BadInput, match=f"from 50 candidates to 1, not to {n}"):
        rarefaction(FEW, 50, 9, n)


def test_smoothing_is_a_binomial_tail() -> None:
    counts = np.repeat([1, 2, 3, 5], [40, 20, 10, 4])
    steps = math.ceil(math.log(counts.sum() * 9 / 2, 3) / 2)
    tail = sum(-((-3.0) ** i) * binom.sf(i - 1, steps, 0.4) for i in counts.tolist())
    assert good_toulmin(counts, 500, 10**6, 3.0).value == pytest.approx(len(counts) + tail)


@pytest.mark.simulation(few=400, full=400)
def test_species_that_are_found_together_are_covered(draws: int) -> None:
    rng = np.random.default_rng(9)
    rates, size, n = np.full(60, 1e-3), 3, 1000
    held = np.zeros((2, 2))
    for found in rng.multinomial(n, [*rates, 1 - rates.sum()], size=draws)[:, :-1]:
        frequencies = np.repeat(found, size)
        for column, at_once in enumerate((3.0, 1.0)):
            below = rarefaction(frequencies, n, 180, 500, at_once=at_once).interval
            beyond = good_toulmin(frequencies, n, 180, 0.5, at_once=at_once).interval
            for row, (m, interval) in enumerate(((500, below), (1500, beyond))):
                held[row, column] += interval.low <= size * (1 - (1 - rates) ** m).sum() <= interval.high
    assert (held[:, 0] / draws >= 0.92).all()
    assert (held[:, 1] / draws < 0.86).all()
