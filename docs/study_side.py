"""Print the tables of docs/study-side.md from finished runs, one per victim.

python docs/study_side.py victims RUN...   every attack on every victim, and ratios to carlini-uncond
python docs/study_side.py images RUN...    victims trained on halves of one set: images hit when in X, and when not
python docs/study_side.py canaries RUN     groups found by the number of images in them
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from tabulate import tabulate

from sidebench.benchmark.contracts import Side
from sidebench.benchmark.files import read_json, read_table
from sidebench.benchmark.measures.hits import in_band
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.run_folder import RunFolder, asked_candidates, read_run, unit_name
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.score_files import read_all_scores
from sidebench.benchmark.results.unit_scores import UnitScores, stored_groups
from sidebench.benchmark.stats.comparison import excess_of, pooled
from sidebench.benchmark.stats.intervals import Interval, wilson
from sidebench.leaderboards.make_records import unit_hits

PLAIN = "carlini-uncond"
ATTACKS = (PLAIN, "carlini-cond", "side", "side-modes", "side-walk")


class Found(NamedTuple):
    """One attack on one victim, its preparations averaged."""

    held_out: float
    excess: float
    interval: Interval
    """Of the excess of all preparations together."""
    groups: float
    per_thousand: float
    """Hits, synthetic images included, per 1,000 denoiser-equivalents."""
    low: float
    """AMS in band low, without a control: what the paper's claim is about."""


class StudiedVictim(NamedTuple):
    """A run on one victim: what each attack found."""

    name: str
    training: int
    preparations: int
    attacks: dict[str, Found]


def read_victim(folder: RunFolder) -> StudiedVictim:
    """Read a run's figures in the closest band of the headline measure."""
    metrics = load_metrics(folder)
    measure, groups = make_measure(metrics.results[0].measure), stored_groups(folder)
    mine = [result for result in metrics.results if result.measure == measure.id]
    seeds: dict[str, list[int]] = {}
    for result in mine:
        seeds.setdefault(result.attack, []).append(result.seed)
    mean = statistics.fmean
    attacks = {}
    for attack, own in seeds.items():
        bands = [result.bands[0] for result in mine if result.attack == attack]
        units = [unit_hits(folder, unit_name(attack, seed), measure, groups) for seed in own]
        attacks[attack] = Found(
            mean(band.held_out.ams.value for band in bands if band.held_out),
            mean(band.excess.value for band in bands if band.excess),
            excess_of(pooled(units)).interval,
            mean(band.training.groups for band in bands),
            mean(cost.hits_per_1000_equivalents for cost in metrics.costs if cost.attack == attack),
            mean(result.bands[2].training.ams.value for result in mine if result.attack == attack),
        )
    name = metrics.pair.removesuffix("-again")
    return StudiedVictim(name, metrics.training_images, len(next(iter(seeds.values()))), attacks)


def geometric(ratios: Sequence[float]) -> str:
    """Return the geometric mean with a 95 % t interval on the logarithms, victims as units."""
    logs = np.log(ratios)
    if len(logs) < 2:
        return f"{ratios[0]:.2f}"
    half = float(student.ppf(0.975, len(logs) - 1)) * logs.std(ddof=1) / len(logs) ** 0.5
    return f"{np.exp(logs.mean()):.2f} [{np.exp(logs.mean() - half):.2f}, {np.exp(logs.mean() + half):.2f}]"


