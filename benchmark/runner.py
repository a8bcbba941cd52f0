"""Run a plan: prepare and generate every attack, then load the references, score, and store.

Work goes shard by shard; each finished piece is one atomic file, so a run that was killed anywhere and
started again makes only what is missing and ends with the same metrics.json. References are loaded after
the last image was generated; only a defence that needs the training images gets them earlier.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import environment, hub
from .attacking import make_candidates, prepare_attack
from .contracts import AttackState, Budget, Progress
from .defending import defend
from .errors import AttackFailed, BadInput, RunConflict, SidebenchError
from .plan import RunPlan, Unit
from .progress import silent
from .protocol import PROBES
from .states import kept_state
from .store import MANIFEST_SCHEMA, RunFolder, difference, read_info, read_state, write_json, write_state
from .streams import Candidates

if TYPE_CHECKING:
    from torch import Tensor

    from .contracts import Model
    from .references import References
    from .results import Metrics


@dataclass(frozen=True)
class RunResult:
    """What `execute` hands back."""

    folder: RunFolder
    metrics: "Metrics | None"
    failures: dict[str, SidebenchError] = field(default_factory=dict)
    """Units that failed, with the reason; the others' results are kept."""


def execute(plan: RunPlan, progress: Progress = silent) -> RunResult:
    """Carry out a plan, or what is missing of it.

    Raises:
        RunConflict: the folder holds a run with other settings, or another process writes to it.
        CorruptRun: a stored file cannot be read.
    """
    folder = plan.folder()
    with folder.locked():
        if plan.fresh:
            folder.clear()
        _check_space(plan, folder)
        open_folder(plan, folder, plan.identity())
        for attack, curve in plan.tuned.items():
            write_json(folder.tuning_file(attack), curve)
        failures = _generate_all(plan, folder, progress)
        failures = _attack_reference(plan, progress) | failures
        metrics = _score_all(plan, folder, failures, progress)
        return RunResult(folder, metrics, failures)


# ---- Opening ----------------------------------------------------------------------------------------


