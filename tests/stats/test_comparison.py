"""Two attacks against each other, and one against no leak: by hand, and what they cover."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t
from simulated_attacks import N, World, draw
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped,unused-ignore]

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.stats.comparison import (
    AttackHits,
    Comparison,
    compare,
    excess_of,
    holm,
    no_leak_test,
    pooled,
    verdicts,
)
from sidebench.benchmark.stats.intervals import Excess, Interval
from sidebench.benchmark.stats.owned import Strata

# ---- difference ----


def attack(training: list[int], held_out: list[int], credits: list[int], lost: list[int]) -> AttackHits:
    return AttackHits(np.array(training, bool), np.array(held_out, bool), np.array(credits), np.array(lost))


ONE = attack([1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [3, 1, 0, 0], [1, 0, 0, 0])
TWO = attack([1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])


def test_difference_by_hand() -> None:
    found = compare(ONE, TWO)
    assert (found.first, found.second) == (3 / 8, 1 / 8)
    assert found.difference.value == pytest.approx(2 / 8)
    # Candidates: gaps 0 1 1 0 0 ...; one added on either side: mean 2 / 10, mean square 4 / 10.
    error = math.sqrt((0.4 - 0.2**2) / 10)
    by_candidate = 0.2 - norm.ppf(0.975) * error, 0.2 + norm.ppf(0.975) * error
    # Groups: gaps 2 1 0 0 (variance 11/12) and 1 0 0 0 (variance 1/4), four groups each.
    by_group = t.ppf(0.975, 3) * math.sqrt(4 * 11 / 12 + 4 / 4) / 8
    assert found.difference.interval == pytest.approx(
        (min(by_candidate[0], 0.25 - by_group), max(by_candidate[1], 0.25 + by_group))
    )
    assert found.p == pytest.approx(max(2 * norm.sf(0.2 / error), 2 * t.sf(0.25 / (by_group / t.ppf(0.975, 3)), 3)))


def test_swapping_the_attacks_turns_the_sign() -> None:
    rng = np.random.default_rng(0)
    one, two = draw(World((0.2, 0.1), (0.02, 0.02), 0.5), rng)
    forth, back = compare(one, two), compare(two, one)
    assert back.difference.value == -forth.difference.value
    assert back.difference.interval == pytest.approx((-forth.difference.interval.high, -forth.difference.interval.low))
    assert back.p == pytest.approx(forth.p)
    assert forth.ratio.interval is not None and back.ratio.interval is not None
    assert back.ratio.interval == pytest.approx((1 / forth.ratio.interval.high, 1 / forth.ratio.interval.low))


def test_p_is_small_exactly_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(300):
        found = compare(*draw(World((0.07, 0.05), (0.02, 0.02), 0.5), rng))
        excludes = not found.difference.interval.low <= 0 <= found.difference.interval.high
        assert excludes == (found.p < 0.05)
        seen.add(excludes)
    assert seen == {True, False}


def test_pairing_narrows_the_difference() -> None:
    rng = np.random.default_rng(2)
    world = World((0.2, 0.2), (0.02, 0.02), 1.0, alike=1.0)
    one, two = draw(world, rng)
    shuffled = rng.permutation(len(two.training_credits))
    other = two._replace(training_credits=two.training_credits[shuffled])
    paired, unpaired = (compare(one, each).difference.interval for each in (two, other))
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_no_hit_at_all_is_no_difference() -> None:
    none = attack([0] * 50, [0] * 50, [0] * 5, [0] * 5)
    found = compare(none, none)
    assert found.difference.value == 0 and found.p == 1
    assert found.difference.interval.low < 0 < found.difference.interval.high
    assert found.ratio.value is None and "may be 0" in found.ratio.refused


def test_one_group_a_side_leaves_the_candidates() -> None:
    one = attack([1] * 30 + [0] * 20, [0] * 50, [30], [0])
    two = attack([1] * 10 + [0] * 40, [0] * 50, [10], [0])
    found = compare(one, two)
    # 20 candidates of 50 differ, one more on either side: mean 20 / 52, mean square 22 / 52.
    error = math.sqrt((22 / 52 - (20 / 52) ** 2) / 52)
    assert found.freedom == math.inf and found.p == pytest.approx(2 * norm.sf(20 / 52 / error))
    reach = norm.ppf(0.975) * error
    assert found.difference.interval == pytest.approx((20 / 52 - reach, 20 / 52 + reach))


def test_what_is_added_on_either_side_is_as_large_as_what_a_candidate_may_count() -> None:
    # One group of H for four of X: a hit of H counts four times, and so does one more candidate on either side.
    one = attack([1] * 30 + [0] * 20, [0] * 45 + [1] * 5, [30, 0, 0, 0], [5])
    none = attack([0] * 50, [0] * 50, [0] * 4, [0])
    found, centre = compare(one, none), (30 - 4 * 5) / 52
    error = math.sqrt(((30 + 16 * 5 + 2 * 16) / 52 - centre**2) / 52)
    assert found.difference.value == pytest.approx(10 / 50) and found.p == pytest.approx(2 * norm.sf(centre / error))


def test_attacks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="training_hits has 8 entries and 7"):
        compare(ONE, TWO._replace(training_hits=TWO.training_hits[1:]))
    with pytest.raises(BadInput, match="control_credits has 4 entries and 3"):
        compare(ONE, TWO._replace(control_credits=TWO.control_credits[1:]))
    with pytest.raises(BadInput, match="1 candidates hit, but the groups' credits add up to 2"):
        compare(ONE, TWO._replace(training_credits=np.array([1, 1, 0, 0])))


def test_seeds_are_pooled_candidate_after_candidate_and_group_by_group() -> None:
    both = pooled([ONE, TWO])
    assert both.training_hits.tolist() == [*ONE.training_hits, *TWO.training_hits]
    assert both.control_hits.tolist() == [*ONE.control_hits, *TWO.control_hits]
    assert (both.training_credits.tolist(), both.control_credits.tolist()) == ([4, 1, 0, 0], [1, 0, 0, 0])
    assert pooled([TWO, ONE]).control_credits.tolist() == [1, 0, 0, 0]


# ---- ratio ----


def test_ratio_solves_fiellers_equation() -> None:
    rng = np.random.default_rng(3)
    one, two = draw(World((0.3, 0.2), (0.02, 0.02), 0.5), rng)
    found = compare(one, two)
    assert found.ratio.value == pytest.approx(found.first / found.second)
    assert found.ratio.interval is not None
    # At each end the difference first - r second is as many standard errors from 0 as the quantile says.
    distances = []
    for r in found.ratio.interval:
        gaps = [one.training_credits - r * two.training_credits, one.control_credits - r * two.control_credits]
        error = math.sqrt(sum(len(gap) * gap.var(ddof=1) for gap in gaps)) / N
        distances.append((found.first - r * found.second) / error)
    assert distances == pytest.approx([t.ppf(0.975, 199), -t.ppf(0.975, 199)], rel=1e-6)


def test_ratio_is_refused_where_the_denominator_reaches_zero() -> None:
    one, two = draw(World((0.2, 0.02), (0.02, 0.02), 0.5), np.random.default_rng(4))
    found = compare(one, two)
    assert found.ratio.value is None and found.ratio.interval is None
    assert "may be 0" in found.ratio.refused and f"{found.second:.4%}" in found.ratio.refused


def test_ratio_is_refused_where_the_denominator_is_below_zero() -> None:
    # The second attack hits held-out images alone, so clearly that no end of its excess reaches 0.
    some, none, every = np.repeat([3, 0], [20, 80]), np.zeros(100, dtype=int), np.arange(400)
    one = AttackHits(every < 60, every < 0, some, none)
    two = AttackHits(every < 0, every < 60, none, some)
    found = compare(one, two)
    assert found.second == -0.15 and excess_of(two).interval.high < 0
    assert found.ratio.value is None and "excess of -15.0000% may be 0" in found.ratio.refused


# ---- coverage ----

WORLDS = {
    "equal": World((0.10, 0.10), (0.02, 0.02), 0.5),
    "twice as many": World((0.20, 0.10), (0.03, 0.02), 0.5),
    "heavy groups": World((0.20, 0.10), (0.03, 0.02), 1.0),
    "few hits": World((0.03, 0.02), (0.005, 0.005), 0.5),
    "many hits": World((0.4, 0.3), (0.05, 0.05), 0.3),
    "alike": World((0.15, 0.10), (0.02, 0.02), 1.0, alike=1.0),
    "very uneven groups": World((0.20, 0.10), (0.03, 0.02), 1.5),
}


def coverages(world: World, seed: int, draws: int) -> tuple[float, float, float]:
    """Return how often the intervals of difference and ratio hold the truth, and how often a ratio was given."""
    rng = np.random.default_rng(seed)
    difference = ratio = given = 0
    for _ in range(draws):
        found = compare(*draw(world, rng))
        low, high = found.difference.interval
        difference += low <= world.difference <= high
        if found.ratio.interval is not None:
            given += 1
            ratio += found.ratio.interval.low <= world.ratio <= found.ratio.interval.high
    return difference / draws, ratio / max(given, 1), given / draws


@pytest.mark.simulation(few=400, full=2000)
@pytest.mark.parametrize("name", WORLDS)
def test_difference_and_ratio_are_covered(name: str, draws: int) -> None:
    difference, ratio, given = coverages(WORLDS[name], 5, draws)
    assert difference >= 0.93, f"{name}: difference {difference:.4f}"
    assert ratio >= 0.93, f"{name}: ratio {ratio:.4f} of the {given:.1%} given"


# ---- many comparisons ----


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []
    assert max(holm([0.9, 0.8, 0.7])) == 1


def test_holm_is_that_of_statsmodels() -> None:
    random = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 100):
        p = random.random(size).round(2)  # with ties
        assert holm(list(p)) == multipletests(p, method="holm")[1].tolist()


def made(value: float, p: float, error: float = 0.01, freedom: float = math.inf) -> Comparison:
    ratio = compare(ONE, TWO).ratio
    return Comparison(0.0, 0.0, Excess(value, Interval(0.0, 0.0)), ratio, p, error, freedom)


def test_verdicts_are_corrected_for_their_number() -> None:
    found = verdicts([made(0.04, 0.001), made(-0.05, 0.02), made(0.02, 0.04), made(0.02, 0.04)])
    assert [each.words for each in found] == ["finds more"] + 3 * ["no difference seen"]
    assert [each.p for each in found] == pytest.approx([0.004, 0.06, 0.08, 0.08])
    # z at 1 - 0.05 / 8 plus z at 80 %, times the standard error
    assert found[0].smallest == pytest.approx((2.497705 + 0.841621) * 0.01, rel=1e-5)
    assert verdicts([made(-0.05, 0.02)])[0].words == "finds fewer"
    assert verdicts([made(-0.05, 1 - 0.95)])[0].words == "no difference seen"  # below alpha, not at it
    assert verdicts([]) == []


@pytest.mark.simulation(few=400, full=800)
def test_the_smallest_difference_is_seen_with_the_stated_power(draws: int) -> None:
    # Groups of one weight and attacks that act apart: a difference of the stated size is seen in about 80 %.
    rng = np.random.default_rng(6)
    equal = World((0.06, 0.06), (0.01, 0.01), 0.0, alike=0.0)
    smallest = sum(verdicts([compare(*draw(equal, rng))])[0].smallest for _ in range(20)) / 20
    apart = World((0.06 + smallest / 2, 0.06 - smallest / 2), (0.01, 0.01), 0.0, alike=0.0)
    found = [compare(*draw(apart, rng)) for _ in range(draws)]
    # One comparison alone is held to the level itself.
    assert 0.75 <= np.mean([each.p < 0.05 and each.difference.value > 0 for each in found]) <= 0.88
    assert not any(each.p < 0.05 and each.difference.value < 0 for each in found)


@pytest.mark.simulation(few=450, full=1500)
def test_equal_attacks_are_rarely_told_apart(draws: int) -> None:
    rng = np.random.default_rng(7)
    p = np.array([compare(*draw(WORLDS["equal"], rng)).p for _ in range(draws)])
    assert 0.02 <= (p < 0.05).mean() <= 0.065
    # Holm's first step over three comparisons
    assert (p.reshape(-1, 3).min(axis=1) < 0.05 / 3).mean() <= 0.075


# ---- held-out images of another number ----


def test_a_hit_of_the_smaller_control_counts_more() -> None:
    # Four groups against two: each hit of H counts twice.
    one = attack([1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [3, 0, 0, 0], [1, 0])
    none = attack([0] * 8, [0] * 8, [0] * 4, [0] * 2)
    assert one.values.tolist() == [1, 1, 1, -2, 0, 0, 0, 0]
    assert excess_of(one).value == compare(one, none).difference.value == (3 - 2) / 8
    assert [list(term) for term in one.terms()] == [[3, 0, 0, 0], [-2, 0]]


def test_classes_have_weights_of_their_own() -> None:
    strata = Strata(np.array([0, 0, 0, 1]), np.array([0, 1]))
    one = attack([1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1])._replace(strata=strata)
    assert one.weights.tolist() == [3, 1] and excess_of(one).value == pytest.approx((1 - 3 - 1) / 4)
    assert one.values.sum() == pytest.approx(1 - 3 - 1)


def unequal(rng: np.random.Generator, sizes: tuple[int, int], rates: tuple[float, float]) -> list[AttackHits]:
    """Draw two attacks without a leak on one pair: chance hits by popularity, which the groups have for both."""
    popular = rng.lognormal(0, 1, sum(sizes))
    found = []
    for rate in rates:
        group = rng.choice(sum(sizes), 1000, p=popular / popular.sum())
        hit = rng.random(1000) < rate
        credits = np.bincount(group[hit], minlength=sum(sizes)).astype(float)
        ours = hit & (group < sizes[0])
        found.append(AttackHits(ours, hit & ~ours, credits[: sizes[0]], credits[sizes[0] :]))
    return found


@pytest.mark.simulation(few=300, full=2000)
@pytest.mark.parametrize("sizes", [(700, 100), (300, 300), (100, 700)])
def test_attacks_without_a_leak_are_rarely_told_apart_at_any_sizes(sizes: tuple[int, int], draws: int) -> None:
    rng = np.random.default_rng(9)
    small = sum(compare(*unequal(rng, sizes, (0.2, 0.1))).p < 0.05 for _ in range(draws))
    assert binomtest(small, draws, 0.05, alternative="greater").pvalue > 0.001, small / draws


# ---- no control, and a reference model's hits on the same groups ----


def test_without_control_the_rates_themselves_are_compared() -> None:
    no, none = np.zeros(8, dtype=bool), np.empty(0, dtype=np.int64)
    one, two = (found._replace(control_hits=no, control_credits=none) for found in (ONE, TWO))
    assert not one.controlled and ONE.controlled
    found = compare(one, two)
    assert (found.first, found.second, found.difference.value) == (4 / 8, 1 / 8, 3 / 8)
    # Groups: 3 1 0 0, variance 2 over four groups; candidates: Wilson.
    by_group = t.ppf(0.975, 3) * math.sqrt(4 * 2) / 8
    low, high = binomtest(4, 8).proportion_ci(0.95, method="wilson")
    ends = (max(-1, min(low, 0.5 - by_group)), min(1, max(high, 0.5 + by_group)))
    assert excess_of(one).interval == pytest.approx(ends)
    assert verdicts([found])[0].words.endswith("(raw rate)")


def test_credits_of_the_same_groups_are_paired() -> None:
    hits = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    fewer = np.array([1, 0, 0, 0, 1, 0, 0, 0], bool)
    found = excess_of(AttackHits(hits, fewer, np.array([3, 1, 0, 0]), np.array([2, 0, 0, 0]), same_groups=True))
    assert found.value == 2 / 8
    # Differences 1 1 0 0: variance 1/3 over four groups, three degrees of freedom.
    reach = t.ppf(0.975, 3) * math.sqrt(4 / 3) / 8
    assert found.interval.low <= 0.25 - reach and found.interval.high >= 0.25 + reach
    with pytest.raises(BadInput, match="the same kind of control"):
        compare(ONE, ONE._replace(same_groups=True))


def paired(*bands: list[int]) -> list[AttackHits]:
    """Return hits whose credits differ from a reference model's by these, band by band."""
    none = np.zeros(4)
    return [AttackHits(none, none, np.array(gaps).clip(0), -np.array(gaps).clip(None, 0), True) for gaps in bands]


