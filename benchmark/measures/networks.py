"""Image networks of transformers for measures: a folder with config.json and safetensors, pinned by its hashes.

They come from a folder or from a repository of the Hub at a commit (`sidebench fetch --weights`), and lie beside the
files that `weights` keeps. Nothing else of a repository is loaded, and no code of its own is run.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..data import pipeline_folder
from ..data.hub import download, look_up
from ..errors import BadInput, UnsafeFile
from ..files import content_sha256
from ..models.load_network import from_transformers
from . import weights

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
BATCH = 16
"""Images that a network sees at a time, always padded to this number, as its arithmetic may depend on it."""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def bring_in(name: str, source: str) -> str:
    """Copy a network's folder, or fetch it (`OWNER/NAME@REVISION` on the Hub); record its hashes, return their digest.

    Raises:
        BadInput: there is no such folder or repository, or no network in it.
        UnsafeFile: the weights are pickled only, or the network is Python code of its own.
        CannotReach: the Hub cannot be reached, or the download broke off.
    """
    origin: dict[str, Any] = {}
    if Path(source).is_dir():
        place, names = Path(source), needed_files(name, [file.name for file in Path(source).iterdir()])
    else:
        repo, _, revision = source.partition("@")
        found = look_up("model", repo, revision or "main")
        names = needed_files(repo, list(found.sizes))
        place = download(found, names)
        origin = {"repo": repo, "revision": found.revision, "commit": found.commit, "licence": found.licence}
        origin["sizes"] = {chosen: found.sizes[chosen] for chosen in names}
    if "auto_map" in pipeline_folder.read_json(place / CONFIG):
        raise UnsafeFile(f"{name}: {CONFIG} asks for Python code of its own, which sidebench does not run")
    target = weights.folder() / name
    _put(place, names, target)
    digest = _digest(target)
    weights.record(name, {"sha256": digest, **origin})
    return digest


def needed_files(owner: str, names: Sequence[str]) -> list[str]:
    """Choose the configuration and one set of safetensors among a network's files.

    Raises:
        BadInput: there is no configuration or there are no weights.
        UnsafeFile: the weights are pickled only.
    """
    chosen = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    if "model.safetensors" in chosen:
        chosen = ["model.safetensors"]
    if CONFIG not in names:
        raise BadInput(f"{owner}: no {CONFIG}, so this is no network of transformers")
    if not chosen:
        pickled = next((name for name in sorted(names) if name.endswith(pipeline_folder.PICKLES)), None)
        if pickled:
            raise UnsafeFile(f"{owner}: only pickled weights ({pickled}); convert them to safetensors")
        raise BadInput(f"{owner}: no weights: model.safetensors is missing")
    return [CONFIG, *chosen]


def check(name: str, measure: str, home: str) -> tuple[Path, str]:
    """Return a network's folder and the digest of its files, which must be the recorded one.

    Raises:
        BadInput: it is not there; the message says how to bring it in from its repository `home`.
        UnsafeFile: a file is another one than when it was brought in.
    """
    place = weights.folder() / name
    recorded = weights.recorded(name)
    if recorded is None or not place.is_dir():
        raise BadInput(
            f"measure {measure} needs the network {name}, which is not here: `sidebench fetch --weights "
            f"{name}={home}` gets it, from a folder too; or choose another --measure ({weights.WITHOUT} need none)"
        )
    found = _digest(place)
    if found != recorded:
        raise UnsafeFile(f"{name}: SHA-256 is {found[:16]}..., recorded was {recorded[:16]}...; bring it in again")
    return place, found


def load(place: Path, digest: str, architecture: str, kinds: frozenset[str], device: str, **options: int) -> Any:
    """Load a network by its transformers class, frozen, in float32 and evaluation mode; `options` are of its config.

    Raises:
        BadInput: transformers is not installed, or the files are of another kind of network or damaged.
    """
    kind = pipeline_folder.read_json(place / CONFIG).get("model_type")
    if kind not in kinds:
        raise BadInput(f"{place.name}: {CONFIG} is of a {kind}, wanted {' or '.join(sorted(kinds))}")
    return _load(place, digest, architecture, device, tuple(sorted(options.items())))


def described(
    network: Callable[[Tensor], Tensor], images: Tensor, size: int, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    """Return descriptors of length 1, N x D float32: resize to size x size, normalise, call the network.

    Images are N x C x H x W in [0, 1]. Grey ones are repeated to three channels. The filter is antialiased and bicubic;
    values that it carries beyond [0, 1] are clipped, as they are in 8-bit pictures.
    """
    import torch
    from torch.nn.functional import interpolate, normalize

    centre, scale = (torch.tensor(list(values), device=images.device).view(1, 3, 1, 1) for values in (mean, deviation))
    parts = []
    with torch.no_grad():
        for part in images.float().expand(-1, 3, -1, -1).split(BATCH):
            padded = torch.cat([part, part[:1].expand(BATCH - len(part), -1, -1, -1)])
            resized = interpolate(padded, (size, size), mode="bicubic", antialias=True, align_corners=False)
            parts.append(normalize(network((resized.clamp(0, 1) - centre) / scale).float(), dim=1)[: len(part)])
    return torch.cat(parts)


def _put(place: Path, names: Sequence[str], target: Path) -> None:
    """Copy files into a new folder and put it in the place of an older one; links spare the room of large files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name in names:
            _link(place / name, made / name)
        shutil.rmtree(target, ignore_errors=True)
        made.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write {target.name}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    # Only files of the Hub's cache, which nobody edits, are linked: a user's own may change under the same name.
    if source.is_symlink():
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(source, target)


def _digest(place: Path) -> str:
    """Return SHA-256 over the names and hashes of a folder's files."""

    hashes: Mapping[str, str] = {file.name: files.sha256(file) for file in sorted(place.iterdir())}
    return content_sha256(hashes)


@functools.lru_cache(maxsize=2)
def _load(place: Path, digest: str, architecture: str, device: str, options: tuple[tuple[str, int], ...]) -> Any:
    import torch

    chosen: dict[str, Any] = dict(options)
    return from_transformers(architecture, place, place.name, torch.float32, **chosen).to(device)
