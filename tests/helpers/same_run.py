"""What two runs of one plan have in common, whoever made which part of them."""

from pathlib import Path
from typing import Any

from sidebench.benchmark.files import read_json, read_state
from sidebench.benchmark.results.run_folder import RunFolder

TIMES = {"seconds", "processor_seconds", "prepare_seconds", "generate_seconds", "results_seconds"}
"""Keys of costs, wherever they stand, that no two runs have in common."""
OF_THE_MACHINE = {"peak_memory_bytes", "peak_device_memory_bytes", "state_kept"}
DIFFER = {"SHA256SUMS", "results.json", "hash.key", ".lock"}
"""Files that hold hashes of times, or a secret; everything else is compared."""


def timeless(value: Any) -> Any:
    """Return JSON values without times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES | OF_THE_MACHINE}
    return value


def content(file: Path) -> Any:
    """Return what a file holds, without what it took."""
    if file.suffix == ".safetensors":
        state = read_state(file)
        return {name: tensor.tolist() for name, tensor in state.tensors.items()}, timeless(dict(state.info))
    if file.name in ("costs.json", "probe.json") or file.parent.name == "ledger":
        return timeless(read_json(file))
    return file.read_bytes()


def contents(folder: RunFolder) -> dict[str, Any]:
    files = [file for file in folder.path.rglob("*") if file.is_file() and file.name not in DIFFER]
    return {file.relative_to(folder.path).as_posix(): content(file) for file in files}


def stamps(folder: RunFolder) -> dict[str, int]:
    files = [file for part in ("images", "state") for file in (folder.path / part).rglob("*") if file.is_file()]
    return {file.relative_to(folder.path).as_posix(): file.stat().st_mtime_ns for file in files}
