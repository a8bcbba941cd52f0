"""Tune an attack for docs/study-plan.md: unique training images of each of 20 configurations for one budget.

    python docs/study_tuning.py plain-tuned tuned victims/faces16-0 victims/emoji16-0

Each configuration draws 256 candidates of each victim, seed 0; runs are kept in the second folder, and a second call
prints them. The budget is BUDGET denoiser calls: fewer candidates for an expensive configuration, by rarefaction. The
best configuration has the highest geometric mean, over the victims, of unique near-duplicate groups in band high of
their first measure. Where nothing is found that counts as half a group.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from study_side import hits
from tabulate import tabulate

import sidebench
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.unit_scores import stored_groups
from sidebench.benchmark.stats.richness import rarefaction

CANDIDATES, BUDGET = 256, 1408
"""Less than 256 candidates of the cheapest configuration, of 6 calls each, so that nothing is extrapolated."""


def configurations(attack: str) -> Iterator[dict[str, Any]]:
    """Yield the 20 configurations of an attack."""
    if attack == "plain-tuned":
        plain = [("ddim", 10), ("ddim", 20), ("ddim", 50), ("ddpm", 50), ("dpm-solver++", 10), ("dpm-solver++", 20)]
        last = [("ddim", 5), ("ddim", 10), ("ddim", 20), ("ddpm", 20), ("ddpm", 50), ("dpm-solver++", 5)]
        last.append(("dpm-solver++", 10))
        for solver, steps in plain:
            yield {"solver": solver, "steps": steps, "rounds": 0}
        for (solver, steps), noise in itertools.product(last, (0.02, 0.06)):
            yield {"solver": solver, "steps": steps, "rounds": 1, "noise": noise}
    elif attack == "side-walk":
        fronts = itertools.product(
            [("dpm-solver++", 3), ("dpm-solver++", 5), ("ddim", 5), ("ddim", 10)], (0.04, 0.06, 0.08)
        )
        walks = [(solver, steps, noise, 0.01) for (solver, steps), noise in fronts]
        walks += itertools.product(["dpm-solver++"], [3, 5], [0.06, 0.08], [0.02, 0.005])
        for solver, steps, noise, tolerance in walks:
            yield {"solver": solver, "steps": steps, "noise": noise, "rounds": 16, "tolerance": tolerance}
    else:
        sys.exit(f"no configurations of {attack}")


def run_folder(attack: str, settings: Mapping[str, Any], victim: str, out: Path) -> RunFolder:
    """Attack a victim with one configuration, or read what was made."""
    named = "-".join(str(value) for value in settings.values())
    place = out / Path(victim).name / f"{attack}-{named}"
    made = [file.parent for file in place.glob("*/metrics.json")]
    if not made:
        given = {"candidates": CANDIDATES, "settings": {attack: settings}, "out": place}
        sidebench.run(f"{victim}/pair.yaml", attacks=[attack], **given)
        made = [file.parent for file in place.glob("*/metrics.json")]
    return read_run(made[0])


def found(folder: RunFolder, attack: str) -> tuple[float, float, float]:
    """Return excess, denoiser-equivalents a candidate, and the expected unique groups for the budget."""
    metrics, groups = load_metrics(folder), stored_groups(folder)["training"]
    cost = next(cost for cost in metrics.costs if cost.attack == attack)
    band = metrics.results[0].bands[0]
    price = cost.nfe["generate"] / CANDIDATES
    bought = min(CANDIDATES, int(BUDGET / price))
    counts = np.bincount(groups, weights=hits(folder)[attack]["training"]).astype(int)
    unique = rarefaction(counts, CANDIDATES, int(groups.max()) + 1, bought).value
    return (band.excess.value if band.excess else np.nan), price, unique


def main(attack: str, out: Path, victims: list[str]) -> None:
    """Print the configurations, the best first."""
    rows = []
    for settings in configurations(attack):
        figures = [found(run_folder(attack, settings, victim, out), attack) for victim in victims]
        row: dict[str, Any] = dict(settings)
        for victim, (excess, price, unique) in zip(victims, figures, strict=True):
            name = Path(victim).name
            row |= {f"{name}: excess, %": 100 * excess, "NFE": price, "unique": unique}
            row[f"{name}: NFE, unique for the budget"] = f"{row.pop('NFE'):.1f}, {row.pop('unique'):.1f}"
        row["mean"] = float(np.exp(np.mean([np.log(max(unique, 0.5)) for _, _, unique in figures])))
        rows.append(row)
        print(row, file=sys.stderr)
    rows.sort(key=lambda row: -row["mean"])
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
