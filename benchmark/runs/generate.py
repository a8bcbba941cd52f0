"""Prepare and generate the units of a plan, job by job: what is in the folder already stays as it is."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, LeaseLost, PlanChanged, RaisedElsewhere, SidebenchError, raised_in
from ..files import Put, content_sha256, read_json, write_atomic, write_checked_json, write_state
from ..models.own_model import source_folder
from ..protocol import PROBES
from ..registry import source_of
from ..results.checkpoints import FolderCheckpoints, SharedCheckpoints
from ..results.leases import Desk
from ..results.run_folder import RunFolder
from ..results.shards import Shard, missing
from .makers import Maker, Makers
from .plan import RunPlan, Unit
from .state_cache import kept_state


def asked_of(plan: RunPlan) -> dict[str, Any]:
    """Return what a plan asks workers for, as JSON values: two plans that ask for the same make the same files."""
    return {
        "identity": content_sha256(plan.identity()),
        "units": {unit.name: unit.description() for unit in plan.units},
        "candidates": plan.candidates,
        "batching": plan.batching.stored(),
    }


class _Failed(Exception):
    """An attack raised, or returned something that its contract does not allow."""

    def __init__(self, error: SidebenchError) -> None:
        self.error = error


class Generation:
    """What one process makes of a plan: it takes jobs that nobody else has, until none is left.

    A job is a unit's preparation, one of its shards, its probe, or its repetition in float32. Each is done under a
    lease, so any number of processes may do this on one folder.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        desk: Desk,
        progress: Progress,
        failures: dict[str, SidebenchError],
        new_makers: Callable[[RunPlan], Makers] = Makers,
    ) -> None:
        """Begin with nothing loaded.

        Args:
            plan: What is to be made.
            folder: Where it lies; `desk` is at this folder.
            desk: Where this process has signed in.
            progress: Told of every shard.
            failures: Units that are left alone, with the reason; those that fail here are added.
            new_makers: Who calls attacks on a plan's model.
        """
        self.plan, self.folder, self.desk = plan, folder, desk
        self._progress, self._failures, self._new_makers = progress, failures, new_makers
        self._makers = new_makers(plan)
        self._last_apart: bool | None = None
        self._states: dict[str, AttackState] = {}

    def run(self) -> None:
        """Prepare and generate every unit; a failing attack is recorded and the others go on.

        Raises:
            PlanChanged: the folder asks for something else meanwhile.
        """
        self._until_done(self._make, self._generated)
        if self.plan.rounds_otherwise():
            self._makers = self._new_makers(in_float32(self.plan))
            self._until_done(self._make_in_float32, self._has_float32)

    def _until_done(self, make: Callable[[Unit], bool], is_done: Callable[[Unit], bool]) -> None:
        try:
            while self._round(make, is_done):
                self.desk.wait()
        finally:
            self._makers.close()

    def _round(self, make: Callable[[Unit], bool], is_done: Callable[[Unit], bool]) -> bool:
        """Do every job that is free; return whether one is left that somebody else has."""
        left = False
        for apart in (True, False):
            for unit in self.plan.units:
                if unit.name not in self._failures and self._makers.apart(unit) is apart and not is_done(unit):
                    left |= self._attempt(make, unit)
        return left

    def _attempt(self, make: Callable[[Unit], bool], unit: Unit) -> bool:
        try:
            return make(unit)
        except LeaseLost:
            return True
        except _Failed as failed:
            self._failures[unit.name] = failed.error
            return False

    def _job(self, unit: Unit, name: str, is_done: Callable[[], bool], do: Callable[[Maker, Put], object]) -> bool:
        """Do a job of a unit unless it is done; return whether somebody else is at it."""
        if is_done():
            return False
        if (lease := self.desk.claim(f"{unit.name}.{name}")) is None:
            return True
        with lease:
            if not is_done():  # by its last holder, before the lease was free
                # A model that cannot be loaded is no failure of the attack, and ends the run.
                maker = self._maker(unit)
                try:
                    with named_failures(self.plan, unit):
                        do(maker, lease.put)
                except (LeaseLost, PlanChanged):
                    raise
                except SidebenchError as error:
                    raise _Failed(error) from error
        return False

    def _maker(self, unit: Unit) -> Maker:
        # The model is held once at a time: by the attacks' own process, or here, and by neither for the search or for
        # the same model in float32.
        apart = self._makers.apart(unit)
        if self._last_apart is not apart:
            self._makers.close()
            self._last_apart = apart
        return self._makers.of(unit)

    def _make(self, unit: Unit) -> bool:
        """Do what is free of one unit; return whether somebody else has the rest."""
        if (state := self._state(unit)) is None:
            return True
        return self._make_shards(unit, state) or self._probe(unit, state)

    def _state(self, unit: Unit) -> AttackState | None:
        """Return the attack's state, prepared if nobody else does that; None where somebody does."""

        def do(maker: Maker, put: Put) -> None:
            with SharedCheckpoints(self.folder.shared_samples().folder, self.desk) as samples:
                prepare(self.plan, self.folder, unit, maker, self._progress, put, samples)

        if unit.name not in self._states:
            if self._job(unit, "state", lambda: _has_state(self.plan, self.folder, unit), do):
                return None
            # As it is on the disk, whoever has put it there.
            self._states[unit.name] = self.folder.attack_state(unit.name)
        return self._states[unit.name]

    def _make_shards(self, unit: Unit, state: AttackState) -> bool:
        wanted, left = missing_shards(self.plan, self.folder, unit), False
        done = self.plan.candidates - sum(len(shard.numbers) for shard in wanted)
        for shard in wanted:
            file = self.folder.images_file(unit.name, shard)
            make = partial(self._make_shard, unit, state, shard)
            if self._job(unit, shard.name, file.exists, make):
                left = True
                continue
            done += len(shard.numbers)
            self._progress(f"{unit.name}: candidates", done, self.plan.candidates)
        return left

    def _make_shard(self, unit: Unit, state: AttackState, shard: Shard, maker: Maker, put: Put) -> None:
        make_shard(self.plan, self.folder, unit, maker, state, shard, put)

    def _probe(self, unit: Unit, state: AttackState) -> bool:
        def do(maker: Maker, put: Put) -> None:
            _probe(self.plan, self.folder, unit, maker, state, put)

        return self._job(unit, "probe", lambda: _probed(self.plan, self.folder, unit), do)

    def _make_in_float32(self, unit: Unit) -> bool:
        """Make some of a unit's candidates in float32, for `precision_check.compare`."""
        from . import precision_check

        def do(maker: Maker, put: Put) -> None:
            precision_check.make_again(self._makers.plan, self.folder, unit, maker, put)

        return self._job(unit, "float32", lambda: self._has_float32(unit), do)

    def _has_float32(self, unit: Unit) -> bool:
        return self.folder.float32_file(unit.name).exists()

    def _generated(self, unit: Unit) -> bool:
        return is_generated(self.plan, self.folder, unit)


