"""noise-norm: how far the prompt moves the predicted noise (Wen et al., ICLR 2024)."""

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import guided_path, over_noises


class NoiseNormSettings(Settings):
    """Which steps of which path are read."""

    noises: int = Field(4, ge=1)
    """Starting noises of a prompt, the mean over them; the paper makes 4 images."""
    steps: int = Field(1, ge=1, le=1000)
    """First steps of the path that are read; the paper's operating points are 1, 10 and all."""
    path: int = Field(50, ge=1, le=1000)
    """Steps of the whole path."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of the path after its first step; one step alone does not depend on it."""

    @model_validator(mode="after")
    def _read_steps_exist(self) -> "NoiseNormSettings":
        if self.steps > self.path:
            raise ValueError(f"steps = {self.steps} of a path of {self.path}")
        return self


class NoiseNorm(Detector):
    """m(c) = mean over noises and steps of || eps(x_t, c) - eps(x_t, empty) ||_2.

    The norm is that of one sample over its whole latent, so it does not depend on how many are scored together.
    """

    name: ClassVar[str] = "noise-norm"
    title: ClassVar[str] = "norm of the text-conditional noise"
    paper: ClassVar[str] = "Wen et al., Detecting, Explaining, and Mitigating Memorization, ICLR 2024"
    Settings = NoiseNormSettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return m(c) for each prompt."""
        chosen, condition = self.settings, model.embed(prompts)

        def magnitude(noise: Tensor) -> Tensor:
            path = guided_path(model, condition, noise, chosen.path, chosen.guidance_scale)
            read = islice(path, chosen.steps)
            norms = [(step.conditional - step.unconditional).flatten(1).norm(dim=1) for step in read]
            return torch.stack(norms).mean(0)

        return over_noises(model, candidates, chosen.noises, magnitude)
