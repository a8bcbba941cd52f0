"""summary-entropy: late cross-attention, and how its part on summary tokens spread along the path (Ren et al.)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import PathStep, guided_path, over_noises


class SummaryEntropySettings(Settings):
    """The path, and how many of its last steps are read."""

    noises: int = Field(4, ge=1)
    """Starting noises of a prompt, the mean over them."""
    steps: int = Field(10, ge=1, le=1000)
    """Last steps of the path at which attention is read, as in the paper; it is read in pure noise as well."""
    path: int = Field(50, ge=2, le=1000)
    """Steps of the whole path: a sampling pass for each noise."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of the path."""

    @model_validator(mode="after")
    def _pure_noise_is_apart(self) -> "SummaryEntropySettings":
        if self.steps >= self.path:
            raise ValueError(f"steps = {self.steps} of a path of {self.path}, whose first step is not one of them")
        return self


class SummaryEntropy(Detector):
    """D = mean E_t + (mean E^S_t - E^S_0), means over the last steps t of a guided path (the paper's D-mode).

    E_t = - sum over tokens of a log a; E^S_t is the part of that sum over the summary tokens: the prompt's end token
    and all padding after it. a is cross-attention given the prompt, averaged over all layers, heads and pixels before
    the logarithm, as the authors' script does; `attention-entropy` takes the entropy of each layer. The shares of the
    summary tokens are not scaled to 1, and the difference has its sign. Higher is more memorised.
    """

    name: ClassVar[str] = "summary-entropy"
    title: ClassVar[str] = "late entropy of cross-attention, and its growth on summary tokens"
    paper: ClassVar[str] = "Ren et al., arXiv 2403.11052, ECCV 2024"
    attends: ClassVar[bool] = True
    Settings = SummaryEntropySettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return D for each prompt."""
        chosen, condition = self.settings, model.embed(prompts)
        lengths = model.prompt_tokens(prompts).to(model.device)

        def growth(noise: Tensor) -> Tensor:
            late: list[tuple[Tensor, Tensor]] = []
            for number, step in enumerate(guided_path(model, condition, noise, chosen.path, chosen.guidance_scale)):
                if number == 0:
                    _, summary_at_first = entropies(model, step, condition, lengths)
                elif number >= chosen.path - chosen.steps:
                    late.append(entropies(model, step, condition, lengths))
            whole, summary = (torch.stack(each).mean(0) for each in zip(*late, strict=True))
            return whole + summary - summary_at_first

        return over_noises(model, candidates, chosen.noises, growth)


def entropies(model: WhiteBoxModel, step: PathStep, condition: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy of attention over all tokens, and the part of it on summary tokens, each (N,) float64.

    Args:
        model: Whose attention it is; one call a row.
        step: Where on the path.
        condition: The embedded prompts.
        lengths: (N,) tokens of each prompt, begin and end token included; the end token is the first summary token.
    """
    times = torch.full((len(step.x_t),), step.t, device=step.x_t.device)
    maps = model.attend(step.x_t, times, condition).maps.values()
    shares = torch.stack([each.double().mean(1) for each in maps]).mean(0)
    parts = torch.special.entr(shares)
    is_summary = torch.arange(parts.shape[1], device=parts.device) >= lengths[:, None] - 1
    return parts.sum(1), (parts * is_summary).sum(1)
