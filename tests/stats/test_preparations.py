"""Attacks over their preparations: by hand, and that the interval holds where preparations differ."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.stats.comparison import AttackHits, compare, excess_of, pooled
from sidebench.benchmark.stats.preparations import Prepared, compare_prepared, rate_over_preparations

N = 400


def hits(count: int, chance: int = 0, groups: int = 1) -> AttackHits:
    """Return hits of the first candidates, spread evenly over groups; with one group, images say nothing."""
    order, none = np.arange(N), np.empty(0)
    credits = np.bincount(order[:count] % groups, minlength=groups)
    if not chance:
        return AttackHits(order < count, np.zeros(N, dtype=bool), credits, none)
    return AttackHits(order < count, order >= N - chance, credits, np.array([chance, *[0] * (groups - 1)]))


def prepared(name: str, counts: Sequence[int], *, random: bool = True) -> Prepared:
    return Prepared(name, {seed: hits(count) for seed, count in enumerate(counts)}, random)


def own_variance(counts: Sequence[int]) -> float:
    """Return the mean over preparations of the variance that the candidates give a log rate: (1 - p) / (p (N - 1))."""
    rates = np.array(counts) / N
    return float(np.mean((1 - rates) / rates / (N - 1)))


MORE, FEWER = (40, 60, 50, 70, 45), (20, 22, 30, 24, 26)


def test_five_preparations_are_a_paired_t_interval_of_log_rates() -> None:
    found = compare_prepared(prepared("a", MORE), prepared("b", FEWER))
    logs = np.log(MORE) - np.log(FEWER)
    by_hand = stats.ttest_1samp(logs, 0)
    assert found.ratio.value == pytest.approx(math.exp(logs.mean())) and found.p == pytest.approx(by_hand.pvalue)
    assert np.log(found.ratio.interval) == pytest.approx(tuple(by_hand.confidence_interval(0.95)))
    assert (found.preparations, found.conditional, found.controlled) == (5, "over 5 preparations", False)


@pytest.mark.parametrize("count", [3, 4])
def test_few_preparations_pool_what_lies_between_them(count: int) -> None:
    ours, theirs, third = (40, 60, 50, 44)[:count], (20, 30, 22, 27)[:count], (200, 150, 300, 170)[:count]
    plain = prepared("plain", [50] * count, random=False)
    others = [prepared("third", third), plain, prepared("none", range(count))]
    found = compare_prepared(prepared("a", ours), prepared("b", theirs), others)
    between = np.mean([np.log(own).var(ddof=1) - own_variance(own) for own in (ours, theirs, third)])
    # The candidates that the second attack hits, the first one hits too: together they vary less than apart.
    pairs = []
    for one, two in zip(ours, theirs, strict=True):
        pairs.append(((np.arange(N) < one) * N / one - (np.arange(N) < two) * N / two).var(ddof=1) / N)
    error = math.sqrt((2 * between + np.mean(pairs)) / count)
    centre = (np.log(ours) - np.log(theirs)).mean()
    freedom = 3 * (count - 1)
    reach = stats.t.ppf(0.975, freedom) * error
    assert np.log(found.ratio.interval) == pytest.approx((centre - reach, centre + reach))
    assert found.spread == pytest.approx(math.sqrt(between)) and found.preparations == count
    assert found.p == pytest.approx(2 * stats.t.sf(centre / error, freedom))


def test_an_attack_with_more_preparations_counts_by_its_degrees_of_freedom() -> None:
    counts = (40, 60, 50), (20, 30, 22), (200, 150, 300, 170, 260)
    gains = [np.log(own).var(ddof=1) - own_variance(own) for own in counts]
    one, two, third = (prepared(name, own) for name, own in zip("abc", counts, strict=True))
    wanted = math.sqrt(np.average(gains, weights=[2, 2, 4]))
    assert wanted != pytest.approx(math.sqrt(np.mean(gains)), rel=0.01)
    assert compare_prepared(one, two, [third]).spread == pytest.approx(wanted)


def test_attacks_of_which_candidates_say_less_do_not_tell_of_preparations() -> None:
    pair = prepared("a", (40, 60, 50)), prepared("b", (20, 30, 22))
    alone = compare_prepared(*pair)
    assert compare_prepared(*pair, [prepared("rare", (1, 9, 3))]) == alone
    assert compare_prepared(*pair, pair) == alone


def test_an_attack_without_preparations_has_no_variance_between_them() -> None:
    ours, theirs = (40, 60, 50), (20, 30, 22)
    one = compare_prepared(prepared("a", ours), prepared("plain", theirs, random=False))
    both = compare_prepared(prepared("a", ours), prepared("b", theirs))
    assert one.ratio.value == pytest.approx(both.ratio.value)
    between = np.log(ours).var(ddof=1) - own_variance(ours)
    assert one.spread == pytest.approx(math.sqrt(between))
    plain = compare_prepared(prepared("a", ours, random=False), prepared("plain", theirs, random=False))
    pools = [pooled([hits(count) for count in counts]) for counts in (ours, theirs)]
    assert (plain.ratio, plain.preparations, plain.conditional) == (compare(*pools).ratio, None, "")


def test_one_preparation_says_so_and_takes_the_candidates_interval() -> None:
    found = compare_prepared(prepared("a", (60,)), prepared("b", (20,)))
    assert found.ratio == compare(hits(60), hits(20)).ratio and found.conditional == "of this preparation"


def test_seeds_that_only_one_attack_has_are_left_out() -> None:
    more = prepared("a", (*MORE, 400))
    assert compare_prepared(more, prepared("b", FEWER)) == compare_prepared(prepared("a", MORE), prepared("b", FEWER))
    with pytest.raises(BadInput, match="a and b have no seed in common"):
        compare_prepared(prepared("a", (1,)), Prepared("b", {7: hits(1)}, True))


@pytest.mark.parametrize("counts", [(20, 0, 30, 22, 25), (20, 0, 30)])
def test_a_preparation_that_finds_nothing_has_no_ratio(counts: Sequence[int]) -> None:
    found = compare_prepared(prepared("a", MORE[: len(counts)]), prepared("b", counts))
    assert found.ratio.interval is None and found.p == 1
    assert found.ratio.refused == "no ratio: the AMS of b under seed 1 is 0.0000%, and has no logarithm"
    assert rate_over_preparations(prepared("b", counts)) is None
    nothing_over_chance = Prepared("c", {seed: hits(8, 9, groups=50) for seed in range(len(counts))}, True)
    some = Prepared("a", {seed: hits(80, 9, groups=50) for seed in range(len(counts))}, True)
    assert "the excess of c under seed 0 is -0.2500%" in compare_prepared(some, nothing_over_chance).ratio.refused


def test_a_rate_that_may_be_nothing_has_no_ratio_either_way() -> None:
    rare, often = prepared("rare", (1, 1)), prepared("often", (40, 50))
    assert "the second attack's AMS of 0.2500% may be 0" in compare_prepared(often, rare).ratio.refused
    assert "the first attack's AMS of 0.2500% may be 0" in compare_prepared(rare, often).ratio.refused


def test_a_rate_over_preparations() -> None:
    rate = rate_over_preparations(prepared("a", MORE))
    by_hand = stats.ttest_1samp(np.log(np.array(MORE) / N), 0)
    assert rate is not None and np.log(rate.interval) == pytest.approx(tuple(by_hand.confidence_interval(0.95)))
    few, alone = (rate_over_preparations(prepared("a", MORE[:count])) for count in (3, 1))
    assert few is not None and few.interval.high - few.interval.low > rate.interval.high - rate.interval.low
    assert alone == excess_of(hits(MORE[0]))


def test_groups_that_all_preparations_share_stay_however_many_there_are() -> None:
    """Ten of 100 groups make all hits: preparations that agree do not tell of other images."""

    def found(seeds: int) -> float:
        uneven = AttackHits(
            np.arange(N) < 200, np.zeros(N, dtype=bool), np.repeat([20, 0], [10, 90]), np.zeros(100, dtype=int)
        )
        rate = rate_over_preparations(Prepared("a", dict.fromkeys(range(seeds), uneven), True))
        assert rate is not None
        return float(np.log(rate.interval.high / rate.interval.low))

    by_group = np.var(np.repeat([20, 0], [10, 90]), ddof=1) * 100 / 200**2
    by_candidate = 1 / N
    shared = by_group - by_candidate * (N / (N - 1))
    assert found(50) == pytest.approx(2 * stats.t.ppf(0.975, 99) * math.sqrt(shared), rel=0.02)


@pytest.mark.simulation(few=150, full=2000)
@pytest.mark.parametrize("preparations", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_ratio_holds_where_preparations_differ(draws: int, preparations: int, spread: float) -> None:
    rng = np.random.default_rng([preparations, int(10 * spread)])
    held = before = 0
    for _ in range(draws):
        rates = [[0.3], [0.15]] * np.exp(spread * rng.standard_normal((2, preparations)))
        counts = rng.binomial(N, np.minimum(rates, 1))
        attacks = [prepared(name, own) for name, own in zip("ab", counts, strict=True)]
        interval = compare_prepared(*attacks).ratio.interval
        assert interval is not None
        held += interval.low <= 2 <= interval.high
        plain = compare(*(pooled([hits(count) for count in own]) for own in counts)).ratio.interval
        assert plain is not None
        before += plain.low <= 2 <= plain.high
    assert held >= 0.91 * draws
    if spread:  # what pooled candidates say of it
        assert before < 0.8 * draws
