"""Reach as it is stored and read: a perfect copier's rate by band, and the warning where it is low."""

from typing import Any

import pytest

from sidebench.benchmark.measures.nl2 import NormalizedL2Combined
from sidebench.benchmark.measures.rms import Rms
from sidebench.benchmark.results import reach
from sidebench.benchmark.results.reach import least_reach, said_within_reach
from sidebench.benchmark.results.schema import BandClaim, LeakClaim, Metrics, Reach, load_metrics

MEASURE = NormalizedL2Combined()
NAME = MEASURE.id
BANDS = ("high", "mid", "low", "high+mid", "high+mid+low")
IMAGES = {"training": 200, "held_out": 50}
COUNTS = {
    NAME: {
        band: {"training": training, "held_out": 50}
        for band, training in zip(BANDS, (20, 100, 40, 120, 160), strict=True)
    }
}


def counted() -> list[Reach]:
    return reach.counted([MEASURE, Rms()], "round trip", "through the model's autoencoder", IMAGES, COUNTS)  # type: ignore[arg-type]


@pytest.fixture
def metrics(finished: Any) -> Metrics:
    return load_metrics(finished.folder)


def test_shares_have_their_intervals() -> None:
    found = {row.band: row for row in counted()}
    assert tuple(found) == BANDS
    high = found["high"].training
    assert high is not None and (high.count, high.images, high.value) == (20, 200, 0.1)
    assert (high.low, high.high) == pytest.approx((0.0656, 0.1494), abs=1e-4)  # Wilson
    assert found["high"].held_out is not None and found["high"].held_out.value == 1


def test_the_least_reach_is_that_of_the_band_and_all_closer_ones(metrics: Metrics) -> None:
    metrics.reach = counted()
    found = {band: least_reach(metrics, NAME, band) for band in BANDS}
    assert found == {"high": 0.1, "mid": 0.6, "low": 0.8, "high+mid": 0.6, "high+mid+low": 0.8}
    assert least_reach(metrics, NAME, "other") is None and least_reach(metrics, "rms", "high") is None


def test_exact_copies_are_seen_in_every_band(metrics: Metrics) -> None:
    metrics.reach = reach.identity([MEASURE], IMAGES)  # type: ignore[arg-type]
    assert {least_reach(metrics, NAME, band) for band in BANDS} == {1.0}
    single = {row.band: row.training.value for row in metrics.reach if row.training}
    assert single == {"high": 1, "mid": 0, "low": 0, "high+mid": 1, "high+mid+low": 1}
    assert reach.flags(metrics) == []


def test_there_is_none_behind_a_defence_in_the_loop_or_in_an_older_run(metrics: Metrics) -> None:
    metrics.reach = reach.none([MEASURE], "eta acts while an image is sampled")
    assert {row.training for row in metrics.reach} == {None} and least_reach(metrics, NAME, "high") is None
    assert reach.flags(metrics) == []
    metrics.reach = []
    assert least_reach(metrics, NAME, "high") is None and reach.flags(metrics) == []


def test_a_low_reach_is_flagged_in_a_sentence(metrics: Metrics) -> None:
    assert metrics.results[0].measure == NAME
    metrics.reach = counted()
    (said,) = reach.flags(metrics)
    assert said == (
        f"{NAME}, band high, finds only 10.0 % of the training images again once they went through the model's "
        f"autoencoder: a perfect copy would be called clean in 90.0 % of cases; `--measure roundtrip:{NAME}` compares "
        f"with round trips"
    )
    assert metrics.reach[0].training is not None
    metrics.reach[0].training.count = 100
    assert reach.flags(metrics) == []


def test_only_a_run_that_saw_nothing_is_said_to_see_nothing(metrics: Metrics) -> None:
    """The closest band finds 99 of 200 images again, and then half of them, which is enough."""

    def claim(says: str) -> LeakClaim:
        bands = [BandClaim(band=band, p=0.5, at_least=0.0, at_most=0.1) for band in ("high", "high+mid")]
        known = {"attack": says, "seeds": [0], "measure": NAME, "candidates": 40, "groups_hit": 3, "least_groups": 5}
        return LeakClaim(**known, says=says, closest=None, widest=None, bands=bands)  # type: ignore[arg-type]

    every = ["none seen", "excess", "cannot tell", "control does not fit"]
    metrics.claims = [claim(says) for says in every]
    metrics.reach = counted()
    assert metrics.reach[0].training is not None
    for count, first in ((99, "cannot see"), (100, "none seen")):
        metrics.reach[0].training.count = count
        assert [found.says for found in said_within_reach(metrics)] == [first, *every[1:]]


def test_it_survives_the_file(metrics: Metrics) -> None:
    metrics.reach = [*counted(), *reach.none([MEASURE], "eta")]
    stored = metrics.model_dump(by_alias=True, mode="json")
    assert Metrics.model_validate(stored).reach == metrics.reach
    assert {row["how"] for row in stored["reach"]} == {"round trip", "none"}
    del stored["reach"]
    assert Metrics.model_validate(stored).reach == []
