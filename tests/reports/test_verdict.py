"""The headline and the checks under it: what is said follows the numbers, and nothing more is said."""

from typing import Any

import pytest

from sidebench.benchmark.reports.page_data import Contents, read_contents
from sidebench.benchmark.reports.verdict import VerdictCheck, checks, headline
from sidebench.benchmark.results.schema import Estimate, Metrics


@pytest.fixture(scope="module")
def contents(finished: Any) -> Contents:
    return read_contents(finished.folder)


def with_excess(metrics: Metrics, *intervals: tuple[float, float]) -> Metrics:
    """Return the run with these excess intervals in the closest band, one per attack."""
    results = []
    for result, (low, high) in zip(metrics.results[:: len(metrics.results) // 3], intervals, strict=False):
        excess = Estimate(value=(low + high) / 2, low=low, high=high)
        bands = [result.bands[0].model_copy(update={"excess": excess}), *result.bands[1:]]
        results.append(result.model_copy(update={"bands": bands}))
    check = metrics.control_check.model_copy(update={"told_apart": False})
    return metrics.model_copy(update={"results": results, "control": "iid", "control_check": check})


@pytest.mark.parametrize(
    ("intervals", "tone", "words"),
    [
        ([(0.1, 0.2), (-0.1, 0.3), (0.2, 0.4)], "leak", ["2 of 3 attacks hit", "The strongest, side: of 40"]),
        ([(0.1, 0.2)], "leak", ["The attack hits", "The strongest, carlini-uncond"]),
        ([(-0.1, 0.2), (-0.2, 0.0123)], "clear", ["None of 2 attacks", "up to 20.00 %"]),
        ([(0.0, 0.0456)], "clear", ["The attack hits training images no more often", "up to 4.56 %"]),
        ([(-0.2, -0.1), (-0.1, 0.1)], "open", ["which no leak explains"]),
    ],
)
def test_headline_follows_the_intervals(contents: Contents, intervals: Any, tone: str, words: list[str]) -> None:
    found = headline(with_excess(contents.metrics, *intervals))
    assert found.tone == tone
    for word in words:
        assert word in found.lead
    assert ("gives training images away" in found.title) == (tone == "leak")
    assert ("no leak was seen" in found.title) == (tone == "clear")


def test_headline_names_the_seed_where_there_are_several(contents: Contents) -> None:
    leaky = with_excess(contents.metrics, (0.1, 0.2), (0.2, 0.3))
    second = leaky.results[1].model_copy(update={"attack": leaky.results[0].attack, "seed": 5})
    found = headline(leaky.model_copy(update={"results": [leaky.results[0], second]}))
    assert "2 of 2 attack runs" in found.lead and "carlini-uncond (seed 5)" in found.lead


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "surrogate"}, "of the kind surrogate"),
        ({"control": "none", "control_check": None}, "no held-out images"),
        ({"results": []}, "no fixed bands"),
    ],
)
def test_no_verdict_without_a_fair_control_or_bands(contents: Contents, change: dict[str, Any], words: str) -> None:
    found = headline(with_excess(contents.metrics, (0.1, 0.2)).model_copy(update=change))
    assert found.tone == "open" and words in found.lead and "gives" not in found.title


def by_name(contents: Contents, **changes: Any) -> dict[str, VerdictCheck]:
    metrics = contents.metrics.model_copy(update=changes.pop("metrics", {}))
    files = {"audit": contents.audit, "quality": contents.quality, "costs": contents.costs, **changes}
    return {check.what: check for check in checks(metrics, **files)}


def test_checks_of_a_run(contents: Contents) -> None:
    found = by_name(contents)
    assert found["Candidates"].finding == "0 of 120 candidates are broken or of one colour"
    assert found["Repeatability"].state == "good"
    assert found["Replication"].state == "look"
    assert "100 % of exact copies" in found["Detector, copies"].finding
    assert found["Detector, copies"].state == "look" and "shift 0.25 px" in found["Detector, copies"].finding
    assert found["Detector, false alarms"].state == "good"


def test_a_check_that_fails_is_marked(contents: Contents) -> None:
    told = contents.metrics.control_check.model_copy(update={"told_apart": True})
    assert by_name(contents, metrics={"control_check": told})["Control"].state == "look"
    broken = [contents.metrics.results[0].model_copy(update={"nan": 3, "constant": 1})]
    assert "4 of 40" in by_name(contents, metrics={"results": broken})["Candidates"].finding
    probe = {"probe": {"largest": 9, "above_limit": True}}
    assert by_name(contents, costs={"units": {"side.s0": probe}})["Repeatability"].state == "look"
    mixed = {**contents.costs, "mixed_environment": True}
    assert "different environments" in by_name(contents, costs=mixed)["Repeatability"].finding
    bad = {name: {**row, "label_accuracy": 0.1} for name, row in contents.quality.items()}
    bad["training images"] = contents.quality["training images"]
    assert by_name(contents, quality=bad)["Sample quality"].state == "look"


def test_what_was_not_checked_is_said(contents: Contents) -> None:
    assert by_name(contents, quality={"skipped": "too large"})["Sample quality"].state == "missing"
    assert by_name(contents, metrics={"control_check": None, "control": "none"})["Control"].state == "missing"
    headline_measure = contents.metrics.results[0].measure
    alone = {**contents.audit["measures"][headline_measure], "non_copies": None}
    audit = {**contents.audit, "measures": {headline_measure: alone}, "non_copies_missing": "the pair has no pool"}
    found = by_name(contents, audit=audit)["Detector, false alarms"]
    assert found.state == "missing" and found.finding == "the pair has no pool"


def test_a_measure_without_bands_has_no_detector_check(contents: Contents) -> None:
    plain = [result for result in contents.metrics.results if result.measure == "rms"]
    found = by_name(contents, metrics={"results": plain})
    assert not any(name.startswith("Detector") for name in found)
