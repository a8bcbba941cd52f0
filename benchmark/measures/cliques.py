"""Many images of one caption that agree: tile distances and cliques (Carlini et al. 2023, arXiv 2301.13188, 4.1)."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TILES = 4
"""Tiles along each side, at most; at 512 x 512 they are the paper's."""

LEAST_SIDE = 8
"""Pixels of a tile's side, at least: smaller ones are mostly flat, and one of them decides."""

MOST_CLIQUES = 20_000
"""Maximal cliques that are looked at for one distance. A limit of time would make results depend on the machine."""


class Clique(NamedTuple):
    """The tightest clique of a size among the images of a caption."""

    delta: float
    """The smallest distance at which a clique of that size exists; infinite with fewer images."""
    members: list[int]
    """Its images, by position; none where there is no clique."""
    medoid: int
    """The member nearest to the others, -1 without one."""


def grid_of(height: int, width: int) -> int:
    """Return the tiles along each side: 4 where tiles have at least 8 pixels a side, else 2, else 1.

    Examples:
        >>> grid_of(512, 512), grid_of(32, 32), grid_of(16, 16), grid_of(8, 8)
        (4, 4, 2, 1)
    """
    sizes = [TILES >> shift for shift in range(TILES.bit_length())]
    fits = (g for g in sizes if not (height % g or width % g) and min(height, width) // g >= LEAST_SIDE)
    return next(fits, 1)


def tile_distances(images: Tensor) -> np.ndarray:
    """Return the distance of every two images, S x S: the root mean square of the tile in which they differ most.

    Args:
        images: S x C x H x W, uint8.
    """
    count, channels, height, width = images.shape
    grid = grid_of(height, width)
    tall, wide = height // grid, width // grid
    found = torch.zeros(count, count, dtype=torch.float64)
    for row, column in itertools.product(range(grid), range(grid)):
        tile = images[:, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide].flatten(1)
        # Whole numbers below 2^53 are exact in float64, so equal images are exactly 0 apart.
        values = tile.double()
        squares = values.square().sum(1)
        gap = squares[:, None] + squares[None, :] - 2 * values @ values.T
        found = torch.maximum(found, gap / (channels * tall * wide))
    distances: np.ndarray = found.sqrt().div(255).numpy()
    return distances


def tightest_clique(distances: np.ndarray, size: int) -> Clique:
    """Return the clique of `size` images whose largest distance is smallest.

    A caption is flagged at delta if so many of its images are at most delta from each other, so this one number says at
    which delta it is. Edges are added from the shortest one on; the first that closes a clique is looked for among the
    images that both of its ends are joined to. Exact, unless more than `MOST_CLIQUES` maximal cliques lie among them;
    then the delta may be too large.

    Args:
        distances: S x S, symmetric.
        size: Images of a clique, 2 or more.

    Examples:
        Three images at one place, two far off.

        >>> places = np.array([0.0, 0.1, 0.2, 5.0, 9.0])
        >>> tightest_clique(np.abs(places[:, None] - places), 3)
        Clique(delta=0.2, members=[0, 1, 2], medoid=1)
    """
    if len(distances) < size:
        return Clique(float("inf"), [], -1)
    # Until some image has so many neighbours, no edge can close a clique.
    least = np.sort(distances, axis=1)[:, size - 1].min()
    near = (distances < least) & ~np.eye(len(distances), dtype=bool)
    ends = np.stack(np.triu_indices(len(distances), 1), axis=1)
    lengths = distances[ends[:, 0], ends[:, 1]]
    for place in np.argsort(lengths, kind="stable")[int((lengths < least).sum()) :]:
        one, other = (int(end) for end in ends[place])
        near[one, other] = near[other, one] = True
        both = _peeled(near, np.flatnonzero(near[one] & near[other]), size - 2)
        rest = _clique(near[np.ix_(both, both)], size - 2) if len(both) >= size - 2 else None
        if rest is not None:
            members = sorted([one, other, *(int(both[each]) for each in rest)])
            inside = distances[np.ix_(members, members)]
            return Clique(float(lengths[place]), members, members[int(inside.sum(1).argmin())])
    return Clique(float("inf"), [], -1)


def _peeled(near: np.ndarray, images: np.ndarray, size: int) -> np.ndarray:
    """Leave out images with fewer than size - 1 neighbours among the others, until none is left to leave out."""
    while len(images) >= size:
        kept = near[np.ix_(images, images)].sum(1) >= size - 1
        if kept.all():
            break
        images = images[kept]
    return images


def _clique(near: np.ndarray, size: int) -> list[int] | None:
    """Return a clique of this size in a graph, None where there is none."""
    import networkx

    if size == 0:
        return []
    cliques = itertools.islice(networkx.find_cliques(networkx.from_numpy_array(near)), MOST_CLIQUES)
    found = next((each for each in cliques if len(each) >= size), None)
    return None if found is None else sorted(found)[:size]
