"""Bring in a network that a measure needs."""

import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from email.message import Message
from http import HTTPStatus
from pathlib import Path

from .. import files
from ..errors import BadInput, CannotReach
from ..files import cannot_write, read_json, write_atomic, write_json
from .weights import folder, record


def bring_in(assignment: str) -> str:
    """Bring in a network (`NAME=PATH-OR-ADDRESS`), record its SHA-256 and return it.

    What is named is a file, the address of one, a folder, or a repository of the Hub (`OWNER/NAME@REVISION`).

    Raises:
        BadInput: there is no such thing, or the name is no plain file name.
        UnsafeFile: a folder's or repository's weights are pickled only, or want Python code of their own to be run.
        CannotReach: the download broke off; the same call goes on.
        CannotWrite: the disk is full.
    """
    from . import networks

    name, _, source = assignment.partition("=")
    if not source or Path(name).name != name or name.startswith("."):
        raise BadInput(f"--weights {assignment!r}: write it as NAME=PATH-OR-ADDRESS")
    if Path(source).is_dir() or (re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@\S+)?", source) and not Path(source).exists()):
        return networks.bring_in(name, source)
    target = folder() / name
    if source.startswith(("https://", "http://")):
        _download(source, target)
    elif Path(source).is_file():
        write_atomic(target, lambda file: shutil.copyfile(source, file))
    else:
        raise BadInput(f"--weights {name}: there is no file {os.fspath(source)}")
    digest = files.sha256(target)
    record(name, {"sha256": digest})
    return digest


def _download(address: str, target: Path) -> None:
    """Download into `target`; what an earlier call left of the same version of the file is not asked for again.

    huggingface_hub resumes what comes from its repositories (`networks`). This is for any other server: the part that
    is here is kept if the server has ranges and names the file's version by an ETag that is still the same.
    """
    part, note = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "part.json"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(_request(address, part, note), timeout=60) as answer:
            start = _offset(answer.headers) if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
            length = answer.headers.get("Content-Length")
            write_json(note, {"address": address, "version": answer.headers.get("ETag", "")})
            with part.open("r+b" if start else "wb") as out:
                out.truncate(start)
                out.seek(start)
                shutil.copyfileobj(answer, out)
        if length is not None and part.stat().st_size != start + int(length):
            raise ConnectionError  # urllib takes an early end for the end
        part.replace(target)
        note.unlink()
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
        raise CannotReach(f"{target.name}: the server answered {error.code}; check the address or try again") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise CannotReach(
            f"{target.name}: the download broke off ({type(error).__name__}); the same command goes on"
        ) from None
    except OSError as error:
        raise cannot_write(target, error) from None


def _request(address: str, part: Path, note: Path) -> urllib.request.Request:
    """Ask for the whole file, or for the rest of the part that is here."""
    request = urllib.request.Request(address)
    if part.is_file() and part.stat().st_size and note.is_file():
        known = read_json(note)
        version = str(known.get("version", ""))
        if known.get("address") == address and version.startswith('"'):  # a weak ETag (W/"...") promises no same bytes
            request.add_header("Range", f"bytes={part.stat().st_size}-")
            request.add_header("If-Range", version)
    return request


def _offset(headers: Message) -> int:
    """Return where the bytes of a partial answer begin."""
    return int(headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0])
