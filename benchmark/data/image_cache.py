"""Images of a data set, through `datasets`: decoded as a stream, kept memory-mapped.

The cache holds one file of uint8 pixels for all rows of all splits that a pair uses, in their order, and one of
labels and captions. Its key is made of the files' content (the commit and names, or SHA-256 of local files) and of
everything that decoding depends on; nothing in it is a name that could mean something else tomorrow. What was changed
or cut since it was written is decoded again.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts import ImageForm, Progress
from ..errors import BadInput, CorruptRun
from ..files import cannot_write, read_json, remove_leftovers, sha256, write_atomic, write_checked_json
from ..progress import say, silent
from . import decode
from .dataset_files import ImageFiles, fetch_data, locate, quiet, used_splits
from .folder_files import METADATA, in_words
from .hub import cache, unusable_cache
from .pair import DataSource

_MOST = 2**32
"""Bytes of the largest list of labels and captions that is read."""

BLOCK = 512
"""Images that are held in memory at a time."""

READER = 2
"""Raised whenever labels, captions or the choice of rows may change; part of the cache's key."""


@dataclass(frozen=True)
class Rows:
    """All rows of the splits that a pair uses, one split after the other."""

    images: np.ndarray
    """uint8, N x C x H x W, memory-mapped."""
    splits: Mapping[str, range]
    """Row numbers of each split."""
    labels: np.ndarray | None
    captions: list[str | None] | None
    """None of a row: it has no caption."""
    families: list[str] | None
    """What a split keeps whole."""
    fingerprint: str
    """SHA-256 over the shape and bytes of all images."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of files of the data set that are not read, by kind."""


def load_rows(data: DataSource, progress: Progress = silent) -> Rows:
    """Return all rows of the splits that a pair uses, from the cache or decoded into it.

    Raises:
        BadInput: a column does not exist, or a row holds no image.
    """
    source = locate(data)
    columns = {"image": data.images, "label": data.labels, "caption": data.captions}
    if data.families is not None:  # so that what was decoded of data without families is found again
        columns["family"] = data.families
    how = {"decoder": decode.VERSION, "reader": READER, "size": data.size, "channels": data.channels, "crop": data.crop}
    key = hashlib.sha256(
        json.dumps([used_splits(data), source.content, columns, how], sort_keys=True).encode()
    ).hexdigest()[:32]
    folder = cache() / "images" / key
    remove_leftovers(folder)
    if not _is_whole(folder, ("pixels.u8", "texts.json"), "rows.json"):
        if data.source == "hub":
            fetch_data(data).unchanged()
        _make(folder, str(data.repo or data.path))
        _decode_all(data, source, folder, progress)
    rows = _open(folder)
    found = replace(rows, left_out={**source.left_out, **rows.left_out})
    _say_once(left_out_in_words(found.left_out))
    return found


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """Say what of a data set is not read, by kind; nothing where all of it is."""
    if not left_out:
        return ""
    count = sum(left_out.values())
    files = "1 file of the data set is" if count == 1 else f"{count:,} files of the data set are"
    return f"{files} not read: {in_words(left_out)}"


@functools.cache
def _say_once(line: str) -> None:
    if line:
        say(line)


def _make(folder: Path, owner: str) -> None:
    """Make a folder of the cache.

    Raises:
        BadInput: its place may not be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable_cache(f"images of {owner}", error) or cannot_write(folder, error) from None


def _is_whole(folder: Path, names: Sequence[str], note: str) -> bool:
    """Return whether files are the ones that a note beside them, written last, gives the SHA-256 of.

    Where the note is there and they are not, a line says so. A file is hashed once in a process, unless it changed.
    """
    if not os.path.isfile(folder / note):  # noqa: PTH113  Path.is_file raises where it may not look
        return False
    with suppress(CorruptRun, BadInput, OSError):
        stated = read_json(folder / note).get("files", {})
        if all(sha256(folder / name) == stated.get(name) for name in names):
            return True
    say(f"decoded images in {folder} ({names[0]}) were changed or cut; they are made again")
    return False


def _note(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: sha256(folder / name) for name in names}


def fingerprint(images: np.ndarray) -> str:
    """Return SHA-256 over the shape and bytes of images."""
    digest = hashlib.sha256(f"{images.shape}".encode())
    for block in blocks(images):
        digest.update(block.tobytes())
    return digest.hexdigest()


def blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all images in blocks; a memory-mapped set is read from its file, so that no page of it stays resident."""
    file = _file_of(images)
    for start in range(0, len(images), BLOCK):
        stop = min(start + BLOCK, len(images))
        if file is None:
            yield images[start:stop]
        else:
            size = images[0].size
            yield np.fromfile(file, np.uint8, (stop - start) * size, offset=start * size).reshape(-1, *images.shape[1:])


