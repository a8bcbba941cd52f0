"""What runs in an actor of Ray: a plan by value, attacks that are called there, and scores.

An actor makes images first and may score afterwards. Attacks from files and packages run in a process of its own, which
has ended before the actor loads a reference image; one that holds references makes no images any more.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import environment
from ..candidates import Candidates
from ..contracts import AttackState, Budget
from ..data.references import load_references
from ..errors import BadInput
from ..models.own_model import source_folder
from ..progress import silent
from ..protocol import Sampling
from ..registry import code_of, layers, make_measure, source_of
from ..results.checkpoints import FolderCheckpoints
from ..results.leases import asked
from ..results.run_folder import RunFolder
from .carried import built_plugin, described_error, named_plugin
from .makers import Maker, Makers
from .plan import RunPlan, Unit
from .score import scored
from .victim import load_tuned, output_path

if TYPE_CHECKING:
    from ..measures.scorer import Scorer


class Shared(NamedTuple):
    """A `Place` by value, and by what an actor sees whether it has the same disk."""

    folder: str
    opened: str
    samples: str
    keeps_progress: bool


@dataclass(frozen=True)
class Parcel:
    """A plan by value: plug-ins by the names under which another process finds them."""

    plan: RunPlan
    units: tuple[tuple[Mapping[str, Any], int], ...]
    defences: tuple[Mapping[str, Any], ...]
    measures: tuple[tuple[str, list[Mapping[str, str]]], ...] = ()
    """Ids, each with the code that its scores rest on; none where images are made."""
    fingerprint: str = ""
    """Of the references that these measures score by."""
    tuning: bool = False
    """Whether the plan's victim is the one that `tune` attacks."""

    @classmethod
    def to_make(cls, plan: RunPlan, *, tuning: bool = False) -> "Parcel":
        """Pack a plan, without what making images does not need."""
        units = tuple((named_plugin(unit.attack), unit.seed) for unit in plan.units)
        return cls(_bare(plan), units, tuple(named_plugin(defence) for defence in plan.defences), tuning=tuning)

    @classmethod
    def to_score(cls, plan: RunPlan, fingerprint: str) -> "Parcel":
        """Pack a plan, without its attacks."""
        measures = tuple((measure.id, _code(measure)) for measure in plan.measures)
        defences = tuple(named_plugin(defence) for defence in plan.defences)
        return cls(_bare(plan), (), defences, measures, fingerprint)

    def opened(self) -> RunPlan:
        """Return the plan again.

        Raises:
            BadInput: a plug-in is not here, or its code is another one.
        """
        units = tuple(Unit(built_plugin("attack", dict(attack)), seed) for attack, seed in self.units)
        defences = tuple(built_plugin("defence", dict(defence)) for defence in self.defences)
        measures = tuple(make_measure(name) for name, _ in self.measures)
        for measure, (name, code) in zip(measures, self.measures, strict=True):
            if _code(measure) != code:
                raise BadInput(f"the code of measure {name} has changed since the run was begun")
        return replace(self.plan, units=units, defences=defences, measures=measures)


def _bare(plan: RunPlan) -> RunPlan:
    device = plan.model.device.partition(":")[0]  # an actor sees its own GPU alone
    bare = replace(plan, units=(), defences=(), measures=(), inside=None, reference_model=None, tuned={})
    return replace(bare, model=plan.model.model_copy(update={"device": device}))


def _code(measure: Any) -> list[Mapping[str, str]]:
    return [code_of(type(layer)) for layer in layers(measure)]


