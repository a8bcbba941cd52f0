"""Print the coverage table of docs/validity.md: `python docs/coverage.py` (about a minute, seeded)."""

import numpy as np
from scipy.stats import binom
from tabulate import tabulate

from sidebench.benchmark.statistics import excess, unique_count, wilson

DRAWS = 2000


def wilson_exact(n: int, p: float) -> float:
    """Enumerate every count: no simulation error."""
    counts = np.arange(n + 1)
    mass = binom.pmf(counts, n, p)
    held = [low <= p <= high for low, high in (wilson(int(k), n) if mass[k] > 1e-12 else (2, 2) for k in counts)]
    return float(mass[np.array(held)].sum())


def unique_simulated(chances: np.ndarray, n: int = 1000) -> float:
    """Draw how often each image is found; the truth is the expected number of distinct ones."""
    rng = np.random.default_rng(1)
    truth = (1 - (1 - chances) ** n).sum()
    drawn = (unique_count(f, len(chances)) for f in rng.binomial(n, chances, size=(DRAWS, len(chances))))
    return float(np.mean([low <= truth <= high for low, high in drawn]))


def excess_simulated(rates: np.ndarray, n: int = 1000) -> float:
    """Groups fall into X or H at random, candidates hit them at fixed rates: the true excess is 0."""
    rng = np.random.default_rng(2)
    half, held = len(rates) // 2, 0
    for _ in range(DRAWS):
        order = rng.permutation(rates)
        hits = [rng.multinomial(n, [*side, 1 - side.sum()])[:-1] for side in (order[:half], order[half:])]
        both = sum(hit.sum() for hit in hits)
        # Independent sides: a candidate hits both with the product of the rates.
        overlap = rng.binomial(min(h.sum() for h in hits), max(h.sum() for h in hits) / n) if both else 0
        low, high = excess(*hits, int(hits[0].sum() - overlap), int(hits[1].sum() - overlap), n).interval
        held += low <= 0 <= high
    return held / DRAWS


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    rows = [
        (f"Wilson, rate {100 * p:g} %, N = {n:,}", "exact enumeration", wilson_exact(n, p))
        for n in (1024, 10_000)
        for p in (0.001, 0.01, 0.1)
    ]
    communities = {
        "log-normal, 100 images": np.minimum(rng.lognormal(-7, 1.5, 100), 0.5),
        "log-normal and rare, 300 images": np.minimum(rng.lognormal(-9, 2, 300), 0.5),
        "common and very rare, 100 images": np.r_[np.full(60, 0.02), np.full(40, 3e-5)],
        "nearly all found, 50 images": np.full(50, 4e-3),
        "equal, 60 images": np.full(60, 1e-3),
        "equal and rare, 300 images": np.full(300, 1e-4),
        "half never found, 200 images": np.r_[np.full(100, 2e-3), np.zeros(100)],
    }
    rows += [(f"unique count, {name}", f"{DRAWS:,} draws", unique_simulated(p)) for name, p in communities.items()]
    groups = {
        "equal, 512 groups": np.full(512, 1e-3),
        "log-normal, 512 groups": np.minimum(rng.lognormal(-8, 1, 512), 0.01),
        "pareto, 200 groups": np.minimum(2e-5 * (1 + rng.pareto(1.0, 200)), 0.01),
        "five heavy of 100 groups": np.r_[np.full(5, 0.02), np.full(95, 1e-4)],
    }
    rows += [(f"excess under no leak, {name}", f"{DRAWS:,} draws", excess_simulated(p)) for name, p in groups.items()]
    table = [(name, how, f"{100 * value:.1f}") for name, how, value in rows]
    print(tabulate(table, headers=["interval", "how", "coverage, %"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
