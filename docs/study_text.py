"""Write the pair files of docs/study-text-plan.md, and read the results of its runs.

    python docs/study_text.py pairs OUT              # nine victims of captioned glyphs; number 8 is for development
    python docs/study_text.py controls VICTIMS       # beside each trained one: the same model, other captions
    python docs/study_text.py table RUN...           # what each attack found, victims as samples
    python docs/study_text.py ratios RUNS ABLATED    # unique images at equal cost, victim by victim

What the study asks, and of which runs, stands in the plan.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy import stats
from tabulate import tabulate

from sidebench import load_metrics
from sidebench.benchmark.files import parse_yaml

VICTIMS = 8
"""And one more, on which the settings were chosen."""
EACH = 64
"""Training images, and held-out ones."""
STEPS = 330
GUIDANCE = 3.0
COLUMNS = {"own": 100, "excess": 100, "widest": 100, "groups": 1, "held_out": 1, "equivalents": 1e-3}
"""What the table shows of each attack, and in which unit."""
QUESTIONS = (
    ("side-lora over plain sampling, at equal cost", "side-lora", "carlini-uncond", 1),
    ("side-lora over plain sampling, at equal candidates", "side-lora", "carlini-uncond", 0),
    ("side-lora, 32 clusters over one, at equal cost", "side-lora", None, 1),
    ("side-queries (1,024 queries) over prompts of the vocabulary (256)", "side-queries", None, 0),
    ("prompt-replay over side-queries, at equal candidates", "prompt-replay", "side-queries", 0),
    ("webster-one-step over prompt-replay, at equal candidates", "webster-one-step", "prompt-replay", 0),
    ("carlini-cliques over prompt-replay, at equal candidates", "carlini-cliques", "prompt-replay", 0),
)
"""What is compared: words, attack, the other one (None: the same attack, ablated), and whether cost is divided out."""
CLUSTERED = {"synthetic_images": 256, "clusters": 32, "cohesion": -1.0}
ATTACKS: dict[str, dict[str, Any]] = {
    "carlini-uncond": {},
    "prompt-replay": {"seeds": 2, "guidance_scale": GUIDANCE},
    "carlini-cliques": {"images": 8, "guidance_scale": GUIDANCE},
    "webster-one-step": {"seeds": 2, "images": 8, "guidance_scale": GUIDANCE},
    "webster-edges": {"seeds": 2, "images": 8, "guidance_scale": GUIDANCE},
    "side-lora": {**CLUSTERED, "training_steps": 500},
    "side-queries": {
        **CLUSTERED,
        "vocabulary": "unicode",
        "targets": 8,
        "population": 16,
        "generations": 4,
        "training_steps": 300,
        "service_guidance": GUIDANCE,
    },
}


def pair(number: int) -> dict[str, Any]:
    """Return the pair file of a victim that is not trained yet."""
    return {
        "name": f"glyphs64-{number}",
        "title": f"64 captioned glyphs, victim {number}",
        "description": "A victim of the study of text-to-image attacks.",
        "revision": 1,
        "control": "iid",
        "model": {"family": "text", "location": "none"},
        "data": {
            "source": "folder",
            "path": "zoo:glyphs-clean",
            "images": "image",
            "captions": "caption",
            "families": "family",
            "size": 16,
            "channels": 1,
            "crop": "none",
            "members": {"split": "train"},
            "split": {
                "seed": 300 + number, "duplicate_rms": 0.05, "training": EACH, "held_out": EACH, "pool": 2048
            },
        },
        "recipe": {"kind": "text", "seed": 300 + number, "steps": STEPS, "autoencoder": {"steps": 800}},
        "protocol": {"sampler": {"steps": 20}, "reason": "eight victims, on two cores"},
        "measures": ["nl2c:n50:a0.5", "nl2c:n10:a0.5", "rms"],
        "allow_dense_neighbours": True,
        "attacks": {
            name: {"settings": settings, "origin": "untuned: of the study's plan"} if settings
            else {"origin": "it has no settings"}
            for name, settings in ATTACKS.items()
        },
        "licence": "DejaVu fonts licence (Bitstream Vera); images of text are unrestricted",
    }  # fmt: skip


def write_pairs(out: Path) -> None:
    """Write the pair files."""
    out.mkdir(parents=True, exist_ok=True)
    for number in range(VICTIMS + 1):
        content = yaml.safe_dump(pair(number), sort_keys=False)
        (out / f"glyphs64-{number}.yaml").write_text(content, encoding="utf-8")


def write_controls(victims: Path) -> None:
    """Write, beside the pair file of each trained victim, one with other captions: no attack can find anything.

    The other images are dealt out by another seed. Few of them are the victim's own, on either side alike.
    """
    for file in sorted(victims.glob("glyphs64-*/pair.yaml")):
        content = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        content["name"] += "-control"
        content["data"]["split"]["seed"] += 10_000
        content.pop("recipe", None)
        file.with_name("control.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


class Found(NamedTuple):
    """What one attack found on one victim."""

    excess: float
    """In the closest band, of candidates."""
    widest: float
    """The same in all bands together."""
    groups: int
    """Unique near-duplicate groups of training images, in all bands together."""
    held_out: int
    """The same of held-out images: what is found by chance."""
    equivalents: float
    """Denoiser-equivalents (NFE), preparation included."""
    own: float
    """Own image nearest, training captions minus held-out ones; NaN for attacks that replay no caption."""


def found_in(run: Path) -> dict[str, Found]:
    """Return what each attack of a run found, under the headline measure."""
    metrics = load_metrics(run)
    own = {each.attack: each.difference.value for each in metrics.own_images if each.difference is not None}
    cost = {each.attack: each.denoiser_equivalents for each in metrics.costs}
    found = {}
    for result in metrics.results:
        if result.measure != metrics.results[0].measure:
            continue
        closest, widest = result.bands[0], result.bands[-1]
        assert closest.excess is not None and widest.excess is not None
        found[result.attack] = Found(
            closest.excess.value,
            widest.excess.value,
            widest.training.groups,
            0 if widest.held_out is None else widest.held_out.groups,
            cost[result.attack],
            own.get(result.attack, float("nan")),
        )
    return found


def table(runs: Sequence[Path]) -> str:
    """Return a row for each attack: means over victims with t intervals."""
    by_attack: dict[str, list[Found]] = defaultdict(list)
    for run in runs:
        for attack, found in found_in(run).items():
            by_attack[attack].append(found)
    rows = []
    for attack, every in by_attack.items():
        row: dict[str, Any] = {"attack": attack, "victims": len(every)}
        for name, scale in COLUMNS.items():
            row[name] = _interval(scale * np.array([getattr(found, name) for found in every]))
        rate = [1e3 * (found.groups - found.held_out) / found.equivalents for found in every]
        row["excess groups per 1,000 NFE"] = _interval(np.array(rate))
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def ratios(runs: Path, ablated: Path) -> str:
    """Return the log ratios of unique groups, paired by victim, as ratios with t intervals.

    At equal cost: per denoiser-equivalent (NFE). At equal candidates: as they were found; cost is another matter.
    Half a group is added to each count, so that none found has a logarithm.
    """
    full = {run.name[:10]: found_in(run) for run in sorted(runs.glob("glyphs64-*"))}
    less = {run.name[:10]: found_in(run) for run in sorted(ablated.glob("glyphs64-*"))}
    rows = []
    for question, attack, other, costs in QUESTIONS:
        second = less if other is None else full
        logs = [
            math.log((found[attack].groups + 0.5) / (second[victim][other or attack].groups + 0.5))
            - costs * math.log(found[attack].equivalents / second[victim][other or attack].equivalents)
            for victim, found in full.items()
            if attack in found and (other or attack) in second.get(victim, {})
        ]
        if logs:
            above, below = sum(log > 0 for log in logs), sum(log < 0 for log in logs)
            ratio = _interval(np.array(logs), math.exp)
            rows.append(
                {"question": question, "victims": len(logs), "ratio": ratio, "above 1": above, "below 1": below}
            )
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _interval(values: np.ndarray, shown: Callable[[float], float] = float) -> str:
    if np.isnan(values).any():
        return "-"
    middle = values.mean()
    if len(values) < 2:
        return f"{shown(middle):.3g}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{shown(middle):.3g} [{shown(middle - half):.3g}, {shown(middle + half):.3g}]"


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs", "controls", "table", "ratios"))
    parser.add_argument("places", nargs="+", type=Path)
    given = parser.parse_args()
    if given.what == "pairs":
        write_pairs(given.places[0])
    elif given.what == "controls":
        write_controls(given.places[0])
    elif given.what == "table":
        print(table(given.places))
    else:
        print(ratios(*given.places))
    return 0


if __name__ == "__main__":
    sys.exit(main())
