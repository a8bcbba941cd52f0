"""Training and held-out images: load, check, group duplicates, split. Only scoring sees them."""

import functools
import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contracts import AttackState, Progress, Side
from ..errors import BadInput
from ..progress import silent
from .dataset_files import used_splits
from .duplicates import duplicate_groups, joined, split_by_group
from .fits import Fits
from .git_lfs import refuse_pointers
from .image_cache import Rows, fingerprint, left_out_in_words, load_rows, take
from .pair import DataSource, Pair, Selection, TuningBlock, array_of

if TYPE_CHECKING:
    from torch import Tensor


_LEAST_KEPT = 5_000
"""Images from which on their duplicate groups are kept between runs; fewer are grouped in less than a second."""

_MOST_KNOWN = 8
_KNOWN_GROUPS: dict[tuple[str, float], np.ndarray] = {}
"""Duplicate groups by content and rms that this process has found: several callers load the same references."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one part, uint8 N x C x H x W, with their row numbers in the data set and duplicate groups."""

    images: np.ndarray
    rows: np.ndarray
    groups: np.ndarray
    labels: np.ndarray | None = None
    captions: list[str] | None = None
    families: list[str] | None = None
    """Caption families: no family lies in two parts."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray) -> "ImageSet":
        """Return the images at these positions, or of these marks (N,) bool."""
        chosen = np.arange(len(self))[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        texts = (_chosen(self.captions, chosen), _chosen(self.families, chosen))
        return ImageSet(take(self.images, chosen), self.rows[chosen], self.groups[chosen], labels, *texts)

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
    left_out: str = ""
    """What of the data set is not read, in words; empty where all of it is."""
    duplicate_rms: float = 0.0
    """Images at most this far apart (rms) are one group."""

    def content(self) -> dict[str, str]:
        """Return hashes of all that the four parts are: the images, and which of them lie where with what labels."""
        digest = hashlib.sha256()
        for part in (self.training, self.held_out, self.pool, self.tuning):
            digest.update(f"{part.images.shape}".encode())
            for numbers in (part.rows, part.groups, np.empty(0) if part.labels is None else part.labels):
                digest.update(f"{len(numbers)} ".encode() + numbers.astype("<i8").tobytes())
        return {"fingerprint": self.fingerprint, "parts": digest.hexdigest()}

    def groups(self) -> dict[Side, np.ndarray]:
        """Return each reference's duplicate group, by side that has images."""
        parts: dict[Side, ImageSet] = {"training": self.training, "held_out": self.held_out}
        return {side: part.groups for side, part in parts.items() if len(part)}


def shared_groups(groups: Mapping[Side, np.ndarray]) -> dict[Side, np.ndarray]:
    """Return which references of each side, (references,) bool, lie in a duplicate group of both sides.

    Such references leave every comparison of the two sides. None does where there are no held-out images.

    Args:
        groups: Each reference's duplicate group by side, as `References.groups` or a run folder has them.
    """
    shared = np.intersect1d(groups["training"], groups.get("held_out", groups["training"][:0]))
    return {side: np.isin(own, shared) for side, own in groups.items()}


@dataclass(frozen=True)
class _Loaded:
    """All images of a data set, before anything is split."""

    images: np.ndarray
    labels: np.ndarray | None
    captions: list[str] | None
    families: list[str] | None
    fingerprint: str
    left_out: str
    members: np.ndarray
    """Row numbers that training images are taken from."""
    held_out: np.ndarray | None
    """Row numbers of held-out images, where they are named."""


