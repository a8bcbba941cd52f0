"""The process in which attacks from files and packages run, and how a run talks to it.

`python -m sidebench.benchmark.runs.attack_process` reads requests from its standard input and answers on its standard
output; both are frames of JSON and safetensors, never pickles. It ends when its input does, so it never outlives the
run. What attacks print goes to standard error.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load, save

from ..candidates import Candidates
from ..contracts import Attack, AttackState, Budget, ModelSpec
from ..environment import collect_seldom, keep_freed_memory
from ..errors import AttackFailed
from ..models.own_model import source_folder
from ..protocol import Sampling
from ..registry import source_of
from ..results.checkpoints import FolderCheckpoints
from ..sampling.call_attack import Made, Prepared, make_candidates, prepare_attack
from ..sampling.defended import defend, in_order
from .carried import built_plugin, described_error, named_plugin, rebuilt_error

if TYPE_CHECKING:
    from ..contracts import Model
    from .plan import RunPlan, Unit

Tensors = Mapping[str, torch.Tensor]

# ---- Frames -----------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One message: JSON values and tensors."""

    values: dict[str, Any]
    tensors: Tensors = {}


def send(stream: IO[bytes], frame: Frame) -> None:
    """Write a frame."""
    values = json.dumps(frame.values).encode()
    tensors = save({k: tensor.detach().cpu().contiguous() for k, tensor in frame.tensors.items()})
    stream.write(len(values).to_bytes(8, "little") + len(tensors).to_bytes(8, "little") + values + tensors)
    stream.flush()


def receive(stream: IO[bytes]) -> Frame | None:
    """Read a frame; None at the end."""
    head = stream.read(16)
    if len(head) < 16:
        return None
    sizes = int.from_bytes(head[:8], "little"), int.from_bytes(head[8:], "little")
    values, tensors = (stream.read(size) for size in sizes)
    if len(values) < sizes[0] or len(tensors) < sizes[1]:
        return None
    return Frame(json.loads(values), load(tensors))


# ---- In the run -------------------------------------------------------------------------------------


class AttackProcess:
    """Calls attacks in a process of their own."""

    def __init__(self, plan: "RunPlan") -> None:
        # -P: a file in the working folder must not stand in for a module. The path is handed on as it is here.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._stated: tuple[Unit, AttackState] | None = None
        from .victim import captions, planted

        values: dict[str, Any] = {
            "op": "open",
            "model": plan.attacked().model_dump(mode="json"),
            "defences": [named_plugin(defence) for defence in plan.defences],
            "sampler": plan.protocol.sampler.name,
            "threads": torch.get_num_threads(),
            "prompts": captions(plan),
            "planted": planted(plan),
            "pair": plan.pair.name,
        }
        try:
            self._flops = int(self._ask("opening", Frame(values)).values["flops_per_sample"])
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether the process is gone: an attack may take it with it."""
        return self._process.poll() is not None

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        return self._flops

    def prepare(self, unit: "Unit", sampling: Sampling, budget: Budget, samples: FolderCheckpoints) -> Prepared:
        """Call the attack's `prepare`."""
        assert isinstance(budget.checkpoints, FolderCheckpoints)
        values = {
            "op": "prepare",
            "attack": named_plugin(unit.attack),
            "sampling": sampling.model_dump(mode="json"),
            "seed": budget.seed,
            "candidates": budget.candidates,
            "checkpoints": str(budget.checkpoints.folder.absolute()),
            "samples": str(samples.folder.absolute()),
        }
        answer = self._ask(unit.name, Frame(values), budget)
        state = AttackState(answer.tensors, answer.values["state"])
        return Prepared(state, answer.values["cost"], counted=answer.values["counted"])

    def generate(self, unit: "Unit", state: AttackState, candidates: Candidates, sampling: Sampling) -> Made:
        """Call the attack's `generate`."""
        # Units of a tuning have one name and one state, and other settings of the generation.
        if self._stated is None or self._stated[0] is not unit or self._stated[1] is not state:
            values: dict[str, Any] = {"op": "state", "attack": named_plugin(unit.attack), "state": dict(state.info)}
            self._ask(unit.name, Frame(values, state.tensors))
            self._stated = unit, state
        values = {
            "op": "generate",
            "sampling": sampling.model_dump(mode="json"),
            "seed": candidates.seed,
            "numbers": [int(number) for number in candidates.numbers],
        }
        answer = self._ask(unit.name, Frame(values))
        columns = {key.removeprefix("column_"): v for key, v in answer.tensors.items() if key.startswith("column_")}
        tensors = answer.tensors
        return Made(tensors["images"], tensors["nan"], columns, answer.values["cost"], tensors.get("caption"))

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._in.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()

    def _ask(self, who: str, frame: Frame, budget: Budget | None = None) -> Frame:
        try:
            send(self._in, frame)
            while (answer := receive(self._out)) is not None:
                if "progress" not in answer.values:
                    break
                if budget is not None:
                    budget.progress(*answer.values["progress"])
        except OSError:
            answer = None
        if answer is None:
            code = self._process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise AttackFailed(f"{who}: the attack's process has ended ({how}); the same command goes on")
        if "error" in answer.values:
            raise rebuilt_error(**answer.values["error"])
        return answer


