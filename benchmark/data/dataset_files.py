"""Which files hold a pair's images, and how `datasets` reads them: of a repository at one commit, or of a folder."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BadInput
from ..files import sha256
from . import folder_files
from .folder_files import extension, is_metadata, names_files
from .git_lfs import refuse_pointers
from .hub import Fetched, Listing, download, explained, look_up, recall, remember, unusable_cache
from .named_folder import did_you_mean
from .pair import SHIPPED, DataSource, Selection

ZOO = Path(__file__).parent / "zoo"
"""Images that ship with sidebench, a folder each."""


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
    left_out: Mapping[str, int]
    """Number of files beside them that are not read, by kind."""
    elsewhere: frozenset[str] = frozenset()
    """Files of all splits, where a table of metadata names those of several."""


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
        names = [name for name in found.sizes if not name.startswith(".")]
        details = describe(found.repo, found.commit, data.config, names)
    if details["builder"] == folder_files.IMAGES:
        details["files"] = _with_shared_metadata(details["files"], names)
    details["left_out"], details["elsewhere"] = _beside(details, names), _elsewhere(details["files"])
    details["files"] = _used(data, f"dataset {data.repo}", details)
    return found, sorted({name for listed in details["files"].values() for name in listed}), details


def describe_source(data: DataSource) -> tuple[dict[str, Any] | None, str]:
    """Return the columns' types, where the data set states them, and the licence that its card names."""
    if data.source == "hub":
        known = recall_data(data)
        if known is not None:
            return known.details["features"], known.licence
        found, _, details = find_data_files(data)
        return details["features"], found.licence
    how = _describe_folder(data)
    files = _used(data, str(data.path), how)[used_splits(data)[0]]
    return how["features"] or _types(how["builder"], files), "not stated"


def _types(builder: str, files: list[str]) -> dict[str, Any] | None:
    """Return the columns' types as `datasets` reads them off the files; None where it does not before it reads rows."""
    with quiet() as datasets:
        try:
            if builder == "parquet":
                import pyarrow.parquet as pq

                features = datasets.Features.from_arrow_schema(pq.read_schema(files[0]))
            elif any(extension(Path(file)) in folder_files.ARCHIVE_EXTENSIONS for file in files):
                return None
            else:
                listed = datasets.data_files.DataFilesList(files, [()] * len(files))
                features = datasets.load_dataset(
                    builder, data_files={"rows": listed}, split="rows", streaming=True
                ).features
        except (ValueError, OSError, datasets.exceptions.DatasetsError):
            return None  # what is wrong is said where the rows are read
    return None if features is None else dict(features.to_dict())


def split_names(path: str) -> list[str]:
    """Return the splits of a local folder or table, in its own order."""
    return list(_describe_folder(DataSource(source="folder", path=path, size=1, members=Selection(split="")))["files"])


def used_splits(data: DataSource) -> list[str]:
    """Return the names of the splits that a pair uses, in the order of their rows."""
    return list(dict.fromkeys(chosen.split for chosen in (data.members, data.held_out) if chosen is not None))