def load_references(pair: Pair, progress: Progress = silent, *, tuning: bool = False) -> References:
    """Load a pair's images and split them, without the pair's tuning block; with `tuning` that block alone.

    Raises:
        BadInput: the file is missing or not of the expected kind, or its fingerprint is not the pinned one.
        TooFew: there are fewer images than the split asks for.
    """
    loaded, data = _load(pair.data, progress), pair.data
    if data.sha256 not in (None, loaded.fingerprint):
        raise BadInput(f"{pair.name}: the data are not the pinned ones (SHA-256 {loaded.fingerprint[:16]}...)")
    rms = data.duplicate_rms if data.split is None else data.split.duplicate_rms
    groups = _groups(loaded, rms, progress)
    units = groups if loaded.families is None else joined(groups, loaded.families)
    if data.split is None:
        nothing = np.empty(0, dtype=np.int64)
        parts = [loaded.members, nothing if loaded.held_out is None else loaded.held_out, nothing, nothing]
    else:
        allowed = loaded.members
        if data.within is not None:
            allowed = allowed[split_by_group(units[allowed], data.within)[3]]
        parts = [allowed[part] for part in split_by_group(units[allowed], data.split)]
    if data.tuning_block is not None:
        parts[:2] = _set_aside(parts[:2], units, data.tuning_block, tuning)
    sets = [_part(loaded, rows, groups) for rows in parts]
    return References(sets[0], sets[1], sets[2], sets[3], loaded.fingerprint, loaded.left_out, rms)


def load_images(data: DataSource, progress: Progress = silent) -> ImageSet:
    """Load the members of a data set in one part, each image a group of its own.

    Raises:
        BadInput: they cannot be read.
    """
    loaded = _load(data, progress)
    return _part(loaded, loaded.members, np.arange(len(loaded.images)))


def _groups(loaded: _Loaded, rms: float, progress: Progress) -> np.ndarray:
    """Return each image's duplicate group, found once per content: in this process, and from run to run."""
    key = (loaded.fingerprint, rms)
    if key not in _KNOWN_GROUPS:
        if len(_KNOWN_GROUPS) >= _MOST_KNOWN:
            _KNOWN_GROUPS.pop(next(iter(_KNOWN_GROUPS)))
        _KNOWN_GROUPS[key] = _kept_groups(loaded, rms, progress)
    return _KNOWN_GROUPS[key].copy()


def _kept_groups(loaded: _Loaded, rms: float, progress: Progress) -> np.ndarray:
    if len(loaded.images) < _LEAST_KEPT:
        return duplicate_groups(loaded.images, rms, progress)
    import torch

    def grouped() -> AttackState:
        return AttackState({"groups": torch.from_numpy(duplicate_groups(loaded.images, rms, progress))}, {})

    found = Fits({"fingerprint": loaded.fingerprint}).tensors("duplicate groups", grouped, rms=rms)
    groups: np.ndarray = found.tensors["groups"].numpy()
    return groups


def _set_aside(sides: list[np.ndarray], groups: np.ndarray, block: TuningBlock, inside: bool) -> list[np.ndarray]:
    """Return the rows of each side whose duplicate group lies in the tuning block, or those of the others."""
    known = np.unique(groups[np.concatenate(sides)])
    drawn = np.random.Generator(np.random.PCG64(block.seed)).random(len(known)) < block.share
    return [rows[np.isin(groups[rows], known[drawn == inside])] for rows in sides]


def counts(pair: Pair, progress: Progress = silent) -> tuple[int, int]:
    """Return the number of training and held-out images; named members are decoded for it, once."""
    if pair.data.tuning_block is not None:
        references = load_references(pair, progress)
        return len(references.training), len(references.held_out)
    if pair.data.split is not None:
        return pair.data.split.training, pair.data.split.held_out
    loaded = _load(pair.data, progress)
    return len(loaded.members), 0 if loaded.held_out is None else len(loaded.held_out)


def _part(loaded: _Loaded, rows: np.ndarray, groups: np.ndarray) -> ImageSet:
    labels = None if loaded.labels is None else loaded.labels[rows]
    texts = (_chosen(loaded.captions, rows), _chosen(loaded.families, rows))
    return ImageSet(take(loaded.images, rows), rows, groups[rows], labels, *texts)


def _chosen(texts: list[str] | None, positions: np.ndarray) -> list[str] | None:
    return None if texts is None else [texts[position] for position in positions]


