"""plain-tuned: plain sampling at its best, the yardstick of attacks that cost more than sampling."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
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


class PlainTunedSettings(Settings):
    """How images are drawn. They are the attack's own: the sampler of the protocol is that of the other attacks."""

    solver: Literal["ddim", "ddpm", "euler", "dpm-solver++"] = "ddim"
    steps: int = Field(50, ge=1, le=1000)
    eta: float = Field(0.0, ge=0, le=1)
    """Stochasticity of DDIM."""
    noise: float = Field(0.02, gt=0, lt=1)
    """The level at which the denoiser is asked in the end, as a share of the T timesteps."""
    rounds: int = Field(1, ge=0, le=1)
    """1: one direct call of the denoiser on each sample, in the end; 0: none."""


class PlainTuned(Attack):
    """Sample without condition by whatever sampler finds most, and end with one call of the denoiser or without.

    An attack that beats plain sampling under one sampler may only make up for that sampler: DDIM leaves samples some
    way from the image that they are of, and one deterministic call takes most of that off. So what is claimed of an
    attack should hold against this one, whose settings get the same tuning budget.

    A text-to-image model is asked with the empty prompt.
    """

    name: ClassVar[str] = "plain-tuned"
    title: ClassVar[str] = "plain sampling, its sampler and a last denoising tuned"
    paper: ClassVar[str] = "none: a yardstick"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "text"})
    Settings = PlainTunedSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"solver", "steps", "eta", "noise", "rounds"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "solver": ("ddim", "ddpm", "dpm-solver++"),
        "steps": (10, 20, 50),
        "rounds": (0, 1),
    }

    def samplers(self) -> Sequence[SamplerSettings]:
        """Return its own."""
        return [SamplerSettings(name=self.settings.solver, steps=self.settings.steps, eta=self.settings.eta)]

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample, then ask the denoiser."""
        images = model.sample(candidates, sampler=self.samplers()[0])
        return Generated(denoised(model, images, self.settings.noise, self.settings.rounds))