def describe(repo: str, commit: str | None, config: str | None, names: Iterable[str] = ()) -> dict[str, Any]:
    """Return how `datasets` reads a repository (or a local folder): builder, files by split, features.

    Args:
        repo: `OWNER/NAME`, or the folder.
        commit: Full commit hash of a repository.
        config: Configuration, where there are several.
        names: All files of it, to be counted where none can be read.

    Raises:
        BadInput: there is no such configuration, or the data need Python code of their own.
    """
    with quiet() as datasets:
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=commit)
        except (RuntimeError, ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise _not_described(repo, error, names) from None
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


def _not_described(repo: str, error: Exception, names: Iterable[str]) -> BadInput:
    said, kind = " ".join(str(error).split()), type(error).__name__
    if "scripts are no longer supported" in said:
        return BadInput(f"dataset {repo} is a Python script of its own, which sidebench does not run")
    if "Config name is missing" in said or "BuilderConfig" in said:
        return BadInput(f"dataset {repo}: {said[:300]} (--dataset-config, data.config)")
    if kind in ("EmptyDatasetError", "DataFilesNotFoundError"):
        return folder_files.nothing_to_read(f"dataset {repo}", names)
    if "same data file format for all splits" in said:
        return BadInput(f"dataset {repo}: its splits are in different formats; name the files of each in its card")
    if "[" in repo:
        return BadInput(
            f"dataset {repo}: its card names files, and brackets in a path are a pattern then: rename the folder"
        )
    if isinstance(error, FileNotFoundError):
        return BadInput(f"dataset {repo}: its card (README.md) names files that are not there")
    return BadInput(f"dataset {repo}: its card (README.md) or its table of files cannot be read ({kind})")


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Yield the module `datasets`, without its progress bars and without the request that counts downloads."""
    import datasets

    datasets.config.HF_ENDPOINT = datasets.config.HF_ENDPOINT.rstrip("/")  # as huggingface_hub takes it
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
        beside = how.get("left_out", {})  # what was fetched by an earlier version does not say
        others = frozenset(str(folder / name) for name in how.get("elsewhere", ()))
        _refuse_pointers(fetched.repo, folder, files)
        if others:  # only now is such a table here to be looked into
            useless = {file for file in chain(*files.values()) if is_metadata(file) and not names_files(file)}
            files = {split: [file for file in listed if file not in useless] for split, listed in files.items()}
            beside = {**beside, **Counter(f"{file.name} without file_name" for file in useless)}
        return ImageFiles(how["builder"], files, how["features"], how["rows"], content, beside, others)
    how = _describe_folder(data)
    named = {split: [Path(name) for name in names] for split, names in _used(data, str(data.path), how).items()}
    _refuse_pointers(str(data.path), Path(str(data.path)).resolve(), named)
    content = {"files": {split: [[f.name, sha256(f)] for f in listed] for split, listed in named.items()}}
    others = frozenset(_elsewhere(how["files"]))
    return ImageFiles(how["builder"], named, how["features"], how["rows"], content, how["left_out"], others)


def _refuse_pointers(owner: str, folder: Path, files: Mapping[str, list[Path]]) -> None:
    refuse_pointers(owner, folder, list(dict.fromkeys(file for listed in files.values() for file in listed)))


def _with_shared_metadata(files: Mapping[str, list[str]], names: Iterable[str]) -> dict[str, list[str]]:
    tables = [PurePosixPath(name) for name in names if is_metadata(name)]
    paths = {split: [PurePosixPath(name) for name in listed] for split, listed in files.items()}
    found = folder_files.with_shared_metadata(paths, tables)
    return {split: [str(name) for name in listed] for split, listed in found.items()}


def _elsewhere(files: Mapping[str, list[str]]) -> list[str]:
    """Return the files of all splits where a table of metadata names those of several, else nothing."""
    tables = Counter(name for listed in files.values() for name in set(listed) if is_metadata(name))
    several = any(count > 1 for count in tables.values())
    return sorted({name for listed in files.values() for name in listed}) if several else []


def _describe_folder(data: DataSource) -> dict[str, Any]:
    """Return what `describe` does, and how many files of the folder are not read, of a local folder."""
    assert data.path is not None
    place = ZOO / data.path.removeprefix(SHIPPED) if data.path.startswith(SHIPPED) else Path(data.path)
    # os.path answers where Path raises: of a link to itself, or of a name that no file system takes.
    is_table = place.suffix.lower() == ".parquet" and os.path.isfile(place)  # noqa: PTH113
    if not is_table and not os.path.isdir(place):  # noqa: PTH112
        raise BadInput(f"no such folder of images: {data.path}{did_you_mean(str(data.path))}")
    folder = place.resolve()
    if is_table:
        return {"builder": "parquet", "files": {"train": [str(folder)]}, "rows": {}, "features": None, "left_out": {}}
    if data.config is None and not folder_files.states_its_files(folder):
        found = folder_files.list_folder(folder)
        names = {split: [str(file) for file in files] for split, files in found.files.items()}
        return {"builder": found.builder, "files": names, "rows": {}, "features": None, "left_out": found.left_out}
    held = folder_files.everything(folder)
    how = describe(str(folder), None, data.config, held)
    return {**how, "left_out": _beside(how, [str(folder / name) for name in held])}


def _beside(how: Mapping[str, Any], names: list[str]) -> dict[str, int]:
    """Count what is not read beside image files; tables are what the data set's own card chose of its files."""
    if how["builder"] != folder_files.IMAGES:
        return {}
    return folder_files.left_out(names, {name for listed in how["files"].values() for name in listed})


def _used(data: DataSource, owner: str, how: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the files of the splits that a pair uses.

    Raises:
        BadInput: a split is not there, or none of its files is read.
    """
    files = {}
    for split in used_splits(data):
        if split not in how["files"]:
            raise BadInput(f"{owner} has no split {split!r}: it has {', '.join(how['files'])}")
        files[split] = how["files"][split]
        if not files[split]:
            beside = folder_files.in_words(how["left_out"])
            raise BadInput(f"{owner}: no file of split {split!r} can be read; not read are {beside}")
    return files
