"""Networks that measures need and sidebench may not ship: brought in by path or address, hash recorded and checked.

A network is one file here (TorchScript), or a folder of transformers (`networks`).
"""

from pathlib import Path
from typing import Any

from .. import files
from ..data.hub import cache
from ..errors import BadInput, UnsafeFile
from ..files import read_json, write_json

WITHOUT = "rms, zncc, tile_l2"
"""Measures for images of any size that read no network."""


def folder() -> Path:
    """Return where the files lie."""
    return cache() / "measures"


def check(name: str, measure: str) -> tuple[Path, str]:
    """Return a file and its SHA-256, which must be the recorded one.

    Raises:
        BadInput: the file is not there; the message says how to bring it in.
        UnsafeFile: the file is another one than when it was brought in.
    """
    file, known = folder() / name, recorded(name)
    if known is None or not file.is_file():
        raise BadInput(
            f"measure {measure} needs the network {name}, which is not here: get it from its authors, then "
            f"`sidebench fetch --weights {name}=PATH-OR-ADDRESS`; or choose another --measure ({WITHOUT} need none)"
        )
    found = files.sha256(file)
    if found != known:
        raise UnsafeFile(f"{name}: SHA-256 is {found[:16]}..., recorded was {known[:16]}...; bring it in again")
    return file, found


def recorded(name: str) -> str | None:
    """Return the SHA-256 that was recorded when a network was brought in, or None."""
    known = origin(name)
    return None if known is None else str(known.get("sha256"))


def origin(name: str) -> dict[str, Any] | None:
    """Return all that was recorded: the SHA-256, and of a network from the Hub its repository, commit and sizes."""
    file = folder() / f"{name}.json"
    return read_json(file) if file.is_file() else None


def record(name: str, content: dict[str, Any]) -> None:
    """Write down what a network was when it was brought in."""
    write_json(folder() / f"{name}.json", content)