def in_float32(plan: RunPlan) -> RunPlan:
    """Return the plan with its model in float32, not compiled."""
    model = plan.model.model_copy(update={"dtype": "float32"})
    return replace(plan, model=model, batching=plan.batching.model_copy(update={"compiled": False}))


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


def is_generated(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    """Return whether all images of a unit are made, from a state that fits their number, and probed."""
    return _has_state(plan, folder, unit) and not missing_shards(plan, folder, unit) and _probed(plan, folder, unit)


def _has_state(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    """Return whether the attack's state is there; one that was prepared for another number of candidates is none."""
    return folder.has_state(unit.name, plan.candidates)


def prepare(
    plan: RunPlan,
    folder: RunFolder,
    unit: Unit,
    maker: Maker,
    progress: Progress,
    put: Put = write_atomic,
    samples: FolderCheckpoints | None = None,
) -> AttackState:
    """Return the attack's state: the run's own, one kept from an earlier run, or a new one with its cost.

    `put` is how the state gets into its place; `samples` are where attacks share plain samples.
    """
    file = folder.state_file(unit.name)
    if file.exists() and not _has_state(plan, folder, unit):
        # What was made from it is of another attack, so to say: the number of candidates is one of its settings.
        folder.forget(unit.name)
    # The run's own state comes first: what a finished piece was made with is never replaced.
    kept = None if file.exists() else kept_state(plan, unit)
    if kept and not plan.fresh and unit.attack.name not in plan.fresh_attacks:
        kept.copy_to(folder, unit.name, plan.candidates, put)
    if file.exists():
        return folder.attack_state(unit.name)

    def report(phase: str, done: int, total: int) -> None:
        progress(f"{unit.name}: {phase}", done, total)

    began = _Clock()
    own = folder.checkpoints(unit.name, [unit.description(), plan.candidates])
    checkpoints = FolderCheckpoints(own.folder, put)
    budget = Budget(unit.seed, plan.candidates, checkpoints, report)
    made = maker.prepare(unit, plan.sampling, budget, samples or folder.shared_samples())
    cost = {**began.spent(), **made.cost, "denoiser_flops": maker.flops_per_sample()}
    info = {"state": dict(made.state.info), "cost": cost, "candidates": plan.candidates if made.counted else None}
    write_state(file, AttackState(made.state.tensors, info), put)
    # Only once the state is on the disk: killed in between, the next call finds one or the other.
    folder.forget_checkpoints(unit.name)
    if kept:
        kept.keep(folder, unit.name)
    return made.state


def make_shard(
    plan: RunPlan,
    folder: RunFolder,
    unit: Unit,
    maker: Maker,
    state: AttackState,
    shard: Shard,
    put: Put = write_atomic,
) -> None:
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
    write_state(file, AttackState(tensors, {"cost": {**began.spent(), **made.cost}, **whose}), put)


def _probes(plan: RunPlan) -> int:
    return min(PROBES, max(1, plan.candidates // 64))


def _probed(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    file = folder.probe_file(unit.name)
    return file.exists() and int(read_json(file)["candidates"]) >= _probes(plan)


def _probe(plan: RunPlan, folder: RunFolder, unit: Unit, maker: Maker, state: AttackState, put: Put) -> None:
    """Make a few candidates again with another micro-batch and store how far they are off, and what that cost."""
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
            "cost": {**began.spent(), **again.cost},
        },
        put,
    )
