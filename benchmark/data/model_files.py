"""Where a model's files are, and the rules that they must meet: safetensors only, pinned hashes checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnsafeFile
from ..files import sha256
from . import pipeline_folder
from .git_lfs import refuse_pointers
from .hub import Fetched, Listing, download, look_up, recall, remember
from .named_folder import did_you_mean
from .pair import LoraSource, ModelSource

ZOO = Path(__file__).parent.parent / "models" / "zoo"


def locate(location: str) -> Path:
    """Return the folder of a model: `zoo:NAME` for an embedded one, otherwise a local folder."""
    folder = ZOO / location.removeprefix("zoo:") if location.startswith("zoo:") else Path(location)
    if not folder.exists() and not location.startswith("zoo:"):
        raise BadInput(f"no such folder of a model: {location}{did_you_mean(location)}")
    if not (folder / pipeline_folder.INDEX).is_file():
        raise BadInput(f"no diffusers pipeline at {location}: {pipeline_folder.INDEX} is missing")
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
    parts, files = pipeline_folder.read_folder(folder, owner_of(folder))
    names = pipeline_folder.needed_files(parts, files, variant, allow_pickle)
    refuse_pointers(parts.owner, folder, [folder / name for name in names])
    for name, expected in pinned.items():
        check_pinned(folder / name, expected, f"{parts.owner}/{name}")
    for name in names:
        if name.endswith("config.json") and "auto_map" in pipeline_folder.read_json(folder / name):
            raise UnsafeFile(f"{parts.owner}/{name} asks for Python code of its own, which sidebench does not run")
    pipeline_folder.check_configs(folder, parts.owner)
    return {name: sha256(folder / name) for name in names}


def check_pinned(file: Path, expected: str, owner: str) -> None:
    """Raise `UnsafeFile` where a file is not the pinned one."""
    found = sha256(file)
    if found != expected:
        raise UnsafeFile(f"{owner}: SHA-256 is {found[:16]}..., pinned is {expected[:16]}...")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model folder that is loaded, by relative name."""
    return check_files(folder, {})


def model_files(
    found: Listing, subfolder: str = "", variant: str | None = None, allow_pickle: bool = False
) -> list[str]:
    """Choose a pipeline's files by its model_index.json, which is all that is downloaded.

    Raises:
        UnsafeFile: pickled weights only, or Python code of the repository's own.
        BadInput: no pipeline, or of a class that sidebench does not know.
    """
    place = f"{subfolder.strip('/')}/" if subfolder else ""
    if place + pipeline_folder.INDEX not in found.sizes:
        raise BadInput(f"{found.repo}: no {place}{pipeline_folder.INDEX}, so this is no diffusers pipeline")
    folder = download(found, [place + pipeline_folder.INDEX])
    parts = pipeline_folder.read_layout(pipeline_folder.read_json(folder / place / pipeline_folder.INDEX), found.repo)
    inside = [name.removeprefix(place) for name in found.sizes if name.startswith(place)]
    return [place + name for name in pipeline_folder.needed_files(parts, inside, variant, allow_pickle)]


def fetch_model(source: ModelSource, allow_pickle: bool = False, again: bool = False) -> Fetched:
    """Return a pipeline's files at one commit: those of an earlier fetch, or downloaded now (`again`: in any case)."""
    assert source.repo is not None
    key = model_key(source, allow_pickle)
    known = None if again else recall("model", source.repo, source.revision, key)
    if known is not None:
        return known
    found, names = find_model_files(source, allow_pickle)
    return remember(found, download(found, names), names, key)


def fetch_lora(source: LoraSource, again: bool = False) -> Fetched:
    """Return a LoRA's file at one commit: that of an earlier fetch, or downloaded now (`again`: in any case)."""
    assert source.repo is not None
    known = None if again else recall("model", source.repo, source.revision, lora_key(source))
    if known is not None:
        return known
    found, name = find_lora_file(source)
    return remember(found, download(found, [name]), [name], lora_key(source))


def find_lora_file(source: LoraSource) -> tuple[Listing, str]:
    """Return a repository's listing and the file of it that is the LoRA; asks the Hub."""
    assert source.repo is not None
    found = look_up("model", source.repo, source.revision)
    return found, pipeline_folder.lora_file(source.repo, list(found.sizes), source.file)


def lora_key(source: LoraSource) -> dict[str, Any]:
    """Return what an earlier fetch of this LoRA is known by, beside repository and revision."""
    return {"lora": source.file}


def find_model_files(source: ModelSource, allow_pickle: bool = False) -> tuple[Listing, list[str]]:
    """Return a model repository's listing and the files that would be downloaded of it; asks the Hub."""
    assert source.repo is not None
    found = look_up("model", source.repo, source.revision)
    return found, model_files(found, source.subfolder, source.variant, allow_pickle)


def model_configs(source: ModelSource, allow_pickle: bool = False) -> tuple[Path, str]:
    """Return a folder with a pipeline's JSON files at least, and its licence; no weights are downloaded for it."""
    if source.repo is None:
        return locate(source.location), "not stated"
    known = recall("model", source.repo, source.revision, model_key(source, allow_pickle))
    if known is not None:
        return known.folder() / source.subfolder, known.licence
    found, names = find_model_files(source, allow_pickle)
    return download(found, [name for name in names if name.endswith(".json")]) / source.subfolder, found.licence


def model_key(source: ModelSource, allow_pickle: bool) -> dict[str, Any]:
    """Return what an earlier fetch of this model is known by, beside repository and revision."""
    return {"subfolder": source.subfolder, "variant": source.variant, "allow_pickle": allow_pickle}