# ---- In the attack's process ------------------------------------------------------------------------


class _Server:
    """Answers requests."""

    def __init__(self, answers: IO[bytes]) -> None:
        self.answers = answers
        self.model: Model
        self.attack: Attack
        self.state = AttackState()
        self.source: Path | None = None

    def answer(self, frame: Frame) -> Frame:
        """Do what a request asks for."""
        found: Frame = getattr(self, f"_{frame.values['op']}")(frame.values, frame.tensors)
        return found

    def failed(self, error: Exception) -> Frame:
        """Say what went wrong."""
        # An attack calls a model, so the model's line comes first.
        model = source_folder(self.model.spec) if hasattr(self, "model") else None
        return Frame({"error": described_error(error, model, self.source)})

    def _open(self, values: dict[str, Any], _: Tensors) -> Frame:
        from ..models import load_model
        from .victim import fitting

        torch.set_num_threads(values["threads"])
        model = load_model(ModelSpec(**values["model"]))
        model.prompts, model.planted = (fitting(model, values[key], values["pair"]) for key in ("prompts", "planted"))
        defences = in_order([built_plugin("defence", each) for each in values["defences"]])
        # None of them asks for training images: an attack that meets one that does stays in the run's process.
        self.model = defend(model, defences, values["sampler"], lambda: torch.empty(0))
        return Frame({"flops_per_sample": self.model.flops_per_sample()})

    def _prepare(self, values: dict[str, Any], _: Tensors) -> Frame:
        attack = self._attack(values["attack"])
        checkpoints, samples = (FolderCheckpoints(Path(values[key])) for key in ("checkpoints", "samples"))
        budget = Budget(values["seed"], values["candidates"], checkpoints, self._progress)
        found = prepare_attack(attack, self.model, Sampling(**values["sampling"]), budget, samples)
        info = {"state": dict(found.state.info), "cost": found.cost, "counted": found.counted}
        return Frame(info, found.state.tensors)

    def _state(self, values: dict[str, Any], tensors: Tensors) -> Frame:
        self.attack, self.state = self._attack(values["attack"]), AttackState(tensors, values["state"])
        return Frame({})

    def _generate(self, values: dict[str, Any], _: Tensors) -> Frame:
        candidates, sampling = Candidates(values["seed"], values["numbers"]), Sampling(**values["sampling"])
        made = make_candidates(self.attack, self.model, self.state, candidates, sampling)
        columns = {f"column_{key}": column for key, column in made.columns.items()}
        captions = {} if made.captions is None else {"caption": made.captions}
        return Frame({"cost": made.cost}, {"images": made.images, "nan": made.nan, **captions, **columns})

    def _attack(self, named: dict[str, Any]) -> Attack:
        attack: Attack = built_plugin("attack", named)
        self.source = source_of(type(attack))
        return attack

    def _progress(self, phase: str, done: int, total: int) -> None:
        send(self.answers, Frame({"progress": [phase, done, total]}))


def _read(stream: IO[bytes], requests: "queue.Queue[Frame]") -> None:
    """Take requests in, and end the process with its input, whatever it is busy with."""
    while (frame := receive(stream)) is not None:
        requests.put(frame)
    os._exit(0)


def main() -> None:
    """Answer requests until the input ends."""
    collect_seldom()
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, whose end is this process's
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What an attack prints goes to standard error, and where it asks it finds nobody.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    requests: queue.Queue[Frame] = queue.Queue()
    threading.Thread(target=_read, args=(asked, requests), daemon=True).start()
    server = _Server(answers)
    while True:
        frame = requests.get()
        try:
            answer = server.answer(frame)
        except Exception as error:  # an attack may fail in any way
            answer = server.failed(error)
        send(answers, answer)


if __name__ == "__main__":
    main()
