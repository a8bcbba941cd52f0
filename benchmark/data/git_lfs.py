"""Pointers of Git LFS: what a clone holds in place of large files where `git lfs` did not bring them."""

from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import BadInput

_START = b"version https://git-lfs.github.com/spec/"
_LONGEST = 1024
"""Bytes of the longest pointer, by its specification."""

FIX = "run `git lfs pull` in the clone"


def is_pointer(content: bytes) -> bool:
    """Return whether this is the content of a pointer."""
    return len(content) <= _LONGEST and content.startswith(_START)


def pointers(files: Iterable[Path]) -> list[Path]:
    """Return the files that are pointers; only small ones are opened."""
    return [file for file in files if file.stat().st_size <= _LONGEST and is_pointer(file.read_bytes())]


def refuse_pointers(owner: str, folder: Path, files: Collection[Path]) -> None:
    """Refuse files of a folder that are pointers.

    Raises:
        BadInput: how many are, and the first of them by its name in the folder.
    """
    if found := pointers(files):
        first = found[0].relative_to(folder).as_posix() if found[0].is_relative_to(folder) else found[0].name
        raise BadInput(f"{owner}: {len(found):,} of {len(files):,} files are Git LFS pointers ({first}): {FIX}")
