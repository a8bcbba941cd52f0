"""What the recipes share: a network in training with averaged weights, and checkpoints from which it goes on."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts import AttackState, Progress
from ...errors import BadInput
from ...files import content_sha256, read_state, write_state

EVERY = 50
"""Steps between two reports of progress, and between two checkpoints."""


class Training:
    """A network, the running average of its weights, and AdamW.

    Raises nothing and draws nothing: what is random is the caller's, from a generator that a step's number seeds.
    """

    def __init__(
        self, network: torch.nn.Module, learning_rate: float, ema: float, kept: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin; `kept` are tensors beside the network that a step reads, and changes in place."""
        self.network, self.ema, self.kept = network, ema, kept or {}
        self.averaged = {key: value.clone() for key, value in network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate)

    def set_rate(self, learning_rate: float) -> None:
        """Take the next steps with this learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

    def learn(self, loss: Tensor) -> None:
        """Take one step of the optimiser down a loss, gradients clipped at 1."""
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Carry the running average on; it forgets faster in the first steps (0, 1, ...)."""
        decay = min(self.ema, (1 + step) / (10 + step))
        for key, value in self.network.state_dict().items():
            self.averaged[key].lerp_(value, 1 - decay)

    def result(self) -> torch.nn.Module:
        """Return the network with averaged weights, on the CPU and in evaluation mode."""
        self.network.load_state_dict(self.averaged)
        return self.network.cpu().eval().requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the next step depends on."""
        found = {f"weights.{key}": value for key, value in self.network.state_dict().items()}
        found |= {f"averaged.{key}": value for key, value in self.averaged.items()}
        for number, values in self.optimiser.state_dict()["state"].items():
            found |= {f"adam.{number}.{key}": value for key, value in values.items()}
        found |= {f"kept.{key}": value for key, value in self.kept.items()}
        return {key: value.detach().cpu().clone() for key, value in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        device = next(self.network.parameters()).device
        parts: dict[str, dict[str, Any]] = {"weights": {}, "averaged": {}, "adam": {}, "kept": {}}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        self.network.load_state_dict(parts["weights"])
        self.averaged = {key: value.to(device) for key, value in parts["averaged"].items()}
        for key, value in self.kept.items():
            value.copy_(parts["kept"][key])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["adam"].items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = value
        state = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**state, "state": moments})


def cosine_decline(learning_rate: float, steps: int) -> list[float]:
    """Return the learning rate of each step: half a cosine down to nothing (arXiv 1608.03983, one cycle)."""
    return [learning_rate * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


class Checkpoints:
    """Where a training leaves its progress: one file per stage, of this very training and no other."""

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder, self.identity = folder, content_sha256(identity)

    def run(self, stage: str, training: Training, steps: int, step: Callable[[int], None], progress: Progress) -> None:
        """Call `step` for 0 .. steps - 1, from where an earlier call broke off.

        Raises:
            BadInput: the folder holds another training.
        """
        for number in range(self._restore(stage, training), steps):
            step(number)
            training.average(number)
            done = number + 1
            if done % EVERY == 0 or done == steps:
                write_state(self._file(stage), AttackState(training.tensors(), self._info(done)))
                progress(f"{stage} steps", done, steps)

    def _restore(self, stage: str, training: Training) -> int:
        """Return the number of steps that are done, with the training as it was after them."""
        if not self._file(stage).exists():
            return 0
        state = read_state(self._file(stage))
        if state.info.get("training") != self.identity:
            raise BadInput(f"{self.folder} holds another training; delete it, or name another folder (--checkpoints)")
        training.restore(dict(state.tensors))
        return int(state.info["done"])

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def _info(self, done: int) -> dict[str, Any]:
        return {"training": self.identity, "done": done}
