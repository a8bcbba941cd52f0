"""Draw the README's picture: generated images above the training images that they copy, beside what each attack finds.

    sidebench run digits --attack carlini-uncond --attack side --attack side-walk --out first
    python docs/first_picture.py first/runs/digits-*/ docs/pictures/first.svg

The images of digits are scikit-learn's (Alpaydin and Kaynak, CC BY 4.0).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sidebench.benchmark.files import read_json
from sidebench.benchmark.reports import plot_style
from sidebench.benchmark.reports.page_data import read_contents
from sidebench.benchmark.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 7
"""Pairs of images, each of another training image."""
SIZE = 8
SHOWN_OF = "carlini-uncond.s0"


def main() -> int:
    """Draw the picture and write it."""
    from matplotlib.figure import Figure

    folder, out = RunFolder(Path(sys.argv[1])), Path(sys.argv[2])
    with plot_style.styled():
        figure = Figure(figsize=(9.2, 2.5))
        axes = figure.add_axes((0.09, 0.06, 0.42, 0.78))
        draw_pairs(axes, folder.path / "evidence" / SHOWN_OF, SHOWN)
        axes.set_title("what the model gives away")
        _bars(figure.add_axes((0.65, 0.22, 0.32, 0.62)), folder)
        write_on_white(figure, out)
    return 0


def write_on_white(figure: "Figure", out: Path) -> None:
    """Write a picture as SVG on white, since a page of code may be dark."""
    figure.patch.set_facecolor("white")
    out.parent.mkdir(parents=True, exist_ok=True)
    text = plot_style.picture_file(figure, out.stem, "svg").decode()
    out.write_text(text.replace("<svg", '<svg style="background:white"', 1), encoding="utf-8")


def draw_pairs(axes: "Axes", source: Path, shown: int) -> None:
    """Draw the closest pairs of a run's evidence, each of another training image, generated above training."""
    found: dict[int, tuple[int, int]] = {}
    for rank, pair in enumerate(read_json(source / "pairs.json")["pairs"], start=1):
        found.setdefault(pair["reference"], (rank, pair["candidate"]))
    for column, (reference, (rank, candidate)) in enumerate(list(found.items())[:shown]):
        file = source / f"{rank:02d}-candidate{candidate}-training{reference}.png"
        both = np.asarray(Image.open(file).convert("RGB"))
        for row, image in enumerate((both[:, : both.shape[0]], both[:, -both.shape[0] :])):
            left, bottom = 1.12 * column, -1.12 * row
            where = (left, left + 1, bottom, bottom + 1)
            axes.imshow(image, extent=where, interpolation="nearest")
    axes.set_xlim(0, 1.12 * shown - 0.12)
    axes.set_ylim(-1.12, 1)
    axes.set_yticks([0.5, -0.62], ["generated", "training"])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bars(axes: "Axes", folder: RunFolder) -> None:
    """Draw how many candidates are close copies of training and of held-out images, with intervals, by attack."""
    results = read_contents(folder).headline
    for row, result in enumerate(results):
        band = result.bands[0]
        for side, shift, colour in (("training", -0.2, plot_style.TRAINING), ("held_out", 0.2, plot_style.HELD_OUT)):
            rate = getattr(band, side).ams
            axes.barh(row + shift, 100 * rate.value, 0.36, color=colour)
            axes.plot([100 * rate.low, 100 * rate.high], [row + shift] * 2, color=plot_style.INK, linewidth=1.2)
            text = f"{100 * rate.value:.1f} %" + ("" if side == "training" else " of held-out images")
            axes.text(100 * rate.high + 1, row + shift, text, va="center", fontsize=9)
    names = {"carlini-uncond": "plain sampling", "side": "SIDE"}
    axes.set_yticks(range(len(results)), [names.get(result.attack, result.attack) for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("close copies among candidates, % (95 %)")
    axes.tick_params(axis="y", length=0)
    axes.set_title("how much, and the control")


if __name__ == "__main__":
    sys.exit(main())
