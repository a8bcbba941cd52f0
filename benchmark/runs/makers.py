"""Who calls an attack: this process, or one of its own that never held a reference image.

Attacks that come from a file or an installed package prepare and generate in a process that was started for them: what
lies in this one (the plan, its pair, images that were loaded) is not there to be found by accident. It is no sandbox;
an attack that wants to read a file of this machine can. Images are the same either way.
"""

from typing import TYPE_CHECKING, Any, Protocol

from ..candidates import Candidates
from ..contracts import AttackState, Budget
from ..protocol import Sampling
from ..registry import code_of, found_as
from ..results.checkpoints import FolderCheckpoints
from ..sampling.call_attack import Made, Prepared, make_candidates, prepare_attack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..contracts import Model
    from .plan import RunPlan, Unit


class Maker(Protocol):
    """Calls attacks on one model."""

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""

    def prepare(self, unit: "Unit", sampling: Sampling, budget: Budget, samples: FolderCheckpoints) -> Prepared:
        """Call the attack's `prepare`."""

    def generate(self, unit: "Unit", state: AttackState, candidates: Candidates, sampling: Sampling) -> Made:
        """Call the attack's `generate`."""


class InProcess:
    """Calls attacks in this process."""

    def __init__(self, model: "Model") -> None:
        self.model = model

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        return self.model.flops_per_sample()

    def prepare(self, unit: "Unit", sampling: Sampling, budget: Budget, samples: FolderCheckpoints) -> Prepared:
        """Call the attack's `prepare`."""
        return prepare_attack(unit.attack, self.model, sampling, budget, samples)

    def generate(self, unit: "Unit", state: AttackState, candidates: Candidates, sampling: Sampling) -> Made:
        """Call the attack's `generate`."""
        return make_candidates(unit.attack, self.model, state, candidates, sampling)


class Makers:
    """The makers of a plan's units, each opened when it is first needed; close them to free their memory."""

    def __init__(self, plan: "RunPlan", load: "Callable[[RunPlan], Model] | None" = None) -> None:
        """Load nothing yet; `load` loads the model, if it is not the plan's victim."""
        self.plan = plan
        self._load = load
        self._here: InProcess | None = None
        self._apart: Any = None

    def apart(self, unit: "Unit") -> bool:
        """Return whether this unit's attack is called in a process of its own."""
        return is_apart(self.plan, unit)

    def of(self, unit: "Unit") -> Maker:
        """Return who calls this unit's attack."""
        if self.apart(unit):
            if self._apart is None or self._apart.ended:
                from .attack_process import AttackProcess

                self._apart = AttackProcess(self.plan)
            maker: Maker = self._apart
            return maker
        return self._in_process()

    def model(self) -> "Model":
        """Return the model with its defences, in this process."""
        return self._in_process().model

    def _in_process(self) -> InProcess:
        from .victim import load_victim

        if self._here is None:
            self._here = InProcess((self._load or load_victim)(self.plan))
        return self._here

    def close(self) -> None:
        """Forget the model, and end the process of the attacks."""
        if self._apart is not None:
            self._apart.close()
        self._apart = self._here = None


def is_apart(plan: "RunPlan", unit: "Unit") -> bool:
    """Return whether a unit's attack is called in a process of its own.

    What ships with sidebench is not, nor an oracle, which is given the training images, nor any attack where a defence
    holds them, nor one that was never looked up by name, nor one on a model that is an object of this process.
    """
    attack = type(unit.attack)
    ships = code_of(attack) == code_of(Makers)
    holds = unit.attack.access == "oracle" or any(defence.uses_training for defence in plan.defences)
    named = all(found_as(type(plugin)) for plugin in (unit.attack, *plan.defences))
    return named and not ships and not holds and plan.model.live is None
