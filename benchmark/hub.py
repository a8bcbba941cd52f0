"""Where model files are, and the safety rules: safetensors only, pinned hashes checked, devices that exist."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import layout
from .errors import BadInput, UnsafeFile

if TYPE_CHECKING:
    import torch

ZOO = Path(__file__).parent / "zoo"


def locate(location: str) -> Path:
    """Return the folder of a model: `zoo:NAME` for an embedded one, otherwise a local folder."""
    folder = ZOO / location.removeprefix("zoo:") if location.startswith("zoo:") else Path(location)
    if not (folder / layout.INDEX).is_file():
        raise BadInput(f"no diffusers pipeline at {location}: {layout.INDEX} is missing")
    return folder


def owner_of(folder: Path) -> str:
    """Return how messages name a model folder: by its repository where it is a cached snapshot of one."""
    for part in folder.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def check_files(
    folder: Path, pinned: Mapping[str, str], variant: str | None = None, allow_pickle: bool = False
) -> dict[str, str]:
    """Return the SHA-256 of every file that is loaded, by relative name.

    Raises:
        UnsafeFile: weights are pickled only, a file asks for code of its own or is not the pinned one.
        BadInput: the folder is no pipeline that sidebench knows, or a file is missing.
    """
    parts, files = layout.read_folder(folder, owner_of(folder))
    names = layout.needed_files(parts, files, variant, allow_pickle)
    for name, expected in pinned.items():
        check_pinned(folder / name, expected, f"{parts.owner}/{name}")
    for name in names:
        if name.endswith("config.json") and "auto_map" in layout.read_json(folder / name):
            raise UnsafeFile(f"{parts.owner}/{name} asks for Python code of its own, which sidebench does not run")
    return {name: sha256(folder / name) for name in names}


def check_pinned(file: Path, expected: str, owner: str) -> None:
    """Raise `UnsafeFile` where a file is not the pinned one."""
    found = sha256(file)
    if found != expected:
        raise UnsafeFile(f"{owner}: SHA-256 is {found[:16]}..., pinned is {expected[:16]}...")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model folder that is loaded, by relative name."""
    return check_files(folder, {})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a file that this process has hashed already is read again only if it changed."""
    try:
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        raise BadInput(f"{path.parent.name}/{path.name} is missing") from None


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    # Planning and loading both check the files; those of a large model take half a minute.
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pick_device(name: str) -> "torch.device":
    """Return the device of this name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        BadInput: the device is not there.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    present = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())], *(["mps"] if mps else [])]
    if name in present or (name == "cuda" and cuda):
        return torch.device(name)
    raise BadInput(f"no device {name!r} here: there is {', '.join(present)}")
