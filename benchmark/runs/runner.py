"""Run a plan: prepare and generate every attack, then load the references, score, and store.

Work goes shard by shard; each finished piece is one atomic file, so a run that was killed anywhere and
started again makes only what is missing and ends with the same metrics.json. References are loaded after
the last image was generated; only a defence that needs the training images gets them earlier.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from .. import environment
from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, BadInput, RaisedElsewhere, RunConflict, SidebenchError, raised_in
from ..files import difference, read_info, read_json, write_checked_json, write_json, write_state
from ..models import is_own
from ..models.own_model import owner_of, source_folder
from ..progress import say, silent
from ..protocol import PROBES
from ..registry import source_of
from ..results.run_folder import MANIFEST_SCHEMA, RunFolder
from ..results.schema import load_metrics
from ..results.shards import Shard, below, missing
from ..results.sums import sealed
from ..results.whole import drop_damaged
from . import kept_results
from .makers import Maker, Makers
from .plan import RunPlan, Unit
from .score import check_references, score_unit
from .state_cache import kept_state
from .victim import output_path

if TYPE_CHECKING:
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
        CorruptRun: a stored file was changed or cut, and this call cannot make it again.
    """
    folder = plan.folder()
    with folder.locked():
        if plan.fresh:
            folder.clear()
        _check_space(plan, folder)
        open_folder(plan, folder, plan.identity())
        drop_damaged(folder, {unit.name for unit in plan.units})
        for attack, curve in plan.tuned.items():
            write_json(folder.tuning_file(attack), curve)
        # All images first, then the references, which scoring alone needs.
        failures = _generate_all(plan, folder, progress)
        failures = _attack_reference(plan, progress) | failures
        metrics = _score_all(plan, folder, failures, progress)
        return RunResult(folder, metrics, failures)


# ---- Opening ----------------------------------------------------------------------------------------


