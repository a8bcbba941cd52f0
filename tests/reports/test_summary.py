"""What scripts read of a run: the figures of the first screen, in at most 200 lines."""

import json
from typing import Any

from sidebench.benchmark.reports.summary import ATTACKS, FLAGS, summary


def test_the_figures_are_those_of_the_metrics(finished: Any) -> None:
    found, metrics = summary(finished.folder, finished.metrics), finished.metrics
    assert list(found["attacks"]) == ["carlini-uncond", "carlini-cond", "side"]
    result = metrics.results[0]
    own, band = found["attacks"][result.attack], result.bands[0]
    assert own["copies"] == band.training.ams.value and own["control"] == band.held_out.ams.value
    assert own["excess"] == {"value": band.excess.value, "low": band.excess.low, "high": band.excess.high}
    assert own["unique"] == band.training.groups and own["says"] == metrics.claims[0].says
    costs = [cost for cost in metrics.costs if cost.attack == result.attack]
    assert own["hits_per_1000_nfe"] == costs[0].hits_per_1000_equivalents
    assert (found["measure"], found["band"], found["candidates"], found["seeds"]) == (
        result.measure, band.band, result.candidates, [0]
    )  # fmt: skip
    assert found["everything"] == f"sidebench show {finished.folder.path} --json full"


def test_many_attacks_and_flags_stay_below_200_lines(finished: Any) -> None:
    metrics = finished.metrics
    many = metrics.model_copy(
        update={
            "results": [metrics.results[0].model_copy(update={"attack": f"a{n}"}) for n in range(40)],
            "flags": [f"flag {n}" for n in range(100)],
        }
    )
    found = summary(finished.folder, many)
    assert len(json.dumps(found, indent=1).splitlines()) <= 200
    assert found["attacks_left_out"] == 40 - ATTACKS and found["flags_left_out"] >= 100 - FLAGS


def test_nothing_is_said_without_a_claim(finished: Any) -> None:
    metrics = finished.metrics.model_copy(update={"control": "none", "control_check": None, "claims": []})
    found = summary(finished.folder, metrics)
    assert found["says"] is None and all(own["says"] is None for own in found["attacks"].values())
