"""Networks that measures need and sidebench may not ship: brought in by path or address, hash recorded and checked.

A network is one file here (TorchScript), or a folder of transformers (`networks`).
"""

import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .. import hub
from ..download import cache
from ..errors import BadInput, CannotReach, UnsafeFile
from ..store import read_json, write_atomic, write_json

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
    found = hub.sha256(file)
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


def bring_in(assignment: str) -> str:
    """Bring in a network (`NAME=PATH-OR-ADDRESS`), record its SHA-256 and return it.

    What is named is a file, the address of one, a folder, or a repository of the Hub (`OWNER/NAME@REVISION`).

    Raises:
        BadInput: there is no such thing, or the name is no plain file name.
        UnsafeFile: a folder's or repository's weights are pickled only, or want Python code of their own to be run.
        CannotReach: the download broke off.
    """
    from . import networks

    name, _, source = assignment.partition("=")
    if not source or Path(name).name != name or name.startswith("."):
        raise BadInput(f"--weights {assignment!r}: write it as NAME=PATH-OR-ADDRESS")
    if Path(source).is_dir() or (re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@\S+)?", source) and not Path(source).exists()):
        return networks.bring_in(name, source)
    target = folder() / name
    if source.startswith(("https://", "http://")):
        write_atomic(target, lambda file: _download(source, file))
    elif Path(source).is_file():
        write_atomic(target, lambda file: shutil.copyfile(source, file))
    else:
        raise BadInput(f"--weights {name}: there is no file {os.fspath(source)}")
    digest = hub.sha256(target)
    record(name, {"sha256": digest})
    return digest


def _download(address: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise CannotReach(f"{file.name.split('.tmp')[0]}: the download broke off ({type(error).__name__})") from None