def victims_table(victims: Iterable[StudiedVictim]) -> str:
    """Return a row for each victim: excess in percent with its interval, and unique groups, of every attack."""
    rows = []
    for victim in victims:
        row = {
            "victim": victim.name,
            "X": victim.training,
            "preparations": victim.preparations,
            "held-out, %": f"{100 * max(one.held_out for one in victim.attacks.values()):.2f}",
        }
        for attack in ATTACKS:
            if one := victim.attacks.get(attack):
                low, high = (100 * end for end in one.interval)
                row[attack] = f"{100 * one.excess:.2f} [{low:.2f}, {high:.2f}], {one.groups:.1f}"
            else:
                row[attack] = "-"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def ratios_table(victims: Sequence[StudiedVictim]) -> str:
    """Return each attack over carlini-uncond, by set and over all victims.

    A victim of which plain sampling finds nothing has no ratio.
    """
    sets: dict[str, list[StudiedVictim]] = {}
    for victim in victims:
        if victim.attacks[PLAIN].excess > 0:
            sets.setdefault(victim.name.rpartition("-")[0], []).append(victim)
    if len(sets) > 1:
        sets["all victims"] = [victim for members in sets.values() for victim in members]
    figures: dict[str, Callable[[Found], float]] = {
        "excess": lambda one: one.excess,
        "unique groups": lambda one: one.groups,
        "hits at equal cost": lambda one: one.per_thousand,
        "AMS in band low": lambda one: one.low,
    }
    rows = []
    for name, members in sets.items():
        for attack in ATTACKS[1:]:
            both = [(one, victim.attacks[PLAIN]) for victim in members if (one := victim.attacks.get(attack))]
            if not both:
                continue
            row = {"set": name, "victims": len(both), "attack": attack}
            for title, figure in figures.items():
                pairs = [(figure(one), figure(plain)) for one, plain in both]
                usable = all(top > 0 and bottom > 0 for top, bottom in pairs)
                row[f"{title}, ratio"] = geometric([top / bottom for top, bottom in pairs]) if usable else "-"
            rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def hits(folder: RunFolder) -> dict[str, dict[Side, np.ndarray]]:
    """Return by attack how often each reference of either side was the best match in the closest band.

    The first preparation alone counts, so that victims with more of them are not looked at longer.
    """
    metrics, manifest = load_metrics(folder), read_json(folder.manifest_file)
    measure = make_measure(metrics.results[0].measure)
    groups, count = stored_groups(folder), asked_candidates(manifest)
    found: dict[str, dict[Side, np.ndarray]] = {}
    for result in metrics.results:
        if result.measure != measure.id or result.attack in found:
            continue
        unit = unit_name(result.attack, result.seed)
        scores = UnitScores(read_all_scores(folder, unit, measure.space, count), [measure])
        counts = found[result.attack] = {side: np.zeros(len(own), int) for side, own in groups.items()}
        for side in groups:
            near = in_band(scores.best_scores[measure.id, side], measure.bands[0], measure)
            np.add.at(counts[side], scores.best_ids[side][near], 1)
    return found


def images_table(folders: Sequence[RunFolder]) -> str:
    """Return, over victims of one set, how often an image is hit at least once when trained on, and when held out.

    The last columns look at each image over all victims that were trained on it: hit by all of them, and by none.
    """
    seen: dict[str, dict[Side, list[tuple[int, bool]]]] = {}
    for folder in folders:
        table = read_table(folder.path / "references.parquet").to_pandas()
        for attack, sides in hits(folder).items():
            for side, counts in sides.items():
                rows = table["row"][table["side"] == side].tolist()
                marks = seen.setdefault(attack, {}).setdefault(side, [])
                marks += zip(rows, (counts > 0).tolist(), strict=True)
    lines = []
    for attack, both in seen.items():
        line: dict[str, str | int] = {"attack": attack}
        for side, words in (("training", "in X"), ("held_out", "out")):
            found = [mark for _, mark in both[side]]  # type: ignore[index]
            rate = wilson(sum(found), len(found))
            line[f"images {words}"] = len(found)
            line[f"hit {words}, %"] = f"{100 * np.mean(found):.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        by_image: dict[int, list[bool]] = {}
        for row, mark in both["training"]:
            by_image.setdefault(row, []).append(mark)
        line["images"] = len(by_image)
        line["by every victim"] = sum(all(marks) for marks in by_image.values())
        line["by none"] = sum(not any(marks) for marks in by_image.values())
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def canaries_table(folder: RunFolder) -> str:
    """Return, by the number of images in a duplicate group of X, how many groups were found and how often."""
    groups = stored_groups(folder)["training"]
    sizes = np.bincount(groups)
    rows = []
    for attack, sides in hits(folder).items():
        credits = np.bincount(groups, weights=sides["training"], minlength=len(sizes))
        for size in sorted(set(sizes[sizes > 0].tolist())):
            mine = credits[sizes == size]
            rows.append(
                {
                    "attack": attack,
                    "images in the group": size,
                    "groups in X": len(mine),
                    "groups found": int((mine > 0).sum()),
                    "candidates per group": f"{mine.mean():.2f}",
                }
            )
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    what, folders = sys.argv[1], [read_run(Path(name)) for name in sys.argv[2:]]
    if what == "victims":
        victims = [read_victim(folder) for folder in folders]
        print(victims_table(victims) + "\n\n" + ratios_table(victims))
    else:
        print(images_table(folders) if what == "images" else canaries_table(folders[0]))
