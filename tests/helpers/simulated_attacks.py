"""Two attacks on one pair, drawn with rates that are known: for the coverage of what compares them."""

from typing import NamedTuple

import numpy as np

from sidebench.benchmark.stats.comparison import AttackHits


class World(NamedTuple):
    """Two attacks: mean hit rates on X and H, spread of the groups, share of candidates that act alike."""

    training: tuple[float, float]
    held_out: tuple[float, float]
    heavy: float
    alike: float = 0.5
    groups: int = 200

    @property
    def difference(self) -> float:
        (a, b), (c, d) = self.training, self.held_out
        return (a - c) - (b - d)

    @property
    def ratio(self) -> float:
        (a, b), (c, d) = self.training, self.held_out
        return (a - c) / (b - d)


N = 1000


def side_hits(
    rates: tuple[float, float], world: World, uniforms: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return hits by candidate and credits by group of both attacks; the groups are a new sample each time.

    A candidate's uniform number picks its group by weight; what is left of it decides whether it is a hit.
    Candidates that act alike have one number in both attacks, so they hit the same group.
    """
    shared = rng.lognormal(-(world.heavy**2) / 2, world.heavy, world.groups)
    edges = np.cumsum(shared) / shared.sum()
    found = []
    for rate, own in zip(rates, uniforms, strict=True):
        group = np.searchsorted(edges, own, side="right").clip(max=world.groups - 1)
        left = (edges[group] - own) * shared.sum() / shared[group]
        ease = rng.lognormal(-0.02, 0.2, world.groups)[group]
        hits = left < rate * ease * shared.mean()
        found.append((hits, np.bincount(group[hits], minlength=world.groups)))
    return found


def draw(world: World, rng: np.random.Generator) -> tuple[AttackHits, AttackHits]:
    sides = []
    for rates in (world.training, world.held_out):
        first = rng.random(N)
        uniforms = np.stack([first, np.where(rng.random(N) < world.alike, first, rng.random(N))])
        sides.append(side_hits(rates, world, uniforms, rng))
    one, two = (
        AttackHits(ours[0], theirs[0], ours[1], theirs[1]) for ours, theirs in zip(sides[0], sides[1], strict=True)
    )
    return one, two
