"""The run folder: atomic files, one lock, states and shards that a killed run finds again.

    manifest.json               everything needed to repeat the run
    references.parquet          side, number, row in the data set, duplicate group; no image
    state/<unit>/state.safetensors, checkpoints-*/ while it is made; state/shared/ for samples that attacks share
    images/<unit>/<first>-<end>.safetensors   candidates as uint8, with flags, columns and cost (local only)
    scores/<unit>.<space>.<first>-<end>.parquet, .pairs.parquet, .bins.parquet
    captions/<unit>.<number>.parquet   captions rated by an attack that calls some memorised
    metrics.json, metrics.csv, costs.json, quality.json, copying.json, audit.json, evidence/, label/
                                of the number of candidates that was asked for last
    results.json                what they were computed from
    SHA256SUMS                  of those files, written last (sums.py)
    results/<number>/           the same files for the other numbers
    report.html                 the page, written by whoever asked for the run; not there where nobody asked for it
    tuning/<attack>.json        the curve that its settings come from (`--tuned`)
    work/                       who makes which part, while the images are made (leases.py)
    hash.key                    secret that names training images in reports and records (keyed_names.py)
    reference/                  the same attacks on the pair's reference model, a run folder like this one

A unit is one attack under one seed; `unit_name` names it.
"""

import difflib
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError

from ..contracts import AttackState
from ..errors import BadInput, CorruptRun, RunConflict, SidebenchError, first_problem
from ..files import (
    DAY,
    lock_of,
    read_info,
    read_json,
    read_state,
    refuse_links,
    remove_leftovers,
    short_hash,
    write_checked_json,
)
from ..protocol import SHARD, Batching
from .checkpoints import FolderCheckpoints
from .leases import close_work, has_workers
from .manifest import UNIT_PATTERN, check_manifest
from .manifest import unit_name as unit_name
from .shards import Shard, below, in_order, missing, named

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

MANIFEST_SCHEMA = "sidebench-manifest/2"
LOCK_FILE = ".lock"
RUNS = "runs"
"""Where runs go by default."""
_MOST_NAMED = 3
"""Runs that a message names."""

