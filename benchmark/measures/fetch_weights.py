"""Bring in a network that a measure needs."""

import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from .. import files
from ..errors import BadInput, CannotReach
from ..files import write_atomic
from .weights import folder, record


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
    digest = files.sha256(target)
    record(name, {"sha256": digest})
    return digest


def _download(address: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise CannotReach(f"{file.name.split('.tmp')[0]}: the download broke off ({type(error).__name__})") from None
