"""sharpness: curvature of the log-density along the guidance, in pure noise (Jeon et al., ICML 2025)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import as_noise, last_timestep, levels, over_noises, predicted_noise


class SharpnessSettings(Settings):
    """How often it is asked."""

    noises: int = Field(1, ge=1)
    """Starting noises of a prompt, the mean over them; the paper takes 1 or 4."""


class Sharpness(Detector):
    """|| (H_c - H_0) s_D ||_2 at x_T, with the score s, its Jacobian H, and s_D = s(x_T, c) - s(x_T, empty).

    One Jacobian-vector product of either score, in forward mode. The sign is the paper's: sharper is more memorised;
    the authors' script turns it around where the AUC on the reported prompts is below one half, this one never does.
    """

    name: ClassVar[str] = "sharpness"
    title: ClassVar[str] = "curvature along the guidance"
    paper: ClassVar[str] = "Jeon et al., arXiv 2412.04140, ICML 2025"
    Settings = SharpnessSettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the norm for each prompt."""
        condition, t = model.embed(prompts), last_timestep(model)
        sigma = levels(model, t)[1]

        def sharpness(noise: Tensor) -> Tensor:
            # s = - eps / sigma
            difference = predicted_noise(model, noise, t, condition) - predicted_noise(model, noise, t, None)
            s_d = -difference / sigma

            times = torch.full((len(noise),), t, device=noise.device)
            slope = model.differentiate(noise, times, s_d, condition) - model.differentiate(noise, times, s_d)
            # Noise is linear in x_t and the prediction, and what x_t itself adds is the same in both terms.
            product = -as_noise(model, torch.zeros_like(slope), t, slope) / sigma
            norms: Tensor = product.flatten(1).norm(dim=1)
            return norms

        return over_noises(model, candidates, self.settings.noises, sharpness)