LOCKED_PARTS = ("state", "images", "scores", "captions", "tuning", "evidence")
"""Folders of a run that only the holder of its lock writes to."""


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_file = path / "manifest.json"
        self.report_file = path / "report.html"

    def __repr__(self) -> str:
        """Return the class with the folder's path, which `str` and a notebook show too."""
        return f"RunFolder({str(self.path)!r})"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; a second writer is refused. It ends with the process, however that ends.

        Temporary files that earlier holders left when they were killed are removed.

        Raises:
            RunConflict: another process holds the lock.
            BadInput: the folder cannot be written, or a name in it leads out of it.
        """
        from filelock import Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            refuse_links(self.path)
            lock = lock_of(self.path / LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunConflict(f"another process is writing to {self.path}") from None
        except OSError as error:
            raise BadInput(f"cannot write to {self.path}: {error.strerror}; choose another with --out") from None
        try:
            self._remove_leftovers()
            yield
        finally:
            lock.release()

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left; `report` and `replay` write without the lock, and may be alive."""
        for folder in (self.path, self.path / "replay"):
            remove_leftovers(folder)
        for name in ("*.json", "*.csv", "*.parquet", "SHA256SUMS"):
            remove_leftovers(self.path, name, age=0)
        for part in LOCKED_PARTS:
            # The process of a worker's attack leaves its progress below state/, whoever holds the lock.
            age = DAY if part == "state" and has_workers(self.path) else 0
            for folder in (self.path / part).glob("**/"):
                remove_leftovers(folder, age=age)

    def clear(self) -> None:
        """Remove everything but the lock, first of all what lets workers add to it."""
        close_work(self.path)
        for entry in self.path.iterdir():
            if entry.name == LOCK_FILE:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def has_made(self, unit: str) -> bool:
        """Return whether a unit has an image here; a state alone is no part of any number."""
        return bool(self.image_shards(unit))

    def forget(self, unit: str) -> None:
        """Remove all that a unit has left here but its place in the manifest; what several units share stays.

        The state goes last: a call that is killed before leaves what is no whole unit, and the next one does the rest.
        """
        shutil.rmtree(self.path / "images" / unit, ignore_errors=True)
        for file in self.path.glob(f"scores/{unit}.*"):
            file.unlink()
        shutil.rmtree(self.path / "evidence" / unit, ignore_errors=True)
        for file in self.path.glob(f"captions/{unit}.*"):
            file.unlink()
        self.ledger_file(unit).unlink(missing_ok=True)
        shutil.rmtree(self.path / "state" / unit, ignore_errors=True)

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None in a new folder."""
        return read_json(self.manifest_file) if self.manifest_file.exists() else None

    def checked_manifest(self) -> dict[str, Any] | None:
        """Return the manifest as `manifest` does, for whoever opens a folder that may be anybody's.

        Raises:
            CorruptRun: it cannot be read, was changed, or lacks what readers rely on.
        """
        found = self.manifest()
        if found is not None:
            check_manifest(found, f"{self.path.name}/{self.manifest_file.name}")
        return found

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        write_checked_json(self.manifest_file, manifest)

    def reference(self) -> "RunFolder":
        """Return the run of the same attacks on the pair's reference model, a run folder inside this one."""
        return RunFolder(self.path / "reference")

    def results_of(self, candidates: int) -> Path:
        """Return where the results of a number of candidates are that was not the last one asked for."""
        return self.path / "results" / str(candidates)

    def state_file(self, unit: str) -> Path:
        """Return where the attack's state is."""
        return self.path / "state" / unit / "state.safetensors"

    def has_state(self, unit: str, candidates: int) -> bool:
        """Return whether a state is there that is one for so many candidates."""
        file = self.state_file(unit)
        return file.exists() and fits(read_info(file), candidates)

    def attack_state(self, unit: str) -> AttackState:
        """Return the attack's state as its `prepare` made it, without what it cost."""
        stored = read_state(self.state_file(unit))
        return AttackState(stored.tensors, stored.info["state"])

    def is_prepared(self, unit: str) -> bool:
        """Return whether the attack has a state at all: without one, another seed is no other preparation."""
        state = self.attack_state(unit)
        return bool(state.tensors or state.info)

    def kept_file(self, unit: str) -> Path:
        """Return what says that the state was taken from an earlier run, where it was; see `runs.state_cache`."""
        return self.path / "state" / unit / "kept.json"

    def checkpoints(self, unit: str, made_by: Any) -> "FolderCheckpoints":
        """Return the places where an attack leaves its progress.

        `made_by` is what the progress depends on, as a JSON value: progress of other settings or code, or of another
        number of candidates, lies elsewhere, though a process that was declared dead may still write it.
        """
        return FolderCheckpoints(self.path / "state" / unit / f"checkpoints-{short_hash(made_by)}")

    def forget_checkpoints(self, unit: str) -> None:
        """Remove the progress of a unit whose state is there, whoever left it."""
        for folder in (self.path / "state" / unit).glob("checkpoints*"):
            shutil.rmtree(folder, ignore_errors=True)

    def shared_samples(self) -> "FolderCheckpoints":
        """Return where plain samples are kept that several attacks ask for."""
        return FolderCheckpoints(self.path / "state" / "shared")

    def tuning_file(self, attack: str) -> Path:
        """Return where the curve is that an attack's settings come from, if they were tuned."""
        return self.path / "tuning" / f"{attack}.json"

    def probe_file(self, unit: str) -> Path:
        """Return where the invariance probe's finding is."""
        return self.path / "state" / unit / "probe.json"

    def float32_file(self, unit: str) -> Path:
        """Return where the first candidates are as float32 makes them, in a run of lower precision."""
        return self.path / "state" / unit / "float32.safetensors"

    @property
    def precision_file(self) -> Path:
        """Return where it is written whether the run's precision decides its first candidates as float32 does."""
        return self.path / "state" / "precision.json"

    def images_file(self, unit: str, shard: Shard) -> Path:
        """Return where a shard's images are."""
        return self.path / "images" / unit / f"{shard.name}.safetensors"

    def image_shards(self, unit: str) -> list[Shard]:
        """Return the shards of a unit whose images are there, in order."""
        return self._shards(self.path / "images" / unit, "", ".safetensors", f"images/{unit}")

    @property
    def references_file(self) -> Path:
        """Return where it is written which images the references are, and in which duplicate groups."""
        return self.path / "references.parquet"

    def ledger_file(self, unit: str) -> Path:
        """Return where it is written what each shard of a unit cost."""
        return self.path / "ledger" / f"{unit}.json"

    def score_shards(self, unit: str, space: str) -> list[Shard]:
        """Return the shards of a unit whose scores are there, in order."""
        return self._shards(self.path / "scores", f"{unit}.{space}.", ".parquet", f"scores of {unit}")

    def _shards(self, place: Path, before: str, after: str, owner: str) -> list[Shard]:
        if not place.is_dir():
            return []
        manifest = self.manifest() or {"identity": {"protocol": {}}}
        files = (file.name for file in place.iterdir() if file.name.startswith(before))
        names = (file.removeprefix(before).removesuffix(after) for file in files)
        return in_order(filter(None, (named(name, manifest) for name in names)), f"{self.path.name}/{owner}")

    def scored_units(self, manifest: Mapping[str, Any], space: str) -> list[str]:
        """Return the units of the manifest, sorted, that have scores of all candidates that were asked for last."""
        count = asked_candidates(manifest)
        return sorted(
            unit
            for unit in manifest["units"]
            if not missing(self.score_shards(unit, space), count, count)
            and (not self.state_file(unit).exists() or self.has_state(unit, count))
        )

    def candidate_images(self, unit: str, count: int) -> "Iterator[Tensor]":
        """Yield a unit's first `count` images in order, uint8 N x C x H x W.

        They come in parts of 256, however they are filed: what is summed over them must not depend on how a run grew.
        """
        import torch

        parts: list[Tensor] = []
        for shard in below(self.image_shards(unit), count):
            parts.append(read_state(self.images_file(unit, shard)).tensors["images"][: count - shard.numbers.start])
            while sum(map(len, parts)) >= SHARD:
                joined = torch.cat(parts)
                yield joined[:SHARD]
                parts = [joined[SHARD:]]
        if sum(map(len, parts)):
            yield torch.cat(parts)

    def sent_captions(self, unit: str, count: int) -> "np.ndarray | None":
        """Return which caption each of a unit's first `count` images was sampled from, (N,) int64; None without any.

        Numbers are those of `data.captions`, -1 stands for no caption.
        """
        import numpy as np

        kept = [read_state(self.images_file(unit, shard)).tensors for shard in below(self.image_shards(unit), count)]
        if not kept or any("caption" not in tensors for tensors in kept):
            return None
        return np.concatenate([tensors["caption"].numpy() for tensors in kept])[:count]

    def shard_with(self, unit: str, number: int) -> Shard:
        """Return the shard that holds one candidate's image.

        Raises:
            CorruptRun: the folder does not hold it.
        """
        for shard in self.image_shards(unit):
            if number in shard.numbers:
                return shard
        raise CorruptRun(f"{self.path.name}: images/{unit} does not hold candidate {number:,}")

    def candidate_image(self, unit: str, number: int) -> "Tensor":
        """Return one image of a unit, uint8 C x H x W.

        Raises:
            CorruptRun: the folder does not hold it, or the file cannot be read.
        """
        shard = self.shard_with(unit, number)
        return read_state(self.images_file(unit, shard)).tensors["images"][number - shard.numbers.start]

    def captions_file(self, unit: str, candidates: int) -> Path:
        """Return where the ratings of the captions are that a unit's first candidates replayed."""
        return self.path / "captions" / f"{unit}.{candidates}.parquet"

    def scores_file(self, unit: str, space: str, shard: Shard, part: str = "") -> Path:
        """Return where a shard's scores are; `part` is "pairs", "bins" or nothing for the candidates."""
        suffix = f".{part}.parquet" if part else ".parquet"
        return self.path / "scores" / f"{unit}.{space}.{shard.name}{suffix}"


