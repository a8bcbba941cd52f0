"""All attacks of a run at equal effort: whose budget, what preparation takes of it, and which images count."""

from typing import Any, NamedTuple

import numpy as np

from sidebench.benchmark.results.costs import UnitFinds, equal_effort
from sidebench.benchmark.results.schema import Effort
from sidebench.benchmark.stats.equal_cost import Currency, Finds

BAND = "high"


class Prices(NamedTuple):
    """A unit's cost of `prepare`, of all candidates, and of one synthetic image."""

    prepare: float
    generate: float
    a_synthetic: float


def found(hits: int, synthetic: int = 0) -> UnitFinds:
    """Return what 100 candidates hit, a group each, and what 50 synthetic images did."""
    own = Finds(100, hits, 0, np.repeat([1, 0], [hits, 100 - hits]))
    made = Finds(50, synthetic, 0, np.repeat([0, 1, 0], [50, synthetic, 50 - synthetic]))
    return UnitFinds(hits, 50, synthetic, {BAND: (own, made)})


UNITS = [("plain.s0", "plain", 0), ("side.s0", "side", 0), ("plain.s1", "plain", 1)]
PRICES = {"plain.s0": Prices(0, 100, 0), "side.s0": Prices(100, 200, 2), "plain.s1": Prices(0, 500, 0)}
FINDS = {"plain.s0": found(20), "side.s0": found(30, synthetic=5), "plain.s1": found(90)}


def effort(currency: Currency, prices: Any = PRICES, units: Any = UNITS) -> list[Effort]:
    return equal_effort(units, BAND, currency, prices, FINDS)


def rows(efforts: list[Effort]) -> list[tuple[Any, ...]]:
    return [
        (each.budget, each.budget_of, each.attack, each.candidates, each.synthetic_images, round(each.hits.value, 6))
        for each in efforts
    ]


def test_each_attacks_whole_cost_is_a_budget_for_all_of_them() -> None:
    """Of 300 calls the second attack prepares for 100; the other has no preparation and makes as many candidates."""
    assert rows(effort("denoiser calls")) == [
        (100, "plain", "plain", 100, 0, 20),
        (100, "plain", "side", 0, 0, 0),
        (300, "side", "plain", 300, 0, 60),
        (300, "side", "side", 100, 0, 30),
    ]


def test_synthetic_images_count_where_they_were_paid_for_as_images() -> None:
    assert rows(effort("denoiser-equivalents")) == [
        (100, "plain", "plain", 100, 0, 20),
        (100, "plain", "side", 0, 50, 5),
        (300, "side", "plain", 300, 0, 60),
        (300, "side", "side", 100, 50, 35),
    ]


def test_attacks_of_one_cost_share_a_budget_and_one_alone_has_none() -> None:
    alike = PRICES | {"side.s0": Prices(40, 60, 2)}
    assert [row[:3] for row in rows(effort("denoiser calls", alike))] == [
        (100, "plain and side", "plain"),
        (100, "plain and side", "side"),
    ]
    assert effort("denoiser calls", units=UNITS[::2]) == []
    # Images that exist already cost nothing: they are compared with none.
    assert effort("denoiser calls", PRICES | {"side.s0": Prices(0, 0, 0)}) == []
