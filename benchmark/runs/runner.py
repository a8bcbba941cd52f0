"""Run a plan: prepare and generate every attack, then load the references, score, and store.

Each finished piece is one atomic file, so a run that was killed anywhere and
started again makes only what is missing and ends with the same metrics.json. References are loaded after
the last image was generated; only a defence that needs the training images gets them earlier.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import environment
from ..contracts import Progress
from ..errors import AttackFailed, BadInput, RunConflict, SidebenchError
from ..files import difference, read_info, write_json
from ..models import is_own
from ..models.own_model import owner_of
from ..progress import say, silent
from ..results.leases import Desk, close_work, is_open_for, open_work
from ..results.run_folder import MANIFEST_SCHEMA, RunFolder
from ..results.schema import load_metrics
from ..results.shards import below, missing
from ..results.sums import sealed
from ..results.whole import drop_damaged
from . import kept_results
from .generate import Generation, asked_of, missing_shards
from .makers import Makers
from .plan import RunPlan, Unit
from .rate_captions import rate_captions
from .refuse_moved import refuse_moved
from .score import check_references, score_unit
from .victim import output_path

if TYPE_CHECKING:
    from ..results.schema import Metrics
    from .engine import Engine


@dataclass(frozen=True)
class RunResult:
    """What `execute` hands back."""

    folder: RunFolder
    metrics: "Metrics | None"
    failures: dict[str, SidebenchError] = field(default_factory=dict)
    """Units that failed, with the reason; the others' results are kept."""


def execute(plan: RunPlan, progress: Progress = silent, engine: "Engine | None" = None) -> RunResult:
    """Carry out a plan, or what is missing of it; an engine makes and scores the images, if not this process.

    Raises:
        RunConflict: the folder holds a run with other settings, or another process writes to it.
        CorruptRun: a stored file was changed or cut, and this call cannot rebuild it.
    """
    folder = plan.folder()
    with folder.locked():
        _open(plan, folder)
        # All images first, then the references, which scoring alone needs.
        failures = (engine.make if engine else make_here)(plan, folder, progress)
        close_work(folder.path)
        failures = _attack_reference(plan, progress, engine) | failures
        metrics = _score_all(plan, folder, failures, progress, engine)
        return RunResult(folder, metrics, failures)


def make_here(plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
    """Make the images of a plan in this process, beside whatever workers there are."""
    failures: dict[str, SidebenchError] = {}
    with Desk(folder.path, "run") as desk:
        Generation(plan, folder, desk, progress, failures).run()
    return failures


def open_run(plan: RunPlan) -> RunFolder:
    """Open the folder of a run for workers, and that of its reference model; nothing is made.

    Raises:
        RunConflict: as `execute`.
    """
    folder = plan.folder()
    with folder.locked():
        _open(plan, folder)
    return folder


def _open(plan: RunPlan, folder: RunFolder) -> None:
    """Check and repair what is there, and let workers make the rest; the folder must be locked."""
    if plan.fresh:
        folder.clear()
    _check_space(plan, folder)
    wanted = asked_of(plan)
    if plan.fresh_attacks or not is_open_for(folder.path, wanted):
        close_work(folder.path)
    open_folder(plan, folder, plan.identity())
    drop_damaged(folder, {unit.name for unit in plan.units})
    for attack, curve in plan.tuned.items():
        write_json(folder.tuning_file(attack), curve)
    refuse_moved(plan, folder)
    afresh = [unit.attack.name for unit in plan.units] if plan.fresh else plan.fresh_attacks
    open_work(folder.path, wanted, sorted(set(afresh)))
    if (reference := plan.reference()) is not None:
        open_run(reference)


# ---- Opening ----------------------------------------------------------------------------------------


def open_folder(plan: RunPlan, folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Write the manifest, or check that the one there is of the same run; units and candidates are added.

    A unit of which nothing was made yet takes new settings, and so does one that the plan starts over.

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
        "batching": plan.batching.stored(),
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
        raise RunConflict(
            f"{folder.path} was begun with another micro-batch or --compile meanwhile; run the same command again"
        )
    again = [unit.name for unit in plan.units if _is_changed(plan, folder, unit, stored["units"])]
    for name in again:
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
    """Return whether a unit starts over: it was asked for, or settings changed before an image was made.

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
            f"{folder.path}: {unit.name} was made by other settings: {why}; start it over with --fresh-attack {name} "
            f"(the others stay), or choose another --out"
        )
    return bool(changed)


def _check_space(plan: RunPlan, folder: RunFolder) -> None:
    """Refuse a run whose images and scores would not fit on the disk."""
    import shutil

    height, width, channels = plan.image_size
    a_candidate = height * width * channels + 40 * plan.protocol.top_k
    lacking = sum(len(shard.numbers) for unit in plan.units for shard in missing_shards(plan, folder, unit))
    needed = a_candidate * lacking * (2 if plan.reference_model else 1)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise BadInput(f"{folder.path} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; see --out")


# ---- The reference model ----------------------------------------------------------------------------


def _attack_reference(plan: RunPlan, progress: Progress, engine: "Engine | None") -> dict[str, SidebenchError]:
    """Run the same attacks on the pair's reference model, if it has one, and return the units that failed there."""
    reference = plan.reference()
    if reference is None:
        return {}

    def report(phase: str, done: int, total: int) -> None:
        progress(f"reference model, {phase}", done, total)

    failures = execute(reference, report, engine).failures
    return {name: AttackFailed(f"on the reference model: {error}") for name, error in failures.items()}


# ---- Scoring ----------------------------------------------------------------------------------------


def _score_all(
    plan: RunPlan,
    folder: RunFolder,
    failures: dict[str, SidebenchError],
    progress: Progress,
    engine: "Engine | None",
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
    # The gate reads the scores of broken images too.
    if engine is not None:
        engine.score(plan, folder, [name for name, _, _ in made], references.fingerprint, progress)
    else:
        for unit in made:
            score_unit(plan, folder, unit, scorer, progress)
    for unit in units:
        rate_captions(plan, folder, unit, references)
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