def read_run(path: str | Path) -> RunFolder:
    """Open a finished or unfinished run for reading.

    Raises:
        BadInput: this is no run folder, or a name in it leads out of it.
        CorruptRun: its manifest cannot be read.
    """
    folder = RunFolder(Path(path))
    if not folder.manifest_file.is_file():
        why = "it has no manifest.json" if os.path.lexists(path) else "it is not there"
        raise BadInput(f"{path} is no run folder: {why}{_runs_near(folder.path)}")
    refuse_links(folder.path)
    folder.checked_manifest()
    return folder


def may_be_run(name: str) -> bool:
    """Return whether a name may be a run folder's: a path, what is there, or what ends in 8 hex digits."""
    return (
        any(separator in name for separator in ("/", os.sep))
        or os.path.lexists(name)
        or re.search(r"-[0-9a-f]{8}$", name) is not None
    )


def _runs_near(path: Path) -> str:
    """Return the runs in a folder or else beside it, ready to end a sentence: those of a like name, or the newest."""
    for place in (path, path.parent, Path(RUNS)):
        try:
            found = sorted(place.glob("*/manifest.json"), key=lambda file: -file.stat().st_mtime)
        except OSError:
            continue
        names = [file.parent.name for file in found]
        if names:
            shown = difflib.get_close_matches(path.name, names, n=_MOST_NAMED) or names[:_MOST_NAMED]
            more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
            return f"; {place.as_posix()}/ holds {', '.join(shown)}{more}"
    return ""


