"""Tests that may stop at any time: the capital is a martingale, errors are kept, bounds agree with the tests."""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.gate.sequential import (
    SHARES,
    WEIGHTS,
    bounds,
    count,
    first_at_most,
    informed_weights,
    last_at_least,
    log_capital,
    needed,
    p_above,
    p_below,
)


def draw(rng: np.random.Generator, n: int, excess: float, background: float) -> np.ndarray:
    u = rng.random(n)
    return (u < background + excess).astype(int) - (u > 1 - background).astype(int)


def test_the_capital_starts_at_one() -> None:
    assert WEIGHTS.sum() == pytest.approx(1) and SHARES[0] == 1 and np.all(WEIGHTS > 0)


@pytest.mark.parametrize(("plus", "minus"), [(0.05, 0.02), (0.3, 0.27), (0.03, 0.0)])
def test_the_expected_capital_is_one_at_the_limit_and_less_below(plus: float, minus: float) -> None:
    chance = {1: plus, 0: 1 - plus - minus, -1: minus}
    for m, expected in ((plus - minus, 1.0), (plus - minus + 0.01, 0.0)):
        total = 0.0
        for path in itertools.product(chance, repeat=5):
            weight = np.prod([chance[z] for z in path])
            total += weight * np.exp(log_capital(count(np.array(path)), m)[-1])
        assert total == pytest.approx(1) if expected else total < 1


@pytest.mark.parametrize("background", [0.0, 0.01])
def test_errors_are_kept_at_the_limit_whenever_one_looks(background: float) -> None:
    rng = np.random.default_rng(0)
    drawn = [count(draw(rng, 1500, 0.02, background)) for _ in range(300)]
    # 5 % of 300 is 15; 26 or more would have a chance of 0.5 % at exactly 5 %.
    assert sum(p_above(seen, 0.02)[-1] <= 0.05 for seen in drawn) <= 25
    assert sum(p_below(seen, 0.02)[-1] <= 0.05 for seen in drawn) <= 25


@pytest.mark.simulation(few=60, full=200)
def test_bounds_hold_at_every_time(draws: int) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(draws):
        seen = count(draw(rng, 800, 0.05, 0.02))
        looks = [bounds(seen.until(n), 0.05, 0.05) for n in range(50, 801, 50)]
        wrong += not all(low <= 0.05 <= high for low, high in looks)
    assert wrong / draws <= 0.15  # each side at most 5 %: 10 % expected at most


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05, 0.2])
def test_bounds_and_tests_never_contradict_each_other(limit: float) -> None:
    rng = np.random.default_rng(2)
    for excess in (0.0, 0.02, 0.1, 0.3):
        seen = count(draw(rng, 400, excess, 0.03))
        low, high = bounds(seen, 0.05, 0.1)
        assert low < seen.mean < high
        assert (low >= limit) == (last_at_least(log_capital(seen, limit), 0.05) == 400)
        assert (high <= limit) == (last_at_least(log_capital(seen.mirrored(), -limit), 0.1) == 400)


def test_without_a_hit_the_bound_is_a_little_above_three_by_n() -> None:
    spotless = count(np.zeros(1000))
    assert first_at_most(p_below(spotless, 0.01), 0.05) == 430
    assert bounds(spotless, 0.05, 0.05).high == pytest.approx(4.3 / 1000, rel=0.01)
    assert first_at_most(p_above(spotless, 0.01), 0.05) is None


@pytest.mark.parametrize("background", [0.0, 0.002, 0.005])
def test_a_known_background_puts_most_of_the_capital_on_one_bet(background: float) -> None:
    weights = informed_weights(0.01, background)
    assert weights.sum() == pytest.approx(1) and np.all(weights > 0)
    best = int(weights.argmax())
    assert weights[best] > 0.7
    # The bet that Kelly's rule asks for: where a hit costs the share c and a miss gains c * 1 / 99, (0.01 - b) / 0.01.
    assert SHARES[best] == pytest.approx(min(1.0, (0.01 - background) / 0.01), rel=0.2)


def test_where_chance_reaches_the_limit_no_bet_is_preferred() -> None:
    assert np.array_equal(informed_weights(0.01, 0.01), WEIGHTS)


@pytest.mark.parametrize("told", [0.001, 0.02, 0.06])
def test_errors_are_kept_whatever_background_was_calibrated(told: float) -> None:
    rng = np.random.default_rng(6)
    drawn = [count(draw(rng, 1500, 0.02, 0.02)) for _ in range(300)]
    assert sum(p_below(seen, 0.02, informed_weights(0.02, told))[-1] <= 0.05 for seen in drawn) <= 25


def test_only_counts_matter_and_p_never_rises() -> None:
    values = draw(np.random.default_rng(3), 500, 0.05, 0.05)
    seen, shuffled = count(values), count(np.random.default_rng(4).permutation(values))
    assert log_capital(seen, 0.02)[-1] == pytest.approx(log_capital(shuffled, 0.02)[-1])
    assert np.all(np.diff(p_above(seen, 0.02)) <= 0) and np.all(p_above(seen, 0.02) <= 1)
    assert np.array_equal(p_above(count(values[:200]), 0.02), p_above(seen, 0.02)[:200])


def test_rates_are_bet_on_like_differences_that_are_never_negative() -> None:
    hits = np.random.default_rng(5).random(20) < 0.1
    # The largest bet on "below" is the largest that a rate allows: a hit takes it all.
    expected = sum(w * np.prod(1 + c * (0.02 - hits) / 0.98) for c, w in zip(SHARES, WEIGHTS, strict=True))
    assert np.exp(log_capital(count(hits).mirrored(), -0.02)[-1]) == pytest.approx(expected)


def test_before_the_first_candidate_nothing_is_known() -> None:
    nothing = count(np.array([]))
    assert bounds(nothing, 0.05, 0.05) == (-1, 1) and np.isnan(nothing.mean)
    assert first_at_most(p_above(nothing, 0.01), 0.05) is None and needed(nothing, 0.01, 0.05) is None


def test_how_many_more_are_needed() -> None:
    spotless = count(np.zeros(50)).mirrored()
    assert needed(spotless, -0.01, 0.05) == pytest.approx(430, rel=0.06)
    assert needed(count(np.zeros(50)), 0.01, 0.05) is None


@pytest.mark.parametrize("values", [[2.0], [float("nan")], [-1.01, 0.0]])
def test_values_out_of_range_are_refused(values: list[float]) -> None:
    with pytest.raises(BadInput, match="between -1 and 1"):
        count(np.array(values))


@pytest.fixture(scope="module")
def errors() -> Any:
    """Return docs/gate_errors.py, with fewer releases."""
    file = Path(__file__).parents[2] / "docs" / "gate_errors.py"
    spec = importlib.util.spec_from_file_location("gate_errors", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RELEASES = 40
    return module


@pytest.mark.parametrize(
    ("excess", "verdict", "share"), [(0.0, "pass", 0.9), (1.0, "fail", 0.05), (1.0, "pass", 0.05), (10.0, "fail", 1.0)]
)
def test_the_gate_errs_as_rarely_as_it_says(errors: Any, excess: float, verdict: str, share: float) -> None:
    found = float(errors.row(0.05, 0.015, 0.05 * excess, 0.015)[f"{verdict}, %"]) / 100
    # Errors at the limit stay below their level, right answers come as often as they should.
    assert found <= share + 0.08 if excess == 1 else found >= share
