"""Results of a run by number of candidates: put aside when another number is asked for, taken again while they hold.

What was computed last lies in the run folder itself, the same files for other numbers in results/<number>/. Results
hold as long as everything that they were computed from is the same, which `results.json` names by a hash, and every
file is what was written (`results.sums`). Anything else is computed again from the stored scores.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..environment import harness_code
from ..files import content_sha256, read_info, read_json, sha256, write_json
from ..results.run_folder import RunFolder, asked_candidates
from ..results.score_files import SCORE_PARTS
from ..results.shards import SAMPLES, below
from ..results.sums import LISTED, ORIGIN, SUMS, is_sealed
from .plan import RunPlan
from .score import is_scored

Units = Sequence[tuple[str, str, int]]
"""Unit name, attack, seed."""

MOVED = (SUMS, *(name for name in LISTED if "/" not in name), "evidence")
"""The list of sums first: without one, nothing that is there counts."""


@contextmanager
def changing_number(folder: RunFolder, candidates: int) -> Iterator[None]:
    """Write a manifest of this number of candidates inside: other results are put aside before, its own taken after.

    At every moment the folder itself holds results of the manifest's number, or none.
    """
    manifest = folder.manifest()
    if manifest is not None and (before := asked_candidates(manifest)) != candidates:
        folder.report_file.unlink(missing_ok=True)
        own = folder.results_of(before)
        if (folder.path / SUMS).exists():
            shutil.rmtree(own, ignore_errors=True)
        _move(folder.path, own)
    yield
    if not (folder.path / SUMS).exists():
        _move(folder.results_of(candidates), folder.path)


def _move(source: Path, target: Path) -> None:
    """Move results from one folder into another."""
    for name in MOVED:
        if (source / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            if (target / name).is_dir():
                shutil.rmtree(target / name)
            (source / name).replace(target / name)


def _made_of(plan: RunPlan, folder: RunFolder, units: Units) -> str:
    """Return a hash of everything that the results of these units are computed from."""
    manifest = folder.manifest()
    assert manifest is not None
    content = {
        "identity": plan.identity(),
        "candidates": plan.candidates,
        "units": [manifest["units"][name] for name, _, _ in units],
        "pair": [plan.pair.verified, plan.pair.protocol.model_dump(mode="json"), plan.pair.claim],
        "code": harness_code(),
        "data": (manifest.get("data") or {}).get("sha256"),
        "files": [_files(plan, place, name) for place in plan.places(folder) for name, _, _ in units],
    }
    return content_sha256(content)


def _files(plan: RunPlan, folder: RunFolder, unit: str) -> list[Any]:
    """Return the hashes of a unit's score files, those of its samples too, its probes, and what all of it cost."""
    state = read_info(folder.state_file(unit))["cost"]
    images = below(folder.image_shards(unit), plan.candidates)
    probe = read_json(folder.probe_file(unit))
    found: list[Any] = [state, probe, *(read_info(folder.images_file(unit, shard))["cost"] for shard in images)]
    if folder.float32_file(unit).exists():
        found.append(sha256(folder.float32_file(unit)))
    for space in sorted({measure.space for measure in plan.measures}):
        scored = [(unit, shard) for shard in below(folder.score_shards(unit, space), plan.candidates)]
        for name, shard in [*scored, *((key, SAMPLES) for key in state["samples"])]:
            found += [sha256(folder.scores_file(name, space, shard, part)) for part in SCORE_PARTS]
    return found


def note_origin(plan: RunPlan, folder: RunFolder, units: Units) -> None:
    """Write what the results in the folder were computed from, before they are sealed."""
    write_json(folder.path / ORIGIN, {"of": _made_of(plan, folder, units)})


def hold(plan: RunPlan, folder: RunFolder, units: Units) -> bool:
    """Return whether the folder holds the results of these units, of the scores as they are, and as they were written.

    Looks at files alone: no image, no reference and no model is loaded.
    """
    if not is_sealed(folder) or not (folder.path / ORIGIN).exists():
        return False
    places = plan.places(folder)
    if not all(place.references_file.exists() for place in places):
        return False
    if not all(is_scored(plan, place, name) for place in places for name, _, _ in units):
        return False
    return read_json(folder.path / ORIGIN).get("of") == _made_of(plan, folder, units)
