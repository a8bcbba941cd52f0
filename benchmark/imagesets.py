"""Images of a data set, through `datasets`: fetched at one commit, decoded as a stream, kept memory-mapped.

The cache holds one file of uint8 pixels for all rows of all splits that a pair uses, in their order, and one of
labels and captions. Its key is made of the files' content (the commit and names, or SHA-256 of local files) and of
everything that decoding depends on; nothing in it is a name that could mean something else tomorrow.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import decoding, hub
from .contracts import Progress
from .download import Fetched, Listing, cache, download, explained, look_up, recall, remember
from .errors import BadInput
from .pairs import DataSource
from .progress import silent
from .store import read_json, write_atomic, write_json

BLOCK = 512
"""Images that are held in memory at a time."""


@dataclass(frozen=True)
class Rows:
    """All rows of the splits that a pair uses, one split after the other."""

    images: np.ndarray
    """uint8, N x C x H x W, memory-mapped."""
    splits: Mapping[str, range]
    """Row numbers of each split."""
    labels: np.ndarray | None
    captions: list[str] | None
    fingerprint: str
    """SHA-256 over the shape and bytes of all images."""


@dataclass(frozen=True)
class Source:
    """Local files by split, and how `datasets` reads them."""

    builder: str
    files: Mapping[str, list[Path]]
    features: dict[str, Any] | None
    rows: Mapping[str, int]
    """Number of rows by split, where the data set says it."""
    content: Mapping[str, Any]
    """What the files' content is known by."""


# ---- Where the files are ----------------------------------------------------------------------------


def fetch_data(data: DataSource, again: bool = False) -> Fetched:
    """Return the files of the splits that a pair uses, at one commit.

    Raises:
        BadInput: no such repository, revision, configuration or split; or it needs Python code of its own.
        CannotReach: the Hub cannot be reached, or a download broke off.
    """
    known = None if again else recall_data(data)
    if known is not None:
        return known
    found, names, details = find_data_files(data)
    download(found, names)
    return remember(found, names, _data_key(data), details)


def recall_data(data: DataSource) -> Fetched | None:
    """Return what was fetched of a data repository before."""
    assert data.repo is not None
    return recall("dataset", data.repo, data.revision, _data_key(data))


def _data_key(data: DataSource) -> dict[str, Any]:
    return {"config": data.config, "splits": used_splits(data)}


def find_data_files(data: DataSource) -> tuple[Listing, list[str], dict[str, Any]]:
    """Return a data repository's listing, the files that would be downloaded of it, and how to read them."""
    assert data.repo is not None
    found = look_up("dataset", data.repo, data.revision)
    if found.gated and found.sizes:
        download(found, [min(found.sizes, key=lambda name: found.sizes[name])])  # says whether this user may
    with explained("dataset", data.repo, data.revision):
        details = describe(data.repo, found.commit, data.config)
    splits = used_splits(data)
    unknown = [split for split in splits if split not in details["files"]]
    if unknown:
        raise BadInput(f"dataset {data.repo} has no split {unknown[0]!r}: it has {', '.join(details['files'])}")
    details["files"] = {split: details["files"][split] for split in splits}
    return found, sorted({name for listed in details["files"].values() for name in listed}), details


def describe_source(data: DataSource) -> tuple[dict[str, Any] | None, str]:
    """Return the columns' types, where the data set states them, and the licence that its card names."""
    if data.source == "hub":
        known = recall_data(data)
        if known is not None:
            return known.details["features"], known.licence
        found, _, details = find_data_files(data)
        return details["features"], found.licence
    return describe(str(Path(str(data.path)).resolve()), None, data.config)["features"], "not stated"


def used_splits(data: DataSource) -> list[str]:
    """Return the names of the splits that a pair uses, in the order of their rows."""
    return list(dict.fromkeys(chosen.split for chosen in (data.members, data.held_out) if chosen is not None))


