"""Print the tables of docs/gate-decides.md: `python docs/gate_errors.py` (some minutes, seeded).

Simulated releases, 200 per row. A candidate hits each side by chance with the share `background`, its group at random,
and of the training side it copies a share `excess` more, spread over all groups. 250 groups a side; both errors 5 %.
"""

from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from sidebench.benchmark.gate.looks import excess_look, look_numbers
from sidebench.benchmark.gate.sequential import WEIGHTS, count, first_at_most, informed_weights, p_above, p_below
from sidebench.benchmark.stats.comparison import AttackHits

RELEASES = 200
ALPHA = BETA = 0.05
LIMITS = (0.01, 0.05)
BACKGROUNDS = (0.0, 0.3, 0.5)
"""Chance hit rates of either side, in limits."""

EXCESSES = (0.0, 0.5, 1.0, 2.0, 10.0)
"""True excess, in limits: clean, half, exactly at, twice and ten times the limit."""

OFF = (0.1, 0.6, 1.0, 1.6)
"""True background over the calibrated one; 0.6 to 1.6 is what 15 calibration hits leave open, 0.1 a mistake."""

GROUPS, SHARD, BUDGET = 250, 256, 100
"""Groups a side, candidates of a shard, and the budget: so many over the limit."""


class Outcome(NamedTuple):
    """How one simulated gate ended: "fail", "pass" or "", and after how many candidates."""

    verdict: str
    candidates: int


def draw(rng: np.random.Generator, n: int, excess: float, background: float) -> np.ndarray:
    """Return the group that each of n candidates hits, (n,): 0 .. 249 of X, 250 .. 499 of H, -1 for none."""
    u, group = rng.random(n), rng.integers(0, GROUPS, n)
    held_out = (u >= background + excess) & (u < 2 * background + excess)
    return np.where(u < background + excess, group, np.where(held_out, GROUPS + group, -1))


def hits_of(owners: np.ndarray) -> AttackHits:
    """Return what these candidates hit."""
    ours, theirs = (owners >= 0) & (owners < GROUPS), owners >= GROUPS
    credits = np.bincount(owners[owners >= 0], minlength=2 * GROUPS).astype(float)
    return AttackHits(ours.astype(float), theirs.astype(float), credits[:GROUPS], credits[GROUPS:])


def gate(owners: np.ndarray, limit: float, calibrated: float | None, attacks: int = 1) -> Outcome:
    """Stop at the first answer: a pass after any candidate, by the raw rate; a fail at a look, by label swaps."""
    weights = WEIGHTS if calibrated is None else informed_weights(limit, calibrated)
    raw = count((owners >= 0) & (owners < GROUPS))
    passed = first_at_most(p_below(raw, limit, weights), BETA) or len(owners) + 1
    numbers = look_numbers(SHARD, len(owners))
    level = ALPHA / attacks / len(numbers)
    for number in numbers:
        if passed <= number:
            break
        seen = hits_of(owners[:number])
        # Above the limit in any reading is a must; it spares the swaps where nothing is seen.
        if seen.training_hits.mean() > limit and excess_look(seen, limit, level).p_fail <= level:
            return Outcome("fail", number)
    return Outcome("pass", passed) if passed <= len(owners) else Outcome("", len(owners))


def row(limit: float, background: float, excess: float, calibrated: float | None) -> dict[str, str]:
    """Simulate one cell of the grid."""
    rng = np.random.default_rng([int(1e6 * limit), int(1e6 * background), int(1e6 * excess)])
    budget = round(BUDGET / limit)
    ends = [gate(draw(rng, budget, excess, background), limit, calibrated) for _ in range(RELEASES)]
    return {
        "limit, %": f"{100 * limit:g}",
        "background, %": f"{100 * background:.3g}",
        "true excess, %": f"{100 * excess:.3g}",
        "fail, %": f"{100 * np.mean([end.verdict == 'fail' for end in ends]):.1f}",
        "pass, %": f"{100 * np.mean([end.verdict == 'pass' for end in ends]):.1f}",
        "candidates": f"{np.mean([end.candidates for end in ends]):,.0f}",
        "median": f"{np.median([end.candidates for end in ends]):,.0f}",
    }


def bets_at_the_limit(background: float, limit: float = 0.01, n: int = 4000) -> float:
    """Return how often the bets on a raw rate, after any candidate, reject a rate that is exactly at its limit."""
    rng = np.random.default_rng(1)
    drawn = [count(rng.random(n) < limit) for _ in range(5 * RELEASES)]
    weights = informed_weights(limit, background)
    wrong = [min(p_above(seen, limit)[-1], p_below(seen, limit, weights)[-1]) <= ALPHA / 2 for seen in drawn]
    return float(np.mean(wrong))


def show(rows: list[dict[str, str]]) -> None:
    """Print rows as a table."""
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def main() -> None:
    """Print the tables."""
    show([row(limit, b * limit, e * limit, b * limit) for limit in LIMITS for b in BACKGROUNDS for e in EXCESSES])
    print("\nclean models at a limit of 1 %, calibrated to another background than the true one\n")
    show([{"calibrated, %": "0.3"} | row(0.01, off * 0.003, 0.0, 0.003) for off in OFF])
    print("\na raw rate exactly at a limit of 1 %, both bets at 2.5 %: wrong answers after any of 4,000 candidates")
    print(", ".join(f"calibrated {100 * b:g} %: {100 * bets_at_the_limit(b):.1f} %" for b in (0.001, 0.003, 0.005)))


if __name__ == "__main__":
    main()
