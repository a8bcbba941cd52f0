"""Looks at an excess: when they are due, what they are corrected for, and their p-values by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, t

from sidebench.benchmark.gate.looks import Look, LookedAt, due, excess_look, look_numbers, margin_look
from sidebench.benchmark.stats.comparison import SWAP_SEED, AttackHits, compare, excess_of
from sidebench.benchmark.stats.owned import leak_p, least_groups, lower_limit

N = 400


def look(candidates: int, **known: Any) -> Look:
    plain = {"p_fail": 1.0, "p_pass": 1.0, "low": -1.0, "high": 1.0, "groups_hit": 9, "least_groups": 5}
    return Look(candidates, **{**plain, **known})


def hits(training: int, held_out: int, groups: int = 100, each: int = 2) -> AttackHits:
    """Return hits of the first candidates on X, `each` by group, and of the last ones on H likewise."""
    credits = [np.repeat([each, 0], [count // each, groups - count // each]) for count in (training, held_out)]
    order = np.arange(N)
    return AttackHits(order < training, order >= N - held_out, *credits)


# ---- when ----


@pytest.mark.parametrize(
    ("most", "numbers"),
    [(100, [256]), (256, [256]), (257, [256, 257]), (512, [256, 512]), (513, [256, 512, 513])],
)
def test_looks_double_up_to_the_budget_and_end_with_it(most: int, numbers: list[int]) -> None:
    assert look_numbers(256, most) == numbers


def test_a_look_is_due_at_its_number_and_at_the_end() -> None:
    numbers = [256, 512, 1000]
    assert not due([], numbers, 255, False) and due([], numbers, 256, False)
    first = [look(256)]
    assert not due(first, numbers, 511, False) and due(first, numbers, 512, False)
    # No more candidates: what there is is looked at, unless it was, or there is none.
    assert due(first, numbers, 300, True) and not due(first, numbers, 256, True) and not due([], numbers, 0, True)
    every = [look(number) for number in numbers]
    assert not due(every, numbers, 2000, True)


# ---- how often ----


def claim(*looks: Look, most: int = 4) -> LookedAt:
    return LookedAt("side", "excess", 0.02, looks, most, np.zeros(1000), None)


def test_every_look_that_there_may_be_takes_its_share_of_the_error() -> None:
    found = claim(look(256, p_fail=0.4, p_pass=0.3), look(512, p_fail=0.01, p_pass=0.02))
    assert found.p_fail() == pytest.approx(4 * 0.01) and found.p_pass() == pytest.approx(4 * 0.02)
    assert claim(look(256, p_fail=0.4, p_pass=0.3)).p_fail() == 1 == claim().p_pass()


def test_the_first_look_that_tells_is_named_and_the_best_ends_are_kept() -> None:
    looks = look(256, p_fail=0.0125, low=0.03, high=0.2), look(512, p_fail=0.0001, low=0.02, high=0.1)
    found = claim(*looks).finding(0.05, 0.05, 0.05)
    assert (found.after, found.low, found.high) == (256, 0.03, 0.1)
    later = claim(look(256, p_fail=0.0126), looks[1]).finding(0.05, 0.05, 0.05)
    assert later.after == 512 and not later.note
    untold = claim(look(256, groups_hit=3)).finding(1.0, 0.05, 0.05)
    assert untold.after is None and "3 groups are hit, and 5 are needed" in untold.note
    assert not claim(look(256, groups_hit=5)).finding(1.0, 0.05, 0.05).note


# ---- one look ----


def test_a_look_at_an_excess_has_the_limits_of_its_level() -> None:
    found, level = hits(60, 6), 0.05 / 24
    seen, owned = excess_look(found, 0.02, level), found.owned()
    assert (seen.candidates, seen.groups_hit, seen.p_pass, seen.high) == (N, 30 + 3, 1, 1)
    assert seen.p_fail == leak_p(owned, 0, 0.02, SWAP_SEED)
    assert seen.low == lower_limit(owned, 0, level, SWAP_SEED)
    # Half of the level is left for the swaps: with fewer groups than that asks for nothing can be shown.
    assert seen.least_groups == least_groups(owned.strata, level / 2) != least_groups(owned.strata, level)


def test_swaps_are_enough_for_the_level() -> None:
    """Half of the level is less than one of 9,999 swaps: a leak as clear as can be would never be seen."""
    assert excess_look(hits(200, 0), 0.02, 1.9e-4).low > 0.02


def test_a_margin_over_paired_releases_by_hand() -> None:
    ours, theirs = hits(60, 4), hits(20, 4)
    found, limit = margin_look(ours, theirs, 0.03, (0.01, 0.2), aligned=True), 0.03
    whole = compare(ours, theirs)
    value, error, freedom = whole.difference.value, whole.standard_error, whole.freedom
    assert value == pytest.approx(40 / N)
    assert found.p_fail == pytest.approx(t.sf((value - limit) / error, freedom))
    assert found.p_pass == pytest.approx(t.cdf((value - limit) / error, freedom))
    assert found.low == pytest.approx(value - t.ppf(0.99, freedom) * error)
    assert found.high == pytest.approx(value + t.ppf(0.8, freedom) * error)


def test_a_margin_without_pairs_adds_the_ends_that_point_its_way() -> None:
    ours, theirs = hits(60, 4), hits(20, 0, each=10)
    found, limit = margin_look(ours, theirs, 0.03, (0.01, 0.2), aligned=False), 0.03
    (first, one), (second, two) = excess_of(ours), excess_of(theirs)
    below = np.hypot(first - one.low, two.high - second) / norm.ppf(0.975)
    above = np.hypot(one.high - first, second - two.low) / norm.ppf(0.975)
    assert below != pytest.approx(above, rel=0.01)
    value = first - second
    assert found.p_fail == pytest.approx(norm.sf((value - limit) / below))
    assert found.p_pass == pytest.approx(norm.sf((limit - value) / above))
    assert found.low == pytest.approx(value - norm.ppf(0.99) * below)
    assert found.high == pytest.approx(value + norm.ppf(0.8) * above)
