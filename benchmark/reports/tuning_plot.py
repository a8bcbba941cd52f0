"""The curve that an attack's settings come from: what each value found on training and on held-out images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..results.tuning_curve import Curve, TriedPoint
from .plot_style import HELD_OUT, SERIES, SOFT, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(curve: Curve) -> "Figure":
    """Draw AMS over the setting that was tried in most values, a line per choice of the others, the best marked.

    Held-out images, the control, are dashed. Values stand at even distances, since grids of strengths are seldom even.
    """
    across = varied(curve)
    values = list(dict.fromkeys(str(point.values[across]) for point in curve.points))
    lines: dict[str, list[TriedPoint]] = {}
    for point in curve.points:
        lines.setdefault(_others(point.values, across), []).append(point)
    rows = -(-(len(lines) + 1) // 2)
    figure, axes = canvas(height=2.9 + 0.2 * rows, top=0.1 + 0.2 * rows)
    best = curve.best()
    for number, (label, points) in enumerate(lines.items()):
        colour = SERIES[number % len(SERIES)]
        places = [values.index(str(point.values[across])) for point in points]
        rates = [point.result.training.ams for point in points]
        found = [100 * rate.value for rate in rates]
        gaps = [[100 * (rate.value - rate.low) for rate in rates], [100 * (rate.high - rate.value) for rate in rates]]
        shift = 0.05 * (number - (len(lines) - 1) / 2)
        shifted = [place + shift for place in places]
        axes.errorbar(shifted, found, gaps, color=colour, marker="o", markersize=4, label=label or "training images")
        control = [100 * point.result.held_out.ams.value for point in points if point.result.held_out]
        if len(control) == len(places):
            axes.plot(shifted, control, color=colour if label else HELD_OUT, linestyle=(0, (4, 1.5)), linewidth=1.3)
        if best in points:
            place = points.index(best)
            axes.plot(shifted[place], found[place], "o", markersize=11, markerfacecolor="none", color=colour)
    if any(point.result.held_out for point in curve.points):
        axes.plot([], [], color=SOFT, linestyle=(0, (4, 1.5)), linewidth=1.3, label="dashed: held-out images")
    axes.set_xticks(range(len(values)), values)
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{across} (circle: chosen)")
    axes.set_ylabel("candidates in band, %")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0.1, columnspacing=1.2)
    return figure


def varied(curve: Curve) -> str:
    """Return the setting with the most values in the curve; of several the last, which the grid varies fastest."""
    counts: Mapping[str, int] = {
        key: len({str(point.values.get(key)) for point in curve.points}) for key in curve.points[0].values
    }
    return max(reversed(list(counts)), key=lambda key: counts[key])


def _others(values: Mapping[str, Any], across: str) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if key != across)
