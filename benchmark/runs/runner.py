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

from .. import environment
from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, BadInput, RunConflict, SidebenchError
from ..files import difference, read_state, write_json, write_state
from ..progress import silent
from ..protocol import PROBES
from ..results.run_folder import MANIFEST_SCHEMA, RunFolder
from ..sampling.call_attack import make_candidates, prepare_attack
from .plan import RunPlan, Unit
from .score import check_references, score_unit
from .state_cache import kept_state
from .victim import load_victim

if TYPE_CHECKING:
    from ..contracts import Model
    from ..results.schema import Metrics


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
        # All images first, then the references, which scoring alone needs.
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
    # Another attack or seed changes nothing of the units that are there, so a run may grow.
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
        # Its memory is needed for the search, or for the same model in float32.
        del model
    if plan.model.dtype != "float32":
        _make_again_in_float32(plan, folder, [unit for unit in plan.units if unit.name not in failures])
    return failures


def _make_again_in_float32(plan: RunPlan, folder: RunFolder, units: Sequence[Unit]) -> None:
    """Make some candidates of each unit in float32, for `precision_check.compare`."""
    from . import precision_check

    todo = [unit for unit in units if not folder.float32_file(unit.name).exists()]
    if not todo:
        return
    model = load_victim(replace(plan, model=plan.model.model_copy(update={"dtype": "float32"})))
    for unit in todo:
        with named_failures(unit):
            precision_check.make_again(plan, folder, unit, model)


class _Clock:
    """Wall time and processor time since it was made; the second is the same on a busy machine."""

    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Return both in seconds."""
        wall, processor = time.monotonic() - self.wall, time.process_time() - self.processor
        return {"seconds": wall, "processor_seconds": processor}


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
    # The run's own state comes first: what a finished piece was made with is never replaced.
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
    # Only once the state is on the disk: killed in between, the next call finds one or the other.
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
    # Another micro-batch is what moves rounding: an attack whose candidates depend on their neighbours shows here.
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
            # One level of 255 is rounding; what counts is how many values are off by more.
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
    from ..data.references import load_references
    from ..measures.scorer import Scorer
    from . import write_results

    units = _finished_units(plan, folder, failures)
    if not units:
        return None
    references = load_references(plan.pair, progress)
    check_references(plan, references)
    write_results.write_references(folder, references)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, environment.pick_device(plan.model.device))
    for unit in units:
        score_unit(plan, folder, unit, scorer, progress)
    return write_results.write_results(plan, folder, units, references, scorer)


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
    # The pair's order, whatever order units were added in: metrics.json has the same bytes either way.
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
