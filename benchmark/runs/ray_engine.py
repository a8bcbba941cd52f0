"""Make the images of a run on Ray: `sidebench run PAIR --engine ray[:ADDRESS] --workers N`.

A worker is an actor that loads the model once and calls attacks. A thread of the run stands for each: it takes jobs
under leases as every other process does, has its actor make them, and puts into the folder what comes back through
the object store. So no disk has to be shared, other workers may help, and an actor that dies costs one job.
"""

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, BadInput, CannotReach, PlanChanged, SidebenchError
from ..models.own_model import source_folder
from ..progress import say, silent
from ..protocol import Sampling
from ..registry import source_of
from ..results.checkpoints import FolderCheckpoints
from ..results.leases import Desk, asked
from ..results.run_folder import RunFolder
from ..sampling.call_attack import Made, Prepared
from .carried import built_plugin, described_error, named_plugin, rebuilt_error
from .generate import Generation
from .makers import Maker, Makers
from .plan import RunPlan, Unit

if TYPE_CHECKING:
    from types import ModuleType

TRIES = 3
"""Actors that one job may take with it before its attack is to blame."""

STARTS = 3
"""How often a Ray of this machine's own is started: it gives itself 30 s, which may be too little on a busy machine."""

ENGINE = "ray"
_TOKEN = secrets.token_hex(32)
"""What lets this process and its workers talk to a Ray of their own; Ray reads it once per process."""
_READ: set[str] = set()
"""Holds the token once Ray was imported with it."""


def address_of(engine: str) -> str:
    """Return the address that `ray[:ADDRESS]` names; empty for a Ray of this machine's own.

    Raises:
        BadInput: it is another engine.
    """
    name, _, address = engine.partition(":")
    if name != ENGINE:
        raise BadInput(f"--engine {engine}: there is ray, or ray:ADDRESS")
    return address


@contextmanager
def ray_engine(address: str, workers: int) -> Iterator["RayEngine"]:
    """Yield an engine for `execute`: on the cluster of this address, or on a Ray that begins and ends with this.

    Raises:
        BadInput: Ray is not installed.
        CannotReach: no cluster answers.
    """
    threads = torch.get_num_threads()
    with (
        _environment(local=not address),
        _folder() as own,
    ):
        ray = _imported(local=not address)
        options: dict[str, Any] = {"address": address}
        if not address:
            gpus = torch.cuda.device_count()
            options = {"address": "local", "num_cpus": workers * threads, "num_gpus": gpus, "include_dashboard": False}
            options |= {"_node_ip_address": "127.0.0.1", "_temp_dir": own}
        _join(ray, options)
        try:
            yield RayEngine(ray, workers, threads)
        finally:
            ray.shutdown()


def _folder() -> "TemporaryDirectory[str]":
    # Its path is part of the names of sockets, which may not be long.
    return TemporaryDirectory(prefix="sidebench-", ignore_cleanup_errors=True)


def _join(ray: Any, options: Mapping[str, Any]) -> None:
    """Connect to Ray, or start it.

    Raises:
        CannotReach: it does not answer.
    """
    for attempt in range(STARTS):
        try:
            # What workers print stays in Ray's own files: standard output is the run's.
            ray.init(log_to_driver=False, configure_logging=False, **options)
            return
        except Exception as error:  # Ray raises `Exception` itself where a part of it is late
            ray.shutdown()
            if attempt + 1 == STARTS or "timed out" not in str(error):
                where = "on this machine" if options["address"] == "local" else f"at {options['address']}"
                raise CannotReach(f"Ray {where} cannot be used: {' '.join(str(error).split())}") from error


