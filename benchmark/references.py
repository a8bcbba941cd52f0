"""Training and held-out images: load, check, group duplicates, split. Only scoring sees them."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .contracts import Side
from .errors import BadInput, TooFew
from .pairs import DataSource, Pair, SplitRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images of one part, uint8 N x C x H x W, with their row numbers in the data set and duplicate groups."""

    images: np.ndarray
    rows: np.ndarray
    groups: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray) -> "ImageSet":
        """Return the images at these positions, or of these marks (N,) bool."""
        labels = None if self.labels is None else self.labels[chosen]
        return ImageSet(self.images[chosen], self.rows[chosen], self.groups[chosen], labels)

    def floats(self) -> "Tensor":
        """Return the images as float32 in [0, 1]."""
        import torch

        return torch.from_numpy(self.images).float().div(255)

    def representatives(self) -> np.ndarray:
        """Return the positions of the first image of each duplicate group."""
        _, first = np.unique(self.groups, return_index=True)
        return np.sort(first)


@dataclass(frozen=True)
class References:
    """The four parts of a pair's data; duplicate groups are numbered across all of them.

    Only the training part has always images.
    """

    training: ImageSet
    held_out: ImageSet
    pool: ImageSet
    tuning: ImageSet
    fingerprint: str
    """SHA-256 over the shape and bytes of all images of the data set."""

    def groups(self) -> dict[Side, np.ndarray]:
        """Return each reference's duplicate group, by side that has images."""
        parts: dict[Side, ImageSet] = {"training": self.training, "held_out": self.held_out}
        return {side: part.groups for side, part in parts.items() if len(part)}


def load_references(pair: Pair) -> References:
    """Load a pair's images and split them.

    Raises:
        BadInput: the file is missing or not of the expected kind, or its fingerprint is not the pinned one.
        TooFew: there are fewer images than the split asks for.
    """
    images, labels = _load(pair.data)
    fingerprint = hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).hexdigest()
    if pair.data.sha256 not in (None, fingerprint):
        raise BadInput(f"{pair.name}: the data are not the pinned ones (SHA-256 {fingerprint[:16]}...)")
    groups = duplicate_groups(images, pair.data.split.duplicate_rms)
    allowed = np.arange(len(images))
    if pair.data.within is not None:
        allowed = split_by_group(groups, pair.data.within)[3]
    parts = [allowed[part] for part in split_by_group(groups[allowed], pair.data.split)]
    sets = [ImageSet(images[rows], rows, groups[rows], None if labels is None else labels[rows]) for rows in parts]
    return References(sets[0], sets[1], sets[2], sets[3], fingerprint)


def duplicate_groups(images: np.ndarray, rms: float) -> np.ndarray:
    """Return a group number per image: connected components of pairs at most `rms` apart."""
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    from .measures.pixels import pixel_descriptors
    from .measures.search import within

    descriptors = pixel_descriptors(torch.from_numpy(images).float().div(255))
    pairs = within(descriptors, descriptors, torch.full((len(images),), rms))
    rows, columns = pairs.rows.numpy(), pairs.ids.numpy()
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(images),) * 2)
    groups: np.ndarray = connected_components(links, directed=False)[1]
    return groups


def split_by_group(groups: np.ndarray, rule: SplitRule) -> list[np.ndarray]:
    """Return the row numbers of training, held-out, pool and tuning part; whole groups at random.

    A group that does not fit into what is left of a part goes to the tuning part, so the sizes are exact.
    """
    wanted = [rule.training, rule.held_out, rule.pool]
    if sum(wanted) > len(groups):
        raise TooFew(f"the split asks for {sum(wanted)} images, the data set has {len(groups)}")
    order = np.random.Generator(np.random.PCG64(rule.seed)).permutation(np.unique(groups))
    parts: list[list[np.ndarray]] = [[] for _ in range(4)]
    room = [*wanted, len(groups)]
    part = 0
    for group in order:
        rows = np.flatnonzero(groups == group)
        while part < 3 and room[part] == 0:
            part += 1
        target = part if len(rows) <= room[part] else 3
        parts[target].append(rows)
        room[target] -= len(rows)
    if any(room[:3]):
        raise TooFew("the duplicate groups are too large for a split of these sizes")
    empty = np.empty(0, dtype=np.int64)
    return [np.sort(np.concatenate(rows)) if rows else empty for rows in parts]


def _load(data: DataSource) -> tuple[np.ndarray, np.ndarray | None]:
    if data.source == "scikit-learn-digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        # 4-bit ink values 0 .. 16, scaled to 0 .. 255.
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return images[:, None], digits.target
    assert data.path is not None and data.images is not None
    path = Path(data.path)
    if not path.is_file():
        raise BadInput(f"no such data file: {path.name}")
    images, labels = _read_npz(path, data.images, data.labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        found = f"{images.dtype} {images.shape}"
        raise BadInput(f"{path.name}, {data.images}: want uint8 N x H x W (x C), found {found}")
    if labels is not None and labels.shape != (len(images),):
        raise BadInput(f"{path.name}, {data.labels}: want {len(images)} labels, found shape {labels.shape}")
    images = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _read_npz(path: Path, images: str, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise BadInput(f"{path.name} is no npz file of named arrays")
        with arrays:
            for name in (images, labels):
                if name is not None and name not in arrays:
                    raise BadInput(f"{path.name} has no array {name!r}: it has {', '.join(arrays)}")
            return arrays[images], None if labels is None else arrays[labels]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path.name} cannot be read as npz: {error}") from None
