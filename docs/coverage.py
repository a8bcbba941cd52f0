"""Print the coverage tables of docs/validity-intervals.md: `python docs/coverage.py` (some minutes, seeded)."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binom, norm
from tabulate import tabulate

from sidebench.benchmark.measures.ams_ums import found_alone, found_at_once
from sidebench.benchmark.protocol import TIERS
from sidebench.benchmark.stats.comparison import AttackHits, compare
from sidebench.benchmark.stats.intervals import unique_bound, unique_count, wilson
from sidebench.benchmark.stats.richness import extrapolates_to, good_toulmin, rarefaction

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


def clustered_simulated(rates: np.ndarray, sizes: np.ndarray, together: float, n: int = 1000) -> tuple[float, float]:
    """Each candidate finds at most one cluster of near-copies, each member with the chance `together`.

    Return the coverage of the interval of `ums`, and that of the first-order jackknife over candidates.
    """
    rng = np.random.default_rng(3)
    truth = (sizes * (1 - (1 - rates * together) ** n)).sum()
    starts = np.r_[0, np.cumsum(sizes)]
    held, jackknife = 0, 0
    for _ in range(DRAWS):
        found = rng.choice(len(rates) + 1, n, p=[*rates, 1 - rates.sum()])
        found = found[found < len(rates)]
        rows = np.repeat(np.arange(len(found)), sizes[found])
        ids = np.concatenate([np.arange(starts[c], starts[c + 1]) for c in found])
        kept = rng.random(len(ids)) < together
        rows, ids = rows[kept], ids[kept]
        frequencies = np.bincount(ids, minlength=starts[-1])
        low, high = unique_count(frequencies, starts[-1], at_once=found_at_once(rows))
        held += low <= truth <= high
        alone = np.bincount(rows[frequencies[ids] == 1], minlength=1)
        reach = norm.ppf(0.975) * ((n - 1) / n * ((alone**2).sum() - alone.sum() ** 2 / n)) ** 0.5
        jackknife += abs((frequencies > 0).sum() - truth) <= reach
    return held / DRAWS, jackknife / DRAWS


def bound_simulated(rates: np.ndarray, sizes: np.ndarray, n: int = 1000) -> tuple[float, float]:
    """Each candidate finds at most one cluster of near-copies, all its members at once.

    Return the coverage of the one-sided bound of `ums`, and that of the interval that it takes the place of.
    """
    rng = np.random.default_rng(7)
    truth, starts = (sizes * (1 - (1 - rates) ** n)).sum(), np.r_[0, np.cumsum(sizes)]
    held, before = 0, 0
    for _ in range(DRAWS):
        found = rng.choice(len(rates) + 1, n, p=[*rates, 1 - rates.sum()])
        found = found[found < len(rates)]
        rows = np.repeat(np.arange(len(found)), sizes[found])
        ids = np.concatenate([np.arange(0), *(np.arange(starts[c], starts[c + 1]) for c in found)]).astype(np.int64)
        often = np.bincount(ids, minlength=starts[-1])
        held += unique_bound(int((often > 0).sum()), found_alone(rows, ids)) <= truth
        low, high = unique_count(often, starts[-1], at_once=found_at_once(rows))
        before += low <= truth <= high
    return held / DRAWS, before / DRAWS


def attacks_simulated(
    training: tuple[float, float], held_out: tuple[float, float], spread: float, groups: int, n: int = 1000
) -> list[float]:
    """Let two attacks hit groups on both sides at these mean rates; groups have log-normal weights of this sigma.

    The groups are a new sample each time. A candidate picks its group by weight and hits with a chance that is the
    attack's; half of the candidates act alike in both attacks. Return the coverage of the difference of both and of
    their ratio, where one is given: first of what is true of the training images drawn, then of all images like them.
    """
    rng = np.random.default_rng(5)
    held, given = np.zeros(4), 0
    for _ in range(DRAWS):
        ours, theirs = (_hits(rates, spread, groups, n, rng) for rates in (training, held_out))
        attacks = [AttackHits(x.hits, h.hits, x.credits, h.credits) for x, h in zip(ours, theirs, strict=True)]
        found = compare(*attacks)
        ends = [found.difference.interval, found.ratio.interval]
        given += ends[1] is not None
        own, all_like_them = (
            [rate - chance for rate, chance in zip(rates, held_out, strict=True)]
            for rates in ([x.rate for x in ours], training)
        )
        truths = [(a - b, a / b) for a, b in (own, all_like_them)]
        held += [
            end is not None and end.low <= truth <= end.high
            for each in truths
            for end, truth in zip(ends, each, strict=True)
        ]
    return [float(x) for x in held / np.tile([DRAWS, max(given, 1)], 2)]


class Hits(NamedTuple):
    """One attack on one side: hits by candidate, credits by group, and the hit rate on just these groups."""

    hits: np.ndarray
    credits: np.ndarray
    rate: float


def _hits(rates: tuple[float, float], spread: float, groups: int, n: int, rng: np.random.Generator) -> list[Hits]:
    """Draw what both attacks hit on one side."""
    weights = rng.lognormal(-(spread**2) / 2, spread, groups)
    edges = np.cumsum(weights) / weights.sum()
    first = rng.random(n)
    second = np.where(rng.random(n) < 0.5, first, rng.random(n))
    found = []
    for rate, uniform in zip(rates, (first, second), strict=True):
        group = np.searchsorted(edges, uniform, side="right").clip(max=groups - 1)
        # What is left of the uniform number within its group decides whether it is a hit.
        left = (edges[group] - uniform) * weights.sum() / weights[group]
        chance = np.minimum(rate * rng.lognormal(-0.02, 0.2, groups) * weights.mean(), 1.0)
        hits = left < chance[group]
        credits = np.bincount(group[hits], minlength=groups)
        found.append(Hits(hits, credits, float(weights @ chance / weights.sum())))
    return found


def curve_simulated(chances: np.ndarray, times: float, n: int = 1000) -> float:
    """Rarefy to, or extrapolate to, `times` the candidates; the truth is the expected number of distinct images.

    Draws with too few finds for so long an extrapolation are left out.
    """
    rng = np.random.default_rng(6)
    truth, total, held, given = (1 - (1 - chances) ** round(times * n)).sum(), len(chances), 0, 0
    for found in rng.binomial(n, chances, size=(DRAWS, total)):
        if times - 1 > extrapolates_to(found):
            continue
        if times < 1:
            low, high = rarefaction(found, n, total, round(times * n)).interval
        else:
            low, high = good_toulmin(found, n, total, times - 1).interval
        held += low <= truth <= high
        given += 1
    return held / given


def print_attacks() -> None:
    """Print what the intervals of difference and ratio cover where attacks find something."""
    uneven = {
        "even groups (sigma 0.5, 200)": ((0.2, 0.1), (0.03, 0.02), 0.5, 200),
        "uneven (sigma 1, 200)": ((0.2, 0.1), (0.03, 0.02), 1.0, 200),
        "very uneven (sigma 1.5, 200)": ((0.2, 0.1), (0.03, 0.02), 1.5, 200),
        "very uneven, few (sigma 1.5, 100)": ((0.2, 0.1), (0.03, 0.02), 1.5, 100),
    }
    what = ("difference", "ratio")
    heads = ["groups", *(f"{name}, {frame}" for frame in ("these images", "all like them") for name in what)]
    table = [[name, *(f"{100 * value:.1f}" for value in attacks_simulated(*world))] for name, world in uneven.items()]
    print(tabulate(table, headers=heads, tablefmt="github", disable_numparse=True))


def main() -> None:
    """Print both tables."""
    rng = np.random.default_rng(0)
    rows = [
        (f"Wilson, rate {100 * p:g} %, N = {n:,}", "exact enumeration", wilson_exact(n, p))
        for n in TIERS.values()
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
    clusters = {
        "3 at once, 60 times": (np.full(60, 1e-3), np.full(60, 3), 1.0),
        "3 at once, rare, 300 times": (np.full(300, 1e-4), np.full(300, 3), 1.0),
        "10 at once, 40 times": (np.full(40, 1e-3), np.full(40, 10), 1.0),
        "1 to 10 at once, log-normal": (np.minimum(rng.lognormal(-8, 1.5, 100), 0.05), rng.integers(1, 11, 100), 1.0),
        "10, each with 30 %": (np.full(60, 1e-3), np.full(60, 10), 0.3),
        "3, common and very rare": (np.r_[np.full(60, 0.015), np.full(40, 3e-5)], np.full(100, 3), 1.0),
    }
    for name, community in clusters.items():
        ours, jackknife = clustered_simulated(*community)
        rows.append((f"unique count, near-copies, {name}", f"{DRAWS:,} draws", ours))
        rows.append((f"the same by the first-order jackknife, {name}", f"{DRAWS:,} draws", jackknife))
    rare = {
        "5 of 50 images beside 200 single ones": (
            np.r_[np.full(200, 1e-3), np.full(5, 3e-4)],
            np.r_[np.full(200, 1), np.full(5, 50)],
        ),
        "50 of 8 beside 50 common single ones": (
            np.r_[np.full(50, 6e-3), np.full(50, 2e-4)],
            np.r_[np.full(50, 1), np.full(50, 8)],
        ),
        "3 of 100 beside 100 single ones": (
            np.r_[np.full(3, 5e-4), np.full(100, 2e-3)],
            np.r_[np.full(3, 100), np.full(100, 1)],
        ),
        "100 of 10": (np.full(100, 2e-4), np.full(100, 10)),
    }
    for name, clusters_of in rare.items():
        bound, interval = bound_simulated(*clusters_of)
        rows.append((f"unique count, one-sided bound, rare clusters, {name}", f"{DRAWS:,} draws", bound))
        rows.append(("the interval that it takes the place of", f"{DRAWS:,} draws", interval))
    for times, what in (
        (0.25, "rarefied to a quarter"),
        (2.0, "extrapolated to twice"),
        (4.0, "extrapolated to 4 times"),
    ):
        rows += [
            (f"unique count {what}, {name}", f"{DRAWS:,} draws", curve_simulated(communities[name], times))
            for name in ("log-normal, 100 images", "equal and rare, 300 images")
        ]
    table = [(name, how, f"{100 * value:.1f}") for name, how, value in rows]
    print(tabulate(table, headers=["interval", "how", "coverage, %"], tablefmt="github", disable_numparse=True), "\n")
    print_attacks()


if __name__ == "__main__":
    main()
