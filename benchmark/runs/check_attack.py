"""The checks that every attack must pass, built-in or not.

    from sidebench import check_attack, ModelSpec
    check_attack("./mine.py:MyAttack", {}, ModelSpec(family="pixel", location="zoo:digits"))

Each check raises `NotConformant` with what was seen.
"""

import gc
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from ..candidates import Candidates, generator
from ..contracts import Attack, AttackState, Budget, Checkpoints, Model, ModelSpec, SamplerSettings
from ..data.references import ImageSet, References
from ..errors import SidebenchError
from ..files import read_state, write_state
from ..models import load_model
from ..models.flops import OperationCount
from ..progress import silent
from ..protocol import Sampling
from ..registry import make_attack
from ..results.checkpoints import FolderCheckpoints, MemoryCheckpoints
from ..sampling.call_attack import make_candidates, prepare_attack, view_of
from ..sampling.views import AuditedModel
from .fresh_processes import fresh_processes

COST_TOLERANCE = 0.1
SEED = 11


PROMPTS = ("a house by a lake", "two dogs", "a portrait of somebody")
"""Captions that an attack which knows captions is checked with."""


class NotConformant(SidebenchError):
    """An attack does not keep its contract."""

    exit_code = 2


class Interrupted(BaseException):
    """Raised in the middle of `prepare` by the interruption check."""


def quick_sampling(micro_batch: int = 8, steps: int = 4) -> Sampling:
    """Return sampling with few steps and small micro-batches, for checks."""
    return Sampling(micro_batch=micro_batch, sampler=SamplerSettings(steps=steps))


def check_attack(
    name: str, settings: dict[str, Any], spec: ModelSpec, sampling: Sampling | None = None, count: int = 11
) -> None:
    """Run every check for an attack (a registered name, or `file.py:Class`) on a model.

    Raises:
        NotConformant: a check failed; the message says which and what was seen.
    """
    sampling = sampling or quick_sampling()
    attack = make_attack(name, settings)
    model = _victim(attack, spec)
    state = prepare(attack, model, sampling, MemoryCheckpoints())
    check_isolation(attack, model, state, sampling, forbidden=[References, ImageSet])
    check_resume(attack, model, state, sampling)
    images = check_grouping(attack, model, state, sampling, count)
    check_cost(attack, model, state, sampling)
    check_worker(name, settings, spec, state, sampling, images)


def _victim(attack: Attack, spec: ModelSpec) -> Model:
    """Load a model, with captions for an attack that works with them."""
    model = load_model(spec)
    if attack.replayed() != "none":
        model.prompts = model.planted = PROMPTS
    if attack.is_shown():
        draw = generator(SEED, "conformance", 0, "shown")
        model.shown = torch.randint(256, (len(PROMPTS), *model.image_shape), generator=draw).to(torch.uint8)
    return model


def prepare(attack: Attack, model: Model, sampling: Sampling, checkpoints: Checkpoints) -> AttackState:
    """Prepare an attack outside a run."""
    return prepare_attack(attack, model, sampling, Budget(SEED, 64, checkpoints, silent)).state


def check_grouping(attack: Attack, model: Model, state: AttackState, sampling: Sampling, count: int) -> torch.Tensor:
    """Candidate i is the same uint8 image alone, in any group and in any order; returns the images."""
    whole = _images(attack, model, state, range(count), sampling)
    for numbers in (list(range(count))[::-1], [count - 1], list(range(1, count, 3))):
        again = _images(attack, model, state, numbers, sampling)
        _same(again, whole[numbers], f"{attack.name}: candidates {numbers} differ from those of one call")
    return whole


def check_resume(attack: Attack, model: Model, state: AttackState, sampling: Sampling) -> None:
    """`prepare`, broken off after each of its checkpoints and called again, gives the same state."""
    with tempfile.TemporaryDirectory() as folder:
        for stop_after in range(1, 50):
            checkpoints = _Interrupting(Path(folder) / str(stop_after), stop_after)
            try:
                prepare(attack, model, sampling, checkpoints)
            except Interrupted:
                again = prepare(attack, model, sampling, FolderCheckpoints(checkpoints.folder))
                _same_state(again, state, f"{attack.name}: prepare resumed after checkpoint {stop_after}")
                continue
            return


