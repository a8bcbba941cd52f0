"""side-walk: what works in side-modes, alone: each sample walks to the mode that it nearly is."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Ablation,
    Access,
    Attack,
    AttackState,
    Conditioning,
    Generated,
    Settings,
    WhiteBoxModel,
)
from .denoise import denoised


class SideWalkSettings(Settings):
    """How each sample walks. The defaults are the best on a shadow victim (docs/study-side.md)."""

    noise: float = Field(0.02, gt=0, lt=1)
    """The noise level at which the denoiser is asked, as a share of the T timesteps. Higher levels merge modes."""
    rounds: int = Field(16, ge=0)
    """Denoiser calls on each sample; 0 is carlini-uncond image for image."""


class SideWalk(Attack):
    """Sample without condition, then replace each sample by the denoiser's answer to it, over and over.

    That climbs to a mode of the model's density (`denoise.denoised`). An image learnt by heart is such a mode; samples
    lie around it, most of them not near enough to count as it, and more steps of DDIM do not change that.

    It differs from side-modes, and from SIDE (arXiv 2410.02467), in having no surrogate condition at all: taken apart,
    side-modes found as much without its condition, and it is here by that ablation. No noise is added on the way, so a
    candidate is a function of its sample.
    """

    name: ClassVar[str] = "side-walk"
    title: ClassVar[str] = "plain samples, each walked to the denoiser's mode"
    paper: ClassVar[str] = "an ablation of side-modes"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none"})
    Settings = SideWalkSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"noise", "rounds"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"rounds": (4, 16, 64), "noise": (0.01, 0.02, 0.03, 0.06)}
    ablations: ClassVar[Mapping[str, Ablation]] = {"no-walk": Ablation({"rounds": 0})}
    ablated_against: ClassVar[Sequence[str]] = ("carlini-uncond",)

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample, then walk."""
        images = model.sample(candidates)
        return Generated(denoised(model, images, self.settings.noise, self.settings.rounds))
