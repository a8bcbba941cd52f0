"""side-walk: what works in side-modes, alone: each sample walks to the mode that it nearly is."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Ablation,
    Access,
    Attack,
    AttackState,
    Conditioning,
    Generated,
    SamplerSettings,
    Settings,
    WhiteBoxModel,
)
from .denoise import denoised


class SideWalkSettings(Settings):
    """How samples are drawn and walk. Noise and rounds are the best on a shadow victim (docs/study-side.md)."""

    noise: float = Field(0.02, gt=0, lt=1)
    """The noise level at which the denoiser is asked, as a share of the T timesteps. Higher levels merge modes."""
    rounds: int = Field(16, ge=0)
    """Denoiser calls on each sample, at most; 0 is plain sampling."""
    steps: int | None = Field(None, ge=1, le=1000)
    """Draw samples in so many steps of `solver` in place of the protocol's sampler: the walk mends coarse samples."""
    solver: Literal["ddim", "ddpm", "euler", "dpm-solver++"] = "ddim"
    """Of the samples, where `steps` says how many; DDIM without noise."""
    tolerance: float = Field(0.0, ge=0)
    """A sample has arrived once a round moves it by less than this (root mean square over the numbers of x_0, which
    are -1 to 1 for pixels); what its other rounds would have cost is saved. 0: all rounds."""

    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        if self.steps is None and self.solver != "ddim":
            raise ValueError(f"solver = {self.solver} does nothing without steps: the protocol's sampler draws")
        return self


class SideWalk(Attack):
    """Sample without condition, then replace each sample by the denoiser's answer to it, over and over.

    That climbs to a mode of the model's density (`denoise.denoised`). An image learnt by heart is such a mode; samples
    lie around it, most of them not near enough to count as it, and more steps of DDIM do not change that.

    It differs from side-modes, and from SIDE (arXiv 2410.02467), in having no surrogate condition at all: taken apart,
    side-modes found as much without its condition, and it is here by that ablation. No noise is added on the way, so a
    candidate is a function of its sample. A text-to-image model is asked with the empty prompt.
    """

    name: ClassVar[str] = "side-walk"
    title: ClassVar[str] = "plain samples, each walked to the denoiser's mode"
    paper: ClassVar[str] = "an ablation of side-modes"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "text"})
    version: ClassVar[int] = 2
    Settings = SideWalkSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"noise", "rounds", "steps", "solver", "tolerance"})
    later_settings: ClassVar[frozenset[str]] = frozenset({"steps", "solver", "tolerance"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"rounds": (4, 16, 64), "noise": (0.01, 0.02, 0.03, 0.06)}
    ablations: ClassVar[Mapping[str, Ablation]] = {"no-walk": Ablation({"rounds": 0})}
    ablated_against: ClassVar[Sequence[str]] = ("carlini-uncond",)

    def samplers(self) -> Sequence[SamplerSettings]:
        """Return its own, if it has one."""
        given = self.settings
        return [SamplerSettings(name=given.solver, steps=given.steps)] if given.steps else []

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample, then walk."""
        images = model.sample(candidates, sampler=next(iter(self.samplers()), None))
        given = self.settings
        return Generated(denoised(model, images, given.noise, given.rounds, given.tolerance))
