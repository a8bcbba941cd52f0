"""Which files hold a pair's images, and how `datasets` reads them: of a repository at one commit, or of a folder."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import sha256
from .hub import Fetched, Listing, download, explained, look_up, recall, remember, unusable_cache
from .pair import DataSource


@dataclass(frozen=True)
class ImageFiles:
    """Local files by split, and how `datasets` reads them."""

    builder: str
    files: Mapping[str, list[Path]]
    features: dict[str, Any] | None
    rows: Mapping[str, int]
    """Number of rows by split, where the data set says it."""
    content: Mapping[str, Any]
    """What the files' content is known by."""


def fetch_data(data: DataSource, again: bool = False) -> Fetched:
    """Return the files of the splits that a pair uses, at one commit.

    Raises:
        BadInput: no such repository, revision, configuration or split; or it needs Python code of its own.
        CannotReach: the Hub cannot be reached, or a download broke off.
    """
    known = None if again else recall_data(data)
    if known is not None:
        return known
    found, names, details = find_data_files(data)
    return remember(found, download(found, names), names, _data_key(data), details)


def recall_data(data: DataSource) -> Fetched | None:
    """Return what was fetched of a data repository before."""
    assert data.repo is not None
    return recall("dataset", data.repo, data.revision, _data_key(data))


def _data_key(data: DataSource) -> dict[str, Any]:
    return {"config": data.config, "splits": used_splits(data)}


def find_data_files(data: DataSource) -> tuple[Listing, list[str], dict[str, Any]]:
    """Return a data repository's listing, the files that would be downloaded of it, and how to read them."""
    assert data.repo is not None
    found = look_up("dataset", data.repo, data.revision)
    if found.gated and found.sizes:
        download(found, [min(found.sizes, key=lambda name: found.sizes[name])])  # says whether this user may
    with explained("dataset", data.repo, data.revision):
        details = describe(data.repo, found.commit, data.config)
    splits = used_splits(data)
    unknown = [split for split in splits if split not in details["files"]]
    if unknown:
        raise BadInput(f"dataset {data.repo} has no split {unknown[0]!r}: it has {', '.join(details['files'])}")
    details["files"] = {split: details["files"][split] for split in splits}
    return found, sorted({name for listed in details["files"].values() for name in listed}), details


def describe_source(data: DataSource) -> tuple[dict[str, Any] | None, str]:
    """Return the columns' types, where the data set states them, and the licence that its card names."""
    if data.source == "hub":
        known = recall_data(data)
        if known is not None:
            return known.details["features"], known.licence
        found, _, details = find_data_files(data)
        return details["features"], found.licence
    return describe(str(Path(str(data.path)).resolve()), None, data.config)["features"], "not stated"


def used_splits(data: DataSource) -> list[str]:
    """Return the names of the splits that a pair uses, in the order of their rows."""
    return list(dict.fromkeys(chosen.split for chosen in (data.members, data.held_out) if chosen is not None))


def describe(repo: str, commit: str | None, config: str | None) -> dict[str, Any]:
    """Return how `datasets` reads a repository (or a local folder): builder, files by split, features.

    Raises:
        BadInput: there is no such configuration, or the data need Python code of their own.
    """
    with quiet() as datasets:
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=commit)
        except (RuntimeError, ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise BadInput(_why_not(repo, error)) from None
        except OSError as error:
            raise unusable_cache(f"dataset {repo}", error) or error from None
    prefix = f"hf://datasets/{repo}@{commit}/"
    files = {
        str(split): [str(file).removeprefix(prefix) for file in listed]
        for split, listed in (builder.config.data_files or {}).items()
    }
    features, counts = builder.info.features, builder.info.splits or {}
    return {
        "builder": builder.name,
        "files": files,
        "rows": {split: int(counts[split].num_examples or 0) for split in files if split in counts},
        "features": None if features is None else features.to_dict(),
    }


def _why_not(repo: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "scripts are no longer supported" in said:
        return f"dataset {repo} is a Python script of its own, which sidebench does not run"
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"dataset {repo}: {said[:300]}"
    return f"dataset {repo} holds no images or tables that can be read ({type(error).__name__})"


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Yield the module `datasets`, without its progress bars and without the request that counts downloads."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if not shown:
            datasets.enable_progress_bars()


def locate(data: DataSource) -> ImageFiles:
    """Return the local files of a pair's data; a repository that was not fetched yet is fetched now."""
    if data.source == "hub":
        fetched = fetch_data(data)
        folder, how = fetched.folder(), fetched.details
        files = {split: [folder / name for name in names] for split, names in how["files"].items()}
        content = {"repo": fetched.repo, "commit": fetched.commit, "files": how["files"]}
        return ImageFiles(how["builder"], files, how["features"], how["rows"], content)
    assert data.path is not None
    if not Path(data.path).is_dir():
        raise BadInput(f"no such folder of images: {Path(data.path).name}")
    how = describe(str(Path(data.path).resolve()), None, data.config)
    files = {split: [Path(name) for name in names] for split, names in how["files"].items()}
    for split in used_splits(data):
        if split not in files:
            raise BadInput(f"{Path(data.path).name} has no split {split!r}: it has {', '.join(files)}")
    used = {split: files[split] for split in used_splits(data)}
    content = {"files": {split: [[f.name, sha256(f)] for f in listed] for split, listed in used.items()}}
    return ImageFiles(how["builder"], used, how["features"], how["rows"], content)