def open_folder(plan: RunPlan, folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Write the manifest, or check that the one there is of the same run; new units are added.

    Raises:
        RunConflict: what the folder holds was made by other settings.
    """
    units = {
        unit.name: {
            "attack": unit.attack.name,
            "access": unit.attack.access,
            "seed": unit.seed,
            "settings": unit.settings(),
        }
        for unit in plan.units
    }
    stored = folder.manifest()
    if stored is None:
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "run_id": folder.path.name,
            "identity": identity,
            "control": plan.pair.control,
            "sources": plan.sources,
            "components_left_out": list(plan.left_out),
            "device": plan.model.device.partition(":")[0],
            "units": units,
            "optimised_spaces": plan.optimised_spaces(),
            "origins": {name: a.origin.strip() for name, a in plan.pair.attacks.items()},
            "environment": environment.describe(),
        }
        folder.write_manifest(manifest)
        return
    changed = difference(stored.get("identity"), identity)
    for name, unit in units.items():
        if name in stored.get("units", {}):
            changed = changed or difference(stored["units"][name], unit, name)
    if changed:
        raise RunConflict(
            f"{folder.path} was made by other settings: {changed}; start over with --fresh, or choose another --out"
        )
    if not units.keys() <= stored["units"].keys():
        folder.write_manifest({**stored, "units": {**stored["units"], **units}})


def _check_space(plan: RunPlan, folder: RunFolder) -> None:
    """Refuse a run whose images and scores would not fit on the disk."""
    import shutil

    height, width, channels = plan.image_size
    a_candidate = height * width * channels + 40 * plan.protocol.top_k
    needed = a_candidate * plan.candidates * len(plan.units) * (2 if plan.reference_model else 1)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise BadInput(f"{folder.path} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; see --out")


# ---- Preparing and generating -----------------------------------------------------------------------


def _generate_all(plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
    """Prepare and generate every unit; a failing attack is recorded and the others go on."""
    failures: dict[str, SidebenchError] = {}
    if todo := [unit for unit in plan.units if not _generated(plan, folder, unit)]:
        model = load_victim(plan)
        for unit in todo:
            try:
                with named_failures(unit):
                    state = prepare(plan, folder, unit, model, progress)
                    _generate(plan, folder, unit, model, state, progress)
                    _probe(plan, folder, unit, model, state)
            except SidebenchError as error:
                failures[unit.name] = error
        del model
    if plan.model.dtype != "float32":
        _make_again_in_float32(plan, folder, [unit for unit in plan.units if unit.name not in failures])
    return failures


def _make_again_in_float32(plan: RunPlan, folder: RunFolder, units: Sequence[Unit]) -> None:
    """Make some candidates of each unit in float32, for `precision.compare`."""
    from . import precision

    todo = [unit for unit in units if not folder.float32_file(unit.name).exists()]
    if not todo:
        return
    model = load_victim(replace(plan, model=plan.model.model_copy(update={"dtype": "float32"})))
    for unit in todo:
        with named_failures(unit):
            precision.make_again(plan, folder, unit, model)


def load_victim(plan: RunPlan) -> "Model":
    """Load the plan's model and put its defences around it.

    Raises:
        BadInput: a defence does not fit the model.
    """
    from .models import load_model

    model: Model = load_model(plan.model)
    if any(unit.attack.access == "prompts" for unit in plan.units):
        model.prompts = _captions(plan)
    if any(unit.attack.access == "oracle" for unit in plan.units):
        model.labelled = _labelled(plan)
    return defend(model, plan.defences, plan.protocol.sampler.name, lambda: _training_images(plan))


class _Clock:
    """Wall time and processor time since it was made; the second is the same on a busy machine."""

    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Return both in seconds."""
        wall, processor = time.monotonic() - self.wall, time.process_time() - self.processor
        return {"seconds": wall, "processor_seconds": processor}


def _captions(plan: RunPlan) -> list[str]:
    """Load what an attack with access "prompts" knows: the training images' captions, and nothing of the images."""
    from .references import load_references

    return load_references(plan.pair).training.captions or []


def _labelled(plan: RunPlan) -> "tuple[Tensor, Tensor] | None":
    """Load the training images with their classes, which only an oracle has; None where the pair has no classes."""
    import torch

    from .references import load_references

    training = load_references(plan.pair).training
    if training.labels is None:
        return None
    return training.floats(), torch.from_numpy(training.labels).long()


def _training_images(plan: RunPlan) -> "Tensor":
    """Load what a defender has; attacks see the defended model only."""
    from .references import load_references

    return load_references(plan.pair).training.floats()


@contextmanager
def named_failures(unit: Unit) -> Any:
    """Turn whatever a plug-in raises into an error with the attack's name."""
    try:
        yield
    except SidebenchError:
        raise
    except Exception as error:
        hint = ""
        if "out of memory" in str(error).lower():
            hint = "; give the pair a smaller protocol.micro_batch (a new run: the number belongs to the settings)"
        raise AttackFailed(f"{unit.name} failed: {type(error).__name__}: {error}{hint}") from error


def _generated(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    return all(file.exists() for file in _unit_files(plan, folder, unit.name))


def _unit_files(plan: RunPlan, folder: RunFolder, unit: str) -> list[Path]:
    """Return the files that a unit has once all its images are made."""
    images = [folder.images_file(unit, shard) for shard in range(plan.shards())]
    return [folder.state_file(unit), *images, folder.probe_file(unit)]


def prepare(plan: RunPlan, folder: RunFolder, unit: Unit, model: "Model", progress: Progress) -> AttackState:
    """Return the attack's state: the run's own, one kept from an earlier run, or a new one with its cost."""
    file = folder.state_file(unit.name)
    kept = None if file.exists() else kept_state(plan, unit, model)
    if kept and not plan.fresh:
        kept.copy_to(folder, unit.name)
    if file.exists():
        return folder.attack_state(unit.name)

    def report(phase: str, done: int, total: int) -> None:
        progress(f"{unit.name}: {phase}", done, total)

    began = _Clock()
    checkpoints = folder.checkpoints(unit.name)
    budget = Budget(unit.seed, plan.candidates, checkpoints, report)
    state, spent = prepare_attack(unit.attack, model, plan.protocol, budget, folder.shared_samples())
    cost = {**spent, **began.spent(), "denoiser_flops": model.flops_per_sample()}
    write_state(file, AttackState(state.tensors, {"state": dict(state.info), "cost": cost}))
    checkpoints.clear()
    if kept:
        kept.keep(folder, unit.name)
    return state


def _generate(
    plan: RunPlan,
    folder: RunFolder,
    unit: Unit,
    model: "Model",
    state: AttackState,
    progress: Progress,
) -> None:
    for shard in range(plan.shards()):
        make_shard(plan, folder, unit, model, state, shard)
        progress(f"{unit.name}: candidates", plan.numbers(shard).stop, plan.candidates)


def make_shard(plan: RunPlan, folder: RunFolder, unit: Unit, model: "Model", state: AttackState, shard: int) -> None:
    """Generate one shard of a unit's candidates, unless it is there."""
    file = folder.images_file(unit.name, shard)
    if file.exists():
        return
    began = _Clock()
    candidates = Candidates(unit.seed, plan.numbers(shard))
    images, nan, columns, cost = make_candidates(unit.attack, model, state, candidates, plan.protocol)
    tensors = {"images": images, "nan": nan, **{f"column_{k}": v for k, v in columns.items()}}
    write_state(file, AttackState(tensors, {"cost": {**cost, **began.spent()}}))


def _probe(plan: RunPlan, folder: RunFolder, unit: Unit, model: "Model", state: AttackState) -> None:
    """Make a few candidates again with another batch size and store how far they are off."""
    file = folder.probe_file(unit.name)
    if file.exists():
        return
    count = min(PROBES, plan.candidates, plan.protocol.shard)
    other = plan.protocol.model_copy(update={"micro_batch": max(1, plan.protocol.micro_batch // 2 + 1)})
    again = make_candidates(unit.attack, model, state, Candidates(unit.seed, range(count)), other)[0]
    first = read_state(folder.images_file(unit.name, 0)).tensors["images"][:count]
    off = (again.int() - first.int()).abs()
    write_json(
        file,
        {
            "candidates": count,
            "micro_batch": other.micro_batch,
            "largest": int(off.max()),
            "share_off": float((off > 1).float().mean()),
        },
    )


def _attack_reference(plan: RunPlan, progress: Progress) -> dict[str, SidebenchError]:
    """Run the same attacks on the pair's reference model, if it has one, and return the units that failed there."""
    reference = plan.reference()
    if reference is None:
        return {}

    def report(phase: str, done: int, total: int) -> None:
        progress(f"reference model, {phase}", done, total)

    failures = execute(reference, report).failures
    return {name: AttackFailed(f"on the reference model: {error}") for name, error in failures.items()}


# ---- Scoring ----------------------------------------------------------------------------------------


def _score_all(
    plan: RunPlan,
    folder: RunFolder,
    failures: dict[str, SidebenchError],
    progress: Progress,
) -> "Metrics | None":
    from . import artefacts
    from .references import load_references
    from .scoring import Scorer

    units = _finished_units(plan, folder, failures)
    if not units:
        return None
    references = load_references(plan.pair, progress)
    check_references(plan, references)
    artefacts.write_references(folder, references)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, hub.pick_device(plan.model.device))
    for unit in units:
        _score(plan, folder, unit, scorer, progress)
    return artefacts.write_results(plan, folder, units, references, scorer)


def _finished_units(
    plan: RunPlan, folder: RunFolder, failures: Mapping[str, SidebenchError]
) -> list[tuple[str, str, int]]:
    """Return (unit name, attack, seed) of every unit with all its images, earlier calls' units too.

    Where there is a reference model, its images must be there as well.
    """
    reference = plan.reference()
    places = [folder] if reference is None else [folder, reference.folder()]
    manifest = folder.manifest()
    assert manifest is not None
    rank = {attack: position for position, attack in enumerate(plan.pair.attacks)}
    ordered = sorted(
        manifest["units"].items(),
        key=lambda item: (rank.get(item[1]["attack"], len(rank)), item[1]["attack"], item[1]["seed"]),
    )
    found = []
    for name, unit in ordered:
        files = [file for place in places for file in _unit_files(plan, place, name)]
        if name not in failures and all(file.exists() for file in files):
            found.append((name, unit["attack"], unit["seed"]))
    return found


def check_references(plan: RunPlan, references: "References") -> None:
    """Refuse reference images of another size than the model's.

    Raises:
        BadInput: the sizes differ; both are named.
    """
    wanted = plan.image_size
    channels, height, width = references.training.images.shape[1:]
    if (height, width, channels) != wanted:
        raise BadInput(
            f"{plan.pair.name}: the images are {height}x{width}x{channels}, "
            f"the model makes {'x'.join(str(n) for n in wanted)}"
        )
    held_out = set(references.held_out.groups)
    if held_out and not (held_out - set(references.training.groups)):
        raise BadInput(
            f"{plan.pair.name}: every held-out image lies in a duplicate group with training images, so nothing is "
            f"left to compare; declare control: none"
        )


def _score(plan: RunPlan, folder: RunFolder, unit: tuple[str, str, int], scorer: Any, progress: Progress) -> None:
    """Score a unit's candidates, and the samples that its `prepare` asked for: they cost as much and may hit too."""
    name = unit[0]
    for shard in range(plan.shards()):
        score_shard(plan, folder, name, shard, scorer)
        progress(f"{name}: scores", plan.numbers(shard).stop, plan.candidates)
    for key in read_info(folder.state_file(name))["cost"]["samples"]:
        _score_file(plan, folder, key, 0, folder.shared_samples().file(key), 0, scorer)


def score_shard(plan: RunPlan, folder: RunFolder, unit: str, shard: int, scorer: Any) -> None:
    """Score one shard of a unit's images, unless its scores are there."""
    _score_file(plan, folder, unit, shard, folder.images_file(unit, shard), plan.numbers(shard).start, scorer)


def _score_file(
    plan: RunPlan, folder: RunFolder, name: str, shard: int, images_file: Path, start: int, scorer: Any
) -> None:
    import numpy as np

    from .scores import SCORE_PARTS, write_scores

    for space in dict.fromkeys(measure.space for measure in plan.measures):
        if all(folder.scores_file(name, space, shard, part).exists() for part in SCORE_PARTS):
            continue
        stored = read_state(images_file).tensors
        numbers = np.arange(start, start + len(stored["images"]), dtype=np.int64)
        nan = stored["nan"].numpy() if "nan" in stored else np.zeros(len(numbers), dtype=bool)
        scores = scorer.score(stored["images"], numbers, nan, space)
        columns = {
            key.removeprefix("column_"): value.numpy() for key, value in stored.items() if key.startswith("column_")
        }
        write_scores(folder, name, space, shard, scores, list(plan.measures), columns)