def open_folder(plan: RunPlan, folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Write the manifest, or check that the one there is of the same run; units and candidates are added.

    A unit of which nothing was made yet takes new settings, and so does one that the plan begins anew.

    Raises:
        RunConflict: what the folder holds was made by other settings or other code.
    """
    units = {unit.name: unit.description() for unit in plan.units}
    stored = folder.checked_manifest()
    if stored is None:
        _name_older_run(plan, folder)
    makers, before = Makers(plan), () if stored is None else stored.get("apart", ())
    growing = {
        "units": units,
        "batching": plan.batching.model_dump(),
        "candidates": plan.candidates,
        "public": plan.pair.public,
        "made_by": plan.pair.made_by,
        # Called in a process of their own; the others had the run's own memory before them.
        "apart": sorted({*before, *(unit.name for unit in plan.units if makers.apart(unit))}),
    }
    if stored is None:
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "run_id": folder.path.name,
            "identity": identity,
            **growing,
            "control": plan.pair.control,
            "sources": plan.sources,
            **({"model_name": owner_of(plan.model.location)} if is_own(plan.model) else {}),
            "components_left_out": list(plan.left_out),
            "device": plan.model.device.partition(":")[0],
            "optimised_spaces": plan.optimised_spaces(),
            "origins": {name: a.origin.strip() for name, a in plan.pair.attacks.items()},
            "environment": environment.describe(),
        }
        folder.write_manifest(manifest)
        return
    if stored.get("schema") != MANIFEST_SCHEMA:
        raise RunConflict(
            f"{folder.path} was made by an older sidebench ({stored.get('schema')}): it can be read, not continued; "
            f"choose another --out"
        )
    if changed := difference(stored.get("identity"), identity):
        raise RunConflict(
            f"{folder.path} was made by other settings: {changed}; start over with --fresh, or choose another --out"
        )
    begun = any(folder.has_made(name) for name in stored["units"])
    if begun and stored["batching"] != growing["batching"]:
        raise RunConflict(f"{folder.path} was begun with another micro-batch meanwhile; run the same command again")
    anew = [unit.name for unit in plan.units if _is_changed(plan, folder, unit, stored["units"])]
    for name in anew:
        folder.forget(name)
    # Another attack or seed, and more candidates, change nothing of what is there, so a run may grow.
    merged = {**stored, **growing, "units": {**stored["units"], **units}}
    with kept_results.changing_number(folder, plan.candidates):
        if merged != stored:
            folder.write_manifest(merged)


def _name_older_run(plan: RunPlan, folder: RunFolder) -> None:
    """Say that a run of an older protocol lies here and is not continued; its name held the number of candidates."""
    for place in sorted(plan.parent.glob(f"{plan.pair.name}-{plan.candidates}-????????")):
        if (place / folder.manifest_file.name).is_file():
            say(f"{place} was made by an older sidebench: it is read, not continued; this run is {folder.path.name}")


def _is_changed(plan: RunPlan, folder: RunFolder, unit: Unit, stored: Mapping[str, Any]) -> bool:
    """Return whether a unit is begun anew: it was asked for, or settings changed before an image was made.

    Raises:
        RunConflict: images of other settings or code are there.
    """
    name, before = unit.attack.name, stored.get(unit.name)
    if before is None or name in plan.fresh_attacks:
        return before is not None
    changed = difference(before, unit.description(), unit.name)
    if changed and folder.has_made(unit.name):
        # The file itself is easier to understand than its hash.
        why = "its code has changed" if changed.startswith(f"{unit.name}.code") else changed
        raise RunConflict(
            f"{folder.path}: {unit.name} was made by other settings: {why}; make it again with --fresh-attack {name} "
            f"(the others stay), or choose another --out"
        )
    return bool(changed)


def _check_space(plan: RunPlan, folder: RunFolder) -> None:
    """Refuse a run whose images and scores would not fit on the disk."""
    import shutil

    height, width, channels = plan.image_size
    a_candidate = height * width * channels + 40 * plan.protocol.top_k
    lacking = sum(len(shard.numbers) for unit in plan.units for shard in _missing(plan, folder, unit))
    needed = a_candidate * lacking * (2 if plan.reference_model else 1)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise BadInput(f"{folder.path} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; see --out")


# ---- Preparing and generating -----------------------------------------------------------------------


def _generate_all(plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
    """Prepare and generate every unit; a failing attack is recorded and the others go on."""
    failures: dict[str, SidebenchError] = {}
    todo = [unit for unit in plan.units if not _generated(plan, folder, unit)]
    # The model is held once at a time: by the attacks' own process, then here, and by neither for the search or for the
    # same model in float32.
    for apart in (True, False):
        makers = Makers(plan)
        try:
            for unit in todo:
                if makers.apart(unit) is apart and (error := _make(plan, folder, unit, makers.of(unit), progress)):
                    failures[unit.name] = error
        finally:
            makers.close()
    if plan.model.dtype != "float32":
        _make_again_in_float32(plan, folder, [unit for unit in plan.units if unit.name not in failures])
    return failures


def _make(plan: RunPlan, folder: RunFolder, unit: Unit, maker: Maker, progress: Progress) -> SidebenchError | None:
    """Prepare, generate and probe one unit; return what kept it from its end."""
    try:
        with named_failures(plan, unit):
            state = prepare(plan, folder, unit, maker, progress)
            _generate(plan, folder, unit, maker, state, progress)
            _probe(plan, folder, unit, maker, state)
    except SidebenchError as error:
        return error
    return None


def _make_again_in_float32(plan: RunPlan, folder: RunFolder, units: Sequence[Unit]) -> None:
    """Make some candidates of each unit in float32, for `precision_check.compare`."""
    from . import precision_check

    todo = [unit for unit in units if not folder.float32_file(unit.name).exists()]
    if not todo:
        return
    makers = Makers(replace(plan, model=plan.model.model_copy(update={"dtype": "float32"})))
    try:
        for unit in todo:
            maker = makers.of(unit)
            with named_failures(plan, unit):
                precision_check.make_again(plan, folder, unit, maker)
    finally:
        makers.close()


class _Clock:
    """Wall time and processor time since it was made; the second is the same on a busy machine."""

    def __init__(self) -> None:
        self.wall, self.processor = time.monotonic(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Return both in seconds."""
        wall, processor = time.monotonic() - self.wall, time.process_time() - self.processor
        return {"seconds": wall, "processor_seconds": processor}


@contextmanager
def named_failures(plan: RunPlan, unit: Unit) -> Any:
    """Turn whatever a plug-in raises into an error with the attack's name, and the line of it or of the model."""
    try:
        yield
    except SidebenchError:
        raise
    except Exception as error:
        hint = ""
        if "out of memory" in str(error).lower():
            hint = "; start over with a smaller --micro-batch"
        kind, line = type(error).__name__, raised_in(error, source_folder(plan.model))  # an attack calls a model
        line = line or raised_in(error, source_of(type(unit.attack)))
        if isinstance(error, RaisedElsewhere):
            kind, line = error.kind, error.line
        raise AttackFailed(f"{unit.name} failed: {kind}: {error}{line}{hint}") from error


def _missing(plan: RunPlan, folder: RunFolder, unit: Unit) -> list[Shard]:
    """Return the shards of a unit that are to be made."""
    return missing(folder.image_shards(unit.name), plan.candidates, plan.batching.shard)


def _generated(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    """Return whether all images of a unit are made, from a state that fits their number, and probed."""
    return _has_state(plan, folder, unit) and not _missing(plan, folder, unit) and _probed(plan, folder, unit)


def _has_state(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    """Return whether the attack's state is there; one that was prepared for another number of candidates is none."""
    return folder.has_state(unit.name, plan.candidates)


def prepare(plan: RunPlan, folder: RunFolder, unit: Unit, maker: Maker, progress: Progress) -> AttackState:
    """Return the attack's state: the run's own, one kept from an earlier run, or a new one with its cost."""
    file = folder.state_file(unit.name)
    if file.exists() and not _has_state(plan, folder, unit):
        # What was made from it is of another attack, so to say: the number of candidates is one of its settings.
        folder.forget(unit.name)
    # The run's own state comes first: what a finished piece was made with is never replaced.
    kept = None if file.exists() else kept_state(plan, unit)
    if kept and not plan.fresh and unit.attack.name not in plan.fresh_attacks:
        kept.copy_to(folder, unit.name, plan.candidates)
    if file.exists():
        return folder.attack_state(unit.name)

    def report(phase: str, done: int, total: int) -> None:
        progress(f"{unit.name}: {phase}", done, total)

    began = _Clock()
    checkpoints = folder.checkpoints(unit.name)
    budget = Budget(unit.seed, plan.candidates, checkpoints, report)
    made = maker.prepare(unit, plan.sampling, budget, folder.shared_samples())
    cost = {**made.cost, **began.spent(), "denoiser_flops": maker.flops_per_sample()}
    info = {"state": dict(made.state.info), "cost": cost, "candidates": plan.candidates if made.counted else None}
    write_state(file, AttackState(made.state.tensors, info))
    # Only once the state is on the disk: killed in between, the next call finds one or the other.
    checkpoints.clear()
    if kept:
        kept.keep(folder, unit.name)
    return made.state


def _generate(
    plan: RunPlan,
    folder: RunFolder,
    unit: Unit,
    maker: Maker,
    state: AttackState,
    progress: Progress,
) -> None:
    wanted = _missing(plan, folder, unit)
    done = plan.candidates - sum(len(shard.numbers) for shard in wanted)
    for shard in wanted:
        make_shard(plan, folder, unit, maker, state, shard)
        done += len(shard.numbers)
        progress(f"{unit.name}: candidates", done, plan.candidates)


def make_shard(plan: RunPlan, folder: RunFolder, unit: Unit, maker: Maker, state: AttackState, shard: Shard) -> None:
    """Generate one shard of a unit's candidates, unless it is there."""
    file = folder.images_file(unit.name, shard)
    if file.exists():
        return
    began = _Clock()
    candidates = Candidates(unit.seed, shard.numbers)
    made = maker.generate(unit, state, candidates, plan.sampling)
    tensors = {"images": made.images, "nan": made.nan, **{f"column_{k}": v for k, v in made.columns.items()}}
    broken = int(made.nan.sum())
    whose = {"unit": unit.name, "numbers": [shard.numbers.start, shard.numbers.stop], "nan": broken}
    write_state(file, AttackState(tensors, {"cost": {**made.cost, **began.spent()}, **whose}))


def _probes(plan: RunPlan) -> int:
    return min(PROBES, max(1, plan.candidates // 64))


def _probed(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    file = folder.probe_file(unit.name)
    return file.exists() and int(read_json(file)["candidates"]) >= _probes(plan)


def _probe(plan: RunPlan, folder: RunFolder, unit: Unit, maker: Maker, state: AttackState) -> None:
    """Make a few candidates again with another micro-batch and store how far they are off, and what that cost."""
    if _probed(plan, folder, unit):
        return
    count, usual = _probes(plan), plan.batching.micro_batch
    # Another micro-batch is what moves rounding, and other neighbours show an attack whose candidates depend on them.
    # No more rows are computed than are looked at, and no more at a time than the device is known to take.
    other = min(count, usual if count != usual else usual // 2 or 1)
    sampling = plan.sampling.model_copy(update={"micro_batch": other})
    began = _Clock()
    again = maker.generate(unit, state, Candidates(unit.seed, range(count)), sampling)
    first = torch.cat(list(folder.candidate_images(unit.name, count)))
    off = (again.images.int() - first.int()).abs()
    write_checked_json(
        folder.probe_file(unit.name),
        {
            "candidates": count,
            "micro_batch": other,
            "largest": int(off.max()),
            # One level of 255 is rounding; what counts is how many values are off by more.
            "share_off": float((off > 1).float().mean()),
            "cost": {**again.cost, **began.spent()},
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

    made = _finished_units(plan, folder, failures)
    failures |= {name: no_image for name, _, _ in made if (no_image := _makes_only_nan(plan, folder, name))}
    units = [unit for unit in made if unit[0] not in failures]
    if not made:
        return None
    if units and kept_results.hold(plan, folder, units):
        return load_metrics(folder)
    references = load_references(plan.pair, progress)
    check_references(plan, references)
    _check_same_data(folder, references.fingerprint)
    write_results.write_references(folder, references)
    path = output_path(plan, references)
    device = environment.pick_device(plan.model.device)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, device, path)
    for unit in made:  # the gate reads the scores of broken images too
        score_unit(plan, folder, unit, scorer, progress)
    if not units:
        return None
    with sealed(folder):
        metrics = write_results.write_results(plan, folder, units, references, scorer)
        kept_results.note_origin(plan, folder, units)
        return metrics


def _makes_only_nan(plan: RunPlan, folder: RunFolder, unit: str) -> BadInput | None:
    """Return what to say of a unit without one whole image: its rates would be 0 on both sides, as of a safe model."""
    models = {"model": plan.model, "reference_model": plan.reference_model}
    for (key, spec), place in zip(models.items(), plan.places(folder), strict=False):
        shards = below(place.image_shards(unit), plan.candidates)
        broken = [read_info(place.images_file(unit, shard)).get("nan") for shard in shards]
        if spec is not None and broken == [len(shard.numbers) for shard in shards]:
            name = plan.sources.get(key, {}).get("repo", spec.location)
            hint = "" if spec.dtype == "float32" else ", or try --dtype float32"
            return BadInput(
                f"{unit}: {key.replace('_', ' ')} {name} makes only NaN: none of {plan.candidates:,} images is whole, "
                f"so no rate means anything; check the weights{hint}"
            )
    return None


def _check_same_data(folder: RunFolder, fingerprint: str) -> None:
    """Refuse images that are not those by which the run's scores were made.

    Raises:
        RunConflict: they have changed since.
    """
    stored = (folder.manifest() or {}).get("data", {}).get("sha256")
    if stored not in (None, fingerprint):
        raise RunConflict(
            f"{folder.path} was scored against other images: the pair's data have changed since; start over with "
            f"--fresh, or choose another --out"
        )


def _whole(plan: RunPlan, folder: RunFolder, unit: str) -> bool:
    """Return whether a unit, of this plan or of an earlier one, has all its images."""
    lacking = missing(folder.image_shards(unit), plan.candidates, plan.candidates)
    return not lacking and folder.has_state(unit, plan.candidates) and folder.probe_file(unit).exists()


def _finished_units(
    plan: RunPlan, folder: RunFolder, failures: Mapping[str, SidebenchError]
) -> list[tuple[str, str, int]]:
    """Return (unit name, attack, seed) of every unit with all its images, earlier calls' units too.

    Where there is a reference model, its images must be there as well.
    """
    places = plan.places(folder)
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
        if name not in failures and all(_whole(plan, place, name) for place in places):
            found.append((name, unit["attack"], unit["seed"]))
    return found