def check_isolation(
    attack: Attack, model: Model, state: AttackState, sampling: Sampling, forbidden: Iterable[type]
) -> None:
    """Nothing that the attack receives leads to a reference image."""
    audited = AuditedModel(model, sampling.sampler, sampling.micro_batch)
    received = [
        view_of(attack, audited, model, SEED),
        Budget(SEED, 64, MemoryCheckpoints(), silent),
        state,
        Candidates(SEED, range(4)),
    ]
    wrong = tuple(forbidden)
    for thing in reachable(received):
        if isinstance(thing, wrong):
            raise NotConformant(f"{attack.name}: a {type(thing).__name__} can be reached from what it receives")


def check_cost(attack: Attack, model: Model, state: AttackState, sampling: Sampling) -> None:
    """The work that `generate` reports agrees with the operations that torch counts."""
    audited = AuditedModel(model, sampling.sampler, sampling.micro_batch)
    with OperationCount() as counter:
        attack.generate(view_of(attack, audited, model, SEED), state, Candidates(SEED, range(sampling.micro_batch)))
    counted = counter.total
    ledger = audited.ledger
    reported = sum(ledger.nfe.values()) * model.flops_per_sample() + sum(ledger.flops.values())
    if counted and abs(reported - counted) > COST_TOLERANCE * counted:
        raise NotConformant(
            f"{attack.name}: reports {reported:.3g} operations where torch counts {counted:.3g}; "
            f"report work outside the denoiser with model.charge(flops)"
        )


def check_worker(
    name: str,
    settings: dict[str, Any],
    spec: ModelSpec,
    state: AttackState,
    sampling: Sampling,
    images: torch.Tensor,
) -> None:
    """Two other processes, built from the specification and the stored state, make the same images."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        write_state(file, state)
        numbers = range(len(images))
        jobs = [
            (name, settings, spec, file, sampling, list(part), torch.get_num_threads()) for part in _halves(numbers)
        ]
        with fresh_processes(spec.device).Pool(2) as pool:
            parts = pool.starmap(_work, jobs)
    again = torch.from_numpy(np.concatenate(parts))
    order = [number for part in _halves(numbers) for number in part]
    _same(again, images[order], f"{name}: two workers make other images than one process")


def reachable(roots: Iterable[Any]) -> Iterable[Any]:
    """Yield every object that can be reached from `roots`, modules, classes and code aside."""
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | type | FrameType):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, FunctionType):
            # Its module's globals are code, not something that was handed over; its closure was.
            pending += [cell.cell_contents for cell in thing.__closure__ or () if cell != type(cell)()]
            continue
        pending += gc.get_referents(thing)


class _Interrupting(FolderCheckpoints):
    """Checkpoints that break off the caller after a number of them was saved."""

    def __init__(self, folder: Path, stop_after: int) -> None:
        super().__init__(folder)
        self.left = stop_after

    def save(self, name: str, state: AttackState) -> None:
        super().save(name, state)
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def _work(
    name: str,
    settings: dict[str, Any],
    spec: ModelSpec,
    file: Path,
    sampling: Sampling,
    numbers: list[int],
    threads: int,
) -> np.ndarray:
    torch.set_num_threads(threads)
    attack = make_attack(name, settings)
    model = _victim(attack, spec)
    return _images(attack, model, read_state(file), numbers, sampling).numpy()


def _images(
    attack: Attack, model: Model, state: AttackState, numbers: Iterable[int], sampling: Sampling
) -> torch.Tensor:
    return make_candidates(attack, model, state, Candidates(SEED, list(numbers)), sampling)[0]


def _halves(numbers: range) -> tuple[range, range]:
    return numbers[1::2], numbers[0::2]


def _same(first: torch.Tensor, second: torch.Tensor, what: str) -> None:
    off = (first.int() - second.int()).abs()
    if off.any():
        raise NotConformant(f"{what}: {int((off > 0).sum())} values, by at most {int(off.max())}")


def _same_state(first: AttackState, second: AttackState, what: str) -> None:
    if first.tensors.keys() != second.tensors.keys() or dict(first.info) != dict(second.info):
        raise NotConformant(f"{what}: other tensors or values than in one go")
    for key, tensor in first.tensors.items():
        if not torch.equal(tensor, second.tensors[key]):
            raise NotConformant(f"{what}: tensor {key} differs")
