"""Where the ends of a record's interval are not those of its run, a line says why."""

from typing import Any

from sidebench.benchmark.results.schema import AttackRatio, Estimate
from sidebench.leaderboards.two_intervals import two_intervals


def test_one_preparation_has_one_interval(finished: Any, real_records: list[Any]) -> None:
    """The same function of the same hits, read from the run's scores and from the record."""
    for record in real_records:
        own = next(found for found in finished.metrics.results if found.attack == record.claim.attack)
        assert record.excess == own.bands[0].excess
        assert two_intervals(record, finished.metrics) == ""


def test_several_preparations_have_two_and_a_line_says_so(finished: Any, real_records: list[Any]) -> None:
    record, metrics = real_records[0], finished.metrics
    name = record.claim.attack
    again = [found.model_copy(update={"seed": 1}) for found in metrics.results if found.attack == name]
    rate = Estimate(value=0.25, low=0.125, high=0.375)
    measure, band = again[0].measure, again[0].bands[0].band
    over = AttackRatio.model_construct(
        first=name, second="other", measure=measure, band=band, first_rate=rate, second_rate=None
    )
    both = metrics.model_copy(update={"results": [*metrics.results, *again], "attack_ratios": [over]})
    line = two_intervals(record, both)
    assert line.startswith(f"{name}: the board shows an excess of {100 * record.excess.value:.2f} % [")
    assert "the run 25.00 % [12.50, 37.50]: the record takes the candidates" in line
    unfair = record.model_copy(update={"victim": record.victim.model_copy(update={"control": "surrogate"})})
    assert two_intervals(unfair, both) == ""