class Worker:
    """Calls attacks, and then scores; every answer is what was made and None, or None and what went wrong."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        environment.keep_freed_memory()
        self._parcel: Parcel | None = None
        self._makers: Makers | None = None
        self._last_apart: bool | None = None
        self._scorer: Scorer | None = None
        self._own = TemporaryDirectory(prefix="sidebench-worker-")
        self._states: tuple[Any, AttackState] | None = None

    def open(self, parcel: Parcel) -> None:
        """Take another plan; what was loaded for the last one is forgotten."""
        self.rest()
        self._parcel = parcel

    def rest(self) -> None:
        """Forget the model and the state, and end the process of the attacks."""
        if self._makers is not None:
            self._makers.close()
        self._makers = self._last_apart = self._states = None

    # ---- Images

    def flops_per_sample(self, unit: int) -> Any:
        """Return the operations of one denoiser call on one sample; `unit` is its place in the plan."""
        return self._answer(unit, lambda own, maker: maker.flops_per_sample())

    def prepare(self, unit: int, place: Shared, sampling: dict[str, Any], candidates: int) -> Any:
        """Return what `prepare` made, and the samples by key that it was made from, unless they lie in their place."""

        def call(own: Unit, maker: Maker) -> Any:
            checkpoints, samples, shared = self._places(own, place, candidates)
            budget = Budget(own.seed, candidates, checkpoints, silent)
            clock = time.monotonic(), time.process_time()
            found = maker.prepare(own, Sampling(**sampling), budget, samples)
            made = {} if shared else {key: samples.load(key) for key in dict.fromkeys(found.cost["samples"])}
            return found._replace(cost=_with_time(found.cost, clock)), made

        return self._answer(unit, call)

    def generate(self, unit: int, state: list[Any], numbers: list[int], sampling: dict[str, Any]) -> Any:
        """Return candidates of these numbers; `state` holds a reference to the attack's state."""

        def call(own: Unit, maker: Maker) -> Any:
            clock = time.monotonic(), time.process_time()
            made = maker.generate(own, self._state(state[0]), Candidates(own.seed, numbers), Sampling(**sampling))
            return made._replace(cost=_with_time(made.cost, clock))

        return self._answer(unit, call)

    def _answer(self, place: int, call: Any) -> Any:
        assert self._parcel is not None
        sources: list[Path | None] = [source_folder(self._parcel.plan.model)]
        try:
            if self._scorer is not None:
                raise AssertionError("what holds references makes no images")
            if self._makers is None:
                self._makers = Makers(self._parcel.opened(), load_tuned if self._parcel.tuning else None)
            unit = self._makers.plan.units[place]
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

    def _places(self, unit: Unit, place: Shared, candidates: int) -> tuple[FolderCheckpoints, FolderCheckpoints, bool]:
        """Return where a preparation leaves its progress and its samples, and whether the latter are the run's own.

        That is in the run's folder where this machine has the same disk, else in one of the actor's own.
        """
        own, theirs = RunFolder(Path(self._own.name)), RunFolder(Path(place.folder))
        shared = (asked(theirs.path) or {}).get("opened") == place.opened
        progress = theirs if shared and place.keeps_progress else own
        samples = FolderCheckpoints((theirs if shared else own).path / place.samples)
        return progress.checkpoints(unit.name, [unit.description(), candidates]), samples, shared

    # ---- Scores

    def score(self, images: dict[str, torch.Tensor], first: int, spaces: tuple[str, ...]) -> Any:
        """Return the tables of a file of images by descriptor space."""
        try:
            if self._scorer is None:
                self._scorer = self._with_references()
            return scored(self._scorer.measures, self._scorer, images, first, spaces), None
        except Exception as error:  # a measure may fail in any way
            return None, described_error(error)

    def _with_references(self) -> "Scorer":
        from ..measures.scorer import Scorer

        self.rest()  # before a reference image is there
        assert self._parcel is not None
        plan = self._parcel.opened()
        references = load_references(plan.pair)
        if references.fingerprint != self._parcel.fingerprint:
            raise BadInput(f"{plan.pair.name}: a worker has other images than the run; bring them to one state")
        device = environment.pick_device(plan.model.device)
        return Scorer(references, list(plan.measures), plan.protocol.top_k, device, output_path(plan, references))


def _with_time(cost: Mapping[str, Any], clock: tuple[float, float]) -> dict[str, Any]:
    """Return a cost with the time since the clock was read, in seconds of the wall and of this process."""
    seconds, processor = time.monotonic() - clock[0], time.process_time() - clock[1]
    return {**cost, "seconds": seconds, "processor_seconds": processor}
