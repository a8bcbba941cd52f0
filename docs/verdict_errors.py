"""How often a verdict errs: `python docs/verdict_errors.py [--out FILE]` prints those of validity-intervals.

Near-duplicate groups are drawn first, each with a number of images and a popularity, and then divided into X and H at
random; candidates hit groups by popularity, in bands of which the wider hold more. Of the candidates a share may be
leaked: copies of training groups, in the closest band. Every cell is seeded by its own name. Finished cells are kept
in FILE, and a second call goes on with it.
"""

import argparse
import itertools
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from sidebench.benchmark.stats.intervals import excess
from sidebench.benchmark.stats.owned import Owned, lower_limit, size_classes, swap_test, upper_limit

CANDIDATES = 1024
CHANCE = (0.01, 0.05, 0.25)
"""Share of candidates that are near some group by chance, in each cumulative band."""
CROWDED = (0.0, 0.3, 1.0)
"""Other groups that such a candidate has in the band as well, on average."""
LEVEL = 0.05
SWAPS = 999
SIZES = ((700, 100), (1000, 500), (300, 100), (500, 500), (100, 300), (100, 700))
IMAGES = (1, 2, 8)
HITS = ("even", "Pareto")
LEAKS = (0.02, 0.1)
WHERE = ("even", "10 groups", "5 groups", "1 group")


class Cell(NamedTuple):
    """What is drawn: groups of either side, most images per group, popularity, and what is leaked where."""

    training: int
    held_out: int
    images: int
    hits: str
    leak: float
    where: str


class Draw(NamedTuple):
    """Candidates that each group owns by band (groups, bands), and what a count per side would say of them."""

    owned: Owned
    training_hits: np.ndarray
    """(candidates, bands) bool: some training group is near."""
    held_out_hits: np.ndarray
    credits: tuple[np.ndarray, np.ndarray]
    """Hits by best training group and by best held-out group, (groups, bands)."""


def drawn(cell: Cell, rng: np.random.Generator) -> Draw:
    """Draw the groups, their sides and what the candidates hit."""
    groups, bands = cell.training + cell.held_out, len(CHANCE)
    images = np.where(rng.random(groups) < 0.2, rng.integers(1, cell.images + 1, groups), 1)
    popular = images * (rng.pareto(0.8, groups) if cell.hits == "Pareto" else np.ones(groups))
    leaked = rng.binomial(CANDIDATES, cell.leak)
    widest = rng.binomial(CANDIDATES - leaked, CHANCE[-1])
    # The closest candidates come first: a cumulative band holds the first so many of them.
    inside = [widest]
    for near, wide in itertools.pairwise(reversed(CHANCE)):
        inside.insert(0, rng.binomial(inside[0], wide / near))
    touched = rng.choice(groups, (widest, 4), p=popular / popular.sum())
    ours = touched < cell.training
    owned = np.zeros((groups, bands))
    hits = np.zeros((2, CANDIDATES, bands), dtype=bool)
    credits = np.zeros((2, groups, bands))
    for band in range(bands):
        rows = np.arange(inside[band])
        owned[:, band] = np.bincount(touched[rows, 0], minlength=groups)
        near = 1 + np.minimum(rng.poisson(CROWDED[band], len(rows)), 3)
        for side in (0, 1):
            mine = (ours[rows] == (side == 0)) & (np.arange(4) < near[:, None])
            hit = mine.any(1)
            hits[side, rows, band] = hit
            credits[side, :, band] = np.bincount(touched[rows, mine.argmax(1)][hit], minlength=groups)
    few = cell.training if cell.where == "even" else int(cell.where.split()[0])
    copies = np.bincount(rng.integers(0, few, leaked), minlength=groups)[:, None]
    hits[0, CANDIDATES - leaked :] = True
    owned += copies
    credits[0] += copies
    cut = cell.training
    strata = size_classes(images[:cut], images[cut:])
    return Draw(
        Owned(owned[:cut], owned[cut:], strata, CANDIDATES),
        *hits,
        (credits[0, :cut], credits[1, cut:]),
    )


