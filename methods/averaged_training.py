"""Training with AdamW that a killed run goes on with: averaged values, and checkpoints of all that a step needs."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..benchmark.contracts import AttackState, Budget

CHECKPOINT_EVERY = 100

KEPT = 100
"""Steps whose notes are kept: one step's loss of a small batch says little."""


class AveragedTraining:
    """The values that a training changes, their averages, and notes of the last steps.

    Each step must draw from a stream of its own, as `generator(seed, name, step, "batch")` does: then a resumed
    training ends in the same values.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
        budget: Budget,
        name: str,
        *,
        decay: float,
    ) -> None:
        """Take up what the checkpoint of this name holds, or begin.

        Args:
            values: The tensors themselves by name, as `state_dict()` gives them; buffers may be among them.
            optimiser: Of those that are trained.
            budget: For its checkpoints and progress.
            name: Of the training, among those of one attack.
            decay: Of the averages, 0 to 1: 0 is the last values. It grows with the steps, so that the average forgets
                the random start: step n (from 1) weighs at least 9 / (n + 9). Constant, a decay of 0.99 would leave
                the start a weight of 0.37 after 100 steps.
        """
        self._values, self._optimiser, self._budget, self._name = values, optimiser, budget, name
        self._decay = decay
        self.averaged = {key: value.detach().clone() for key, value in values.items()}
        self._notes: list[Tensor] = []
        self._start = self._resume()

    def steps(self, count: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left; after each, average and now and then leave a checkpoint."""
        for step in range(self._start, count):
            yield step
            self._average(step)
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == count:
                self._save(step + 1)
                self._budget.progress(f"{self._name} steps", step + 1, count)

    def descend(self, loss: Tensor, *more: Tensor) -> None:
        """Take one step of the optimiser, and note the loss and whatever else is told of this step (0-d tensors)."""
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        # Left on the device: to read them here would make it wait in each step.
        self._notes = [*self._notes, torch.stack([loss.detach(), *more])][-KEPT:]

    def notes_mean(self) -> list[float]:
        """Return the means of what was noted in the last steps; 0 without a step."""
        return torch.stack(self._notes).double().mean(0).tolist() if self._notes else [0.0]

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self._decay, (step + 1) / (step + 10))
        for key, value in self._values.items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - decay)
            else:
                self.averaged[key].copy_(value)

    def _save(self, step: int) -> None:
        tensors = {f"network.{key}": value.detach() for key, value in self._values.items()}
        tensors |= {f"averaged.{key}": value for key, value in self.averaged.items()}
        for number, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        state = AttackState(tensors, {"step": step, "history": [note.tolist() for note in self._notes]})
        self._budget.checkpoints.save(f"checkpoint-{self._name}", state)

    @torch.no_grad()
    def _resume(self) -> int:
        saved = self._budget.checkpoints.load(f"checkpoint-{self._name}")
        if saved is None:
            return 0
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "averaged": {}, "optimiser": {}}
        for key, value in saved.tensors.items():
            group, _, rest = key.partition(".")
            groups[group][rest] = value
        for key, value in self._values.items():
            value.copy_(groups["network"][key])
            self.averaged[key].copy_(groups["averaged"][key])
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in groups["optimiser"].items():
            number, _, slot = key.partition(".")
            slots.setdefault(int(number), {})[slot] = value
        # Moments alone are stored: learning rate and decay come from the settings, which name the run.
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": slots})
        device = next(iter(self._values.values())).device
        self._notes = [torch.tensor(entry, device=device) for entry in saved.info["history"]]
        return int(saved.info["step"])
