"""Which settings of a defence were tried under the seeds that it is now reported with.

A comparison counts every candidate of both sides, so no worst case can be picked out. Settings still can: the best of
five strengths under one seed looks better than it is. Other runs beside a compared one give that away.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import CorruptRun
from ...files import read_json
from ...results.run_folder import RunFolder


def other_settings(folder: RunFolder, compared: Sequence[RunFolder]) -> list[str]:
    """Return a sentence for each run beside this one that tried other settings of its defences under its seeds.

    Runs that are compared themselves are left out: whoever sees all of them is not misled.
    """
    own = read_json(folder.manifest_file)
    known = {other.path.resolve() for other in compared}
    found = []
    for path, manifest in _beside(folder.path):
        seeds = sorted(_seeds(own) & _seeds(manifest))
        if path.resolve() in known or not seeds or not _same_victim(own, manifest):
            continue
        for name, settings in own["identity"]["defences"].items():
            tried = manifest["identity"]["defences"].get(name, settings)
            changed = [f"{key} = {tried[key]}" for key in tried if tried[key] != settings.get(key)]
            if changed:
                under = ", ".join(map(str, seeds))
                found.append(
                    f"{name} was also run with {', '.join(changed)} under seed {under} ({path.name}): "
                    "if its settings were chosen by that, compare under a seed that nothing was chosen with"
                )
    return found


def _beside(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(path.resolve().parent.glob("*/manifest.json")):
        try:
            manifest = read_json(file)
        except CorruptRun:
            continue
        if isinstance(manifest.get("identity"), dict) and isinstance(manifest["identity"].get("defences"), dict):
            yield file.parent, manifest


def _seeds(manifest: dict[str, Any]) -> set[int]:
    return {unit["seed"] for unit in manifest.get("units", {}).values()}


def _same_victim(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return bool(first["identity"]["model"] == second["identity"].get("model"))
