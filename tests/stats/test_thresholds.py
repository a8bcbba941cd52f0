"""Calibrated thresholds: where tau lies, when it is refused, and what chance hits there."""

import numpy as np
import pytest
from direction import Runs
from scipy.stats import binom

from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.measures import hits
from sidebench.benchmark.stats.thresholds import calibrate, calibrates


def spread(n: int, groups: int = 50) -> np.ndarray:
    return np.arange(n) % groups


# ---- where tau lies ----


@pytest.mark.parametrize("distance", [True, False])
def test_tau_lets_the_share_q_through(distance: bool) -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 2000))
    found = calibrate(scores, spread(2000), 0.01, distance=distance)
    expected = np.sort(scores)[19] if distance else np.sort(scores)[-20]
    assert found.tau == expected
    assert found.hits == 20 == hits.within(scores, found.tau, Runs(distance)).sum()
    assert found.interval.low < found.tau < found.interval.high
    assert found.groups == len(np.unique(spread(2000)[hits.within(scores, found.tau, Runs(distance))]))


def test_a_similarity_is_a_distance_with_its_sign_turned() -> None:
    scores = np.random.default_rng(1).normal(size=3000)
    near = calibrate(scores, spread(3000), 0.01, distance=True)
    far = calibrate(-scores, spread(3000), 0.01, distance=False)
    assert far.tau == -near.tau
    assert far.interval == (-near.interval.high, -near.interval.low)


def test_ends_are_the_order_statistics_of_the_binomial() -> None:
    scores = np.arange(1, 2001, dtype=float)
    low, high = calibrate(scores, spread(2000), 0.01, distance=True).interval
    # Rank l is too loose with P(Bin(2000, q) < l), rank u too strict with P(Bin(2000, q) >= u): 2.5 % each.
    assert binom.cdf(low - 1, 2000, 0.01) <= 0.025 < binom.cdf(low, 2000, 0.01)
    assert binom.sf(high - 1, 2000, 0.01) <= 0.025 < binom.sf(high - 2, 2000, 0.01)


@pytest.mark.simulation(few=400, full=2000)
def test_ends_hold_the_quantile_of_the_population(draws: int) -> None:
    rng = np.random.default_rng(2)
    found = [calibrate(rng.random(1000), spread(1000), 0.01, distance=True).interval for _ in range(draws)]
    assert np.mean([low <= 0.01 <= high for low, high in found]) >= 0.945


def test_ties_at_the_edge_stay_outside() -> None:
    scores = np.r_[np.arange(15) / 100, np.full(10, 0.2), np.linspace(0.3, 1, 1975)]
    found = calibrate(scores, spread(2000), 0.01, distance=True)
    assert (found.tau, found.hits) == (0.14, 15)
    assert found.interval.low <= found.tau <= found.interval.high


def test_ties_that_fit_are_all_hits() -> None:
    scores = np.r_[np.arange(15) / 100, np.full(5, 0.2), np.linspace(0.3, 1, 1980)]
    found = calibrate(scores, spread(2000), 0.01, distance=True)
    assert (found.tau, found.hits) == (0.2, 20)


@pytest.mark.parametrize("distance", [True, False])
def test_broken_candidates_are_no_hits_and_stay_in_the_denominator(distance: bool) -> None:
    scores = np.linspace(0.1, 0.9, 2000)
    scores[500:1500] = np.nan
    found = calibrate(scores, spread(2000), 0.01, distance=distance)
    assert found.candidates == 2000 and found.hits == 20
    assert not hits.within(np.array([np.nan, np.inf, -np.inf]), found.tau, Runs(distance)).any()


def test_the_band_holds_the_same_hits() -> None:
    scores = np.random.default_rng(3).random(2000).astype(np.float32)
    for distance in (True, False):
        found = calibrate(scores, spread(2000), 0.01, distance=distance)
        inside = hits.in_band(scores, hits.band_to(found.tau, Runs(distance)), Runs(distance))
        assert (inside == hits.within(scores, found.tau, Runs(distance))).all()


