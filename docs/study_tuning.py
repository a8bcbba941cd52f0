"""Tune an attack for docs/study-plan.md: unique training images of each of 20 configurations for one budget.

    python docs/study_tuning.py plain-tuned tuned victims/faces16-0 victims/emoji16-0

Each configuration draws 256 candidates of each victim, seed 0; runs are kept in the second folder, and a second call
prints them. The budget is BUDGET denoiser-equivalents (NFE): fewer candidates for an expensive configuration, by
rarefaction. What an attack prepares is not paid from it, which favours guided attacks. The best configuration has the
highest geometric mean, over the victims, of unique near-duplicate groups in band high of their first measure. Where
nothing is found that counts as half a group. Of a guided attack, how strongly it steers is chosen first, by eight of
the configurations; the others are made with the best of these. For carlini-cond what SIDE's choice then changes is all
that is tried.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from study_side import hits
from tabulate import tabulate

import sidebench
from sidebench.benchmark.files import read_yaml
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.unit_scores import stored_groups
from sidebench.benchmark.stats.richness import rarefaction

CANDIDATES, BUDGET = 256, 1408
"""Less than 256 candidates of the cheapest configuration, of 6 calls each, so that nothing is extrapolated."""


GUIDED, VARIANTS = ("side", "carlini-cond"), "known-modes"
FIRST = {
    "sampler": ("dpm-solver++", 5),
    "denoise": 0.06,
    "synthetic_images": 512,
    "clusters": 100,
    "learning_rate": 1e-3,
    "training_steps": 300,
}
"""Of a guided attack: the sampler and last call of plain sampling at its best, and as many clusters as training images.
The sampler is the pair's, for attacks of the paper have none of their own."""


def strengths() -> Iterator[dict[str, Any]]:
    """Yield how strongly a guided attack may steer."""
    for scale in (0.3, 1.0, 3.0, 10.0, 20.0):
        yield {**FIRST, "guidance_scale": scale}
    for scale in (0.1, 0.3, 1.0):
        yield {**FIRST, "guidance_scale": scale, "normalised": True}


def surrogates(best: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the other configurations of a guided attack: one thing changed in each."""
    resnet_34 = {"blocks": (3, 4, 6, 3), "width": 64, "batch": 32}
    changes: Sequence[Mapping[str, Any]] = (
        {"clusters": 50},
        {"clusters": 200},
        {"features": "pca"},
        {"features": "network"},
        resnet_34,
        {"synthetic_images": 2048},
        {"miscalibration": 0.1},
        {"rejected": "drop", "cohesion": 0.9},
        {"training_steps": 1000},
        {"sampler": ("dpm-solver++", 10)},
        {"sampler": ("dpm-solver++", 10), "denoise": 0.0},
        {"sampler": ("ddim", 50)},
    )
    for change in changes:
        yield {**best, **change}


def configurations(attack: str) -> Iterator[dict[str, Any]]:
    """Yield the 20 configurations of an attack that is not guided."""
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


def variants() -> Iterator[dict[str, Any]]:
    """Yield the configurations of docs/study_variants.py."""
    yield {}
    for calls, near in ((5, 0.15), (5, 0.2), (4, 0.2)):
        yield {"stop_after": calls, "near": near}
    for weight in (0.1, 0.3, 1.0):
        yield {"repel": weight}
    yield {"repel": 0.3, "bandwidth": 0.4}
    yield {"repel": 1.0, "interval": (0.5, 0.9)}


def pair_file(victim: str, sampler: tuple[str, int] | None) -> Path:
    """Return the pair of a victim, with another sampler where one is given."""
    file = Path(victim) / "pair.yaml"
    if sampler is None:
        return file
    pair = read_yaml(file, "pair")
    pair["protocol"] = {"sampler": {"name": sampler[0], "steps": sampler[1]}}
    other = file.with_name(f"pair-{sampler[0]}-{sampler[1]}.yaml")
    other.write_text(yaml.safe_dump(pair, sort_keys=False), encoding="utf-8")
    return other


def run_folder(attack: str, settings: Mapping[str, Any], victim: str, out: Path) -> RunFolder:
    """Attack a victim with one configuration, or read what was made."""
    named = "-".join(str(value) for value in settings.values()).translate(str.maketrans("", "", "()' "))
    place = out / Path(victim).name / f"{attack}-{named}"
    made = [file.parent for file in place.glob("*/metrics.json")]
    if not made:
        own = dict(settings)
        pair = pair_file(victim, own.pop("sampler", None))
        asked = f"{Path(__file__).with_name('study_variants.py')}:KnownModes" if attack == VARIANTS else attack
        sidebench.run(pair, attacks=[asked], candidates=CANDIDATES, settings={attack: own}, out=place)
        made = [file.parent for file in place.glob("*/metrics.json")]
    return read_run(made[0])


def found(folder: RunFolder, attack: str, budget: float = BUDGET) -> tuple[float, float, float]:
    """Return excess, denoiser-equivalents a candidate, and the expected unique groups for a budget of generation."""
    metrics, groups = load_metrics(folder), stored_groups(folder)["training"]
    made = metrics.results[0].candidates
    cost = next(cost for cost in metrics.costs if cost.attack == attack)
    band = metrics.results[0].bands[0]
    price = (cost.nfe["generate"] + cost.flops.get("generate", 0.0) / cost.denoiser_flops) / made
    bought = min(made, int(budget / price))
    counts = np.bincount(groups, weights=hits(folder)[attack]["training"]).astype(int)
    unique = rarefaction(counts, made, int(groups.max()) + 1, bought).value
    return (band.excess.value if band.excess else np.nan), price, unique


def row_of(attack: str, settings: Mapping[str, Any], out: Path, victims: list[str]) -> dict[str, Any]:
    """Return what one configuration finds of each victim, and the geometric mean of their unique groups."""
    figures = [found(run_folder(attack, settings, victim, out), attack) for victim in victims]
    row: dict[str, Any] = dict(settings)
    for victim, (excess, price, unique) in zip(victims, figures, strict=True):
        name = Path(victim).name
        row[f"{name}: excess, %"] = 100 * excess
        row[f"{name}: NFE, unique for the budget"] = f"{price:.1f}, {unique:.1f}"
    row["mean"] = float(np.exp(np.mean([np.log(max(unique, 0.5)) for _, _, unique in figures])))
    print(row, file=sys.stderr)
    return row


def main(attack: str, out: Path, victims: list[str]) -> None:
    """Print the configurations, the best first."""
    if attack in GUIDED:
        rows = [row_of(attack, settings, out, victims) for settings in strengths()]
        best = max(range(len(rows)), key=lambda at: rows[at]["mean"])
        strength = list(strengths())[best]
        others = surrogates(strength) if attack == "side" else [{**strength, "miscalibration": 0.1}]
        rows += [row_of(attack, settings, out, victims) for settings in others]
    else:
        tried = variants() if attack == VARIANTS else configurations(attack)
        rows = [row_of(attack, settings, out, victims) for settings in tried]
    rows.sort(key=lambda row: -row["mean"])
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