def _captions(rows: Rows, chosen: list[tuple[str, np.ndarray]]) -> list[str] | None:
    """Return the captions of all rows; "" of rows without one, which are none of the chosen (split, row numbers).

    Raises:
        BadInput: a chosen row has no caption; which one, and how many.
    """
    if rows.captions is None:
        return None
    for split, numbers in chosen:
        lacking = [row for row in numbers.tolist() if rows.captions[row] is None]
        if lacking:
            raise BadInput(
                f"{len(lacking)} of {len(numbers)} images of split {split} have no caption, the first is row "
                f"{lacking[0] - rows.splits[split].start}: fill them in, or name the rows to use (data.members.indices)"
            )
    return [caption or "" for caption in rows.captions]


def _load(data: DataSource, progress: Progress) -> _Loaded:
    if data.members is not None:
        rows = load_rows(data, progress) if data.source in ("hub", "folder") else _arrays(data)
        held_out = None if data.held_out is None else _selected(data.held_out, rows.splits[data.held_out.split])
        members = _selected(data.members, rows.splits[data.members.split])
        if held_out is not None and np.intersect1d(members, held_out).size:
            raise BadInput("the same rows are named as members and as held out")
        chosen = [(data.members.split, members)]
        if data.held_out is not None and held_out is not None:
            chosen.append((data.held_out.split, held_out))
        captions, left_out = _captions(rows, chosen), left_out_in_words(rows.left_out)
        texts = (captions, rows.families)
        return _Loaded(rows.images, rows.labels, *texts, rows.fingerprint, left_out, members, held_out)
    if data.source == "scikit-learn-digits":
        found: tuple[np.ndarray, np.ndarray | None] = _digits()
    else:
        found = read_npz(Path(str(data.path)), str(data.images), data.labels)
    images, labels = found
    return _Loaded(images, labels, None, None, fingerprint(images), "", np.arange(len(images)), None)


def _selected(chosen: Selection, split: range) -> np.ndarray:
    """Return the row numbers of a selection, in order."""
    if chosen.indices is None:
        return np.arange(split.start, split.stop)
    wanted = np.unique(np.asarray(chosen.indices, dtype=np.int64))
    if len(wanted) < len(chosen.indices) or wanted[-1] >= len(split):
        raise BadInput(f"split {chosen.split}: indices must be different and below {len(split)}")
    return wanted + split.start


def _digits() -> tuple[np.ndarray, np.ndarray]:
    ink, labels = _read_digits()
    # 4-bit ink values 0 .. 16, scaled to 0 .. 255.
    images = np.rint(ink * (255 / 16)).astype(np.uint8)
    return images[:, None], labels.copy()


@functools.cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return ink (N, H, W) and labels (N,). scikit-learn reads them from text; several callers load the references."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _arrays(data: DataSource) -> Rows:
    """Return the arrays of both sides, one after the other, as rows of splits.

    Raises:
        BadInput: an array is missing or not of images, or the two hold images of different sizes.
    """
    splits: dict[str, range] = {}
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for split in used_splits(data):
        file, array = array_of(Selection(split=split))
        found, its_labels = read_npz(Path(file), array, data.labels)
        if images and found.shape[1:] != images[0].shape[1:]:
            shapes = " and ".join("x".join(map(str, part.shape[1:])) for part in (images[0], found))
            raise BadInput(
                f"{Path(split).name}: images of both sides must be of one size, they are {shapes} (C x H x W)"
            )
        start = sum(len(part) for part in images)
        splits[split] = range(start, start + len(found))
        images.append(found)
        labels += [] if its_labels is None else [its_labels]
    every = np.concatenate(images)
    return Rows(every, splits, np.concatenate(labels) if labels else None, None, None, fingerprint(every))


