"""Print the tables of docs/study-side.md from finished runs: python docs/study_side.py RUN... (one run per victim)."""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from tabulate import tabulate

from sidebench.benchmark.report.tables import load_metrics
from sidebench.benchmark.results import Metrics
from sidebench.benchmark.store import read_run

PLAIN = "carlini-uncond"


class Found(NamedTuple):
    """One attack on one victim, its preparations averaged."""

    ams: float
    held_out: float
    excess: float
    groups: float
    per_thousand: float
    """Hits, synthetic images included, per 1,000 denoiser-equivalents."""
    preparations: int


def found(metrics: Metrics, attack: str) -> Found:
    """Average an attack's seeds in the closest band of the headline measure."""
    headline = metrics.results[0].measure
    bands = [r.bands[0] for r in metrics.results if r.attack == attack and r.measure == headline]
    costs = [cost.hits_per_1000_equivalents for cost in metrics.costs if cost.attack == attack]
    mean = statistics.fmean
    return Found(
        mean(band.training.ams.value for band in bands),
        mean(band.held_out.ams.value for band in bands if band.held_out),
        mean(band.excess.value for band in bands if band.excess),
        mean(band.training.groups for band in bands),
        mean(costs),
        len(bands),
    )


def geometric(ratios: Sequence[float]) -> str:
    """Return the geometric mean with a 95 % t interval on the logarithms, victims as units."""
    logs = np.log(ratios)
    if len(logs) < 2:
        return f"{ratios[0]:.2f}"
    half = float(student.ppf(0.975, len(logs) - 1)) * logs.std(ddof=1) / len(logs) ** 0.5
    return f"{np.exp(logs.mean()):.2f} [{np.exp(logs.mean() - half):.2f}, {np.exp(logs.mean() + half):.2f}]"


def victims_table(runs: Iterable[Metrics]) -> str:
    """Return every attack on every victim."""
    rows = []
    for metrics in runs:
        for attack in dict.fromkeys(result.attack for result in metrics.results):
            one = found(metrics, attack)
            rows.append(
                {
                    "victim": metrics.pair.removesuffix("-again"),
                    "attack": attack,
                    "preparations": one.preparations,
                    "AMS, %": f"{100 * one.ams:.2f}",
                    "held-out, %": f"{100 * one.held_out:.2f}",
                    "excess, %": f"{100 * one.excess:.2f}",
                    "unique groups": f"{one.groups:.1f}",
                    "hits per 1,000 equivalents": f"{one.per_thousand:.2f}",
                }
            )
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def ratios_table(runs: Sequence[Metrics]) -> str:
    """Return each attack over carlini-uncond, by set and over all victims."""
    sets: dict[str, list[Metrics]] = {}
    for metrics in runs:
        sets.setdefault(metrics.pair.removesuffix("-again").rpartition("-")[0] or metrics.pair, []).append(metrics)
    if len(sets) > 1:
        sets["all victims"] = list(runs)
    figures: dict[str, Callable[[Found], float]] = {
        "excess": lambda one: one.excess,
        "unique groups": lambda one: one.groups,
        "hits at equal cost": lambda one: one.per_thousand,
    }
    rows = []
    for name, members in sets.items():
        for attack in dict.fromkeys(r.attack for m in members for r in m.results if r.attack != PLAIN):
            row = {"set": name, "victims": len(members), "attack": attack}
            for title, figure in figures.items():
                pairs = [(figure(found(m, attack)), figure(found(m, PLAIN))) for m in members]
                usable = all(top > 0 and bottom > 0 for top, bottom in pairs)
                row[f"{title}, ratio"] = geometric([top / bottom for top, bottom in pairs]) if usable else "-"
            rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    read = [load_metrics(read_run(Path(name))) for name in sys.argv[1:]]
    print(victims_table(read))
    print()
    print(ratios_table(read))