def measured(cell: Cell, draws: int) -> dict[str, float]:
    """Return the shares of draws in which each method errs or sees the leak, and the median widths."""
    rng = np.random.default_rng(zlib.crc32(repr(tuple(cell)).encode()))
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(draws):
        draw = drawn(cell, rng)
        bands = draw.owned.training.shape[1]
        test = swap_test(draw.owned, seed, SWAPS)
        found["seen"].append(test.family.min() <= LEVEL)
        # Far from the level of its own test a band has no lower limit, and it need not be looked for.
        likely = [band for band in range(bands) if test.bands[band] < LEVEL]
        lows = [0.0, *(lower_limit(draw.owned, band, LEVEL / bands, seed, SWAPS) for band in likely)]
        found["above"].append(max(lows) > cell.leak)
        found["at least"].append(max(lows))
        if cell.leak or seed % 20 == 0:  # no upper limit is below no leak: only its size is asked
            for name, band in (("", 0), (", widest", bands - 1)):
                most = upper_limit(draw.owned, band, LEVEL, seed, SWAPS)
                found[f"below{name}"].append(most < cell.leak)
                found[f"at most{name}"].append(most)
        before = [by_sides(draw, band) for band in range(bands)]
        found["seen before"].append(before[0][0] > 0)
        found["seen before, any"].append(any(low > 0 for low, _ in before))
        found["above before"].append(any(low > cell.leak for low, _ in before))
        found["width before"].append(before[0][1] - before[0][0])
    medians = ("at least", "at most", "at most, widest", "width before")
    return {name: float(np.median(own) if name in medians else np.mean(own)) for name, own in found.items()}


def by_sides(draw: Draw, band: int) -> tuple[float, float]:
    """Return the interval of hits on X minus hits on H, each counted for itself: what was reported before."""
    ours, theirs = draw.training_hits[:, band], draw.held_out_hits[:, band]
    interval = excess(
        *(side[:, band] for side in draw.credits), int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), CANDIDATES
    ).interval
    return interval.low, interval.high


def cells() -> Iterator[tuple[Cell, int]]:
    """Yield every cell and how often it is drawn."""
    for sizes, images, hits in itertools.product(SIZES, IMAGES, HITS):
        yield Cell(*sizes, images, hits, 0.0, "even"), 2000
    for sizes, images, hits, leak, where in itertools.product(SIZES, IMAGES, HITS, LEAKS, WHERE):
        yield Cell(*sizes, images, hits, leak, where), 200


Results = dict[Cell, dict[str, float]]


def no_leak_table(results: Results) -> str:
    """Return the shares of draws without a leak in which one was called."""
    rows: list[list[Any]] = []
    for sizes, hits in itertools.product(SIZES, HITS):
        own = [results[Cell(*sizes, images, hits, 0.0, "even")] for images in IMAGES]
        names = ("seen", "above", "seen before", "seen before, any", "at most", "at most, widest")
        rows.append(["{} / {}".format(*sizes), hits, *(_three(own, name) for name in names)])
    headers = (
        "groups X / H",
        "hits",
        "a leak is called",
        "lower limit above 0",
        "before: closest band",
        "before: any band",
        "upper limit, closest",
        "upper limit, widest",
    )
    return tabulate(rows, headers, tablefmt="github")


def leak_table(results: Results) -> str:
    """Return errors, power and limits with a leak: the worst or the mean over images per group and kinds of hits."""
    rows: list[list[Any]] = []
    for sizes, leak, where in itertools.product(SIZES, LEAKS, WHERE):
        own = [results[Cell(*sizes, *kind, leak, where)] for kind in itertools.product(IMAGES, HITS)]
        row = ["{} / {}".format(*sizes), f"{100 * leak:.0f} %", where]
        row += [_percent(max(cell[name] for cell in own)) for name in ("above", "below", "below, widest")]
        row += [_percent(float(np.mean([cell["seen"] for cell in own])))]
        names = ("at least", "at most", "at most, widest")
        row += [f"{100 * float(np.mean([cell[name] for cell in own])):.1f}" for name in names]
        row += [_percent(float(np.mean([cell["seen before"] for cell in own])))]
        row += [_percent(max(cell["above before"] for cell in own))]
        rows.append(row)
    headers = (
        "groups X / H",
        "leak",
        "where",
        "lower limit above it",
        "upper below it, closest band",
        "upper below it, widest band",
        "seen",
        "lower limit",
        "upper, closest",
        "upper, widest",
        "before: seen",
        "before: lower end above it",
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _three(cells_of: Sequence[dict[str, float]], name: str) -> str:
    return ", ".join(_percent(cell[name]) for cell in cells_of)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    """Draw what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("verdict-errors.jsonl"))
    parser.add_argument("--share", type=float, default=1.0, help="share of the draws, for a first look")
    given = parser.parse_args()
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    results = {Cell(*cell): found for cell, found in map(json.loads, lines)}
    for cell, draws in cells():
        if cell not in results:
            results[cell] = measured(cell, max(1, round(given.share * draws)))
            with given.out.open("a") as file:
                file.write(json.dumps([cell, results[cell]]) + "\n")
    print(no_leak_table(results), end="\n\n")
    print(leak_table(results))


if __name__ == "__main__":
    main()
