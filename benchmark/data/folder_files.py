"""Which files of a local folder are read, by split, and how many of which kind are not.

The splits are those that `datasets` would find. Which files hold images is decided here: `datasets` knows an extension
in two spellings (.png, .PNG), drops the other files without a word, and takes brackets in a path for a pattern.
"""

import functools
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple, TypeVar

from ..errors import BadInput

P = TypeVar("P", bound=PurePath)

IMAGES = "imagefolder"
"""The builder of `datasets` that reads image files."""

WEBDATASET = "webdataset"
"""The builder of `datasets` that reads tar archives, in which the files of one name make a row."""

ARCHIVE_EXTENSIONS = (".zip", ".tar")

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables beside image files: a row per image."""

_COMPANIONS = {"readme.md", "readme.txt", "license", "license.md", "license.txt", "thumbs.db", "desktop.ini"}
"""Files that are no data, in lower case. Hidden files are none either."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")


class FolderFiles(NamedTuple):
    """The files of a folder that are read, and the others."""

    builder: str
    """How `datasets` reads them."""
    files: dict[str, list[Path]]
    """By split, in the order of their rows."""
    left_out: dict[str, int]
    """Number of files that are not read, by kind."""


def states_its_files(folder: Path) -> bool:
    """Return whether the folder's own card says which files make up which split, or of what types the columns are."""
    if any((folder / name).is_file() for name in (".huggingface.yaml", "dataset_infos.json")):
        return True
    card = folder / "README.md"
    if not card.is_file():
        return False
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return front is not None and re.search(r"^(configs|dataset_info):", front[1], re.MULTILINE) is not None


def list_folder(folder: Path) -> FolderFiles:
    """Return the files of an absolute folder without a card; images where there are as many of them as of any table.

    Raises:
        BadInput: nothing in it can be read.
    """
    listed, names = _by_split(folder), everything(folder)
    kinds = Counter(kind for files in listed.values() for file in files if (kind := _builder_of(extension(file))))
    if not kinds:
        raise nothing_to_read(str(folder), names)
    builder = max(kinds, key=lambda kind: (kinds[kind], kind == IMAGES, kind == "parquet", kind))
    read = {split: [file for file in files if _is_read(file, builder)] for split, files in listed.items()}
    if builder == IMAGES:
        shared = [folder / name for name in names if is_metadata(name) and names_files(folder / name)]
        read = with_shared_metadata(read, shared)
    return FolderFiles(builder, read, left_out(names, _names(read, folder), _names(listed, folder)))


def nothing_to_read(owner: str, names: Iterable[str]) -> BadInput:
    """Return what to raise where none of the files holds images or tables."""
    held = in_words(left_out(names, ())) or "no file"
    return BadInput(f"{owner}: nothing can be read ({held}); save the images as PNG, JPEG or WebP, or in parquet")


def with_shared_metadata(files: Mapping[str, list[P]], tables: Iterable[P]) -> dict[str, list[P]]:
    """Return files by split, with the tables of metadata above a split that has none of its own."""
    found = {}
    for split, listed in files.items():
        lacks = not any(map(is_metadata, listed))
        above = [table for table in tables if any(file.is_relative_to(table.parent) for file in listed)]
        found[split] = [*listed, *above] if lacks else list(listed)
    return found


def names_files(table: Path) -> bool:
    """Return whether a table of metadata names files, by its first line or its schema."""
    if table.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return any(name.endswith(("file_name", "file_names")) for name in pq.read_schema(table).names)
        except (pa.ArrowException, OSError):
            return False
    with table.open("rb") as stream:
        return b"file_name" in stream.readline(2**16)


def everything(folder: Path) -> list[str]:
    """Return the relative names of all files in a folder and below, without hidden ones."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [Path(place, name).relative_to(folder).as_posix() for name in sorted(files) if name[0] != "."]
    return found


def left_out(names: Iterable[str], read: Collection[str], inside: Collection[str] | None = None) -> dict[str, int]:
    """Count the files that are not read, by kind: the extension, or the whole name of a table of metadata.

    Args:
        names: Relative names of all files.
        read: Those that are read, whatever the split.
        inside: Those that lie in a split; of the others that is said. None: nothing is said of it.
    """
    kinds = Counter(
        kind_of(name) + ("" if inside is None or name in inside else " in no split")
        for name in names
        if name not in read and PurePosixPath(name).name.lower() not in _companions()
    )
    return dict(sorted(kinds.items()))


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts by kind as a list: "3 .heic, 2 .npy"; the largest first."""
    largest_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in largest_first)


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """Return all files by split, readable or not, in the order of `datasets`: by pattern, then by name."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern

    base = glob.escape(folder.as_posix())
    try:
        patterns = get_data_patterns(base)
    except EmptyDatasetError:
        raise BadInput(f"{folder} holds no file") from None

    def resolved(pattern: str) -> Iterator[Path]:
        try:
            yield from map(Path, resolve_pattern(pattern, base))
        except FileNotFoundError:  # one of several patterns of a split
            return

    # A file that two patterns find is one file.
    found = {split: dict.fromkeys(file for one in patterns[split] for file in resolved(one)) for split in patterns}
    return {str(split): list(files) for split, files in found.items()}


def _names(files: Mapping[str, list[Path]], folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for listed in files.values() for file in listed}


def _is_read(file: Path, builder: str) -> bool:
    return (builder == IMAGES and file.name in METADATA) or _builder_of(extension(file)) == builder


def is_metadata(file: str | PurePath) -> bool:
    """Return whether a file is a table beside image files, by its name."""
    return PurePosixPath(file).name in METADATA


def is_image(file: PurePath) -> bool:
    """Return whether a file is an image, by its extension in any spelling."""
    return extension(file) not in ARCHIVE_EXTENSIONS and _builder_of(extension(file)) == IMAGES


def extension(file: PurePath) -> str:
    """Return the extension in lower case, that of what is compressed for a compressed file."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".tgz"]:
        return ".tar"
    if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@functools.cache
def _builder_of(extension: str) -> str | None:
    """Return the builder of `datasets` for an extension in lower case, or None."""
    from datasets.exceptions import DataFilesNotFoundError
    from datasets.load import infer_module_for_data_files

    if extension == ".zip":
        return IMAGES  # of other files in it that is said where it is unpacked
    if not extension:
        return None
    try:
        return str(infer_module_for_data_files({"train": [f"file{extension}"]})[0])
    except DataFilesNotFoundError:
        return None


@functools.cache
def _companions() -> frozenset[str]:
    from datasets.data_files import FILES_TO_IGNORE

    return frozenset({name.lower() for name in FILES_TO_IGNORE} | _COMPANIONS)


def kind_of(name: str | PurePath) -> str:
    """Return the kind that a file is counted under: its extension, or its name where it is a table of metadata."""
    path = PurePosixPath(name)
    return path.name if path.name in METADATA else path.suffix.lower() or "without an extension"
