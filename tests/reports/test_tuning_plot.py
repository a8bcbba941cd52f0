"""The picture of a tuning."""

from typing import Any

import pytest

from sidebench.benchmark.reports import tuning_plot
from sidebench.benchmark.reports.plot_style import styled, to_png, to_svg
from sidebench.benchmark.results.tuning_curve import Curve, TriedPoint


def curve_of(finished: Any, grid: list[dict[str, Any]]) -> Curve:
    """Return a curve of these values; the excess rises with their position."""
    result = finished.metrics.results[0].bands[-1]
    points = []
    for number, values in enumerate(grid):
        excess = result.excess.model_copy(update={"value": number / 100})
        points.append(TriedPoint(values=values, result=result.model_copy(update={"excess": excess})))
    return Curve(attack="side", measure="nl2c:n50:a0.5", candidates=40, points=points)


def test_the_setting_of_most_values_goes_across(finished: Any) -> None:
    grid = [{"steps": steps, "scale": scale} for steps in (100, 300) for scale in (0.1, 1.0, 3.0)]
    assert tuning_plot.varied(curve_of(finished, grid)) == "scale"
    assert tuning_plot.varied(curve_of(finished, [{"a": a, "b": b} for a in (1, 2) for b in (1, 2)])) == "b"


@pytest.mark.parametrize("keys", [("scale",), ("steps", "scale")])
def test_lines_marks_and_words(keys: tuple[str, ...], finished: Any) -> None:
    whole = [{"steps": steps, "scale": scale} for steps in (100, 300) for scale in (0.1, 1.0, 3.0)]
    grid = [{key: values[key] for key in keys} for values in (whole if len(keys) == 2 else whole[:3])]
    with styled():
        figure = tuning_plot.draw(curve_of(finished, grid))
        svg = to_svg(figure, "tuning-side")
        assert to_png(figure).startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "1.0", "3.0"]
    labels = axes.get_legend_handles_labels()[1]
    wanted = ["steps 100", "steps 300"] if len(keys) == 2 else ["training images"]
    assert sorted(labels) == sorted([*wanted, "dashed: held-out images"])
    assert "scale (circle: chosen)" in svg and "candidates in band, %" in svg
    (mark,) = (line for line in axes.lines if line.get_markersize() == 11)
    assert mark.get_xdata()[0] == pytest.approx(2, abs=0.1), "the last value has the highest excess"