def read_npz(path: Path, name: str, labels_name: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an array of images as uint8 N x C x H x W, and one of labels where it is named.

    Raises:
        BadInput: there is no such file or array, or it holds something else.
    """
    images, labels = _read_npz(path, name, labels_name)
    _check_images(path, name, images.dtype, images.shape)
    if labels is not None and labels.shape != (len(images),):
        raise BadInput(f"{path.name}, {labels_name}: want {len(images)} labels, found shape {labels.shape}")
    images = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _check_images(path: Path, name: str, kind: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise `BadInput` where an array is not uint8 N x H x W (x C), with what to do about it."""
    if kind == np.uint8 and len(shape) in (3, 4):
        return
    said = f"{path.name}, {name}: want uint8 N x H x W (x C), found {kind} {shape}"
    if kind.kind in "fb":
        said += "; uint8 is wanted: multiply values of 0 .. 1 by 255 and round"
    elif kind.kind in "iu" and kind != np.uint8:
        said += "; uint8 is wanted: .astype(numpy.uint8) where the values are 0 .. 255"
    raise BadInput(said)


def stored_sizes(data: DataSource) -> dict[str, tuple[int, int, int]]:
    """Return (height, width, channels) of images that are taken as they are, by array; of an npz file from its headers.

    Empty for folders and the Hub, whose images are brought to the size that the pair says.

    Raises:
        BadInput: an array is missing or not of images.
    """
    if data.source == "scikit-learn-digits":
        return {data.source: (8, 8, 1)}
    if data.source != "npz":
        return {}
    places = [array_of(Selection(split=split)) for split in used_splits(data)]
    sizes = {}
    for file, name in places or [(str(data.path), str(data.images))]:
        kind, shape = _npz_header(Path(file), name)
        _check_images(Path(file), name, kind, shape)
        height, width, channels = (*shape[1:], 1)[:3]
        sizes[f"{Path(file).name}, {name}"] = (height, width, channels)
    return sizes


def npz_arrays(path: Path) -> list[str]:
    """Return the names of the arrays of an npz file.

    Raises:
        BadInput: it is none.
    """
    if not os.path.isfile(path):  # noqa: PTH113
        raise BadInput(f"no such data file: {path.name}")
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path.name} cannot be read as npz: {error}") from None


def _check_npz(path: Path) -> None:
    """Raise `BadInput` where there is no such file, or it holds no named arrays."""
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises of a name that no file system takes
        raise BadInput(f"no such data file: {path.name}")
    refuse_pointers(path.name, path.parent, [path])
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path.name} is no npz file of named arrays")


def _read_npz(path: Path, images: str, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    _check_npz(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in (images, labels):
                if name is not None and name not in arrays:
                    raise BadInput(f"{path.name} has no array {name!r}: it has {', '.join(arrays)}")
            _check_memory(path, [name for name in (images, labels) if name is not None])
            return arrays[images], None if labels is None else arrays[labels]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path.name} cannot be read as npz: {error}") from None


def _npz_header(path: Path, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Return the type and shape of an array of an npz file, which is not read for it."""
    _check_npz(path)
    if name not in (known := npz_arrays(path)):
        raise BadInput(f"{path.name} has no array {name!r}: it has {', '.join(known)}")
    try:
        with zipfile.ZipFile(path) as packed, packed.open(f"{name}.npy") as file:
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, kind = readers[np.lib.format.read_magic(file)](file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path.name}, {name} cannot be read as an array: {error}") from None
    return kind, shape


def _check_memory(path: Path, names: list[str]) -> None:
    """Refuse arrays that would not fit in memory: a small file may unpack to anything."""
    import psutil

    with zipfile.ZipFile(path) as packed:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in packed.infolist()}
    # Twice: the file's order of axes, and then the one that is worked with.
    needed, free = 2 * sum(sizes.get(name.removesuffix(".npy"), 0) for name in names), psutil.virtual_memory().available
    if needed > free:
        raise BadInput(
            f"{path.name}: {needed / 1e9:.1f} GB of memory are needed for {' and '.join(names)}, {free / 1e9:.1f} GB "
            "are free; save the images as files or in parquet, which are read in blocks"
        )
