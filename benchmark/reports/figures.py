"""The pictures of a report. Each function takes numbers and returns a figure, within `plot_style.styled()`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts import Measure
from ..results.schema import Rate, Result
from .plot_style import (
    ALARM,
    CONTROL,
    EXCESS,
    HELD_OUT,
    INK,
    SERIES,
    SOFT,
    TRAINING,
    canvas,
    colours,
    direction,
    score_range,
    shade_bands,
    threshold_label,
)
from .rates_by_threshold import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = {
    "training": ("training images", TRAINING, "o"),
    "held_out": ("held-out images", HELD_OUT, "D"),
    "reference": ("reference model", CONTROL, "s"),
}
"""Label, colour and marker."""

DIAGNOSED = {"cohesions", "sizes", "by_timestep"}
"""What `diagnostics` has a panel for."""

_LONGEST = 26


def overview(results: Sequence[Result]) -> "Figure":
    """Draw each unit's hit rate in the closest band, and that of its control, with intervals; a row per unit."""
    results = [result for result in results if result.bands]
    figure, axes = canvas(height=1.25 + 0.42 * len(results), left=1.74, top=0.42)
    for row, result in enumerate(results):
        found = {side: rates for side in SIDES if (rates := getattr(result.bands[0], side)) is not None}
        for place, (side, rates) in enumerate(found.items()):
            label, colour, marker = SIDES[side]
            shift = 0.26 * (place - (len(found) - 1) / 2)
            _point(axes, rates.ams, row + shift, colour, marker, label if row == 0 else None)
    axes.set_yticks(range(len(results)), [_unit_label(result.attack, result.seed) for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=SOFT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f'candidates in band "{results[0].bands[0].band}", % (95 % interval)')
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, borderaxespad=0.1, columnspacing=1.2)
    return figure


def histogram(best: dict[str, np.ndarray], measure: Measure) -> "Figure":
    """Draw best-match scores, one per candidate, by side as in `UnitContents.best`, with the bands."""
    finite = np.concatenate([values[np.isfinite(values)] for values in best.values()])
    figure, axes = canvas(height=3.2, top=0.62)
    ends = score_range(finite, measure)
    edges = np.linspace(*ends, 51)
    for side, values in best.items():
        label, colour, _ = SIDES[side]
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        filled = side == "training"
        axes.stairs(counts, edges, color=colour, label=label, fill=filled, alpha=0.8 if filled else 1, linewidth=1.6)
    axes.set_xlim(*ends)
    shade_bands(axes, measure)
    axes.set_xlabel(f"best-match score, {measure.id} ({direction(measure)})")
    _whole(axes, "candidates")
    axes.locator_params(axis="x", nbins=6)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.08), ncols=2, borderaxespad=0.1, columnspacing=1.2)
    return figure


def thresholds(found: Curves, measure: Measure, claims_excess: bool) -> "Figure":
    """Draw AMS and UMS by threshold with their control, the excess where it is claimed, and the bands."""
    figure, (upper, lower) = canvas(2, height=4.8, top=0.62, gap=0.3, sharex=True)
    for panel, rates, name in ((upper, found.ams, "AMS"), (lower, found.ums, "UMS")):
        for side, values in rates.items():
            _line(panel, found.thresholds, values, SIDES[side][1], SIDES[side][0])
        panel.set_ylabel(f"{name}, % of candidates")
    if claims_excess and found.excess is not None:
        _line(upper, found.thresholds, found.excess, EXCESS, "excess", linestyle=(0, (4, 1.5)))
    upper.set_xlim(min(0.0, *found.thresholds) if measure.distance else found.thresholds[-1], max(found.thresholds))
    shade_bands(upper, measure)
    shade_bands(lower, measure, names=False)
    for panel in (upper, lower):
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
    lower.set_xlabel(threshold_label(measure))
    upper.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.13), ncols=3, borderaxespad=0.1, columnspacing=1.2)
    return figure


