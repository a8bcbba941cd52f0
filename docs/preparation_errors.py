"""What preparations do to claims about attacks: `python docs/preparation_errors.py`, for docs/validity-intervals.md.

Two attacks on one pair: each preparation multiplies what its attack finds by a log-normal number. The truth is the
ratio of the geometric means, on the images of the run or on images like them, of which the groups are then a sample.
Seeded by each cell's own numbers.
"""

import argparse
from functools import partial

import numpy as np
from tabulate import tabulate

from sidebench.benchmark.gate.sequential import count, p_above, p_below
from sidebench.benchmark.stats.comparison import AttackHits, compare, pooled
from sidebench.benchmark.stats.preparations import Prepared, compare_prepared

SPREADS = (0.0, 0.3, 0.6)
"""Standard deviation of log rates between preparations."""
PREPARATIONS = (2, 3, 5)
DRAWS = 500
CANDIDATES = 1000
GROUPS = 200
RATES = (0.1, 0.05)
"""What the two attacks find where all groups are alike."""
CHANCE = 0.01
"""Candidates that hit training images by chance; as many hit held-out ones."""
UNEVEN = 0.5
"""Standard deviation of the groups' log weights; a quarter of it is each attack's own."""
LIMIT, ALPHA, BETA = 0.02, 0.05, 0.05
TESTED = 2000


def drawn_images(rng: np.random.Generator) -> np.ndarray:
    """Draw how much of the leak each training group takes, by attack, (2, groups), 1 on average."""
    shared, own = (
        rng.lognormal(-(deviation**2) / 2, deviation, shape)
        for deviation, shape in ((UNEVEN, (1, GROUPS)), (UNEVEN / 4, (2, GROUPS)))
    )
    weights: np.ndarray = shared * own
    return weights


def preparation(rate: float, weights: np.ndarray, rng: np.random.Generator) -> AttackHits:
    """Draw what the candidates of one preparation hit: a leak, and by chance as many groups of either side."""
    leak, uniform = rate * weights.mean(), rng.random(CANDIDATES)
    ours, theirs = uniform < leak + CHANCE, uniform > 1 - CHANCE
    leaked, chance = (uniform < leak).sum(), (ours & (uniform >= leak)).sum()
    credits = np.bincount(rng.choice(GROUPS, leaked, p=weights / weights.sum()), minlength=GROUPS)
    near, far = (np.bincount(rng.integers(0, GROUPS, hits), minlength=GROUPS) for hits in (chance, theirs.sum()))
    return AttackHits(ours.astype(float), theirs.astype(float), credits + near, far)


def covered(preparations: int, spread: float, spreads: tuple[float, float], draws: int, same: bool) -> dict[str, float]:
    """Return how often the ratio's interval holds the truth: pooled candidates, and over preparations.

    `spread` names the cell; `spreads` are those of the two attacks. `same`: the truth is that of the images drawn.
    """
    rng = np.random.default_rng([preparations, int(100 * spread), int(same)])
    held = dict.fromkeys(("before", "after", "refused"), 0)
    for _ in range(draws):
        images = drawn_images(rng)
        truth = np.log(RATES[0] / RATES[1])
        if same:
            truth += np.log(images[0].mean() / images[1].mean())
        found = []
        for rate, own, weights in zip(RATES, spreads, images, strict=True):
            factors = np.exp(own * rng.standard_normal(preparations))
            hits = {seed: preparation(rate * factor, weights, rng) for seed, factor in enumerate(factors)}
            found.append(Prepared(str(rate), hits, random=True))
        ratios = {
            "before": compare(*(pooled(list(attack.hits.values())) for attack in found)).ratio,
            "after": compare_prepared(*found).ratio,
        }
        for name, ratio in ratios.items():
            held[name] += ratio.interval is None or ratio.interval.low <= np.exp(truth) <= ratio.interval.high
        held["refused"] += ratios["after"].interval is None
    return {name: number / draws for name, number in held.items()}


def judged(preparations: int, spread: float, typical: float, draws: int) -> dict[str, float]:
    """Return how often the gate errs on a model of which a typical preparation finds `typical` times the limit.

    "One" is a gate that judges one preparation; the others fail at alpha / k if any of k does, and pass if all do.
    """
    rng = np.random.default_rng([preparations, int(100 * spread), int(100 * typical)])
    found = dict.fromkeys(("passes", "fails", "passes beyond", "fails within"), 0)
    for _ in range(draws):
        rates = LIMIT * typical * np.exp(spread * rng.standard_normal(preparations))
        counts = [count((rng.random(TESTED) < rate).astype(float)) for rate in rates]
        fails = any(p_above(own, LIMIT)[-1] <= ALPHA / preparations for own in counts)
        passes = not fails and all(p_below(own, LIMIT)[-1] <= BETA for own in counts)
        found["passes"] += passes
        found["fails"] += fails
        found["passes beyond"] += passes and bool((rates >= LIMIT).any())
        found["fails within"] += fails and bool((rates <= LIMIT).all())
    return {name: number / draws for name, number in found.items()}


def ratio_rows(draws: int) -> list[dict[str, str]]:
    """Return the coverage of the ratio's interval by cell."""
    cells = [(k, spread, (spread, spread)) for spread in SPREADS for k in PREPARATIONS]
    cells += [(k, 0.5, (0.1, 0.5)) for k in PREPARATIONS]
    table = []
    for k, spread, spreads in cells:
        ours, all_like = (covered(k, spread, spreads, draws, same) for same in (True, False))
        table.append(
            {
                "log-sd": " and ".join(f"{own:g}" for own in dict.fromkeys(spreads)),
                "preparations": str(k),
                "before": _percent(ours["before"]),
                "over preparations": _percent(ours["after"]),
                "before, all like them": _percent(all_like["before"]),
                "over preparations, all like them": _percent(all_like["after"]),
                "refused": _percent(ours["refused"]),
            }
        )
    return table


def gate_rows(draws: int) -> list[dict[str, str]]:
    """Return how often the gate errs by cell."""
    table = []
    for spread in SPREADS:
        for k in (1, *PREPARATIONS):
            at, clean = (judged(k, spread, typical, draws) for typical in (1.0, 0.4))
            table.append(
                {
                    "log-sd": f"{spread:g}",
                    "preparations": str(k),
                    "typical at the limit: passes": _percent(at["passes"]),
                    "and one of these beyond it": _percent(at["passes beyond"]),
                    "fails": _percent(at["fails"]),
                    "and all of these within it": _percent(at["fails within"]),
                    "typical at 0.4 limit: passes": _percent(clean["passes"]),
                }
            )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args().draws
    show = partial(tabulate, headers="keys", tablefmt="github", disable_numparse=True)
    print(show(ratio_rows(draws)), end="\n\n")
    print(show(gate_rows(draws)))


if __name__ == "__main__":
    main()