@contextmanager
def _environment(*, local: bool) -> Iterator[None]:
    """Set what Ray reads when it is imported and started, unless somebody has said otherwise."""
    wanted = {
        "RAY_worker_niceness": "0",  # 15 by default
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray says on standard output that a worker has died, where no log is asked for too; a run says so itself.
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    }
    if local:
        wanted |= {
            # A token of this process's own; by default Ray writes one into the home folder.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _TOKEN,
            # Only where it is told that there is no cluster does Ray listen on the loopback address alone.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    before = set(os.environ)
    os.environ.update({key: value for key, value in wanted.items() if key not in before})
    try:
        yield
    finally:
        for key in set(os.environ) - before:  # Ray adds some of its own
            os.environ.pop(key, None)


def _imported(*, local: bool) -> "ModuleType":
    if local and sys.modules.get("ray") and not _READ:
        raise BadInput("Ray was imported here before it could be kept to this machine: give --engine ray:ADDRESS")
    try:
        import ray
    except ImportError:
        raise BadInput("--engine ray needs Ray: pip install 'ray>=2.40'") from None
    if local:
        _READ.add(_TOKEN)
    found: ModuleType = ray
    return found


# ---- In the run -------------------------------------------------------------------------------------


class RayEngine:
    """Makes the images of plans on actors; what `execute` takes as `make`."""

    def __init__(self, ray: Any, workers: int, threads: int) -> None:
        self.ray, self.workers, self.threads = ray, workers, threads
        self.ended = threading.Event()
        self._actors: list[Any] = []

    def __call__(self, plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
        """Make the images of a plan in an open folder, and return why units failed.

        Raises:
            BadInput: the model is an object of this process, which no other can build.
        """
        if plan.model.live is not None:
            raise BadInput("--engine ray: the model is an object of this process; give its FILE.py:NAME instead")
        self._check_room(plan)
        failures: dict[str, SidebenchError] = {}

        def work() -> None:
            with Desk(folder.path, "run") as desk:
                Generation(plan, folder, desk, progress, failures, lambda plan: _RayMakers(plan, folder, self)).run()

        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for each in [pool.submit(work) for _ in range(self.workers)]:
                    each.result()
            except BaseException:
                self.ended.set()
                for actor in self._actors:
                    self.ray.kill(actor)
                raise
        return failures

    def _check_room(self, plan: RunPlan) -> None:
        """Refuse more workers than there is room for: one that never starts would hold a job for ever.

        Raises:
            BadInput: Ray has too few GPUs or processors.
        """
        there = self.ray.cluster_resources()
        wants = {"CPU": self.threads, "GPU": 1 if plan.model.device.startswith("cuda") else 0}
        for kind, each in wants.items():
            have = int(there.get(kind, 0))
            if each * self.workers > have:
                raise BadInput(
                    f"--workers {self.workers}: each takes {each} {kind}, and Ray has {have}; fewer workers"
                    + (", or OMP_NUM_THREADS" if kind == "CPU" else "")
                )

    def actor(self, plan: RunPlan) -> Any:
        """Return a new actor for this plan, on a GPU of its own where the plan is for one."""
        gpu = plan.model.device.startswith("cuda")
        remote = self.ray.remote(_Worker).options(num_cpus=self.threads, num_gpus=1 if gpu else 0, max_restarts=0)
        self._actors.append(actor := remote.remote(Parcel.of(plan), self.threads))
        return actor


class _RayMakers(Makers):
    """One actor, which calls every attack of a plan; started when it is first needed, and again when it has died."""

    def __init__(self, plan: RunPlan, folder: RunFolder, engine: RayEngine) -> None:
        super().__init__(plan)
        self._folder, self._engine = folder, engine
        self._actor: Any = None
        self._stated: tuple[AttackState, Any] | None = None

    def apart(self, unit: Unit) -> bool:
        # The actor itself has a process for those that need one.
        return False

    def of(self, unit: Unit) -> Maker:
        return _OnRay(self, unit)

    def close(self) -> None:
        if self._actor is not None:
            self._engine.ray.kill(self._actor)
        self._actor = self._stated = None

    def place(self) -> tuple[str, str]:
        """Return the run folder and what it was opened as, by which an actor sees whether it has the same disk."""
        return str(self._folder.path.absolute()), str((asked(self._folder.path) or {}).get("opened"))

    def state(self, state: AttackState) -> Any:
        """Return a reference to a state in the object store, where it is put once."""
        if self._stated is None or self._stated[0] is not state:
            self._stated = state, self._engine.ray.put(state)
        return self._stated[1]

    def ask(self, unit: Unit, method: str, *arguments: Any) -> Any:
        """Call a method of the actor; where the actor dies, of another one.

        Raises:
            AttackFailed: it died as often as may be.
        """
        ray = self._engine.ray
        for _ in range(TRIES):
            if self._engine.ended.is_set():
                raise PlanChanged(f"{unit.name}: the run was broken off")
            if self._actor is None:
                self._actor = self._engine.actor(self.plan)
            try:
                found, error = ray.get(getattr(self._actor, method).remote(unit.name, *arguments))
            except ray.exceptions.RayActorError:
                say(f"{unit.name}: a Ray worker has died; another one takes its place")
                self._actor = None
                continue
            if error is not None:
                raise rebuilt_error(**error)
            return found
        raise AttackFailed(f"{unit.name}: {TRIES} Ray workers have died that were to make it; the same command goes on")


class _OnRay:
    """Calls one unit's attack in the actor."""

    def __init__(self, makers: _RayMakers, unit: Unit) -> None:
        self._makers, self._unit = makers, unit

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        return int(self._makers.ask(self._unit, "flops_per_sample"))

    def prepare(self, unit: Unit, sampling: Sampling, budget: Budget, samples: FolderCheckpoints) -> Prepared:
        """Call the attack's `prepare`; the samples that it was made from come back with the state."""
        asked_for = self._makers.place(), sampling.model_dump(mode="json"), budget.candidates
        found, made = self._makers.ask(unit, "prepare", *asked_for)
        for key, state in made.items():
            if samples.load(key) is None:
                samples.save(key, state)
        return Prepared(*found)

    def generate(self, unit: Unit, state: AttackState, candidates: Candidates, sampling: Sampling) -> Made:
        """Call the attack's `generate`."""
        # A list within a list is handed over as it is, so that the actor takes the state out once and not every time.
        numbers, kind = list(candidates.numbers), sampling.model_dump(mode="json")
        return Made(*self._makers.ask(unit, "generate", [self._makers.state(state)], numbers, kind))


@dataclass(frozen=True)
class Parcel:
    """A plan by value: plug-ins by the names under which another process finds them."""

    plan: RunPlan
    units: tuple[tuple[Mapping[str, Any], int], ...]
    defences: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, plan: RunPlan) -> "Parcel":
        """Pack a plan, without what making images does not need."""
        device = plan.model.device.partition(":")[0]  # an actor sees its own GPU alone
        bare = replace(plan, units=(), defences=(), measures=(), inside=None, reference_model=None, tuned={})
        bare = replace(bare, model=plan.model.model_copy(update={"device": device}))
        units = tuple((named_plugin(unit.attack), unit.seed) for unit in plan.units)
        return cls(bare, units, tuple(named_plugin(defence) for defence in plan.defences))

    def opened(self) -> RunPlan:
        """Return the plan again.

        Raises:
            BadInput: a plug-in is not here, or its code is another one.
        """
        units = tuple(Unit(built_plugin("attack", dict(attack)), seed) for attack, seed in self.units)
        defences = tuple(built_plugin("defence", dict(defence)) for defence in self.defences)
        return replace(self.plan, units=units, defences=defences)


# ---- In an actor ------------------------------------------------------------------------------------


class _Worker:
    """Calls attacks; every answer is what was made and None, or None and what went wrong."""

    def __init__(self, parcel: Parcel, threads: int) -> None:
        torch.set_num_threads(threads)
        self._parcel = parcel
        self._makers: Makers | None = None
        self._last_apart: bool | None = None
        self._own = TemporaryDirectory(prefix="sidebench-worker-")
        self._states: tuple[Any, AttackState] | None = None

    def flops_per_sample(self, unit: str) -> Any:
        return self._answer(unit, lambda own, maker: maker.flops_per_sample())

    def prepare(self, unit: str, place: tuple[str, str], sampling: dict[str, Any], candidates: int) -> Any:
        def call(own: Unit, maker: Maker) -> Any:
            folder, shared = self._folder(*place)
            checkpoints = folder.checkpoints(unit, [own.description(), candidates])
            samples = folder.shared_samples()
            budget = Budget(own.seed, candidates, checkpoints, silent)
            clock = time.monotonic(), time.process_time()
            found = maker.prepare(own, Sampling(**sampling), budget, samples)
            made = {} if shared else {key: samples.load(key) for key in dict.fromkeys(found.cost["samples"])}
            return found._replace(cost=_with_time(found.cost, clock)), made

        return self._answer(unit, call)

    def generate(self, unit: str, state: list[Any], numbers: list[int], sampling: dict[str, Any]) -> Any:
        def call(own: Unit, maker: Maker) -> Any:
            clock = time.monotonic(), time.process_time()
            made = maker.generate(own, self._state(state[0]), Candidates(own.seed, numbers), Sampling(**sampling))
            return made._replace(cost=_with_time(made.cost, clock))

        return self._answer(unit, call)

    def _answer(self, name: str, call: Any) -> Any:
        sources: list[Path | None] = [source_folder(self._parcel.plan.model)]
        try:
            if self._makers is None:
                self._makers = Makers(self._parcel.opened())
            unit = next(unit for unit in self._makers.plan.units if unit.name == name)
            sources.append(source_of(type(unit.attack)))
            if self._last_apart is not self._makers.apart(unit):  # the model is held once at a time
                self._makers.close()
                self._last_apart = self._makers.apart(unit)
            return call(unit, self._makers.of(unit)), None
        except Exception as error:  # an attack may fail in any way
            return None, described_error(error, *sources)

    def _state(self, reference: Any) -> AttackState:
        import ray

        if self._states is None or self._states[0] != reference:
            self._states = reference, ray.get(reference)
        return self._states[1]

    def _folder(self, path: str, opened: str) -> tuple[RunFolder, bool]:
        """Return the run folder where this machine has the same disk, else one of the actor's own."""
        run = Path(path)
        shared = (asked(run) or {}).get("opened") == opened
        return RunFolder(run if shared else Path(self._own.name)), shared


def _with_time(cost: Mapping[str, Any], clock: tuple[float, float]) -> dict[str, Any]:
    """Return a cost with the time since the clock was read, in seconds of the wall and of this process."""
    seconds, processor = time.monotonic() - clock[0], time.process_time() - clock[1]
    return {**cost, "seconds": seconds, "processor_seconds": processor}
