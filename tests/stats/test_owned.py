"""Owned shares: the excess by hand, the label swap against every swap, and the limits of a leak."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest, hypergeom

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.stats.owned import (
    Owned,
    Strata,
    clopper_pearson,
    excess_interval,
    excess_shares,
    leak_p,
    least_groups,
    lower_limit,
    memorised,
    size_classes,
    swap_test,
    upper_limit,
)


def one_class(training: int, held_out: int) -> Strata:
    return Strata(np.zeros(training, dtype=int), np.zeros(held_out, dtype=int))


def owned(training: list[float], held_out: list[float], candidates: int = 100, strata: Strata | None = None) -> Owned:
    ours, theirs = np.array(training, float)[:, None], np.array(held_out, float)[:, None]
    return Owned(ours, theirs, strata or one_class(len(ours), len(theirs)), candidates)


# ---- classes and the excess ----


def test_classes_double_and_are_merged_until_both_sides_stand_in_each() -> None:
    found = size_classes(np.array([1, 2, 3, 4, 9]), np.array([1, 4, 3, 2, 1]))
    assert found.training.tolist() == [0, 1, 2, 2, 2] and found.held_out.tolist() == [0, 2, 2, 1, 0]
    # No pair of X: those of H stand with the single ones.
    assert size_classes(np.array([1, 1, 5]), np.array([2, 1, 6])).held_out.tolist() == [0, 0, 1]
    # No group of one in H: those of X join the smallest class there is.
    assert size_classes(np.array([1, 2]), np.array([2, 2])).training.tolist() == [0, 0]
    assert size_classes(np.array([1, 1]), np.array([2])).held_out.tolist() == [0]
    with pytest.raises(BadInput, match="groups on both"):
        size_classes(np.array([1]), np.array([], dtype=int))


def test_a_share_of_the_smaller_side_counts_as_often_as_the_other_is_larger() -> None:
    strata = Strata(np.array([0, 0, 0, 1]), np.array([0, 1, 1]))
    found = excess_shares(owned([5, 0, 1, 2], [1, 1, 0], 100, strata))
    # Class 0: 6 - 3 / 1 * 1; class 1: 2 - 1 / 2 * 1.
    assert found[0] == pytest.approx((3 + 1.5) / 100)


def test_without_a_leak_the_excess_is_zero_on_average_at_any_sizes() -> None:
    rng = np.random.default_rng(0)
    credits = rng.poisson(rng.lognormal(-1, 1, 80))
    for training in (70, 40, 10):
        drawn = [credits[rng.permutation(80)] for _ in range(4000)]
        values = [excess_shares(owned(list(c[:training]), list(c[training:])))[0] for c in drawn]
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


# ---- label swaps ----


def test_label_swap_agrees_with_fishers_exact_test() -> None:
    # Credits of 0 and 1: the number of credited groups in X is hypergeometric.
    found = swap_test(owned([1] * 14 + [0] * 56, [1] + [0] * 9), 0)
    assert found.bands[0] == pytest.approx(hypergeom.sf(13, 80, 15, 70), abs=4 * math.sqrt(0.25 / 9999))
    assert found.family[0] == found.bands[0]


def test_label_swap_agrees_with_every_swap_in_several_bands() -> None:
    training = np.array([[2, 5], [1, 3], [0, 0], [0, 2]], float)
    held_out = np.array([[0, 1], [0, 0], [0, 0], [1, 2], [0, 1]], float)
    every = np.concatenate([training, held_out])
    sums = np.array([every[list(chosen)].sum(0) for chosen in itertools.combinations(range(9), 4)])
    z = (sums - sums.mean(0)) / sums.std(0)
    seen = (training.sum(0) - sums.mean(0)) / sums.std(0)
    found = swap_test(Owned(training, held_out, one_class(4, 5), 50), 1, swaps=20_000)
    assert found.bands == pytest.approx((sums >= training.sum(0)).mean(0), abs=0.015)
    assert found.family == pytest.approx([(z.max(1) >= own - 1e-9).mean() for own in seen], abs=0.015)


def test_labels_are_swapped_within_classes_only() -> None:
    # The large groups are hit, as large ones are, and two of three lie in X: no more than chance.
    strata = Strata(np.array([1, 1, *[0] * 20]), np.array([1, *[0] * 20]))
    hits = owned([30, 30] + [0] * 20, [30] + [0] * 20, 200, strata)
    assert swap_test(hits, 0).bands[0] == 1
    assert excess_shares(hits)[0] == 0


def test_a_wide_band_of_chance_hits_does_not_hide_a_leak_in_the_closest() -> None:
    rng = np.random.default_rng(3)
    chance = rng.poisson(4 * rng.lognormal(0, 1, 200))
    copies = np.repeat([1, 0], [12, 188])
    both = np.stack([copies, chance + copies], axis=1).astype(float)
    found = swap_test(Owned(both[:100], both[100:], one_class(100, 100), 2000), 0)
    assert found.family[0] < 0.01 < 0.05 < found.bands[1]


def test_nothing_owned_says_nothing_and_no_p_is_zero() -> None:
    assert swap_test(owned([0] * 10, [0] * 20), 0, swaps=99).family[0] == 1
    assert swap_test(owned([3] * 500, [0] * 500), 0, swaps=99).bands[0] == 0.01


def test_label_swap_repeats_and_ignores_the_order_of_groups() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.poisson(0.5, 300), rng.poisson(0.4, 200)
    found = swap_test(owned(list(ours), list(theirs)), 3)
    again = swap_test(owned(list(rng.permutation(ours)), list(rng.permutation(theirs))), 3)
    assert again.bands == found.bands != swap_test(owned(list(ours), list(theirs)), 4).bands


def test_label_swap_takes_a_hundred_thousand_groups() -> None:
    rng = np.random.default_rng(6)
    sides = [rng.poisson(rng.lognormal(0, 2, 100_000)).astype(float) for _ in range(2)]
    hits = Owned(sides[0][:, None], sides[1][:, None], one_class(100_000, 100_000), 10**6)
    assert 0.002 <= swap_test(hits, 0, swaps=499).bands[0] <= 1
    assert 0 <= lower_limit(hits, 0, 0.05, 0, swaps=199) < upper_limit(hits, 0, 0.05, 0, swaps=199) < 1


@pytest.mark.simulation(few=300, full=2000)
@pytest.mark.parametrize(("training", "held_out"), [(60, 60), (70, 10), (20, 60)])
def test_label_swap_is_no_more_often_small_than_it_says(training: int, held_out: int, draws: int) -> None:
    rng = np.random.default_rng(7)
    found = []
    for seed in range(draws):
        wide = rng.poisson(rng.lognormal(-1, 1.5, training + held_out)).astype(float)
        both = np.stack([rng.binomial(wide.astype(int), 0.2), wide], axis=1)
        hits = Owned(both[:training], both[training:], one_class(training, held_out), 500)
        found.append(swap_test(hits, seed, swaps=199).family.min())
    for level in (0.01, 0.05, 0.2, 0.5):
        often = int((np.array(found) <= level).sum())
        assert binomtest(often, draws, level, alternative="greater").pvalue > 0.001, f"{level}: {often / draws}"
        # Not so conservative as to be useless.
        assert level < 0.05 or often / draws > 0.4 * level


# ---- which groups ----


def test_conformal_p_values_are_ranks_among_held_out_groups_of_the_class() -> None:
    strata = Strata(np.array([0, 0, 1]), np.array([0, 0, 0, 1]))
    ours, theirs = np.array([0.1, 0.5, 0.1]), np.array([0.3, 0.6, np.inf, 0.05])
    # p: 1 / 4, 2 / 4, and 2 / 2 in the class of the only held-out group that is nearer.
    assert memorised(ours, theirs, strata, rate=0.74).tolist() == [False, False, False]
    assert memorised(ours, theirs, strata, rate=0.75).tolist() == [True, True, False]
    assert not memorised(np.full(3, np.inf), theirs, strata, rate=0.99).any()


def test_a_held_out_group_that_is_as_near_counts() -> None:
    ours, theirs = np.array([0.3]), np.array([0.3, 0.6, np.inf])
    assert memorised(ours, theirs, one_class(1, 3), rate=0.5).all()  # p: 2 / 4
    assert not memorised(ours, theirs, one_class(1, 3), rate=0.49).any()


@pytest.mark.simulation(few=300, full=2000)
def test_few_of_the_groups_that_are_called_are_called_wrongly(draws: int) -> None:
    rng = np.random.default_rng(11)
    wrong, seen = [], []
    for _ in range(draws):
        chance, copied = rng.exponential(1, 400), np.arange(200) < 30
        ours = np.where(copied, rng.uniform(0, 0.002, 200), chance[:200])
        called = memorised(ours, chance[200:], one_class(200, 200))
        wrong.append((called & ~copied).sum() / max(1, called.sum()))
        seen.append((called & copied).sum() / 30)
    assert np.mean(wrong) <= 0.05 + 3 * np.std(wrong) / math.sqrt(draws)
    assert np.mean(seen) > 0.4


# ---- limits ----


def test_clopper_pearson_is_that_of_scipy() -> None:
    for count, n in ((0, 30), (3, 30), (30, 30)):
        low, high = binomtest(count, n).proportion_ci(0.95, method="exact")
        assert clopper_pearson(count, n, 0.025) == pytest.approx((low, high))


def test_the_lower_limit_by_hand() -> None:
    # 20 groups of X own one each, none of H: k of them all lie in X with chance C(100, k) / C(200, k).
    hits = owned([1] * 20 + [0] * 80, [0] * 100, 1000)
    chances = {left: hypergeom.pmf(left, 200, left, 100) for left in range(21)}
    taken = max(20 - left for left in range(21) if chances[left] <= 0.025)
    expected = beta.ppf(0.025, taken, 1000 - taken + 1)
    assert lower_limit(hits, 0, 0.05, 0, swaps=99_999) == pytest.approx(expected)
    # At any L below, the test still rejects; nothing bounds it from above but what X owns.
    assert upper_limit(hits, 0, 0.05, 0) == pytest.approx(beta.ppf(0.975, 21, 980))


def test_the_upper_limit_by_hand() -> None:
    # 20 groups of either side own one each: what is left of X after L were taken is too little below some L.
    hits = owned([1] * 20 + [0] * 80, [1] * 20 + [0] * 80, 1000)
    chances = [hypergeom.cdf(20 - taken, 200, 100, 40 - taken) for taken in range(21)]
    taken = min(taken for taken in range(21) if chances[taken] <= 0.025)
    assert 0 < taken < 20 and all(abs(chance - 0.025) > 0.003 for chance in chances)
    assert upper_limit(hits, 0, 0.05, 0, swaps=99_999) == pytest.approx(beta.ppf(0.975, taken + 1, 1000 - taken))


@pytest.mark.parametrize(("ours", "theirs"), [(100, 100), (50, 100), (100, 50)])
def test_each_end_of_the_interval_has_a_quarter_of_what_is_left_for_groups_and_for_candidates(
    ours: int, theirs: int
) -> None:
    """20 groups of one side own one each: k of them all lie there with chance C(ours, k) / C(ours + theirs, k)."""

    def taken(own: int, level: float) -> int:
        both = ours + theirs
        return max(20 - left for left in range(21) if hypergeom.pmf(left, both, left, own) <= level)

    hits, none = [1] * 20, [0] * 20
    found = owned(hits + [0] * (ours - 20), none + [0] * (theirs - 20), 1000)
    most = taken(ours, 0.0125)
    low, high = excess_interval(found, 0, 0.95, 0, swaps=99_999)
    assert low == pytest.approx(beta.ppf(0.0125, most, 1001 - most))
    assert high == pytest.approx(beta.ppf(0.9875, 21, 980))
    # A share that H owns counts G_X / G_H times.
    turned = owned(none + [0] * (ours - 20), hits + [0] * (theirs - 20), 1000)
    most = taken(theirs, 0.0125)
    low, high = excess_interval(turned, 0, 0.95, 0, swaps=99_999)
    assert high == pytest.approx(-ours / theirs * beta.ppf(0.0125, most, 1001 - most))
    assert low == pytest.approx(-ours / theirs * beta.ppf(0.9875, 21, 980))


def test_the_p_of_a_limit_is_the_level_at_which_the_lower_limit_reaches_it() -> None:
    rng = np.random.default_rng(4)
    hits = owned(list(rng.poisson(0.6, 150)), list(rng.poisson(0.1, 100)), 1000)
    for limit in (0.01, 0.03, 0.05):
        p = leak_p(hits, 0, limit, 0)
        assert lower_limit(hits, 0, 1.1 * p, 0) >= limit >= lower_limit(hits, 0, 0.9 * p, 0)
    assert leak_p(hits, 0, 0.5, 0) == pytest.approx(1, abs=0.01)


def test_the_p_of_a_limit_by_hand() -> None:
    # Of L candidates that are leaked, the rest of 20 groups lies in X by chance, or so many are drawn by chance.
    hits, limit = owned([1] * 20 + [0] * 80, [0] * 100, 1000), 0.006
    rest = [hypergeom.pmf(20 - taken, 200, 20 - taken, 100) for taken in range(21)]
    drawn = [binom.sf(taken - 1, 1000, limit) for taken in range(21)]
    assert leak_p(hits, 0, limit, 0, swaps=99_999) == pytest.approx(2 * min(np.maximum(rest, drawn)))


def test_the_interval_holds_an_excess_that_one_class_makes() -> None:
    # The only large group of H owns all hits, and stands for nine of X: A is below any limit of all classes.
    strata = Strata(np.repeat([0, 1], [10, 9]), np.repeat([0, 1], [10, 1]))
    hits = owned([0] * 19, [0] * 10 + [50], 1000, strata)
    low, high = excess_interval(hits, 0, 0.95, 0)
    assert low == excess_shares(hits)[0] == pytest.approx(-9 * 50 / 1000)
    assert high > low


def test_a_swap_weighs_each_class_as_the_excess_does() -> None:
    # 10 + 10 single groups, of which nine of X are hit, and 3 + 1 large ones, of which that of H is: a group that is
    # called X adds 2 in the first class and 4 in the second. One hit is taken away; what is left adds 16.
    strata = Strata(np.repeat([0, 1], [10, 3]), np.repeat([0, 1], [10, 1]))
    hits = owned([1] * 9 + [0] * 4, [0] * 10 + [1], 1000, strata)
    single = hypergeom(20, 8, 10)
    expected = 3 / 4 * single.sf(5) + 1 / 4 * single.sf(7)
    assert leak_p(hits, 0, 0.0, 0, swaps=99_999) == pytest.approx(2 * expected, rel=0.05)


def test_the_interval_holds_the_excess_and_turns_with_the_sides() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = list(rng.poisson(0.9, 200)), list(rng.poisson(0.1, 200))
    low, high = excess_interval(owned(ours, theirs, 1000), 0, 0.95, 0)
    assert 0 < low < excess_shares(owned(ours, theirs, 1000))[0] < high
    turned = excess_interval(owned(theirs, ours, 1000), 0, 0.95, 0)
    assert turned == pytest.approx((-high, -low), abs=0.003)


def test_a_tie_counts_half_on_either_side() -> None:
    hits = owned([0.5, 1, 0], [0.5, 0, 0], 10)
    assert excess_shares(hits)[0] == pytest.approx(0.1)
    low, high = excess_interval(hits, 0, 0.95, 0)
    assert low < 0.1 < high


def test_how_many_groups_must_be_hit() -> None:
    assert least_groups(one_class(700, 100), 0.05) == 23
    assert least_groups(one_class(500, 500), 0.05) == 5
    assert least_groups(one_class(3, 1), 0.05) is None
    # So many groups of X are rejected, one fewer is not.
    for groups, rejected in ((22, False), (23, True)):
        hits = owned([1] * groups + [0] * (700 - groups), [0] * 100)
        assert (swap_test(hits, 0, swaps=99_999).bands[0] <= 0.05) == rejected


@pytest.mark.simulation(few=150, full=1000)
@pytest.mark.parametrize(("training", "held_out", "where"), [(700, 100, 700), (300, 300, 10), (100, 300, 100)])
def test_the_limits_hold_a_planted_leak(training: int, held_out: int, where: int, draws: int) -> None:
    rng = np.random.default_rng(8)
    leak, n, above, below = 0.05, 1000, 0, 0
    for seed in range(draws):
        popular = rng.lognormal(0, 1, training + held_out)
        copies = rng.binomial(n, leak)
        credits = rng.multinomial(rng.binomial(n - copies, 0.2), popular / popular.sum()).astype(float)
        credits[:where] += rng.multinomial(copies, np.full(where, 1 / where))
        hits = owned(list(credits[:training]), list(credits[training:]), n)
        above += lower_limit(hits, 0, 0.05, seed, swaps=399) > leak
        below += upper_limit(hits, 0, 0.05, seed, swaps=399) < leak
    for often in (above, below):
        assert binomtest(often, draws, 0.05, alternative="greater").pvalue > 0.001, often / draws
