"""What tables and verdicts say of attacks over their preparations."""

from typing import Any

from sidebench.benchmark.reports.tables import ratio_rows, text_tables
from sidebench.benchmark.reports.verdict import strongest
from sidebench.benchmark.results.schema import AttackRatio, Estimate

ONE = Estimate(value=0.1, low=0.05, high=0.2)


def ratio(first: str, second: str, verdict: str, **changes: Any) -> AttackRatio:
    known: dict[str, Any] = {
        "first": first,
        "second": second,
        "seeds": [0, 1, 2],
        "preparations": 3,
        "measure": "nl2c:n50:a0.5",
        "band": "high",
        "first_rate": ONE,
        "second_rate": ONE,
        "spread": 0.3,
        "ratio": Estimate(value=2.0, low=1.25, high=3.2),
        "ratio_refused": "",
        "p": 0.0123,
        "verdict": verdict,
    }
    return AttackRatio(**{**known, **changes})


def test_a_row_says_how_many_preparations_and_how_far_they_lie_apart(finished: Any) -> None:
    refused = {"ratio": None, "ratio_refused": "no ratio: why", "p": 1.0, "first_rate": None, "spread": None}
    found = [
        ratio("side", "carlini-uncond", "finds more"),
        ratio("side", "carlini-cond", "no ratio", preparations=None, **refused),
    ]
    metrics = finished.metrics.model_copy(update={"attack_ratios": found, "control": "iid"})
    assert ratio_rows(metrics)[0] == {
        "attack": "side",
        "against": "carlini-uncond",
        "preparations": "3",
        "band": "high",
        "excess": "10.00 [5.00, 20.00]",
        "excess of the other": "10.00 [5.00, 20.00]",
        "ratio": "2.00 [1.25, 3.20]",
        "p (Holm)": "0.012",
        "verdict": "finds more",
        "between preparations": "x 1.35",
    }
    row = ratio_rows(metrics)[1]
    assert [row[key] for key in ("preparations", "excess", "ratio", "p (Holm)", "between preparations")] == ["-"] * 5
    assert "2.00 [1.25, 3.20]" in text_tables(metrics)


def test_the_strongest_is_that_over_preparations(finished: Any) -> None:
    others = ("carlini-uncond", "carlini-cond")
    assert strongest(finished.metrics) is None
    more = [ratio("side", other, "finds more") for other in others]
    assert strongest(finished.metrics.model_copy(update={"attack_ratios": more})) == "side"
    fewer = [ratio(other, "side", "hits fewer (raw rate)") for other in others]
    assert strongest(finished.metrics.model_copy(update={"attack_ratios": fewer})) == "side"
    # One seed may call it stronger: over preparations one ratio was refused.
    by_seed = [
        found.model_copy(update={"verdict": "finds more" if found.first == "side" else "finds fewer"})
        for found in finished.metrics.comparisons
    ]
    half = [more[0], ratio("side", others[1], "no ratio", ratio=None)]
    metrics = finished.metrics.model_copy(update={"comparisons": by_seed})
    assert strongest(metrics) == "side"
    assert strongest(metrics.model_copy(update={"attack_ratios": half})) is None
