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
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts import ImageForm, Progress
from ..errors import BadInput, CorruptRun
from ..files import DAY, cannot_write, read_json, remove_leftovers, sha256, short_hash, write_atomic, write_checked_json
from ..progress import say, silent
from . import decode
from .archives import Unpacked, unpack
from .dataset_files import ImageFiles, fetch_data, locate, quiet, used_splits
from .folder_files import IMAGES, in_words, is_image, is_metadata
from .hub import cache, unusable_cache
from .pair import DataSource

_MOST = 2**32
"""Bytes of the largest list of labels and captions that is read."""

BLOCK = 512
"""Images that are held in memory at a time."""

READER = 3
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
    say(f"decoded images in {folder} ({names[0]}) were changed or cut; they are decoded again")
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
    left_out: Counter[str] = field(default_factory=Counter)
    """Image files that no row names, and files in archives that are no images, by kind."""


def _decode_all(data: DataSource, source: ImageFiles, folder: Path, progress: Progress) -> None:
    """Write pixels, labels and captions; rows.json comes last and says that all is there."""
    assert data.size is not None
    texts = _Texts()
    with _room(folder) as room:
        write_atomic(folder / "pixels.u8", lambda file: _decode(data, source, file, texts, room, progress))
    labels, captions = texts.labels if data.labels else None, texts.captions if data.captions else None
    families = {"families": texts.families} if data.families else {}
    write_checked_json(folder / "texts.json", {"labels": labels, "captions": captions, **families})
    shape = [sum(texts.counts.values()), data.channels, data.size, data.size]
    found = {
        "shape": shape,
        "splits": list(texts.counts.items()),
        "sha256": fingerprint(_mapped(folder, shape)),
        "left_out": dict(texts.left_out),
    }
    write_checked_json(folder / "rows.json", {**found, "files": _note(folder, ("pixels.u8", "texts.json"))})


