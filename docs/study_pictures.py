"""Draw the pictures of docs/study-side.md.

    python docs/study_pictures.py pairs docs/pictures/study-pairs.svg "X-rays=runs/xray28-0-again-*:side-walk.s0" ...
    python docs/study_pictures.py budgets docs/pictures/study-budgets.svg runs/* guided/*
    python docs/study_pictures.py strengths docs/pictures/study-strengths.svg tuned victims/faces16-0 victims/emoji16-0

`pairs` draws generated images above the training images that they copy; only sources whose licence allows it are given
to it. `budgets` draws unique training images against cost, a panel for each source, of all runs of a victim together.
`strengths` draws what SIDE finds against how strongly it steers, on the development victims.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from first_picture import draw_pairs, write_on_white
from study_budgets import NUMBERS, PLAIN, AttackedVictim, read_victim
from study_tuning import found, run_folder, strengths

from sidebench.benchmark.reports import plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"carlini-uncond": "DDIM of 50 steps", PLAIN: "plain sampling at its best", "side": "SIDE"}
BEST = {"solver": "dpm-solver++", "steps": 5, "rounds": 1, "noise": 0.06}
"""The sampler that SIDE's configurations start from."""
MARKS = {PLAIN: "o", "side-walk": "^", "side": "s", "carlini-uncond": "x"}
SOURCES = {
    "xray28": "X-rays, 28 px",
    "cifar16": "CIFAR, 16 px",
    "glyphs16b": "glyphs, 16 px",
    "icons16b": "icons, 16 px",
    "mnist16": "MNIST, 16 px",
}


def pairs(sources: Sequence[str]) -> "Figure":
    """Draw a row of pairs for each of NAME=RUN:ATTACK.sSEED."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 1.75 * len(sources)))
    for row, given in enumerate(sources):
        name, _, place = given.partition("=")
        run, _, unit = place.rpartition(":")
        folder = next(Path().glob(run))
        axes = figure.add_axes((0.1, 1 - (row + 0.97) / len(sources), 0.89, 0.83 / len(sources)))
        draw_pairs(axes, folder / "evidence" / unit, 11)
        axes.set_title(name)
    return figure


def budgets(runs: Sequence[str]) -> "Figure":
    """Draw unique training images against cost in candidates of plain sampling, the mean over a source's victims."""
    from matplotlib.figure import Figure

    named: dict[str, AttackedVictim] = {}
    for victim in (read_victim(Path(run)) for run in runs):
        # Another run of the same victim adds its attacks.
        known = named.setdefault(victim.name, victim)
        known.unique.update({attack: found for attack, found in victim.unique.items() if attack not in known.unique})
    victims: dict[str, list[AttackedVictim]] = {}
    for victim in named.values():
        victims.setdefault(victim.source, []).append(victim)
    figure = Figure(figsize=(2.6 * len(victims) + 0.4, 3.0), layout="constrained")
    panels = figure.subplots(1, len(victims), sharey=True, squeeze=False)[0]
    for axes, (source, own) in zip(panels, victims.items(), strict=True):
        for number, (attack, mark) in enumerate(MARKS.items()):
            known = [victim for victim in own if attack in victim.unique]
            if not known:
                continue
            shares = np.mean([np.array(victim.unique[attack]) / victim.groups for victim in known], axis=0)
            colour = plot_style.SERIES[number]
            axes.plot(NUMBERS, 100 * shares, marker=mark, color=colour, label=NAMES.get(attack, attack))
        axes.set_xscale("log", base=2)
        axes.set_xticks(NUMBERS, [f"{number:,}" for number in NUMBERS])
        axes.set_ylim(-3, 103)
        axes.set_title(f"{SOURCES.get(source, source)} ({len(own)} victim{'s' if len(own) > 1 else ''})")
    panels[0].set_ylabel("unique training images, % of X")
    figure.supxlabel("cost, in candidates of plain sampling at its best (6 NFE each)", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(MARKS))
    return figure


def steered(out: Path, victims: Sequence[str]) -> "Figure":
    """Draw the excess of SIDE's first configurations against lambda, over that of the same sampler without guidance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for number, victim in enumerate(victims):
        colour = plot_style.SERIES[number]
        for normalised, style in ((False, "-"), (True, "--")):
            tried = [each for each in strengths() if bool(each.get("normalised")) == normalised]
            scales = [each["guidance_scale"] for each in tried]
            excess = [100 * found(run_folder("side", each, victim, out), "side")[0] for each in tried]
            label = f"{Path(victim).name}, lambda {'of normalised gradients' if normalised else 'as published'}"
            axes.plot(scales, excess, style, marker="s", color=colour, label=label)
        plain = 100 * found(run_folder(PLAIN, BEST, victim, out), PLAIN)[0]
        axes.axhline(plain, color=colour, linestyle=":", label=f"{Path(victim).name}, without guidance")
    axes.set_xscale("log")
    scales = sorted({each["guidance_scale"] for each in strengths()})
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("guidance scale lambda")
    axes.set_ylabel("excess, % of candidates")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def main(what: str, place: Path, given: Sequence[str]) -> None:
    """Draw one of the pictures and write it."""
    with plot_style.styled():
        if what == "strengths":
            figure = steered(Path(given[0]), given[1:])
        else:
            figure = {"pairs": pairs, "budgets": budgets}[what](given)
        write_on_white(figure, place)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
