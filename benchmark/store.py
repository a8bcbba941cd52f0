"""The run folder: atomic files, one lock, states and shards that a killed run finds again.

    manifest.json               everything needed to repeat the run
    references.parquet          side, number, row in the data set, duplicate group; no image
    state/<unit>/state.safetensors, checkpoints/ while it is made; state/shared/ for samples that attacks share
    images/<unit>/00000.safetensors   candidates as uint8, with flags, columns and cost (local only)
    scores/<unit>.<space>.00000.parquet, .pairs.parquet, .bins.parquet
    metrics.json, metrics.csv, costs.json, quality.json, copying.json, audit.json, evidence/, label/, report.html
    tuning/<attack>.json        the curve that its settings come from (`--tuned`)
    hash.key                    secret that names training images in reports and records (keyed.py)
    reference/                  the same attacks on the pair's reference model, a run folder like this one

A unit is one attack under one seed, `<attack>.s<seed>`.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contracts import AttackState
from .errors import BadInput, CannotWrite, CorruptRun, RunConflict

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

MANIFEST_SCHEMA = "sidebench-manifest/1"


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_file = path / "manifest.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; a second writer is refused.

        Raises:
            RunConflict: another process holds the lock.
            BadInput: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / ".lock").open("w")
        except OSError as error:
            raise BadInput(f"cannot write to {self.path}: {error.strerror}; choose another with --out") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunConflict(f"another process is writing to {self.path}") from None
            yield

    def clear(self) -> None:
        """Remove everything but the lock."""
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None in a new folder."""
        return read_json(self.manifest_file) if self.manifest_file.exists() else None

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        write_json(self.manifest_file, manifest)

    def reference(self) -> "RunFolder":
        """Return the run of the same attacks on the pair's reference model, a run folder inside this one."""
        return RunFolder(self.path / "reference")

    def state_file(self, unit: str) -> Path:
        """Return where the attack's state is."""
        return self.path / "state" / unit / "state.safetensors"

    def attack_state(self, unit: str) -> AttackState:
        """Return the attack's state as its `prepare` made it, without what it cost."""
        stored = read_state(self.state_file(unit))
        return AttackState(stored.tensors, stored.info["state"])

    def kept_file(self, unit: str) -> Path:
        """Return what says that the state was taken from an earlier run, where it was; see `states`."""
        return self.path / "state" / unit / "kept.json"

    def checkpoints(self, unit: str) -> "FolderCheckpoints":
        """Return the places where an attack leaves its progress."""
        return FolderCheckpoints(self.path / "state" / unit / "checkpoints")

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

    def images_file(self, unit: str, shard: int) -> Path:
        """Return where a shard's images are."""
        return self.path / "images" / unit / f"{shard:05d}.safetensors"

    def scored_units(self, manifest: Mapping[str, Any], space: str) -> list[str]:
        """Return the units of the manifest, sorted, whose last shard of scores is there."""
        last = shard_count(manifest["identity"]) - 1
        return sorted(unit for unit in manifest["units"] if self.scores_file(unit, space, last).exists())

    def candidate_images(self, unit: str, shards: int) -> "Iterator[Tensor]":
        """Yield a unit's images shard by shard, uint8 N x C x H x W."""
        return (read_state(self.images_file(unit, shard)).tensors["images"] for shard in range(shards))

    def scores_file(self, unit: str, space: str, shard: int, part: str = "") -> Path:
        """Return where a shard's scores are; `part` is "pairs", "bins" or nothing for the candidates."""
        suffix = f".{part}.parquet" if part else ".parquet"
        return self.path / "scores" / f"{unit}.{space}.{shard:05d}{suffix}"


class FolderCheckpoints:
    """Named states in one folder, each one file, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""
        file = self.file(name)
        return read_state(file) if file.exists() else None

    def save(self, name: str, state: AttackState) -> None:
        """Save in place of what was there."""
        write_state(self.file(name), state)

    def file(self, name: str) -> Path:
        """Return where the state of this name is."""
        return self.folder / f"{name}.safetensors"

    def clear(self) -> None:
        """Forget everything that was saved here."""
        shutil.rmtree(self.folder, ignore_errors=True)


class MemoryCheckpoints:
    """Named states that last as long as this object."""

    def __init__(self) -> None:
        self._states: dict[str, AttackState] = {}

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""
        return self._states.get(name)

    def save(self, name: str, state: AttackState) -> None:
        """Save in place of what was there."""
        self._states[name] = state


def read_run(path: str | Path) -> RunFolder:
    """Open a finished or unfinished run for reading.

    Raises:
        BadInput: this is no run folder.
    """
    folder = RunFolder(Path(path))
    if not folder.manifest_file.is_file():
        raise BadInput(f"{path} is no run folder: it has no manifest.json")
    return folder


def shard_count(identity: Mapping[str, Any]) -> int:
    """Return the number of shards of a run, from the identity in its manifest."""
    return -(-int(identity["candidates"]) // int(identity["protocol"]["shard"]))


def difference(stored: Any, wanted: Any, key: str = "") -> str | None:
    """Describe the first difference between two JSON values, or None."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in sorted({*stored, *wanted}):
            found = difference(stored.get(name), wanted.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if stored == wanted else f"{key} was {stored!r}, now {wanted!r}"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Raises:
        CannotWrite: the disk is full or failing; what was there stays.
        BadInput: the place cannot be written to.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        kind = CannotWrite if full else BadInput
        raise kind(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def canonical_json(content: Any) -> str:
    """Return JSON with sorted keys and no NaN: the same content is the same bytes."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write canonical JSON atomically."""
    text = canonical_json(content)
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptRun(f"{path.parent.name}/{path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CorruptRun(f"{path.parent.name}/{path.name} holds no object")
    return content


def write_state(path: Path, state: AttackState) -> None:
    """Write tensors and JSON values as one safetensors file (the JSON is in its header)."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    content = save(tensors, {"info": json.dumps(state.info, sort_keys=True)})
    write_atomic(path, lambda file: file.write_bytes(content))


def read_state(path: Path) -> AttackState:
    """Read what `write_state` wrote."""
    return _read_safetensors(path, tensors=True)


def read_info(path: Path) -> Mapping[str, Any]:
    """Read the JSON values of what `write_state` wrote, without the tensors and without importing torch."""
    return _read_safetensors(path, tensors=False).info


def _read_safetensors(path: Path, *, tensors: bool) -> AttackState:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt" if tensors else "numpy") as file:
            info = json.loads((file.metadata() or {}).get("info", "{}"))
            names = file.keys() if tensors else []
            return AttackState({name: file.get_tensor(name) for name in names}, info)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CorruptRun:
    return CorruptRun(
        f"{path.parent.name}/{path.name} cannot be read ({type(error).__name__}); delete it, and the run makes it again"
    )


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a parquet table atomically."""
    import pyarrow.parquet as pq

    write_atomic(path, lambda file: pq.write_table(table, file.absolute(), compression="zstd"))


def read_table(path: Path) -> "pa.Table":
    """Read a parquet table of a run folder, without threads and read-ahead: the files are small."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A relative path with a colon, such as control:copycat/..., is an address to pyarrow.
        return pq.ParquetFile(path.absolute(), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def short_hash(content: Any) -> str:
    """Return 8 hex digits that name a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
