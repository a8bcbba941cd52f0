"""Where model files are, and the safety rules: safetensors only, pinned hashes checked, devices that exist."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadInput, UnsafeFile

if TYPE_CHECKING:
    import torch

ZOO = Path(__file__).parent / "zoo"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def locate(location: str) -> Path:
    """Return the folder of a model: `zoo:NAME` for an embedded one, otherwise a local folder."""
    folder = ZOO / location.removeprefix("zoo:") if location.startswith("zoo:") else Path(location)
    if not (folder / "model_index.json").is_file():
        raise BadInput(f"no diffusers pipeline at {location}: model_index.json is missing")
    return folder


def check_files(folder: Path, pinned: dict[str, str]) -> None:
    """Refuse pickles without a safetensors beside them, and files whose SHA-256 is not the pinned one."""
    weights = [file for file in folder.rglob("*") if file.suffix in PICKLES]
    if weights and not list(folder.rglob("*.safetensors")):
        raise UnsafeFile(f"{folder.name}: only pickled weights ({weights[0].name}); convert them to safetensors")
    for name, expected in pinned.items():
        found = sha256(folder / name)
        if found != expected:
            raise UnsafeFile(f"{folder.name}/{name}: SHA-256 is {found[:16]}..., pinned is {expected[:16]}...")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model folder by relative name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInput(f"{path.parent.name}/{path.name} is missing") from None


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


def image_size(folder: Path) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images that a pixel-space pipeline makes, from its config."""
    file = folder / "unet" / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width), int(config["in_channels"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{folder.name}/unet/config.json does not say the image size") from None