def describe(repo: str, commit: str | None, config: str | None) -> dict[str, Any]:
    """Return how `datasets` reads a repository (or a local folder): builder, files by split, features.

    Raises:
        BadInput: there is no such configuration, or the data need Python code of their own.
    """
    with quiet() as datasets:
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=commit)
        except (RuntimeError, ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise BadInput(_why_not(repo, error)) from None
    prefix = f"hf://datasets/{repo}@{commit}/"
    files = {
        str(split): [str(file).removeprefix(prefix) for file in listed]
        for split, listed in (builder.config.data_files or {}).items()
    }
    features, counts = builder.info.features, builder.info.splits or {}
    return {
        "builder": builder.name,
        "files": files,
        "rows": {split: int(counts[split].num_examples or 0) for split in files if split in counts},
        "features": None if features is None else features.to_dict(),
    }


def _why_not(repo: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "scripts are no longer supported" in said:
        return f"dataset {repo} is a Python script of its own, which sidebench does not run"
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"dataset {repo}: {said[:300]}"
    return f"dataset {repo} holds no images or tables that can be read ({type(error).__name__})"


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Yield the module `datasets`, without its progress bars and without the request that counts downloads."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if not shown:
            datasets.enable_progress_bars()


def locate(data: DataSource) -> Source:
    """Return the local files of a pair's data; a repository that was not fetched yet is fetched now."""
    if data.source == "hub":
        fetched = fetch_data(data)
        folder, how = fetched.folder(), fetched.details
        files = {split: [folder / name for name in names] for split, names in how["files"].items()}
        content = {"repo": fetched.repo, "commit": fetched.commit, "files": how["files"]}
        return Source(how["builder"], files, how["features"], how["rows"], content)
    assert data.path is not None
    if not Path(data.path).is_dir():
        raise BadInput(f"no such folder of images: {Path(data.path).name}")
    how = describe(str(Path(data.path).resolve()), None, data.config)
    files = {split: [Path(name) for name in names] for split, names in how["files"].items()}
    for split in used_splits(data):
        if split not in files:
            raise BadInput(f"{Path(data.path).name} has no split {split!r}: it has {', '.join(files)}")
    used = {split: files[split] for split in used_splits(data)}
    content = {"files": {split: [[f.name, hub.sha256(f)] for f in listed] for split, listed in used.items()}}
    return Source(how["builder"], used, how["features"], how["rows"], content)


# ---- Decoding into the cache ------------------------------------------------------------------------


def load_rows(data: DataSource, progress: Progress = silent) -> Rows:
    """Return all rows of the splits that a pair uses, from the cache or decoded into it.

    Raises:
        BadInput: a column does not exist, or a row holds no image.
    """
    source = locate(data)
    columns = {"image": data.images, "label": data.labels, "caption": data.captions}
    how = {"decoder": decoding.VERSION, "size": data.size, "channels": data.channels, "crop": data.crop}
    key = hashlib.sha256(
        json.dumps([used_splits(data), source.content, columns, how], sort_keys=True).encode()
    ).hexdigest()[:32]
    folder = cache() / "images" / key
    if not (folder / "rows.json").is_file():
        _decode_all(data, source, folder, progress)
    return _open(folder)


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
    if not file.is_file():
        write_atomic(file, lambda part: _gather(whole, images[0].size, rows, part))
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
    info, texts = read_json(folder / "rows.json"), read_json(folder / "texts.json")
    splits, first = {}, 0
    for split, count in info["splits"]:
        splits[split] = range(first, first + count)
        first += count
    labels = None if texts["labels"] is None else np.array(texts["labels"], dtype=np.int64)
    return Rows(_mapped(folder, info["shape"]), splits, labels, texts["captions"], info["sha256"])


def _mapped(folder: Path, shape: list[int]) -> np.ndarray:
    # "c": pages are read when they are touched, and torch takes the array without a warning that it is read-only.
    mapped: np.ndarray = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="c", shape=tuple(shape))
    return mapped


@dataclass
class _Texts:
    """What stands beside the pixels of all rows."""

    counts: dict[str, int] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def _decode_all(data: DataSource, source: Source, folder: Path, progress: Progress) -> None:
    """Write pixels, labels and captions; rows.json comes last and says that all is there."""
    assert data.size is not None
    texts = _Texts()
    write_atomic(folder / "pixels.u8", lambda file: _decode(data, source, file, texts, progress))
    labels, captions = texts.labels if data.labels else None, texts.captions if data.captions else None
    write_json(folder / "texts.json", {"labels": labels, "captions": captions})
    shape = [sum(texts.counts.values()), data.channels, data.size, data.size]
    found = {"shape": shape, "splits": list(texts.counts.items()), "sha256": fingerprint(_mapped(folder, shape))}
    write_json(folder / "rows.json", found)


def _decode(data: DataSource, source: Source, file: Path, texts: _Texts, progress: Progress) -> None:
    with file.open("wb") as out:
        for split in used_splits(data):
            files = source.files[split]
            reader = _Reader(data, f"{split} of {data.repo or Path(str(data.path)).name}", files)
            done = 0
            for row in _stream(source, files, reader.owner):
                out.write(reader.pixels(row, done))
                texts.labels += reader.label(row)
                texts.captions += reader.caption(row)
                done += 1
                if done % BLOCK == 0:
                    progress(f"decoding {split}", done, max(done, source.rows.get(split, 0)))
            if not done:
                raise BadInput(f"{reader.owner}: the split is empty")
            texts.counts[split] = done


def _stream(source: Source, files: list[Path], owner: str) -> Iterator[dict[str, Any]]:
    """Yield rows with undecoded image columns.

    Raises:
        BadInput: a file is damaged.
    """
    with quiet() as datasets:
        features = None if source.features is None else datasets.Features.from_dict(source.features)
        given = {"rows": [str(file) for file in files]}
        try:
            rows = datasets.load_dataset(
                source.builder, data_files=given, split="rows", streaming=True, features=features
            )
            for name, feature in (rows.features or {}).items():
                if isinstance(feature, datasets.Image):
                    rows = rows.cast_column(name, datasets.Image(decode=False))
            yield from rows
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise BadInput(f"{owner} cannot be read ({type(error).__name__}): a file is damaged") from None


class _Reader:
    """Takes image, label and caption out of the rows of one split."""

    def __init__(self, data: DataSource, owner: str, files: list[Path]) -> None:
        self.data, self.owner = data, owner
        self.files = {str(file) for file in files}
        self.column = data.images

    def pixels(self, row: dict[str, Any], number: int) -> bytes:
        """Return the decoded image."""
        assert self.data.size is not None
        self.column = self.column or _only_image(row, self.owner)
        value = self._value(row, self.column)
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path") not in self.files:
            # Only files of the data set itself are opened: a row may name any path on this machine.
            raise BadInput(f"{self.owner}, row {number}: column {self.column!r} holds no image")
        try:
            return decoding.decode(value, self.data.size, self.data.channels, self.data.crop).tobytes()
        except BadInput as error:
            raise BadInput(f"{self.owner}, row {number}, column {self.column!r}: {error}") from None

    def label(self, row: dict[str, Any]) -> list[int]:
        """Return the class label, if there is a column of them."""
        if self.data.labels is None:
            return []
        value = self._value(row, self.data.labels)
        if not isinstance(value, int):
            raise BadInput(f"{self.owner}: column {self.data.labels!r} holds {type(value).__name__}, not class numbers")
        return [value]

    def caption(self, row: dict[str, Any]) -> list[str]:
        """Return the caption, the first where a row has several, if there is a column of them."""
        if self.data.captions is None:
            return []
        value = self._value(row, self.data.captions)
        return [str(value[0] if isinstance(value, list) and value else value)]

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