def test_sign_flips_of_few_groups_are_enumerated_over_all_bands() -> None:
    gaps = np.array([[5, 3, -1, 0, 2], [1, 3, 0, 0, 2]]).T
    signs = np.array(list(itertools.product((-1, 1), repeat=5)))
    sums, scale = signs @ np.abs(gaps), np.sqrt((gaps**2).sum(0))
    joint = (signs * np.sign(gaps[:, 0] + (gaps[:, 0] == 0))) @ gaps
    found = no_leak_test(paired(*gaps.T.tolist()), swaps=20_000)
    assert found.bands == pytest.approx((sums >= gaps.sum(0)).mean(0), abs=0.01)
    largest = (joint / scale).max(1)
    assert found.family == pytest.approx([(largest >= own - 1e-9).mean() for own in gaps.sum(0) / scale], abs=0.015)
    assert no_leak_test(paired([0, 0, 0])).family[0] == 1
    assert no_leak_test(paired([3] * 500), swaps=99).family[0] == 0.01


def models_of_one_kind(rng: np.random.Generator, n: int = 500, groups: int = 200) -> AttackHits:
    """Draw two models' hits on the same groups: both at the same rates, so the true excess is 0.

    Groups differ in how easy they are for both models (log-normal), and for each model apart.
    """
    easy = rng.lognormal(-8.0, 1.0, groups)
    found = []
    for rates in (easy * rng.lognormal(0, 0.7, groups) for _ in range(2)):
        group = rng.choice(groups + 1, n, p=[*rates, 1 - rates.sum()])
        found.append((group < groups, np.bincount(group, minlength=groups + 1)[:groups]))
    return AttackHits(found[0][0], found[1][0], found[0][1], found[1][1], same_groups=True)


@pytest.mark.simulation(few=400, full=2000)
def test_the_excess_over_a_reference_model_covers_zero(draws: int) -> None:
    rng = np.random.default_rng(5)
    held = small = 0
    for _ in range(draws):
        hits = models_of_one_kind(rng)
        low, high = excess_of(hits).interval
        held += low <= 0 <= high
        small += no_leak_test([hits], swaps=199).family[0] <= 0.05
    assert held / draws >= 0.94
    assert small / draws <= 0.06
