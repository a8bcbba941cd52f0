"""Make and score the images of a run on Ray: `sidebench run PAIR --engine ray[:ADDRESS] --workers N`.

A worker is an actor that loads the model once and calls attacks (`ray_actors.py`). A thread of this process stands for
each: it takes jobs, of a run under leases as every other process does, has its actor do them, and puts into the folder
what comes back through the object store. So no disk has to be shared, other workers may help, and an actor that dies
costs one job.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch

from ..candidates import Candidates
from ..contracts import AttackState, Budget, Progress
from ..errors import AttackFailed, BadInput, MeasureFailed, PlanChanged, SidebenchError
from ..files import read_state
from ..progress import say
from ..protocol import Sampling
from ..results.checkpoints import FolderCheckpoints
from ..results.leases import Desk, asked
from ..results.run_folder import RunFolder
from ..results.shards import SAMPLES
from ..sampling.call_attack import Made, Prepared
from .carried import rebuilt_error
from .engine import Crew, Place
from .generate import Generation
from .makers import Maker, Makers
from .plan import RunPlan, Unit
from .ray_actors import Parcel, Shared, Worker
from .ray_start import started
from .score import ScoreJob, keep_scores, lacking

TRIES = 3
"""Actors that one job may take with it before its attack is to blame."""

ENGINE = "ray"


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
    """Yield an engine: on the cluster of this address, or on a Ray that begins and ends with this.

    Raises:
        BadInput: Ray is not installed.
        CannotReach: no cluster answers.
    """
    threads = torch.get_num_threads()
    with started(address, workers * threads) as ray:
        yield RayEngine(ray, workers, threads)


class RayEngine:
    """Makes and scores images on actors. All that one engine is given is for devices of one kind."""

    def __init__(self, ray: Any, workers: int, threads: int) -> None:
        self.ray, self.workers, self.threads = ray, workers, threads
        self.ended = threading.Event()
        self._actors: list[Any] = []
        self._idle: list[Any] = []

    # ---- What is asked of it

    def make(self, plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
        """Make the images of a plan in an open folder, and return why units failed.

        Raises:
            BadInput: the model is an object of this process, which no other can build.
        """
        self._check(plan)
        failures: dict[str, SidebenchError] = {}

        def new_makers(plan: RunPlan) -> Makers:
            return _RayMakers(plan, Place(folder.path), self)

        def work() -> None:
            with Desk(folder.path, "run") as desk:
                Generation(plan, folder, desk, progress, failures, new_makers).run()

        with ThreadPoolExecutor(self.workers) as pool, self._stopping():
            for each in [pool.submit(work) for _ in range(self.workers)]:
                each.result()
        return failures

    def score(
        self, plan: RunPlan, folder: RunFolder, units: Iterable[str], fingerprint: str, progress: Progress
    ) -> None:
        """Score what has no scores yet of these units, each file of images on the next actor that is free.

        Each actor loads the references once, after the last image was made, and ends here.

        Raises:
            MeasureFailed: a measure raised, or returned something that its contract does not allow.
            BadInput: an actor has other references.
        """
        jobs = lacking(plan, folder, units)
        parcel, done = Parcel.to_score(plan, fingerprint), Counter[str]()
        with _Threads(self, lambda: _Hand(self, parcel, MeasureFailed), min(self.workers, len(jobs) or 1)) as threads:
            waiting = {threads.submit(partial(_scored, job)): job for job in jobs}
            for each in as_completed(waiting):
                job = waiting[each]
                keep_scores(folder, job, each.result())
                done[job.name] += len(job.shard.numbers)
                if job.shard is not SAMPLES:
                    progress(f"{job.name}: scores", min(done[job.name], plan.candidates), plan.candidates)
        self.dismiss()

    @contextmanager
    def crew(self, plan: RunPlan, place: Place, *, tuning: bool = False) -> Iterator[Crew]:
        """Yield a crew that calls a plan's attacks, each thread on an actor of its own.

        Raises:
            BadInput: the model is an object of this process, which no other can build.
        """
        self._check(plan)
        with _Threads(self, lambda: _RayMakers(plan, place, self, tuning=tuning), self.workers) as threads:
            yield threads

    def _check(self, plan: RunPlan) -> None:
        """Refuse what no actor can do, and more workers than there is room for: one would hold a job for ever.

        Raises:
            BadInput: the model lives here alone, or Ray has too few GPUs or processors.
        """
        if plan.model.live is not None:
            raise BadInput("--engine ray: the model is an object of this process; give its FILE.py:NAME instead")
        there = self.ray.cluster_resources()
        wants = {"CPU": self.threads, "GPU": 1 if plan.model.device.startswith("cuda") else 0}
        for kind, each in wants.items():
            have = int(there.get(kind, 0))
            if each * self.workers > have:
                raise BadInput(
                    f"--workers {self.workers}: each takes {each} {kind}, and Ray has {have}; fewer workers"
                    + (", or OMP_NUM_THREADS" if kind == "CPU" else "")
                )

    # ---- Its actors

    def take(self, parcel: Parcel) -> Any:
        """Return an actor that has opened this parcel: one that rests, or a new one, on a GPU if it is for one.

        Raises:
            RayActorError: it died over it.
        """
        try:
            actor = self._idle.pop()
        except IndexError:
            gpus = 1 if parcel.plan.model.device.startswith("cuda") else 0
            remote = self.ray.remote(Worker).options(num_cpus=self.threads, num_gpus=gpus, max_restarts=0)
            self._actors.append(actor := remote.remote(self.threads))
        self.ray.get(actor.open.remote(parcel))
        return actor

    def give_back(self, actor: Any) -> None:
        """Take an actor back for whoever is next: starting one takes as long as making a shard of small images."""
        actor.rest.remote()
        self._idle.append(actor)

    def dismiss(self) -> None:
        """End every actor."""
        while self._actors:
            self.ray.kill(self._actors.pop())
        self._idle.clear()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """End the actors where something went wrong, so that nobody waits for them."""
        try:
            yield
        except BaseException:
            self.ended.set()
            self.dismiss()
            raise


class _Hand:
    """One actor, taken when it is first needed, and its successors, when it has died."""

    def __init__(self, engine: RayEngine, parcel: Parcel, blame: type[SidebenchError] = AttackFailed) -> None:
        self._engine, self._parcel, self._blame = engine, parcel, blame
        self._actor: Any = None

    def ask(self, what: str, method: str, *arguments: Any) -> Any:
        """Call a method of the actor; where the actor dies, of another one. `what` is what the job is called.

        Raises:
            SidebenchError: what was asked for failed, or the actor died as often as may be.
        """
        ray = self._engine.ray
        for _ in range(TRIES):
            if self._engine.ended.is_set():
                raise PlanChanged(f"{what}: the run was broken off")
            try:
                if self._actor is None:
                    self._actor = self._engine.take(self._parcel)
                found, error = ray.get(getattr(self._actor, method).remote(*arguments))
            except ray.exceptions.RayActorError:
                say(f"{what}: a Ray worker has died; another one takes its place")
                self._actor = None
                continue
            if error is not None:
                raise rebuilt_error(**error)
            return found
        raise self._blame(f"{what}: {TRIES} Ray workers have died that were to do it; the same command goes on")

    def close(self) -> None:
        """Give the actor back."""
        if self._actor is not None:
            self._engine.give_back(self._actor)
        self._actor = None


class _Closed(Protocol):
    def close(self) -> None: ...


H = TypeVar("H", bound=_Closed)
T = TypeVar("T")


class _Threads(Generic[H]):
    """Threads that take jobs in the order in which they were given, each with a hand of its own."""

    def __init__(self, engine: RayEngine, new: Callable[[], H], workers: int) -> None:
        self.workers = workers
        self._engine, self._new = engine, new
        self._pool, self._mine, self._all = ThreadPoolExecutor(workers), threading.local(), list[H]()

    def __enter__(self) -> "_Threads[H]":
        return self

    def submit(self, job: Callable[[H], T]) -> "Future[T]":
        """Have a job done; it may wait for those that were submitted before it."""
        return self._pool.submit(lambda: job(self._hand()))

    def _hand(self) -> H:
        if not hasattr(self._mine, "hand"):
            self._mine.hand = self._new()
            self._all.append(self._mine.hand)
        hand: H = self._mine.hand
        return hand

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._engine.ended.set()
            self._engine.dismiss()
        self._pool.shutdown(cancel_futures=True)
        for hand in self._all if kind is None else ():
            hand.close()


def _scored(job: ScoreJob, hand: _Hand) -> Any:
    images = read_state(job.images).tensors
    return hand.ask(f"{job.name}: scores", "score", images, job.shard.numbers.start, job.spaces)


class _RayMakers(Makers):
    """One actor, which calls every attack of a plan."""

    def __init__(self, plan: RunPlan, place: Place, engine: RayEngine, *, tuning: bool = False) -> None:
        super().__init__(plan)
        self._place, self._ray = place, engine.ray
        self._hand = _Hand(engine, Parcel.to_make(plan, tuning=tuning))
        self._stated: tuple[AttackState, Any] | None = None

    def apart(self, unit: Unit) -> bool:
        # The actor itself has a process for those that need one.
        return False

    def of(self, unit: Unit) -> Maker:
        return _OnRay(self, unit)

    def close(self) -> None:
        self._hand.close()
        self._stated = None

    def place(self) -> Shared:
        """Return where preparations leave what they may need again."""
        folder = self._place.folder.absolute()
        opened = str((asked(folder) or {}).get("opened"))
        return Shared(str(folder), opened, self._place.samples, self._place.keeps_progress)

    def state(self, state: AttackState) -> Any:
        """Return a reference to a state in the object store, where it is put once."""
        if self._stated is None or self._stated[0] is not state:
            self._stated = state, self._ray.put(state)
        return self._stated[1]

    def ask(self, unit: Unit, method: str, *arguments: Any) -> Any:
        """Call a method of the actor for a unit of the plan."""
        return self._hand.ask(unit.name, method, self.plan.units.index(unit), *arguments)


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
        budget.progress("preparation on a worker", 0, 1)
        found, made = self._makers.ask(unit, "prepare", *asked_for)
        budget.progress("preparation on a worker", 1, 1)
        for key, state in made.items():
            if samples.load(key) is None:
                samples.save(key, state)
        return Prepared(*found)

    def generate(self, unit: Unit, state: AttackState, candidates: Candidates, sampling: Sampling) -> Made:
        """Call the attack's `generate`."""
        # A list within a list is handed over as it is, so that the actor takes the state out once and not every time.
        numbers, kind = list(candidates.numbers), sampling.model_dump(mode="json")
        return Made(*self._makers.ask(unit, "generate", [self._makers.state(state)], numbers, kind))
