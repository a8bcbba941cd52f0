"""The pictures of a report, as SVG that is the same for the same data."""

import io
from typing import TYPE_CHECKING

import numpy as np

from .contracts import Measure
from .rates import UnitScores
from .results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#b5651d")
"""Training and held-out, told apart by lightness as well as by hue."""


def histogram(scores: UnitScores, measure: Measure) -> "Figure":
    """Draw best-match scores against training and held-out images, with the band edges."""
    from matplotlib.figure import Figure

    best = {side: scores.best_scores[measure.id, side] for side in scores.sides}
    finite = np.concatenate([values[np.isfinite(values)] for values in best.values()])
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(finite.min(initial=0.0), finite.max(initial=1.0), 61)
    for (side, values), colour in zip(best.items(), COLOURS, strict=False):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        label = f"{side.replace('_', '-')} images"
        axes.stairs(counts, edges, color=colour, label=label, fill=side == "training", alpha=0.75, linewidth=1.6)
    for band in measure.bands:
        edge = band.high if measure.distance else band.low
        axes.axvline(edge, color="#888", linewidth=0.8, linestyle=":")
        axes.annotate(
            band.name,
            (edge, 1),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
            rotation=90,
            fontsize=8,
            color="#666",
        )
    side_word = "smaller is closer" if measure.distance else "larger is closer"
    axes.set_xlabel(f"best-match score, {measure.id} ({side_word})")
    axes.set_ylabel("candidates")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def rarefaction(results: list[Result]) -> "Figure":
    """Draw distinct duplicate groups over candidates for every unit, in the closest band of one measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for number, result in enumerate(results):
        if result.richness is None:
            continue
        points, colour = result.richness.groups, f"C{number}"
        seen = [point for point in points if point.kind != "extrapolated"]
        beyond = [point for point in points if point.candidates >= result.candidates]
        label = f"{result.attack}, seed {result.seed}"
        axes.plot([p.candidates for p in seen], [p.value for p in seen], color=colour, label=label)
        axes.plot([p.candidates for p in beyond], [p.value for p in beyond], color=colour, linestyle=":")
        low, high = [p.low for p in points], [p.high for p in points]
        axes.fill_between([p.candidates for p in points], low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("candidates (dotted: extrapolated, an estimate)")
    axes.set_ylabel("distinct groups found")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def to_svg(figure: "Figure") -> str:
    """Return a figure as an SVG element that is the same for the same data."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "sidebench"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]
