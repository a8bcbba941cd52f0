"""Groups of near-duplicates, images that are others mirrored or turned, and splits that keep groups whole."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..contracts import Progress
from ..errors import TooFew
from ..progress import silent
from .image_cache import BLOCK, blocks
from .pair import SplitRule

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 8
"""Cells along each side of the grid of means that pairs are first compared by."""


def duplicate_groups(images: np.ndarray, rms: float, progress: Progress = silent) -> np.ndarray:
    """Return a group number per image: connected components of pairs at most `rms` apart.

    Equal images are one before anything is compared. Of the others, only pairs whose means over a grid of cells are
    within `rms` are compared in full: averaging cannot make two images differ more, so no pair is missed. Memory
    is that of the cell means and of one block.
    """
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Filled in place: small results kept between large temporary ones fragment the heap (measured: 8 GB, not 0.6).
    width = _cell_means(_floats(images[:1])).shape[1] if len(images) and rms > 0 else 0
    digests, means = np.empty(len(images), dtype="S16"), torch.empty(len(images), width)
    done = 0
    for block in blocks(images):
        part = slice(done, done + len(block))
        digests[part] = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in block]
        if width:
            means[part] = _cell_means(_floats(block))
        done += len(block)
    _, first, same = np.unique(digests, return_index=True, return_inverse=True)
    rows = columns = np.empty(0, dtype=np.int64)
    if width:
        rows, columns = _near_pairs(images, means[torch.from_numpy(first)], first, rms, progress)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(first),) * 2)
    found: np.ndarray = connected_components(links, directed=False)[1]
    # Numbers in the order of the first image of each group.
    _, earliest, groups = np.unique(found[same], return_index=True, return_inverse=True)
    rank = np.empty(len(earliest), dtype=np.int64)
    rank[np.argsort(earliest)] = np.arange(len(earliest))
    ordered: np.ndarray = rank[groups]
    return ordered


def _near_pairs(
    images: np.ndarray, means: "Tensor", chosen: np.ndarray, rms: float, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of the `chosen` rows, which have these means, at most `rms` apart, as positions in `chosen`."""
    import torch

    from .nearest import within

    radius = rms * (1 + 1e-5) + 1e-6  # the means are rounded
    rows, columns = [], []
    for start in range(0, len(chosen), BLOCK):
        block = means[start : start + BLOCK]
        near = within(block, means[start:], torch.full((len(block),), radius))
        later = near.rows < near.ids
        for some, others in zip(near.rows[later].split(BLOCK), near.ids[later].split(BLOCK), strict=True):
            left, right = some.numpy() + start, others.numpy() + start
            close = _distances(images[chosen[left]], images[chosen[right]]) <= rms
            rows.append(left[close])
            columns.append(right[close])
        if start and start % (16 * BLOCK) == 0:  # smaller sets take no time
            progress("looking for near-duplicates", start, len(chosen))
    return np.concatenate(rows), np.concatenate(columns)


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the rms distance of each pair of images."""
    from .pixels import pixel_descriptors

    gap = pixel_descriptors(_floats(left)) - pixel_descriptors(_floats(right))
    distances: np.ndarray = gap.double().square().sum(1).sqrt().float().numpy()
    return distances


def _floats(images: np.ndarray) -> "Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).float().div(255)


def _cell_means(images: "Tensor") -> "Tensor":
    """Return means over a grid of at most 8 x 8 cells, scaled so that distances are at most those of the images."""
    from .pixels import pixel_descriptors

    return pixel_descriptors(_cells(images))


def _cells(images: "Tensor") -> "Tensor":
    """Return means over a grid of at most 8 x 8 cells, or the images where cells of one size do not fill them."""
    from torch.nn.functional import avg_pool2d

    height, width = images.shape[2:]
    cell = (-(-height // CELLS), -(-width // CELLS))
    if height % cell[0] or width % cell[1]:  # cells of one size only, else the bound does not hold
        return images
    return avg_pool2d(images, cell)


def turned_copies(images: np.ndarray, others: np.ndarray, rms: float) -> np.ndarray:
    """Mark the images (N,) bool that are at most `rms` from another one mirrored or turned, but not as they stand.

    Both are N x C x H x W, uint8. Of the eight symmetries of the square, images that are none have four. The average
    of an image over all of them is the same for all its forms and can only bring two images nearer, so one search
    among these averages, over cells, finds every pair that is then compared in full.
    """
    import torch

    from .nearest import within

    as_it_stands, turned = np.zeros((2, len(images)), dtype=bool)
    if not len(images) or not len(others):
        return turned
    averages = torch.cat([_symmetric_means(block) for block in blocks(others)])
    radius, done = rms * (1 + 1e-5) + 1e-6, 0  # the averages are rounded
    for block in blocks(images):
        near = within(_symmetric_means(block), averages, torch.full((len(block),), radius))
        for rows, ids in zip(near.rows.split(BLOCK), near.ids.split(BLOCK), strict=True):
            theirs = others[ids.numpy()]
            for number, form in enumerate(_forms(block[rows.numpy()])):
                close = rows.numpy()[_distances(form, theirs) <= rms] + done
                (turned if number else as_it_stands)[close] = True
        done += len(block)
    marked: np.ndarray = turned & ~as_it_stands
    return marked


def _forms(images: np.ndarray) -> list[np.ndarray]:
    """Return the images as they stand, then mirrored and turned in every way that keeps their height and width."""
    upright = [images, images[..., ::-1], images[..., ::-1, :], images[..., ::-1, ::-1]]
    square = images.shape[2] == images.shape[3]
    return upright + [form.swapaxes(2, 3) for form in upright] if square else upright


def _symmetric_means(images: np.ndarray) -> "Tensor":
    """Return cell means averaged over all forms of the images, scaled as `_cell_means`."""
    import torch

    from .pixels import pixel_descriptors

    forms = _forms(_cells(_floats(images)).numpy())
    return pixel_descriptors(torch.from_numpy(np.mean(forms, axis=0, dtype=np.float32)))


def joined(groups: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """Return the number of each image's unit (N,): connected components of near-duplicate groups and of families.

    Examples:
        >>> joined(np.array([0, 1, 1, 2]), ["alpha", "alpha", "beta", "gamma"]).tolist()
        [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, own = np.unique(np.asarray(families), return_inverse=True)
    size = int(groups.max()) + 1
    links = coo_array((np.ones(len(groups), dtype=np.int8), (groups, size + own)), shape=(size + len(names),) * 2)
    units: np.ndarray = connected_components(links, directed=False)[1][groups]
    return units


def split_by_group(groups: np.ndarray, rule: SplitRule) -> list[np.ndarray]:
    """Return the row numbers of training, held-out, pool and tuning part; whole groups at random.

    A group that does not fit into what is left of a part goes to the tuning part, so the sizes are exact.
    """
    wanted = [rule.training, rule.held_out, rule.pool]
    if sum(wanted) > len(groups):
        raise TooFew(f"the split asks for {sum(wanted)} images, the data set has {len(groups)}")
    known, sizes = np.unique(groups, return_counts=True)
    # The rows of each group, found once: looked for group by group, they take the square of the number of groups.
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    parts: list[list[np.ndarray]] = [[] for _ in range(4)]
    room = [*wanted, len(groups)]
    part = 0
    # Positions are shuffled as the groups' own numbers would be.
    for position in np.random.Generator(np.random.PCG64(rule.seed)).permutation(len(known)):
        rows = members[position]
        while part < 3 and room[part] == 0:
            part += 1
        target = part if len(rows) <= room[part] else 3
        parts[target].append(rows)
        room[target] -= len(rows)
    if any(room[:3]):
        raise TooFew("the near-duplicate groups are too large for a split of these sizes")
    empty = np.empty(0, dtype=np.int64)
    return [np.sort(np.concatenate(rows)) if rows else empty for rows in parts]
