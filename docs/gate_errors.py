"""Print the tables of docs/gate.md: `python docs/gate_errors.py` (about two minutes, seeded).

1,000 simulated releases per row. A candidate hits a training image only with chance background + excess, a
held-out image only with chance background. Both errors are 5 %.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from tabulate import tabulate

from sidebench.benchmark.gate.sequential import (
    WEIGHTS,
    Counts,
    count,
    first_at_most,
    informed_weights,
    p_above,
    p_below,
)

RELEASES = 1000
ALPHA = BETA = 0.05
LIMITS = (0.005, 0.01, 0.05)
BACKGROUNDS = (0.0, 0.3, 1.0, 3.0)
"""Held-out hit rates, in limits."""

EXCESSES = (0.0, 0.5, 1.0, 2.0, 10.0)
"""True excess, in limits: clean, half, exactly at, twice and ten times the limit."""

OFF = (0.1, 0.6, 1.0, 1.6)
"""True background over the calibrated one; 0.6 to 1.6 is what 15 calibration hits leave open, 0.1 a mistake."""

Ends = tuple[int | None, int | None]
"""After how many candidates "at most the limit" is rejected, and "at least the limit"; None for never."""

Strategy = Callable[[np.ndarray, float], Ends]
"""z (N,) and limit to when it ends."""

LONGEST = 2
"""A simulated gate gives up ("cannot tell") after this many times the fixed number."""


class Fixed(NamedTuple):
    """A test that looks once: after `candidates`, against critical means at alpha and beta."""

    candidates: int
    fails_above: float
    passes_below: float


class Outcome(NamedTuple):
    """How one simulated gate ended: "fail", "pass" or "", and after how many candidates."""

    verdict: str
    candidates: int


def spread(excess: float, background: float) -> float:
    """Return the standard deviation of z."""
    return float((2 * background + excess - excess**2) ** 0.5)


def fixed_test(limit: float, background: float) -> Fixed:
    """Plan the fixed-N test with the same errors at the limit.

    It decides a clean model and one that leaks twice the limit with a chance of 95 % each. It is told the
    background and the variances beforehand, which the gate is not. (A plan must name the leak that it is for:
    a test that is planned for ten times the limit is shorter and cannot tell twice the limit.)
    """
    a, b, at = norm.isf(ALPHA), norm.isf(BETA), spread(limit, background)
    clean = ((b * at + a * spread(0, background)) / limit) ** 2
    leaking = ((a * at + b * spread(2 * limit, background)) / limit) ** 2
    n = int(np.ceil(max(clean, leaking)))
    return Fixed(n, limit + a * at / n**0.5, limit - b * at / n**0.5)


def draw(rng: np.random.Generator, n: int, excess: float, background: float) -> np.ndarray:
    """Return z of n candidates."""
    u = rng.random(n)
    return (u < background + excess).astype(np.int8) - (u > 1 - background).astype(np.int8)


def mixture(z: np.ndarray, limit: float, calibrated: float | None = None) -> Ends:
    """Return when the gate's own strategy ends, at a fixed threshold or one calibrated to this background.

    A capital turns only at a hit. So it is looked at before and after each, and candidate by candidate only in the
    stretch where it reaches its level.
    """
    weights = WEIGHTS if calibrated is None else informed_weights(limit, calibrated)
    counts, hits = count(z), np.flatnonzero(z)
    looks = np.unique(np.concatenate([[0], hits, hits + 1, [len(z)]]))
    ends = []
    for p_values, level in (
        (partial(p_above, limit=limit), ALPHA),
        (partial(p_below, limit=limit, weights=weights), BETA),
    ):
        look = first_at_most(p_values(Counts(counts.levels, counts.seen[:, looks[1:] - 1])), level)
        if look is None:
            ends.append(None)
            continue
        begin, end = looks[look - 1], looks[look]
        after = first_at_most(p_values(Counts(counts.levels, counts.seen[:, begin:end])), level)
        ends.append(int(begin) + after)
    return ends[0], ends[1]


def agrapa(z: np.ndarray, limit: float, cap: float = 0.75) -> Ends:
    """Return when aGRAPA bets end (Waudby-Smith and Ramdas 2024, section B.3), capped at a share."""
    found = []
    for values, m in ((z.astype(float), limit), (-z.astype(float), -limit)):
        before = np.arange(len(values)) + 1
        mean = (np.cumsum(values) - values) / before
        variance = np.maximum((0.25 + np.cumsum(values**2) - values**2) / before - mean**2, 1e-6)
        bets = np.clip((mean - m) / (variance + (mean - m) ** 2), 0, cap / (1 + m))
        capital = np.cumsum(np.log1p(bets * (values - m)))
        found.append(np.exp(-np.maximum(np.maximum.accumulate(capital), 0)))
    return first_at_most(found[0], ALPHA), first_at_most(found[1], BETA)


def gate(z: np.ndarray, limit: float, strategy: Strategy) -> Outcome:
    """Look after every candidate and stop at the first answer."""
    reached = [Outcome(verdict, at) for verdict, at in zip(("fail", "pass"), strategy(z, limit), strict=True) if at]
    return min(reached, key=lambda outcome: outcome.candidates, default=Outcome("", len(z)))


def row(limit: float, background: float, excess: float, strategy: Strategy) -> dict:
    """Simulate one cell of the grid."""
    fixed = fixed_test(limit, background)
    rng = np.random.default_rng([int(1e6 * limit), int(1e6 * background), int(1e6 * excess)])
    drawn = [draw(rng, LONGEST * fixed.candidates, excess, background) for _ in range(RELEASES)]
    ends = [gate(z, limit, strategy) for z in drawn]
    means = np.array([z[: fixed.candidates].mean() for z in drawn])
    mean = np.mean([end.candidates for end in ends])
    return {
        "limit, %": f"{100 * limit:g}",
        "background, %": f"{100 * background:.3g}",
        "true excess, %": f"{100 * excess:.3g}",
        "fail, %": f"{np.mean([end.verdict == 'fail' for end in ends]):.1%}".rstrip("%"),
        "pass, %": f"{np.mean([end.verdict == 'pass' for end in ends]):.1%}".rstrip("%"),
        "candidates": f"{mean:,.0f}",
        "fixed N": f"{fixed.candidates:,}",
        "fewer by": f"{fixed.candidates / mean:.1f}",
        "fixed: fail, %": f"{np.mean(means > fixed.fails_above):.1%}".rstrip("%"),
        "fixed: pass, %": f"{np.mean(means < fixed.passes_below):.1%}".rstrip("%"),
    }


def several(attacks: int, limit: float, background: float) -> float:
    """Return how often a gate fails, Holm-corrected, where every attack is exactly at the limit."""
    rng = np.random.default_rng(attacks)
    n = fixed_test(limit, background).candidates
    ends = [
        min(p_above(count(draw(rng, n, limit, background)), limit)[-1] for _ in range(attacks)) for _ in range(RELEASES)
    ]
    return float(np.mean(np.array(ends) <= ALPHA / attacks))


def show(rows: list[dict]) -> None:
    """Print rows as a table."""
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def main() -> None:
    """Print the tables."""
    cells = [(limit, b * limit, e * limit) for limit in LIMITS for b in BACKGROUNDS for e in EXCESSES]
    show([row(*cell, partial(mixture, calibrated=cell[1])) for cell in cells if cell[1] + cell[2] <= 1 - cell[1]])
    chosen = [cell for cell in cells if cell[0] == 0.01 and cell[2] in (0.0, 0.1)]
    print("\nthe same at a fixed threshold, where nothing is known of the background\n")
    show([row(*cell, mixture) for cell in chosen])
    print("\nthe same with aGRAPA bets, at most 0.75 of the largest\n")
    show([row(*cell, agrapa) for cell in chosen])
    print("\nclean models at a limit of 1 %, calibrated to another background than the true one\n")
    show(
        [
            {"calibrated, %": f"{100 * background:g}"}
            | row(0.01, off * background, 0.0, partial(mixture, calibrated=background))
            for background in (0.01, 0.03)
            for off in OFF
        ]
    )
    print("\nseveral attacks, each exactly at a limit of 1 %, background 1 %: wrong fails")
    print(", ".join(f"{n} attacks {several(n, 0.01, 0.01):.1%}" for n in (1, 3, 10)))


if __name__ == "__main__":
    main()
