"""Prepare and generate the units of a plan, shard by shard: what is in the folder already is not made again."""

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, RaisedElsewhere, SidebenchError, raised_in
from ..files import read_json, write_checked_json, write_state
from ..models.own_model import source_folder
from ..protocol import PROBES
from ..registry import source_of
from ..results.run_folder import RunFolder
from ..results.shards import Shard, missing
from .makers import Maker, Makers
from .plan import RunPlan, Unit
from .state_cache import kept_state


def generate_all(plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
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


def missing_shards(plan: RunPlan, folder: RunFolder, unit: Unit) -> list[Shard]:
    """Return the shards of a unit that are to be made."""
    return missing(folder.image_shards(unit.name), plan.candidates, plan.batching.shard)


def _generated(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    """Return whether all images of a unit are made, from a state that fits their number, and probed."""
    return _has_state(plan, folder, unit) and not missing_shards(plan, folder, unit) and _probed(plan, folder, unit)


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
    wanted = missing_shards(plan, folder, unit)
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
    if made.captions is not None:
        tensors["caption"] = made.captions
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
