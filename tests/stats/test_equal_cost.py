"""Attacks at equal effort: budgets by hand, and what the intervals of the different groups cover."""

from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.errors import TooFew
from sidebench.benchmark.stats.equal_cost import Finds, Spending, at_budget, distinct
from sidebench.benchmark.stats.intervals import wilson
from sidebench.benchmark.stats.richness import good_toulmin, rarefaction

NONE = Finds(0, 0, 0, np.zeros(4, dtype=np.int64))
OWN = Finds(100, 20, 5, np.array([12, 5, 3, 0]))
SHARED = Finds(50, 6, 1, np.array([0, 4, 0, 2]))


def spending(**changes: Any) -> Spending:
    """Return an attack whose candidates cost 2 each, after 100 for 50 synthetic images and 40 for their training."""
    known = Spending(OWN, SHARED, prepare=140.0, generate=200.0, a_synthetic=2.0, counts_synthetic=True)
    return known._replace(**changes)


# ---- budgets ----


def test_its_own_total_buys_what_was_made() -> None:
    found = at_budget(spending(), 340.0)
    assert (found.candidates, found.synthetic, found.kind) == (100, 50, "observed")
    assert found.training.value == 26 and found.held_out is not None and found.held_out.value == 6
    assert found.groups is not None and found.groups.value == 4
    # Both kinds are independent: their Wilson intervals are added in quadrature.
    reach = [n * (rate - wilson(hits, n).low) for hits, n, rate in ((20, 100, 0.2), (6, 50, 0.12))]
    assert found.training.interval.low == pytest.approx(26 - np.hypot(*reach))
    above = [n * (wilson(hits, n).high - rate) for hits, n, rate in ((20, 100, 0.2), (6, 50, 0.12))]
    assert found.training.interval.high == pytest.approx(26 + np.hypot(*above))


def test_preparation_is_paid_first() -> None:
    found = at_budget(spending(), 240.0)
    assert (found.candidates, found.synthetic, found.kind) == (50, 50, "rarefied")
    assert found.training.value == pytest.approx(50 * 0.2 + 6)
    # The synthetic images found two groups; the others are rarefied to half of the candidates.
    alone = rarefaction(np.array([12, 3]), 100, 2, 50)
    assert found.groups is not None and found.groups.value == pytest.approx(2 + alone.value)


@pytest.mark.parametrize(("budget", "synthetic"), [(1.0, 0), (50.0, 25), (100.0, 50), (141.0, 50)])
def test_less_than_the_preparation_buys_synthetic_images_alone(budget: float, synthetic: int) -> None:
    found = at_budget(spending(), budget)
    assert (found.candidates, found.synthetic) == (0, synthetic)
    assert found.training.value == pytest.approx(synthetic * 6 / 50)
    expected = rarefaction(SHARED.groups, 50, 4, synthetic).value if synthetic else 0
    assert found.groups is not None and found.groups.value == pytest.approx(expected)


def test_synthetic_images_may_be_paid_for_and_not_count() -> None:
    found = at_budget(spending(counts_synthetic=False), 340.0)
    assert (found.candidates, found.synthetic, found.training.value) == (100, 0, 20)
    assert found.groups is not None and found.groups.value == 3


def test_more_than_was_made_is_extrapolated_and_refused_beyond_the_range() -> None:
    plain = spending(synthetic=NONE, prepare=0.0, a_synthetic=0.0)
    found = at_budget(plain, 400.0)
    assert (found.candidates, found.kind) == (200, "extrapolated")
    assert found.groups == good_toulmin(OWN.groups, 100, 4, 1.0)
    far = at_budget(plain, 1000.0)
    assert far.groups is None and "allow an extrapolation by t = 3" in far.refused
    # Expected hits need no extrapolation.
    assert far.training.value == pytest.approx(100)


def test_without_held_out_images_there_are_no_held_out_hits() -> None:
    found = at_budget(spending(candidates=OWN._replace(held_out=None)), 340.0)
    assert found.held_out is None


def test_prices_that_do_not_divide_evenly_buy_what_was_made() -> None:
    # 0.1 is no binary fraction; rounding must not cost a candidate.
    for made in (3, 7, 1000):
        own = OWN._replace(images=max(made, 20))
        attack = spending(candidates=own, generate=0.1 * own.images, prepare=0.3, a_synthetic=0.006)
        assert at_budget(attack, attack.total).candidates == own.images


# ---- coverage ----


def finds(chances: np.ndarray, images: int, rng: np.random.Generator) -> Finds:
    """Draw images that find at most one group each."""
    groups = rng.multinomial(images, [*chances, 1 - chances.sum()])[:-1]
    return Finds(images, int(groups.sum()), 0, groups)


@pytest.mark.simulation(few=400, full=2000)
@pytest.mark.parametrize(
    ("bought", "synthetic_images"),
    [(200, 800), (300, 800), (300, 100), (1000, 800), (1500, 800), (1800, 400), (1500, 0)],
)
def test_different_groups_are_covered(bought: int, synthetic_images: int, draws: int) -> None:
    rng = np.random.default_rng(1)
    plain = np.minimum(rng.lognormal(-8.0, 1.2, 200), 0.05)
    guided = np.minimum(plain * rng.lognormal(0.0, 0.7, 200), 0.05)
    truth = (1 - (1 - guided) ** bought * (1 - plain) ** synthetic_images).sum()
    held = given = 0
    for _ in range(draws):
        own, synthetic = finds(guided, 1000, rng), finds(plain, synthetic_images, rng)
        try:
            low, high = distinct(own, bought, synthetic).interval
        except TooFew:
            continue
        given += 1
        held += low <= truth <= high
    assert given > 0.99 * draws
    assert 0.93 <= held / given <= 0.995, f"{held / given:.4f} of {given}"


@pytest.mark.simulation(few=100, full=300)
def test_equal_kinds_are_one_sample(draws: int) -> None:
    # Synthetic images of the same kind as the candidates: the value agrees with rarefaction of both together.
    rng = np.random.default_rng(2)
    chances = np.minimum(rng.lognormal(-7.0, 1.0, 100), 0.05)
    gaps = []
    for _ in range(draws):
        own, synthetic = finds(chances, 1000, rng), finds(chances, 1000, rng)
        together = rarefaction(own.groups + synthetic.groups, 2000, 100, 1500).value
        gaps.append(distinct(own, 500, synthetic).value - together)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / draws**0.5