@contextmanager
def _room(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for what has to be unpacked, and remove it, as well as those that killed processes left."""
    for left in folder.glob(".unpacked-*"):
        if time.time() - left.stat().st_mtime >= DAY:
            shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacked-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _decode(data: DataSource, source: ImageFiles, file: Path, texts: _Texts, room: Path, progress: Progress) -> None:
    with file.open("wb") as out:
        for split in used_splits(data):
            owner = f"{split} of {data.repo or Path(str(data.path)).name}"
            place = room / short_hash(split)
            place.mkdir()
            read = unpack(source.builder, source.files[split], data.images, place)
            reader = _Reader(data, owner, read.files, source.elsewhere, room)
            done, known = 0, source.rows.get(split, 0) or _rows_of(read)
            for row in _stream(read, source.features, owner):
                if reader.is_of_another_split(row):
                    continue
                out.write(reader.pixels(row, done))
                texts.labels += reader.label(row)
                texts.captions += reader.caption(row, done)
                texts.families += reader.family(row, done)
                done += 1
                if done % BLOCK == 0:
                    progress(f"decoding {split}", done, max(known, done + 1))
            if not done:
                raise BadInput(f"{owner}: the split is empty")
            if done >= BLOCK:
                progress(f"decoding {split}", done, done)
            texts.counts[split] = done
            texts.left_out += reader.without_row() + read.left_out
            shutil.rmtree(place)


def _rows_of(read: Unpacked) -> int:
    """Return how many rows are to be expected: image files, or rows of parquet files; 0 where only reading tells."""
    if read.builder == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return sum(pq.read_metadata(file).num_rows for file in read.files)
        except (pa.ArrowException, OSError):
            return 0  # what is wrong is said where the rows are read
    return sum(map(is_image, read.files)) if read.builder == IMAGES else 0


def first_form(data: DataSource) -> ImageForm:
    """Return the size and channels of the first image of the first split that a data source uses; others must agree.

    Raises:
        BadInput: it cannot be read, or is not square.
    """
    source, split = locate(data), used_splits(data)[0]
    owner = str(data.repo or Path(str(data.path)).name)
    with tempfile.TemporaryDirectory() as room:
        read = unpack(source.builder, source.files[split], data.images, Path(room))
        reader = _Reader(data, owner, read.files, source.elsewhere, Path(room))
        row = next(_stream(read, source.features, owner), None)
        if row is None:
            raise BadInput(f"{owner} holds no image")
        height, width, channels = decode.shape_of(reader.image(row, 0))
    if height != width:
        raise BadInput(f"{owner}: the first image is {height}x{width}; square ones can be scored")
    return ImageForm(size=height, channels=channels, crop="none")


def _stream(read: Unpacked, types: dict[str, Any] | None, owner: str) -> Iterator[dict[str, Any]]:
    """Yield rows with undecoded image columns.

    Raises:
        BadInput: a file is damaged, or the files do not make a table.
    """
    with quiet() as datasets:
        features = None if types is None else datasets.Features.from_dict(types)
        # A list of this kind is taken as it is; of any other, each name is a pattern, in which brackets mean a letter.
        listed = datasets.data_files.DataFilesList([str(file) for file in read.files], [()] * len(read.files))
        given = {"rows": listed}
        try:
            rows = datasets.load_dataset(
                read.builder, data_files=given, split="rows", streaming=True, features=features, **read.options
            )
            for name, feature in (rows.features or {}).items():
                if isinstance(feature, datasets.Image):
                    rows = rows.cast_column(name, datasets.Image(decode=False))
            yield from rows
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, OSError) and error.filename not in listed and (place := unusable_cache(owner, error)):
                raise place from None
            raise BadInput(f"{owner} cannot be read: {_why_not(error, read.files)}") from None


_SAID = {
    "must be present as dictionary key in metadata": "its table of metadata has no column file_name",
    "metadata files with different extensions": "it has tables of metadata of several kinds; keep one",
    "Invalid metadata file_name": "its table of metadata names a path outside of the folder",
    "don't share the same prefix or the same types": "the rows of its tar archives are of different kinds of files",
    "Duplicate field": "a tar archive of it holds a file twice",
}
"""What is wrong, by a part of the sentence in which `datasets` says it."""


def _why_not(error: Exception, files: Sequence[Path]) -> str:
    """Return why rows cannot be read; nothing of a row itself."""
    said = " ".join(str(error).split())
    known = next((words for part, words in _SAID.items() if part in said), None)
    if known is None:
        broken = next((file for file in files if file.suffix == ".parquet" and not _is_parquet(file)), None)
        known = f"{'a file' if broken is None else broken.name} is damaged ({type(error).__name__})"
    return known


def _is_parquet(file: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return False
    return True


class _Reader:
    """Takes image, label and caption out of the rows of one split."""

    def __init__(
        self, data: DataSource, owner: str, files: Sequence[Path], elsewhere: Collection[str], room: Path
    ) -> None:
        self.data, self.owner, self.elsewhere, self.room = data, owner, elsewhere, room
        self.files = {str(file) for file in files}
        self.column = data.images
        self._named: set[str] = set()

    def is_of_another_split(self, row: dict[str, Any]) -> bool:
        """Return whether a table of metadata that several splits share names an image of another one here."""
        if not self.elsewhere:
            return False
        self.column = self.column or only_image(row, self.owner)
        value = row.get(self.column)
        path = value.get("path") if isinstance(value, dict) else None
        return path in self.elsewhere and path not in self.files

    def pixels(self, row: dict[str, Any], number: int) -> bytes:
        """Return the decoded image."""
        assert self.data.size is not None
        value = self.image(row, number)
        path = value.get("path") if isinstance(value, dict) else None
        try:
            return decode.decode(value, self.data.size, self.data.channels, self.data.crop).tobytes()
        except BadInput as error:
            raise BadInput(f"{self._where(number)}{self._shown(path)}: {error}") from None

    def image(self, row: dict[str, Any], number: int) -> Any:
        """Return the image as it stands in the row."""
        self.column = self.column or only_image(row, self.owner)
        value = self._value(row, self.column)
        where = self._where(number)
        if why := no_image(value):
            raise BadInput(f"{where} {why}")
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(value, dict) and value.get("bytes") is None and path not in self.files:
            # Only files of the data set itself are opened: a row may name any path on this machine.
            raise BadInput(f"{where} holds no image: it names {Path(str(path)).name}, which is no file of the split")
        if path in self.files:
            self._named.add(path)
        return value

    def _where(self, number: int) -> str:
        return f"{self.owner}, row {number}, column {self.column!r}"

    def _shown(self, path: str | None) -> str:
        """Return how a message names an image's file: with its folder, or with the archive that it came from."""
        if path is None:
            return ""
        file = Path(path)
        if file.is_relative_to(self.room):
            return f", file {file.relative_to(self.room).as_posix().split('/', 1)[1].split('-', 1)[1]}"
        return f", file {'/'.join(file.parts[-2:])}"

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
        """Count the image files that no row named, by kind; nothing where the images are no files."""
        if not self._named:
            return Counter()
        unnamed = (Path(file) for file in self.files - self._named)
        kinds = Counter(file.suffix.lower() for file in unnamed if not is_metadata(file))
        return Counter({f"{kind} without a row of metadata": count for kind, count in kinds.items()})

    def _value(self, row: dict[str, Any], column: str) -> Any:
        if column not in row:
            raise BadInput(f"{self.owner} has no column {column!r}: it has {', '.join(row)}")
        return row[column]


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def no_image(value: Any) -> str | None:
    """Say what a value is that is no image, to end a sentence about its column; None where it may be one."""
    match value:
        case None | {"bytes": None, "path": None}:
            return "holds no image: it is empty"
        case str() if _ADDRESS.match(value):
            return "holds addresses, not images: download them first, and name the folder that they are in"
        case str():
            return "holds text, not images"
        case bool() | int() | float():
            return "holds numbers, not images"
    return None


def only_image(row: dict[str, Any], owner: str) -> str:
    """Return the one column that holds images.

    Raises:
        BadInput: there is none, or more than one.
    """
    found = [name for name, value in row.items() if isinstance(value, dict) and value.keys() >= {"bytes", "path"}]
    if len(found) == 1:
        return found[0]
    addresses = [name for name, value in row.items() if isinstance(value, str) and _ADDRESS.match(value)]
    if not found and addresses:
        raise BadInput(f"{owner}: no column holds images; {addresses[0]!r} {no_image(row[addresses[0]])}")
    which = "several columns hold" if found else "no column is known to hold"
    raise BadInput(f"{owner}: {which} images: name one (--image-column, data.images); the columns are {', '.join(row)}")
