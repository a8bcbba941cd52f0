"""Draw the pictures of docs/concepts.md: what a band is, what an excess is, what an interval covers.

    python docs/draw_concepts.py docs/pictures

The numbers are made up, for pictures that explain; a test sees that the files there are what this draws.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sidebench.benchmark.reports.plot_style import ALARM, EXCESS, HELD_OUT, INK, SOFT, TRAINING, canvas, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = {"high": (0.0, 0.25), "mid": (0.25, 0.45), "low": (0.45, 0.65)}


def band() -> "Figure":
    """Draw distances of candidates to their nearest training image, and the bands that they fall into."""
    figure, axes = canvas(height=2.6, top=0.5)
    rng = np.random.default_rng(3)
    near, far = rng.normal(0.14, 0.05, 120), rng.normal(0.78, 0.12, 880)
    axes.hist(np.clip([*near, *far], 0, 1.2), bins=np.linspace(0, 1.2, 61).tolist(), color=TRAINING)
    for number, (name, (low, high)) in enumerate(BANDS.items()):
        axes.axvspan(low, high, color=INK, alpha=(0.16, 0.1, 0.05)[number], linewidth=0, zorder=0)
        axes.text((low + high) / 2, 1.03, name, transform=axes.get_xaxis_transform(), ha="center", color=INK)
    axes.annotate("copies of training images", (0.14, 24), (0.04, 60), color=INK, arrowprops={"arrowstyle": "-"})
    axes.set_xlim(0, 1.2)
    axes.set_xlabel("distance of a candidate to its nearest training image")
    axes.set_ylabel("candidates")
    return figure


def excess() -> "Figure":
    """Draw the rates on training and on held-out images, and what is left when chance is taken off."""
    figure, axes = canvas(height=1.9, left=1.35, top=0.35)
    rows = [("training images", 16.0, TRAINING), ("held-out images", 3.0, HELD_OUT)]
    for place, (_, rate, colour) in enumerate(rows):
        axes.barh(place, rate, height=0.5, color=colour)
    axes.plot([3, 3], [-0.4, 1.4], color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate("", (16, 0.5), (3, 0.5), arrowprops={"arrowstyle": "<->", "color": EXCESS, "linewidth": 1.6})
    axes.text(9.5, 0.62, "excess: what training explains", ha="center", va="top", color=EXCESS)
    axes.set_yticks([0, 1], [name for name, *_ in rows])
    axes.set_ylim(1.5, -0.6)
    axes.set_xlim(0, 18)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("candidates nearest to images of this side, %")
    return figure


def interval() -> "Figure":
    """Draw twenty repetitions of one experiment: about one interval in twenty misses the true value."""
    figure, axes = canvas(height=2.9, top=0.35)
    rng = np.random.default_rng(19)
    truth, spread = 13.5, 1.5
    for place, value in enumerate(rng.normal(truth, spread, 20)):
        low, high = value - 1.96 * spread, value + 1.96 * spread
        colour = TRAINING if low <= truth <= high else ALARM
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axes.plot([value], [place], "o", color=colour, markersize=3.5)
    axes.axvline(truth, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.text(truth, 1.02, "true value", transform=axes.get_xaxis_transform(), ha="center", color=INK)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("excess, %: 20 experiments, 95 % intervals")
    return figure


DRAWN: dict[str, Callable[[], "Figure"]] = {"band": band, "excess": excess, "interval": interval}


def main(folder: Path) -> None:
    """Write a picture of each name into the folder, on white: a page in the dark shows them as they are."""
    for name, draw in DRAWN.items():
        with styled():
            text = to_svg(draw(), name).replace("<svg", '<svg style="background: white"', 1)
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