def test_even_numbers_calibrate_in_any_order() -> None:
    assert calibrates(np.array([4, 1, 0, 7, 2])).tolist() == [True, False, True, False, True]


# ---- when it is refused ----


def test_too_few_candidates_are_refused_with_the_numbers() -> None:
    with pytest.raises(TooFew, match=r"q = 0\.01 .* 999 .* 9\.99 expected held-out hits.* 10 are needed.* 1000 "):
        calibrate(np.random.default_rng(0).random(999), spread(999), 0.01, distance=True)
    calibrate(np.random.default_rng(0).random(1000), spread(1000), 0.01, distance=True)


def test_a_tail_of_few_groups_is_refused_with_the_numbers() -> None:
    scores = np.linspace(0, 1, 2000)
    with pytest.raises(TooFew, match=r"20 held-out hits .* 4 duplicate groups, and at least 5"):
        calibrate(scores, spread(2000, 4), 0.01, distance=True)
    assert calibrate(scores, spread(2000, 5), 0.01, distance=True).groups == 5


def test_a_tie_wider_than_the_tail_is_refused() -> None:
    scores = np.r_[np.zeros(30), np.linspace(0.3, 1, 1970)]
    with pytest.raises(TooFew, match=r"30 of 2000 .* at most 20"):
        calibrate(scores, spread(2000), 0.01, distance=True)


def test_broken_candidates_that_reach_the_tail_are_refused() -> None:
    with pytest.raises(TooFew, match=r"q = 0\.01"):
        calibrate(np.full(2000, np.nan), spread(2000), 0.01, distance=True)
    mostly = np.r_[np.linspace(0, 1, 25), np.full(1975, np.nan)]
    with pytest.raises(TooFew, match="25 finite"):
        calibrate(mostly, spread(2000), 0.01, distance=True)


@pytest.mark.parametrize("q", [0.0, 0.6, -0.1, float("nan")])
def test_a_q_that_is_no_tail_is_refused(q: float) -> None:
    with pytest.raises(BadInput, match="q is"):
        calibrate(np.zeros(10), np.zeros(10), q, distance=True)


def test_arrays_that_do_not_fit_are_refused() -> None:
    scores = np.linspace(0, 1, 2000)
    with pytest.raises(BadInput, match="2000 held-out scores but 10"):
        calibrate(scores, spread(10), 0.01, distance=True)


# ---- groups of another number ----


@pytest.mark.parametrize(("ratio", "hits_"), [(1.0, 20), (7.0, 2), (0.2, 100)])
def test_chance_hits_so_many_training_images_as_q_says(ratio: float, hits_: int) -> None:
    scores = np.random.default_rng(5).permutation(np.linspace(0.1, 0.9, 2000))
    if hits_ < 10:
        with pytest.raises(TooFew, match=r"2\.86 expected held-out hits with 7 groups .* at least 7000"):
            calibrate(scores, spread(2000), 0.01, distance=True, ratio=ratio)
        return
    found = calibrate(scores, spread(2000), 0.01, distance=True, ratio=ratio)
    assert found.hits == hits_ and found.tau == np.sort(scores)[hits_ - 1]


@pytest.mark.simulation(few=100, full=300)
def test_the_chance_rate_at_tau_is_q(draws: int) -> None:
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(draws):
        # 300 groups of X and 100 of H are hit alike; a candidate's nearest one is of X with chance 3 / 4.
        scores, group = rng.random(8000), rng.integers(0, 400, 8000)
        held_out = np.where(group >= 300, scores, np.nan)
        tau = calibrate(held_out[:4000], group[:4000], 0.01, distance=True, ratio=3.0).tau
        rates.append(((scores[4000:] <= tau) & (group[4000:] < 300)).mean())
    assert np.mean(rates) == pytest.approx(0.01, abs=1e-3)