def rarefaction(results: Sequence[Result], names: Sequence[str] = ()) -> "Figure":
    """Draw distinct duplicate groups over candidates for every unit, in the closest band of one measure.

    Lines are thin and without areas, since those of several attacks lie on each other; intervals stand at the
    observed number and at the end of the extrapolation. `names` are what the lines are called, by default the attacks.
    """
    named = zip(names or [result.attack for result in results], results, strict=True)
    lines = [(name, result) for name, result in named if result.richness is not None]
    called, shown = [name for name, _ in lines], [result for _, result in lines]
    figure, axes = canvas(height=3.0 + 0.2 * (len(set(called)) // 2), top=0.35)
    palette = colours(called)
    width = max((result.richness.groups[-1].candidates for result in shown if result.richness), default=1)
    for number, (name, result) in enumerate(lines):
        assert result.richness is not None
        points, colour = result.richness.groups, palette[name]
        seen = [point for point in points if point.kind != "extrapolated"]
        beyond = [point for point in points if point.candidates >= result.candidates]
        label = short(name) if name not in called[:number] else None
        axes.plot([p.candidates for p in seen], [p.value for p in seen], color=colour, label=label)
        axes.plot([p.candidates for p in beyond], [p.value for p in beyond], color=colour, linestyle=(0, (1, 1.2)))
        for point in (seen[-1], beyond[-1]):
            shift = 0.012 * width * (number - (len(shown) - 1) / 2)
            axes.plot([point.candidates + shift] * 2, [point.low, point.high], color=colour, linewidth=1.2)
    if shown:
        axes.axvline(shown[0].candidates, color=SOFT, linewidth=0.8, zorder=0)
        axes.text(shown[0].candidates, 1.01, "this run", transform=axes.get_xaxis_transform(), ha="center", color=SOFT)
        axes.legend(loc="upper left", handlelength=1.4)
    axes.set_xlabel("candidates (dotted: extrapolated, an estimate)")
    _whole(axes, "unique groups found")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return figure


_KINDS = {
    "noise": "Gaussian noise",
    "jpeg": "JPEG quality",
    "shift": "shift",
    "flip": "unchanged or mirrored",
    "brightness": "brightness",
    "contrast": "contrast",
}
_STRENGTHS = ("-", (0, (4, 1)), (0, (2.5, 1.2)), (0, (1, 1)))
"""Milder changes are less broken."""


def audit(stored: dict[str, Any], measure: Measure) -> "Figure":
    """Draw recall of known copies and false positives by threshold, a panel per kind of change.

    `stored` is audit.json. The non-copies are the same in each panel.
    """
    from matplotlib.ticker import MaxNLocator

    found = stored["measures"][measure.id]
    figure, panels = canvas(3, 2, height=7.4, top=0.98, gap=0.9, sharex=True, sharey=True)
    at = found["thresholds"]
    for axes, (kind, title) in zip(panels.flat, _KINDS.items(), strict=True):
        shown = [c for c in found["copies"] if c["kind"] == kind or (kind == "flip" and c["kind"] == "identical")]
        for change, style in zip(shown, _STRENGTHS, strict=False):
            share = 100 * np.asarray(change["right"]["count"]) / change["n"]
            axes.plot(at, share, color=TRAINING, linestyle=style, linewidth=1.5, label=change["label"])
        if found["non_copies"] is not None:
            rates = np.array([found["non_copies"]["any"][key] for key in ("count", "low", "high")]).T
            rates[:, 0] /= found["non_copies"]["n"]
            _line(axes, at, rates, ALARM, None, linewidth=2.6)
        axes.set_title(title, pad=34)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.04, 0.98),
            ncols=2,
            fontsize=9.5,
            borderaxespad=0.1,
            handlelength=1.6,
            columnspacing=1.0,
            labelspacing=0.2,
        )
        axes.set_ylim(-2, 104)
        axes.set_yticks(range(0, 101, 25))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlim(*sorted((at[0], at[-1])))
        shade_bands(axes, measure, names=False)
    figure.supylabel("images within the threshold, %", fontsize=10.5, x=0.005)
    figure.supxlabel(threshold_label(measure), fontsize=10.5, y=0.005)
    if found["non_copies"] is not None:
        figure.text(0.01, 0.985, "thin: copies found; thick: non-copies called copies", va="top", color=INK)
    return figure


