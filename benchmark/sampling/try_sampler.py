"""Try a sampler on a model's noise schedule before any work, with a denoiser that costs nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..candidates import Candidates
from ..contracts import Model, SamplerSettings
from ..errors import BadInput, SidebenchError
from .defended import DefendedModel
from .sampler import is_consistency, sample_latents

if TYPE_CHECKING:
    from ..contracts import Conditioning


def try_sampler(model: Model, settings: SamplerSettings, owner: str) -> None:
    """Draw one value by the sampler, with a made-up denoiser in the model's place; its own noise levels are kept.

    Raises:
        BadInput: the sampler does not go with the model's noise schedule; the message says what to do.
    """
    if settings.steps > model.num_train_timesteps:
        most = model.num_train_timesteps
        raise BadInput(
            f"{owner}: its noise schedule has {most:,} timesteps, sampler {settings.name} takes {settings.steps:,}; "
            f"in a pair file, protocol: {{sampler: {{steps: {most}}}, reason: ...}}"
        )
    if is_consistency(model) and settings.name != "ddim":
        raise BadInput(f"{owner}: sampler {settings.name} does not go with a consistency model; use ddim")
    if (known := _content(model, settings)) in _FINE:
        return
    try:
        drawn = sample_latents(_MadeUp(model), Candidates(0, [0]), settings, 1)
    except SidebenchError:
        raise
    except Exception as error:  # of a configuration that somebody wrote by hand
        text = " ".join(str(error).split())
        raise BadInput(
            f"{owner}: sampler {settings.name} in {settings.steps:,} steps does not go with its noise schedule: "
            f"{type(error).__name__}: {text}"
        ) from None
    if not drawn.isfinite().all():
        reason = "epsilon says nothing of the image in pure noise" if model.prediction_type == "epsilon" else "NaN"
        raise BadInput(
            f"{owner}: sampler {settings.name} draws no finite image on its noise schedule ({reason}); "
            "see rescale_betas_zero_snr and timestep_spacing in scheduler_config.json"
        )
    _FINE.add(known)


_FINE: set[str] = set()
"""What this process has tried: each noise schedule is tried once with the same sampler."""


def _content(model: Model, settings: SamplerSettings) -> str:
    parts = type(model).__qualname__, model.prediction_type, dict(model.scheduler_config), settings.model_dump()
    return json.dumps(parts, sort_keys=True, default=str)


class _MadeUp(DefendedModel):
    """A model of one value, whose answer is the best one for data that are standard normal."""

    def __init__(self, inside: Model) -> None:
        super().__init__(inside)
        self.sample_shape = self.image_shape = (1, 1, 1)
        self.conditioning: Conditioning = "none"
        self.device = torch.device("cpu")

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the mean of what the model is asked for, given x_t."""
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in self.noise_level(t))
        slopes = {"epsilon": sigma, "sample": alpha, "flow_prediction": sigma - alpha}
        return x_t * slopes.get(self.prediction_type, 0.0)

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> None:
        """Return nothing: the made-up denoiser takes no condition."""
