"""The pictures of `sidebench compare`: a colour per run, the baseline first. Call them within `plot_style.styled()`."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from ...contracts import Measure
from ...results.schema import Estimate
from ..figures import short
from ..plot_style import INK, SOFT, canvas, colours, direction, score_range, shade_bands, threshold_label
from ..rates_by_threshold import Curves
from .schema import Comparing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
"""One per attack where colours are runs, one per run where rows are attacks."""

_LEGEND_ROW = 0.2
"""Height of a row of a legend, in inches."""


def leaks(found: Comparing, yardstick: str) -> "Figure":
    """Draw the leak by one yardstick with 95 % intervals: a row per attack, a colour per run."""
    points = _points(found, yardstick)
    runs = [run.label for run in found.runs]
    attacks = list(dict.fromkeys(attack for _, attack in points))
    palette, step = colours(runs), 0.8 / len(runs)
    top = _room(runs)
    height = top + 0.55 + len(attacks) * (0.22 + 0.16 * len(runs))
    figure, axes = canvas(height=height, left=1.4, top=top)
    for (run, attack), leak in points.items():
        place = runs.index(run)
        y = attacks.index(attack) + step * (place - (len(runs) - 1) / 2)
        axes.plot([100 * leak.low, 100 * leak.high], [y, y], color=palette[run], linewidth=1.6, solid_capstyle="butt")
        axes.plot([100 * leak.value], [y], MARKERS[place % len(MARKERS)], color=palette[run], markersize=5.5)
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(attacks)), [short(attack) for attack in attacks])
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=SOFT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("leak, % of candidates (95 % interval)")
    _legend(axes, [(short(run), palette[run], MARKERS[place % len(MARKERS)]) for place, run in enumerate(runs)], -0.3)
    return figure


def against_quality(found: Comparing, yardsticks: Sequence[str]) -> "Figure":
    """Draw the leak over the Frechet distance, a panel per yardstick: a colour per run, a marker per attack."""
    runs = [run.label for run in found.runs]
    attacks = list(dict.fromkeys(attack for _, attack in _points(found, yardsticks[0])))
    palette, markers = colours(runs), dict(zip(attacks, cycle(MARKERS), strict=False))
    keys = [(short(run), palette[run], "s") for run in runs]
    keys += [(short(attack), INK, markers[attack]) for attack in attacks]
    panels = len(yardsticks)
    room = _room(keys) + (0.2 if panels > 1 else 0)
    figure, axes = canvas(1, panels, width=4.8 * panels, height=2.9 + room, top=room, squeeze=False)
    for panel, yardstick in zip(axes[0], yardsticks, strict=True):
        _quality_panel(panel, found, yardstick, palette, markers)
        if panels > 1:
            panel.set_title(yardstick)
    axes[0][0].set_ylabel("leak, % of candidates")
    _legend(axes[0][0], keys, lift=room - _room(keys))
    return figure


def _quality_panel(
    axes: "Axes", found: Comparing, yardstick: str, palette: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    distances = _distances(found)
    for (run, attack), leak in _points(found, yardstick).items():
        if (distance := distances.get((run, attack))) is None:
            continue
        axes.plot([distance] * 2, [100 * leak.low, 100 * leak.high], color=palette[run], linewidth=1.2)
        axes.plot([distance], [100 * leak.value], markers[attack], color=palette[run], markersize=6)
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0)
    if (real := found.real.get("frechet_distance")) is not None:
        axes.axvline(real, color=SOFT, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=0)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("Frechet distance (dotted: real images)")


def measured_quality(found: Comparing) -> bool:
    """Return whether any attack of any run has a Frechet distance, without which there is no such plot."""
    return any(distance is not None for distance in _distances(found).values())


def histogram(best: Mapping[str, np.ndarray], held_out: np.ndarray, measure: Measure) -> "Figure":
    """Draw best-match scores against training images by run, the baseline filled; its held-out ones as a line."""
    finite = np.concatenate([values[np.isfinite(values)] for values in [*best.values(), held_out]])
    ends = score_range(finite, measure)
    edges, palette = np.linspace(*ends, 41), colours(list(best))
    keys = [(short(run), palette[run], "s") for run in best] + [("held-out images, before", SOFT, "_")]
    room = _room(keys) + 0.22
    figure, axes = canvas(height=2.6 + room, top=room)
    for place, (run, values) in enumerate(best.items()):
        axes.stairs(_percent(values, edges), edges, color=palette[run], fill=place == 0, alpha=0.45 if not place else 1)
        axes.stairs(_percent(values, edges), edges, color=palette[run], linewidth=1.5)
    axes.stairs(_percent(held_out, edges), edges, color=SOFT, linewidth=1.2, linestyle=(0, (3, 1.5)))
    axes.set_xlim(*ends)
    shade_bands(axes, measure)
    axes.set_xlabel(f"best-match score, {measure.id} ({direction(measure)})")
    axes.set_ylabel("candidates, %")
    axes.locator_params(axis="x", nbins=6)
    _legend(axes, keys, lift=0.22)
    return figure


def thresholds(found: Mapping[str, Curves], measure: Measure) -> "Figure":
    """Draw the excess by threshold and run, with 95 % intervals, and the bands."""
    palette = colours(list(found))
    keys = [(short(run), palette[run], "s") for run in found]
    room = _room(keys) + 0.22
    figure, axes = canvas(height=2.6 + room, top=room)
    for run, curves in found.items():
        assert curves.excess is not None
        at, rates = curves.thresholds, 100 * curves.excess
        axes.fill_between(at, rates[:, 1], rates[:, 2], color=palette[run], alpha=0.15, linewidth=0)
        axes.plot(at, rates[:, 0], color=palette[run])
    every = [threshold for curves in found.values() for threshold in curves.thresholds]
    axes.set_xlim(min(0.0, *every) if measure.distance else min(every), max(every))
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0)
    shade_bands(axes, measure)
    axes.set_xlabel(threshold_label(measure))
    axes.set_ylabel("excess, % of candidates")
    _legend(axes, keys, lift=0.22)
    return figure


def _points(found: Comparing, yardstick: str) -> dict[tuple[str, str], Estimate]:
    """Return the leak by run and attack, the baseline's first."""
    chosen = [leak for leak in found.leaks if leak.yardstick == yardstick]
    before = {(found.baseline, leak.against): leak.before for leak in chosen}
    return before | {(leak.run, leak.attack): leak.after for leak in chosen}


def _distances(found: Comparing) -> dict[tuple[str, str], float | None]:
    return {(price.run, price.attack): price.frechet_distance for price in found.prices}


def _percent(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    share: np.ndarray = 100 * np.histogram(values[np.isfinite(values)], edges)[0] / max(len(values), 1)
    return share


def _room(keys: Sequence[object]) -> float:
    """Return the height over the axes that a legend of two columns takes, in inches."""
    return 0.16 + _LEGEND_ROW * -(-len(keys) // 2)


def _legend(axes: "Axes", keys: Sequence[tuple[str, str, str]], left: float = -0.02, lift: float = 0.0) -> None:
    """Put (label, colour, marker) over the axes in two columns, `lift` inches above them."""
    from matplotlib.lines import Line2D

    height = axes.get_window_extent().height / axes.figure.dpi
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", label=name) for name, colour, marker in keys]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left, 1 + lift / height),
        ncols=2,
        borderaxespad=0.1,
        columnspacing=1.2,
        handletextpad=0.3,
        labelspacing=0.25,
    )
