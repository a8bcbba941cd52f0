"""How much faster more workers are: python docs/worker_simulation.py [SHARDS PREPARE SHARD START SCORE]

List scheduling of one attack and seed with measured seconds: START of a worker (loading torch and the model), PREPARE
of the attack, one SHARD, and SCORE of one, which the run does alone in the end. Every shard waits for the preparation,
which is one job; whoever is free takes the next shard whole, as `sidebench worker` does. Without arguments: both plans
of docs/scale.md.
"""

import heapq
import sys
from typing import NamedTuple

from tabulate import tabulate

WORKERS = (1, 2, 4, 8, 16, 32, 64)


class Plan(NamedTuple):
    """Jobs of one attack and seed, in seconds."""

    shards: int
    prepare: float
    shard: float
    start: float = 0.0
    score: float = 0.0


# SIDE on `digits`, 256 candidates a shard, one thread of an AMD EPYC (docs/scale.md says from where).
PLANS = {"digits": Plan(4, 173, 69, 11.5, 0.06), "digits, 10,000 shards": Plan(10_000, 173, 69, 11.5, 0.06)}


def seconds(plan: Plan, workers: int) -> float:
    """Return how long a run takes with so many workers, all of them started at once."""
    free = [plan.start + plan.prepare] * workers
    for _ in range(plan.shards):
        heapq.heapreplace(free, free[0] + plan.shard)
    return max(free) + plan.shards * plan.score


def speed(plan: Plan, workers: int) -> float:
    """Return one worker's time over that of so many."""
    return seconds(plan, 1) / seconds(plan, workers)


def limit(plan: Plan) -> float:
    """Return the speed that no number of workers exceeds: that of one for each shard."""
    return speed(plan, plan.shards)


def row(plan: Plan, workers: int) -> dict[str, str]:
    """Return a row of the table."""
    found = speed(plan, workers)
    return {
        "workers": f"{workers}",
        "hours": f"{seconds(plan, workers) / 3600:.3g}",
        "speed": f"{found:.2f}",
        "efficiency": f"{found / workers:.2f}",
    }


def main() -> None:
    """Print a table for each plan."""
    given = [float(word) for word in sys.argv[1:]]
    plans = {"given": Plan(int(given[0]), *given[1:])} if given else PLANS
    for name, plan in plans.items():
        rows = [row(plan, workers) for workers in WORKERS]
        print(f"{name}: {plan.shards:,} shards, at most {limit(plan):.3g} times as fast\n")
        print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True), end="\n\n")


if __name__ == "__main__":
    main()
