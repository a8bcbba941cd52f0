"""Rates over caption families: intervals that hold however few families there are, and an exact test."""

import numpy as np
import pytest

from sidebench.benchmark.stats.families import compare_families, family_rate, family_shares


def test_a_family_counts_once_however_many_candidates_it_has() -> None:
    shares = family_shares(np.array([1.0, 1.0, 1.0, 0.0]), np.array([3, 3, 3, 5]))
    assert shares.tolist() == [1.0, 0.0] and family_rate(shares).value == 0.5


def test_more_candidates_of_the_same_families_narrow_no_interval() -> None:
    few = family_shares(np.tile([1.0, 0.0], 5), np.arange(10))
    many = family_shares(np.repeat(np.tile([1.0, 0.0], 5), 50), np.repeat(np.arange(10), 50))
    assert family_rate(few) == family_rate(many)


def test_all_or_nothing_has_an_interval() -> None:
    assert family_rate(np.zeros(30)).interval.high == pytest.approx(0.1135, abs=1e-3)  # z^2 / (n + z^2)
    found = compare_families(np.zeros(30), np.zeros(30))
    assert found.difference.value == 0 and found.difference.interval.low < 0 < found.difference.interval.high
    assert found.p == 1


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # 56 of 70 against 48 of 80: Newcombe 1998, Stat. Med. 17:873, table II, method 10.
    ours, theirs = np.repeat([1.0, 0.0], [56, 14]), np.repeat([1.0, 0.0], [48, 32])
    value, interval = compare_families(ours, theirs).difference
    assert value == pytest.approx(0.2) and interval == pytest.approx((0.0524, 0.3339), abs=6e-5)
    back = compare_families(theirs, ours).difference.interval
    assert back == pytest.approx((-0.3339, -0.0524), abs=6e-5)
    # 9 of 10 against 3 of 10, where both ends lie at unlike distances.
    few = compare_families(np.repeat([1.0, 0.0], [9, 1]), np.repeat([1.0, 0.0], [3, 7])).difference.interval
    assert few == pytest.approx((0.1705, 0.8090), abs=6e-5)


def test_the_interval_of_a_difference_holds_where_candidates_of_a_family_go_together() -> None:
    """Whole families are replayed or not: intervals by candidate would miss the truth more often than one in twenty."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        ours, theirs = (
            family_shares(np.repeat(rng.random(40) < p, 8), np.repeat(np.arange(40), 8)) for p in (0.5, 0.2)
        )
        low, high = compare_families(ours, theirs).difference.interval
        missed += not low <= 0.3 <= high
    assert missed <= 18
