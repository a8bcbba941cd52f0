"""Calibrated thresholds: where tau lies, when it is refused, and what the interval of the excess covers."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from direction import Runs
from scipy.stats import binom, norm

from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.measures import hits
from sidebench.benchmark.stats.intervals import excess, wilson
from sidebench.benchmark.stats.thresholds import (
    STRETCH,
    Matches,
    Threshold,
    calibrate,
    calibrates,
    evaluate,
)


def near(scores: np.ndarray, tau: float) -> np.ndarray:
    return hits.within(scores, tau, Runs(distance=True))


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
    assert far.around == tuple((-tau, error) for tau, error in near.around)


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
    whole = Matches(scores, spread(2000), 50)
    rates = evaluate(found, whole, whole, within=partial(hits.within, measure=Runs(distance)))
    assert rates.candidates == 2000 and rates.training.hits == 20
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
    with pytest.raises(TooFew, match=r"q = 0\.01 .* 999 .* 9\.99 expected hits.* 10 are needed.* 1000 "):
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
    found = calibrate(scores, spread(2000), 0.01, distance=True)
    good = Matches(scores, spread(2000), 50)
    with pytest.raises(BadInput, match="10 held-out scores"):
        evaluate(found, good, Matches(scores[:10], spread(10), 50), within=near)
    with pytest.raises(BadInput, match="hits lie in 10 duplicate groups, but this side has only 3"):
        evaluate(found, Matches(scores, spread(2000, 10), 3), good, within=near)


# ---- rates and excess ----


def test_rates_by_hand() -> None:
    tau = 0.5
    threshold = Threshold(tau, wilson(1, 2)._replace(low=tau, high=tau), 0.95, 0.1, 20, 9, 100, ((tau, 0.0),))
    training = Matches(np.r_[np.full(30, 0.4), np.full(70, 0.9)], spread(100, 10), 12)
    held_out = Matches(np.r_[np.full(20, 0.9), np.full(15, 0.5), np.full(65, 0.9)], spread(100, 10), 12)
    rates = evaluate(threshold, training, held_out, within=near)
    assert (rates.training.hits, rates.held_out.hits) == (30, 15)
    assert rates.training.interval == wilson(30, 100)
    ours, theirs = np.r_[np.full(10, 3), 0, 0], np.r_[np.full(5, 2), np.full(5, 1), 0, 0]
    # tau is certain here, so nothing is added to the interval at a given tau.
    assert rates.excess.value == pytest.approx(0.15)
    assert rates.excess.interval == pytest.approx(excess(ours, theirs, 20, 5, 100).interval)


def test_the_thresholds_around_tau_are_its_order_statistics() -> None:
    scores = np.arange(1, 2001, dtype=float)
    found = calibrate(scores, spread(2000), 0.01, distance=True)
    taus, errors = (np.array(column) for column in zip(*found.around, strict=True))
    assert np.all(np.diff(taus) > 0) and found.tau == 20
    assert errors == pytest.approx((taus - 20) / np.sqrt(2000 * 0.01 * 0.99))
    # They reach a little beyond tau's interval.
    assert taus[0] < found.interval.low and found.interval.high < taus[-1]
    assert abs(errors).max() < 1.1 * 1.96 + 0.5


def test_the_interval_is_the_projection_of_both_errors() -> None:
    rng = np.random.default_rng(4)
    threshold = calibrate(rng.random(1000), spread(1000), 0.01, distance=True)
    sides = [Matches(rng.random(1000) ** power, spread(1000), 50) for power in (1.5, 1.0)]
    found = evaluate(threshold, *sides, within=near).excess
    lows, highs = [], []
    for tau, error in threshold.around:
        alone = evaluate(threshold._replace(tau=tau, around=((tau, 0.0),)), *sides, within=near).excess
        share = np.sqrt(max(0.0, STRETCH**2 - (error / norm.ppf(0.975)) ** 2))
        lows.append(alone.value - share * (alone.value - alone.interval.low))
        highs.append(alone.value + share * (alone.interval.high - alone.value))
    assert found.interval == pytest.approx((min(lows), max(highs)))
    # Wider than at a tau that is taken for certain.
    certain = evaluate(threshold._replace(around=((threshold.tau, 0.0),)), *sides, within=near).excess
    assert certain.value == found.value
    assert found.interval.low < certain.interval.low and found.interval.high > certain.interval.high


@pytest.mark.simulation(few=100, full=300)
def test_the_held_out_rate_at_tau_is_q(draws: int) -> None:
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(draws):
        threshold = calibrate(rng.random(2000), spread(2000), 0.01, distance=True)
        side = Matches(rng.random(2000), spread(2000), 50)
        rates.append(evaluate(threshold, side, side, within=near).held_out.value)
    assert np.mean(rates) == pytest.approx(0.01, abs=4e-4)


# ---- coverage ----


class World(NamedTuple):
    """A planted truth: `leak` of the candidates are copies with distances uniform on [0, reach q]."""

    leak: float
    reach: float
    heavy: float = 0.0

    @property
    def excess(self) -> float:
        return self.leak * (min(1.0, 1 / self.reach) - Q)


Q, N, GROUPS = 0.01, 1000, 100
WORLDS = {
    "no leak": World(0.0, 1.0, heavy=1.0),
    "1 % copies, well inside": World(0.01, 0.5, heavy=1.0),
    "5 % copies, around the threshold": World(0.05, 2.0),
    "5 % copies that end at the threshold": World(0.05, 1.0),
}


def best_matches(world: World, rng: np.random.Generator, *, training: bool) -> Matches:
    """Draw distances of 2 N candidates: the chance to be within d is d times the mean weight of the groups."""
    weights = rng.lognormal(-(world.heavy**2) / 2, world.heavy, GROUPS)
    scores = rng.random(2 * N) / weights.mean()
    if training:
        copies = rng.random(2 * N) < world.leak
        scores = np.where(copies, rng.random(2 * N) * world.reach * Q, scores)
    groups = np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(2 * N)).clip(max=GROUPS - 1)
    return Matches(scores, groups, GROUPS)


def coverages(world: World, seed: int, draws: int) -> tuple[float, float]:
    """Return how often the interval holds the truth, with and without tau's uncertainty."""
    rng = np.random.default_rng(seed)
    held = naive = 0
    for _ in range(draws):
        training, held_out = (best_matches(world, rng, training=side) for side in (True, False))
        threshold = calibrate(held_out.scores[::2], held_out.groups[::2], Q, distance=True)
        sides = [Matches(side.scores[1::2], side.groups[1::2], GROUPS) for side in (training, held_out)]
        low, high = evaluate(threshold, *sides, within=near).excess.interval
        held += low <= world.excess <= high
        alone = threshold._replace(around=((threshold.tau, 0.0),))
        low, high = evaluate(alone, *sides, within=near).excess.interval
        naive += low <= world.excess <= high
    return held / draws, naive / draws


@pytest.mark.simulation(few=200, full=1000)
@pytest.mark.parametrize("name", WORLDS)
def test_the_excess_at_the_true_threshold_is_covered(name: str, draws: int) -> None:
    held, naive = coverages(WORLDS[name], 6, draws)
    assert held >= 0.94, f"{name}: covers {held:.4f}"
    assert held >= naive
    if name.startswith("5 %"):
        # The reason why tau's uncertainty is carried on.
        assert naive < 0.9, f"{name}: without tau's uncertainty {naive:.4f}"