def take(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some images: a view where they are consecutive; of a memory-mapped set never a copy in memory."""
    if len(rows) and (np.diff(rows) == 1).all():
        return images[rows[0] : rows[-1] + 1]
    whole = _file_of(images)
    if whole is None or not len(rows):
        copied: np.ndarray = images[rows]
        return copied
    file = whole.with_name(f"part-{hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()[:32]}.u8")
    note = file.with_suffix(".json")
    if not _is_whole(file.parent, (file.name,), note.name):
        write_atomic(file, lambda part: _gather(whole, images[0].size, rows, part))
        write_checked_json(note, {"files": _note(file.parent, (file.name,))})
    part: np.ndarray = np.memmap(file, dtype=np.uint8, mode="c", shape=(len(rows), *images.shape[1:]))
    return part


def _file_of(images: np.ndarray) -> Path | None:
    """Return the file that holds exactly these images; a view of some rows of a file is not such a one."""
    if not isinstance(images, np.memmap) or images.filename is None:
        return None
    file = Path(images.filename)
    return file if file.stat().st_size == images.nbytes else None


def _gather(whole: Path, size: int, rows: np.ndarray, file: Path) -> None:
    # Read, not mapped: pages of a mapped file that were touched stay resident.
    with whole.open("rb") as source, file.open("wb") as out:
        for row in rows.tolist():
            source.seek(row * size)
            out.write(source.read(size))


def _open(folder: Path) -> Rows:
    info, texts = read_json(folder / "rows.json", _MOST), read_json(folder / "texts.json", _MOST)
    splits, first = {}, 0
    for split, count in info["splits"]:
        splits[split] = range(first, first + count)
        first += count
    labels = None if texts["labels"] is None else np.array(texts["labels"], dtype=np.int64)
    mapped = _mapped(folder, info["shape"])
    return Rows(mapped, splits, labels, texts["captions"], texts.get("families"), info["sha256"], info["left_out"])


def _mapped(folder: Path, shape: list[int]) -> np.ndarray:
    # "c": pages are read when they are touched, and torch takes the array without a warning that it is read-only.
    mapped: np.ndarray = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="c", shape=tuple(shape))
    return mapped


@dataclass
class _Texts:
    """What stands beside the pixels of all rows."""

    counts: dict[str, int] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    without_row: Counter[str] = field(default_factory=Counter)
    """Image files that no row names, by extension."""


def _decode_all(data: DataSource, source: ImageFiles, folder: Path, progress: Progress) -> None:
    """Write pixels, labels and captions; rows.json comes last and says that all is there."""
    assert data.size is not None
    texts = _Texts()
    write_atomic(folder / "pixels.u8", lambda file: _decode(data, source, file, texts, progress))
    labels, captions = texts.labels if data.labels else None, texts.captions if data.captions else None
    families = {"families": texts.families} if data.families else {}
    write_checked_json(folder / "texts.json", {"labels": labels, "captions": captions, **families})
    shape = [sum(texts.counts.values()), data.channels, data.size, data.size]
    found = {
        "shape": shape,
        "splits": list(texts.counts.items()),
        "sha256": fingerprint(_mapped(folder, shape)),
        "left_out": {f"{kind} without a row of metadata": count for kind, count in texts.without_row.items()},
    }
    write_checked_json(folder / "rows.json", {**found, "files": _note(folder, ("pixels.u8", "texts.json"))})


def _decode(data: DataSource, source: ImageFiles, file: Path, texts: _Texts, progress: Progress) -> None:
    with file.open("wb") as out:
        for split in used_splits(data):
            files = source.files[split]
            reader = _Reader(data, f"{split} of {data.repo or Path(str(data.path)).name}", files)
            done = 0
            for row in _stream(source, files, reader.owner):
                out.write(reader.pixels(row, done))
                texts.labels += reader.label(row)
                texts.captions += reader.caption(row, done)
                texts.families += reader.family(row, done)
                done += 1
                if done % BLOCK == 0:
                    progress(f"decoding {split}", done, max(done, source.rows.get(split, 0)))
            if not done:
                raise BadInput(f"{reader.owner}: the split is empty")
            texts.counts[split] = done
            texts.without_row += reader.without_row()


def first_form(data: DataSource) -> ImageForm:
    """Return the size and channels of the first image of the first split that a data source uses; others must agree.

    Raises:
        BadInput: it cannot be read, or is not square.
    """
    source, split = locate(data), used_splits(data)[0]
    reader = _Reader(data, str(data.repo or Path(str(data.path)).name), source.files[split])
    row = next(_stream(source, source.files[split], reader.owner), None)
    if row is None:
        raise BadInput(f"{reader.owner} holds no image")
    height, width, channels = decode.shape_of(reader.image(row, 0))
    if height != width:
        raise BadInput(f"{reader.owner}: the first image is {height}x{width}; square ones can be scored")
    return ImageForm(size=height, channels=channels, crop="none")


def _stream(source: ImageFiles, files: list[Path], owner: str) -> Iterator[dict[str, Any]]:
    """Yield rows with undecoded image columns.

    Raises:
        BadInput: a file is damaged.
    """
    with quiet() as datasets:
        features = None if source.features is None else datasets.Features.from_dict(source.features)
        # A list of this kind is taken as it is; of any other, each name is a pattern, in which brackets mean a letter.
        listed = datasets.data_files.DataFilesList([str(file) for file in files], [()] * len(files))
        given = {"rows": listed}
        try:
            rows = datasets.load_dataset(
                source.builder, data_files=given, split="rows", streaming=True, features=features
            )
            for name, feature in (rows.features or {}).items():
                if isinstance(feature, datasets.Image):
                    rows = rows.cast_column(name, datasets.Image(decode=False))
            yield from rows
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, OSError) and error.filename not in listed and (place := unusable_cache(owner, error)):
                raise place from None
            raise BadInput(f"{owner} cannot be read ({type(error).__name__}): a file is damaged") from None


class _Reader:
    """Takes image, label and caption out of the rows of one split."""

    def __init__(self, data: DataSource, owner: str, files: list[Path]) -> None:
        self.data, self.owner = data, owner
        self.files = {str(file) for file in files}
        self.column = data.images
        self._named: set[str] = set()

    def pixels(self, row: dict[str, Any], number: int) -> bytes:
        """Return the decoded image."""
        assert self.data.size is not None
        value = self.image(row, number)
        try:
            return decode.decode(value, self.data.size, self.data.channels, self.data.crop).tobytes()
        except BadInput as error:
            raise BadInput(f"{self.owner}, row {number}, column {self.column!r}: {error}") from None

    def image(self, row: dict[str, Any], number: int) -> Any:
        """Return the image as it stands in the row."""
        self.column = self.column or _only_image(row, self.owner)
        value = self._value(row, self.column)
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path") not in self.files:
            # Only files of the data set itself are opened: a row may name any path on this machine.
            raise BadInput(f"{self.owner}, row {number}: column {self.column!r} holds no image")
        if isinstance(value, dict) and value.get("path") in self.files:
            self._named.add(value["path"])
        return value

    def label(self, row: dict[str, Any]) -> list[int]:
        """Return the class label, if there is a column of them."""
        if self.data.labels is None:
            return []
        value = self._value(row, self.data.labels)
        if not isinstance(value, int):
            raise BadInput(f"{self.owner}: column {self.data.labels!r} holds {type(value).__name__}, not class numbers")
        return [value]

    def caption(self, row: dict[str, Any], number: int) -> list[str | None]:
        """Return the caption, the first where a row has several, if there is a column of them; None if it has none.

        Raises:
            BadInput: the column holds something else than text.
        """
        if self.data.captions is None:
            return []
        value = self._value(row, self.data.captions)
        several = value if isinstance(value, list) else [value]
        found = next((text for text in several if text is not None), None)
        if found is not None and not isinstance(found, str):
            kind = type(found).__name__
            raise BadInput(f"{self.owner}, row {number}: column {self.data.captions!r} holds {kind}, not captions")
        return [found]

    def family(self, row: dict[str, Any], number: int) -> list[str]:
        """Return the row's family, if there is a column of them.

        Raises:
            BadInput: the column holds something else than text.
        """
        if self.data.families is None:
            return []
        value = self._value(row, self.data.families)
        if not isinstance(value, str):
            kind = type(value).__name__
            raise BadInput(f"{self.owner}, row {number}: column {self.data.families!r} holds {kind}, not families")
        return [value]

    def without_row(self) -> Counter[str]:
        """Count the image files that no row named, by extension; nothing where the images are no files."""
        if not self._named:
            return Counter()
        unnamed = (Path(file) for file in self.files - self._named)
        return Counter(file.suffix.lower() for file in unnamed if file.name not in METADATA)

    def _value(self, row: dict[str, Any], column: str) -> Any:
        if column not in row:
            raise BadInput(f"{self.owner} has no column {column!r}: it has {', '.join(row)}")
        return row[column]


def _only_image(row: dict[str, Any], owner: str) -> str:
    """Return the one column that holds images."""
    found = [name for name, value in row.items() if isinstance(value, dict) and value.keys() >= {"bytes", "path"}]
    if len(found) != 1:
        raise BadInput(f"{owner}: name the image column (data.images): the columns are {', '.join(row)}")
    return found[0]
