"""bright-ending: the noise that the prompt moves, where pixels look at the end token (ICLR 2025)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import interpolate

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import guided_path, over_noises


class BrightEndingSettings(Settings):
    """The path whose last step gives the mask, and how many of its first steps are read through it."""

    noises: int = Field(4, ge=1)
    """Starting noises of a prompt, the mean over them; the paper makes 16 images."""
    steps: int = Field(1, ge=1, le=1000)
    """First steps of the path at which the noise is read."""
    path: int = Field(50, ge=1, le=1000)
    """Steps of the whole path: a sampling pass for each noise."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of the path."""

    @model_validator(mode="after")
    def _read_steps_exist(self) -> "BrightEndingSettings":
        if self.steps > self.path:
            raise ValueError(f"steps = {self.steps} of a path of {self.path}")
        return self


class BrightEnding(Detector):
    """|| M * (eps(x_t, c) - eps(x_t, empty)) ||_2 / mean(M), the mean over noises and first steps.

    M is the cross-attention to the prompt's end token at the last step of a guided path: the mean over heads and over
    the layers of the way down that have the most pixels, at the latent's size. The authors read the 64 x 64 maps of
    Stable Diffusion, which has two such layers; a network whose finest map is coarser has it enlarged (bilinear).
    """

    name: ClassVar[str] = "bright-ending"
    title: ClassVar[str] = "text-conditional noise where the end token is looked at"
    paper: ClassVar[str] = "Chen et al., Exploring Local Memorization via Bright Ending Attention, ICLR 2025"
    attends: ClassVar[bool] = True
    Settings = BrightEndingSettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the localised magnitude for each prompt."""
        chosen, condition = self.settings, model.embed(prompts)
        ends = model.prompt_tokens(prompts) - 1

        def magnitude(noise: Tensor) -> Tensor:
            changes: list[Tensor] = []
            for step in guided_path(model, condition, noise, chosen.path, chosen.guidance_scale):
                if len(changes) < chosen.steps:
                    changes.append(step.conditional - step.unconditional)
            times = torch.full((len(noise),), step.t, device=noise.device)
            mask = end_mask(model.attend(step.x_t, times, condition).maps, ends.to(noise.device), noise.shape[-2:])
            norms = [(mask * change).flatten(1).norm(dim=1) for change in changes]
            return torch.stack(norms).mean(0) / mask.flatten(1).mean(1)

        return over_noises(model, candidates, chosen.noises, magnitude)


def end_mask(maps: Mapping[str, Tensor], ends: Tensor, size: Sequence[int]) -> Tensor:
    """Return the attention to each prompt's end token, N x 1 x H x W.

    Args:
        maps: N x pixels x tokens by layer; layers of the way down are called `down_blocks...`, and where there are none
            all layers are read.
        ends: (N,) the place of each end token.
        size: (H, W) of the latent.
    """
    down = [values for name, values in maps.items() if name.startswith("down_blocks")] or list(maps.values())
    finest = max(values.shape[1] for values in down)
    mean = torch.stack([values for values in down if values.shape[1] == finest]).mean(0)
    height, width = size
    rows = round(height * (finest / (height * width)) ** 0.5)
    mask = mean[torch.arange(len(mean), device=mean.device), :, ends].view(len(mean), 1, rows, finest // rows)
    return mask if rows == height else interpolate(mask, size=(height, width), mode="bilinear")