@contextmanager
def believed(*folders: RunFolder) -> Iterator[None]:
    """Read runs inside; where their files do not fit together, that is said in one line.

    Each file carries its hash, and what every reader needs is checked. Whoever made the folder can write other hashes,
    though, and files that contradict each other in more ways than could be looked for.

    Raises:
        CorruptRun: anything but an error of sidebench or of the operating system was raised.
    """
    try:
        yield
    except (SidebenchError, OSError):
        raise
    except Exception as error:  # a stranger's files may fail in any way
        shown = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        which = " or ".join(folder.path.name for folder in folders)
        raise CorruptRun(
            f"{which} does not hold what a run writes ({shown}); it was changed, or sidebench has a bug here"
        ) from error


def believing(function: Callable[Concatenate[RunFolder, P], T]) -> Callable[Concatenate[RunFolder, P], T]:
    """Let a function that is handed a run folder first read it as in `believed`."""

    @functools.wraps(function)
    def reader(folder: RunFolder, /, *arguments: P.args, **options: P.kwargs) -> T:
        with believed(folder):
            return function(folder, *arguments, **options)

    return reader


def stored_pair(folder: RunFolder) -> str:
    """Return the name of the shipped pair that a run is of.

    Raises:
        BadInput: the run is of a pair file, which it does not hold.
    """
    from ..data.pair import pair_names

    name = str(read_json(folder.manifest_file)["identity"]["pair"])
    if name not in pair_names():
        raise BadInput(f"{folder.path.name} is a run of {name}, which does not ship with sidebench: give --pair FILE")
    return name


def is_unit_name(name: str) -> bool:
    """Return whether a name from a file can be a unit's, and so be a part of paths; attacks are named as registered."""
    return re.fullmatch(UNIT_PATTERN.strip("^$"), name) is not None


def fits(info: Mapping[str, Any], candidates: int) -> bool:
    """Return whether a stored state is one for so many candidates: most attacks prepare the same for any number."""
    return info.get("candidates") in (None, candidates)


def stored_batching(folder: RunFolder) -> Batching | None:
    """Return the batching that a folder's manifest records; None in a new folder, and in one of `sidebench/1`.

    Raises:
        CorruptRun: the manifest says something impossible.
    """
    stored = (folder.manifest() or {}).get("batching")
    if stored is None:
        return None
    try:
        return Batching.model_validate(stored)
    except ValidationError as error:
        raise CorruptRun(first_problem(error).of(f"{folder.path.name}/{folder.manifest_file.name}, batching")) from None


def rules_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol of a run; `sidebench/1` kept how the work was cut in the same place."""
    stored: Mapping[str, Any] = manifest["identity"]["protocol"]
    return {key: value for key, value in stored.items() if key not in ("micro_batch", "shard")}


def asked_candidates(manifest: Mapping[str, Any]) -> int:
    """Return the number of candidates that was asked for last, which metrics.json is of."""
    identity: Mapping[str, Any] = manifest["identity"]
    return int(identity["candidates"] if "candidates" in identity else manifest["candidates"])
