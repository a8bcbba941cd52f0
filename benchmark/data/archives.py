"""Images in zip and tar archives: unpacked into a folder while they are decoded, read as that folder would be.

A tar archive with several files per image (webdataset) is read as it is, once the files of each image lie together.
"""

import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ..errors import BadInput, CannotWrite
from ..files import cannot_write
from .folder_files import ARCHIVE_EXTENSIONS, IMAGES, WEBDATASET, extension, in_words, is_image, is_metadata, kind_of


class Unpacked(NamedTuple):
    """What is read in place of archives."""

    builder: str
    files: list[Path]
    options: dict[str, Any]
    """For the builder of `datasets`."""
    left_out: Counter[str]
    """Number of files in the archives that are not read, by kind."""


class _Member(NamedTuple):
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(builder: str, files: Sequence[Path], image_column: str | None, folder: Path) -> Unpacked:
    """Return what is read of the files of a split; what has to be unpacked for it goes into an empty folder.

    Args:
        builder: How `datasets` would read the files.
        files: Those of one split, in the order of their rows.
        image_column: As the pair names it; a tar archive of single images is read as a folder unless it is a field.
        folder: Must exist.

    Raises:
        BadInput: an archive is damaged, encrypted, holds no image or a path that leads out of it.
        CannotWrite: there is not enough room.
    """
    if builder == WEBDATASET and not (image_column in (None, "image") and all(map(_is_plain, files))):
        rows = [_together(file, folder / f"{number}-{file.name}") for number, file in enumerate(files)]
        return Unpacked(builder, rows, {}, Counter())
    if builder not in (IMAGES, WEBDATASET) or not any(map(_is_archive, files)):
        return Unpacked(builder, list(files), {}, Counter())
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    bare = True
    for number, file in enumerate(files):
        if not _is_archive(file):
            found, bare = [*found, file], False
            continue
        place = folder / f"{number}-{file.name}"
        taken = _extract(file, place, left_out)
        bare = bare and all(member.parent == place for member in taken)
        found += taken
    # Archives without folders in them: the folders that they are unpacked into are no classes.
    return Unpacked(IMAGES, found, {"drop_labels": True} if bare else {}, left_out)


def _is_archive(file: Path) -> bool:
    return extension(file) in ARCHIVE_EXTENSIONS


def _extract(archive: Path, place: Path, left_out: Counter[str]) -> list[Path]:
    """Write the images and metadata of an archive below `place` and return them by name; count the rest."""
    taken, room = [], shutil.disk_usage(place.parent).free
    with _members(archive) as members:
        for member in members:
            path = PurePosixPath(member.name)
            if path.name.startswith(".") or "__MACOSX" in path.parts:
                continue
            if path.is_absolute() or ".." in path.parts:
                raise BadInput(f"archive {archive.name} holds a path that leads out of it: {member.name}")
            if not is_image(path) and not is_metadata(path):
                left_out[f"{kind_of(path)} in archives"] += 1
                continue
            room -= member.size
            if room < 0:
                free = shutil.disk_usage(place.parent).free / 1e9
                raise CannotWrite(
                    f"archive {archive.name} needs more room unpacked than there is ({free:.1f} GB are free); "
                    "set HF_HOME to a folder on a larger disk"
                )
            taken.append(_write(member, place / path))
    if not any(map(is_image, taken)):
        held = in_words(left_out) or "no file"
        raise BadInput(f"archive {archive.name} holds no images ({held}): pack the image files themselves")
    return sorted(taken)


def _write(member: _Member, file: Path) -> Path:
    source = member.open()
    assert source is not None
    with source:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as out:
                shutil.copyfileobj(source, out)
        except FileExistsError:
            raise BadInput(f"an archive holds {member.name} twice") from None
        except OSError as error:
            if error.filename is None and error.errno is None:  # of the archive, not of the disk
                raise
            raise cannot_write(file, error) from None
    return file


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """Yield the regular files of an archive, in its order.

    Raises:
        BadInput: it is damaged or encrypted.
    """
    try:
        if extension(archive) == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                infos = (info for info in zipped.infolist() if not info.is_dir())
                yield (_Member(info.filename, info.file_size, partial(zipped.open, info)) for info in infos)
        else:
            with tarfile.open(archive) as tarred:
                yield (
                    _Member(entry.name, entry.size, partial(tarred.extractfile, entry)) for entry in _regular(tarred)
                )
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(
            f"archive {archive.name} cannot be read ({type(error).__name__}): it is damaged or cut short"
        ) from None
    except (RuntimeError, NotImplementedError) as error:  # what zipfile says of passwords and rare compressions
        raise BadInput(f"archive {archive.name} cannot be unpacked: {error}") from None


# ---- webdataset: several files of one name make a row ------------------------------------------------


def _is_plain(archive: Path) -> bool:
    """Return whether a tar archive holds images of their own, perhaps with a table of metadata."""
    with _members(archive) as members:
        paths = [PurePosixPath(member.name) for member in members]
    keys = [_key(path) for path in paths if not is_metadata(path) and not path.name.startswith(".")]
    return bool(keys) and len(set(keys)) == len(keys) and any(map(is_image, paths))


def _key(path: PurePosixPath) -> str:
    """Return what the files of one row share: everything before the first dot of the name."""
    return str(path.with_name(path.name.partition(".")[0]))


def _together(archive: Path, place: Path) -> Path:
    """Return the archive, or a copy in which the files of each row follow each other, rows by their first file."""
    with _members(archive) as members:
        keys = [_key(PurePosixPath(member.name)) for member in members]
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    ranks = [order[key] for key in keys]
    if ranks == sorted(ranks):
        return archive
    flat, copy = place / "as-packed", place / "sorted.tar"
    try:
        place.mkdir()
        with tarfile.open(archive) as packed, flat.open("wb") as out:
            content: Any = packed.fileobj
            content.seek(0)
            shutil.copyfileobj(content, out)  # not compressed, so that it can be read in any order
        with tarfile.open(flat, "r:") as source, tarfile.open(copy, "w") as sorted_:
            for _, entry in sorted(zip(ranks, _regular(source), strict=True), key=lambda ranked: ranked[0]):
                sorted_.addfile(entry, source.extractfile(entry))
        flat.unlink()
    except OSError as error:
        raise cannot_write(copy, error) from None
    return copy


def _regular(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (entry for entry in archive if entry.isreg())
