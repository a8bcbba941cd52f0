"""How pictures look: one palette for light and dark pages, one canvas, the same bytes for the same data."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts import Measure
from ..files import MADE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT = "#22292e", "#66727a"
TRAINING, HELD_OUT, CONTROL, EXCESS, ALARM = "#0b6e99", "#b5651d", "#8a6a00", "#6a4c93", "#b3261e"
SERIES = ("#0072b2", "#c9560a", "#00825f", "#a8458f", "#857000", "#5c5f66")
"""One per attack. Every colour has a contrast of 3 to 1 or more on white; its dark twin in report.css on black."""

_THEME = {
    SOFT: "soft",
    TRAINING: "training",
    HELD_OUT: "held-out",
    CONTROL: "control",
    EXCESS: "excess",
    ALARM: "alarm",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
}

_STYLE: Any = {
    "font.size": 10.5,
    "text.color": INK,
    # A name may hold a dollar sign; it is a name, not a formula.
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.7,
    "axes.formatter.useoffset": False,
    # Text stays text: it can be read aloud, searched, and takes the page's font.
    "svg.fonttype": "none",
}


@contextmanager
def styled() -> "Iterator[None]":
    """Draw and save within this: matplotlib reads its settings at both times."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def canvas(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 4.8,
    height: float = 2.7,
    left: float = 0.66,
    top: float = 0.3,
    gap: float = 0.45,
    **options: Any,
) -> tuple["Figure", Any]:
    """Return a figure and its axes, rows x columns squeezed; sizes and margins in inches.

    The width is that of a phone with room for letters: on a screen of 390 pixels they are about 10 pixels high.
    Margins are given, since matplotlib's own layouts take longer than the drawing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, **options)
    inner = (height - top - 0.5 - gap * (rows - 1)) / rows
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.12 / width,
        bottom=0.5 / height,
        top=1 - top / height,
        hspace=gap / inner,
        wspace=0.14,
    )
    return figure, axes


def shade_bands(axes: "Axes", measure: Measure, *, names: bool = True) -> None:
    """Shade the measure's bands, the closest darkest, and write their names above the axes."""
    near, far = sorted(axes.get_xlim())
    for number, band in enumerate(measure.bands):
        low, high = max(band.low, near), min(band.high, far)
        if low >= high:
            continue
        axes.axvspan(low, high, color=INK, alpha=(0.13, 0.08, 0.045)[min(number, 2)], linewidth=0, zorder=0)
        if names:
            axes.text(
                (low + high) / 2,
                1.02,
                band.name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                color=SOFT,
            )


def direction(measure: Measure) -> str:
    """Return which scores are close, in words."""
    return "smaller is closer" if measure.distance else "larger is closer"


def threshold_label(measure: Measure) -> str:
    """Return what an axis of thresholds is called."""
    return f"threshold: {'distance at most' if measure.distance else 'similarity at least'}, {measure.id}"


def score_range(finite: np.ndarray, measure: Measure) -> tuple[float, float]:
    """Return the ends of an axis of best-match scores: from an exact copy to the farthest of these finite scores."""
    return (0.0, float(finite.max(initial=0.1))) if measure.distance else (float(finite.min(initial=0.9)), 1.0)


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each different name, in order; the colours repeat after eight."""
    every = (*SERIES, ALARM, INK)
    return {name: every[number % len(every)] for number, name in enumerate(dict.fromkeys(names))}


def to_svg(figure: "Figure", name: str) -> str:
    """Return a figure as a stand-alone SVG document; `name` keeps its ids apart from other figures' on a page."""
    import matplotlib

    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: "Figure") -> bytes:
    """Return a figure as PNG on white, 200 dots per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200, facecolor="white", metadata={"Software": MADE.decode()})
    return stream.getvalue()


def picture_file(figure: "Figure", name: str, kind: str) -> bytes:
    """Return the content of a figure's file, "svg" or "png"; it names sidebench as its maker."""
    if kind == "png":
        return to_png(figure)
    return f"{to_svg(figure, name)}<!-- {MADE.decode()} -->\n".encode()


def inline(svg: str) -> str:
    """Return an SVG for the inside of a page: its colours become those of the page's theme.

    Ids that nothing refers to are dropped, since matplotlib gives every figure the same ones.
    """
    used = set(re.findall(r"#([\w.-]+)[\")]", svg))
    svg = re.sub(r'<(\w+) id="([^"]*)"', lambda m: m[0] if m[2] in used else f"<{m[1]}", svg)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(INK, "currentColor")
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
