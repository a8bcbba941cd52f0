"""Print the tables of docs/study-plan.md: what attacks find for the cost of plain sampling at its best.

    python docs/study_budgets.py runs/xray28-* runs/cifar16-* runs/glyphs16-*

Each run has plain-tuned among its attacks, and was made with 256, 512 and 1,024 candidates, one after the other. A
budget is what plain-tuned's candidates cost in denoiser-equivalents (NFE); every attack's preparation is paid from it,
but for the rows that say otherwise. A budget that does not pay for the preparation finds nothing, which counts as half
a group in a ratio.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from study_tuning import found
from tabulate import tabulate

from sidebench.benchmark.files import read_json
from sidebench.benchmark.results.run_folder import read_run
from sidebench.benchmark.results.schema import Metrics

PLAIN = "plain-tuned"
NUMBERS = (256, 512, 1024)
ADMITTED = (0.05, 0.6)
"""Share of near-duplicate groups that plain-tuned must find with 512 candidates."""


class AttackedVictim(NamedTuple):
    """A run's figures, by attack."""

    name: str
    groups: int
    """Near-duplicate groups of X."""
    unique: dict[str, list[float]]
    """Unique groups in the closest band for the budgets of `NUMBERS` candidates of plain-tuned."""
    excess: dict[str, tuple[float, float, float]]
    """Excess of 1,024 candidates with its limits, as shares."""
    unprepared: dict[str, float]
    """Unique groups for the cost of 1,024 candidates of plain-tuned, if what the attack prepares were free."""
    nowhere: dict[str, float]
    """Share of 1,024 candidates in no band of a training image."""
    held_out: float
    """The largest share of an attack's candidates in any band of a held-out image."""

    @property
    def source(self) -> str:
        """The set that its images are of."""
        return self.name.rpartition("-")[0]

    @property
    def share(self) -> float:
        """Of its groups, those that plain-tuned finds with 512 candidates."""
        return self.unique[PLAIN][1] / self.groups


def read_victim(folder: Path) -> AttackedVictim:
    """Read a run that was made with each of the numbers of candidates."""
    files = [folder / "metrics.json", *folder.glob("results/*/metrics.json")]
    by_number = {read.results[0].candidates: read for read in (Metrics.model_validate(read_json(f)) for f in files)}
    unique: dict[str, list[float]] = {}
    for number in NUMBERS:
        efforts = by_number[number].efforts
        band = efforts[0].band
        for effort in efforts:
            mine = effort.currency == "denoiser-equivalents" and PLAIN in effort.budget_of.split(" and ")
            if mine and effort.band == band:
                unique.setdefault(effort.attack, []).append(effort.groups.value if effort.groups else 0.0)
    last = by_number[NUMBERS[-1]]
    budget = next(effort.budget for effort in last.efforts if PLAIN in effort.budget_of.split(" and "))
    unprepared = {attack: found(read_run(folder), attack, budget)[2] for attack in unique}
    mine = [result for result in last.results if result.measure == last.results[0].measure]
    excess = {r.attack: (e.value, e.low, e.high) for r in mine if (e := r.bands[0].excess)}
    nowhere = {r.attack: 1 - r.bands[-1].training.ams.value for r in mine}
    held_out = max(r.bands[-1].held_out.ams.value for r in mine if r.bands[-1].held_out)
    name = last.pair.removesuffix("-again")
    return AttackedVictim(name, last.training_groups, unique, excess, unprepared, nowhere, held_out)


def victims_table(victims: Iterable[AttackedVictim]) -> str:
    """Return what each attack finds of each victim."""
    rows = []
    for victim in victims:
        row = {"victim": victim.name, "groups of X": victim.groups, "plain finds, %": f"{100 * victim.share:.0f}"}
        for attack, counts in victim.unique.items():
            value, low, high = (100 * end for end in victim.excess[attack])
            numbers = " / ".join(f"{count:.1f}" for count in counts)
            row[attack] = f"{value:.1f} [{low:.1f}, {high:.1f}]; {numbers}; {100 * victim.nowhere[attack]:.0f}"
        row["held-out, any band, %"] = f"{100 * victim.held_out:.1f}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def over_sources(logs: dict[str, list[float]]) -> str:
    """Return the geometric mean over sources of the mean over their victims, with a 95 % t interval over sources."""
    means = np.array([np.mean(own) for own in logs.values()])
    if len(means) < 2:
        return f"{np.exp(means[0]):.2f}"
    half = float(student.ppf(0.975, len(means) - 1)) * means.std(ddof=1) / len(means) ** 0.5
    low, mid, high = np.exp([means.mean() - half, means.mean(), means.mean() + half])
    return f"{mid:.2f} [{low:.2f}, {high:.2f}], {int((means > 0).sum())} of {len(means)}"


def ratios_table(victims: list[AttackedVictim]) -> str:
    """Return each attack over plain-tuned: unique groups at equal cost and excess at equal candidates, by source."""
    figures: dict[str, Callable[[AttackedVictim, str], float]] = {
        f"unique, cost of {number} plain": lambda victim, attack, at=at: victim.unique[attack][at]  # type: ignore[misc]
        for at, number in enumerate(NUMBERS)
    }
    figures["unique, cost of 1024 plain, preparation free"] = lambda victim, attack: victim.unprepared[attack]
    figures["excess, 1,024 candidates"] = lambda victim, attack: victim.excess[attack][0]
    figures["AMS in any band, without a control"] = lambda victim, attack: 1 - victim.nowhere[attack]
    rows = []
    for attack in sorted({attack for victim in victims for attack in victim.unique} - {PLAIN}):
        for title, figure in figures.items():
            logs: dict[str, list[float]] = {}
            for victim in victims:
                if attack in victim.unique and figure(victim, PLAIN) > 0:
                    least = 0.5 if title.startswith("unique") else 1e-3
                    ratio = max(figure(victim, attack), least) / figure(victim, PLAIN)
                    logs.setdefault(victim.source, []).append(float(np.log(ratio)))
            row = {"attack": attack, "over plain-tuned": title}
            row |= {source: f"{np.exp(np.mean(own)):.2f} ({len(own)})" for source, own in logs.items()}
            rows.append({**row, "all sources, 95 %, sources above 1": over_sources(logs)})
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    victims = [read_victim(Path(name)) for name in sys.argv[1:]]
    print(victims_table(victims) + "\n")
    low, high = ADMITTED
    admitted = [victim for victim in victims if low <= victim.share <= high]
    print(f"{len(admitted)} of {len(victims)} are admitted\n")
    print(ratios_table(admitted))