def diagnostics(info: dict[str, Any], cohesion: float | None) -> "Figure":
    """Draw what an attack's state says of its surrogate: cohesions, cluster sizes, its classifier by timestep.

    `info` as in `attack_diagnostics.read`; panels whose numbers it lacks are left out. `cohesion` is the setting below
    which clusters are dropped.
    """
    draw = {"cohesions": _cohesions, "sizes": _sizes, "by_timestep": _timesteps}
    shown = [key for key in draw if info.get(key)]
    figure, panels = canvas(len(shown), height=0.9 + 2.05 * len(shown), top=0.3, gap=0.75, squeeze=False)
    for axes, key in zip(panels.flat, shown, strict=True):
        draw[key](axes, info, cohesion)
    return figure


def _cohesions(axes: "Axes", info: dict[str, Any], cohesion: float | None) -> None:
    values = np.clip(info["cohesions"], -1, 1)
    axes.hist(values, bins=np.linspace(values.min(initial=0), 1, 41).tolist(), color=SERIES[0])
    if cohesion is not None:
        axes.axvline(cohesion, color=ALARM, linewidth=1.2)
        axes.text(cohesion, 1.02, "dropped below", transform=axes.get_xaxis_transform(), ha="center", color=ALARM)
    axes.set_xlabel("cohesion: mean cosine of members to their centroid")
    _whole(axes, "clusters")


def _sizes(axes: "Axes", info: dict[str, Any], cohesion: float | None) -> None:
    sizes = sorted(info["sizes"], reverse=True)
    axes.stairs(sizes, np.arange(len(sizes) + 1) + 0.5, fill=True, color=SERIES[0])
    axes.set_xlabel("clusters that are left, largest first")
    _whole(axes, "synthetic images")


def _timesteps(axes: "Axes", info: dict[str, Any], cohesion: float | None) -> None:
    at = [row["t"] for row in info["by_timestep"]]
    for key, label, colour, style in (
        ("accuracy", "right", SERIES[0], "-"),
        ("confidence", "sure", SERIES[1], (0, (4, 1.5))),
        ("closed_form", "right in closed form", SERIES[2], (0, (1, 1))),
    ):
        if key not in info["by_timestep"][0]:
            continue
        axes.plot(at, [100 * row[key] for row in info["by_timestep"]], color=colour, linestyle=style, label=label)
    if info.get("classes"):
        axes.axhline(100 / info["classes"], color=SOFT, linewidth=0.9, linestyle=(0, (1, 1.5)), label="chance")
    axes.set_ylim(0, 102)
    axes.set_xlabel("timestep t of the classifier's input (0: no noise)")
    axes.set_ylabel("classifier, %")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=4, borderaxespad=0.1)


def _unit_label(attack: str, seed: int) -> str:
    """Return how a unit is called in pictures; long names are cut in the middle."""
    return f"{short(attack)}, seed {seed}"


def short(name: str) -> str:
    """Return a name that fits a legend: a long one is cut in the middle."""
    return name if len(name) <= _LONGEST else f"{name[:12]}…{name[-12:]}"


def _whole(axes: "Axes", label: str) -> None:
    """Label an axis of counts: whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _point(axes: "Axes", rate: Rate, y: float, colour: str, marker: str, label: str | None) -> None:
    axes.plot([100 * rate.low, 100 * rate.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([100 * rate.value], [y], marker, color=colour, markersize=5.5, label=label, clip_on=False)


def _line(axes: "Axes", at: Sequence[float], rates: np.ndarray, colour: str, label: str | None, **style: Any) -> None:
    """Draw T x 3 rates (value, low, high) in percent with their interval shaded."""
    axes.fill_between(at, 100 * rates[:, 1], 100 * rates[:, 2], color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, 100 * rates[:, 0], color=colour, label=label, **style)
