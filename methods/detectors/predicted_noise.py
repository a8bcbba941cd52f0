"""What detectors ask of a denoiser: the noise that it predicts, in pure noise and along a guided path."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import WhiteBoxModel
from ...benchmark.errors import BadSetting
from ...benchmark.sampling.prediction_types import SINGULAR, clean_estimate


class PathStep(NamedTuple):
    """One step of a guided path."""

    t: int
    x_t: Tensor
    conditional: Tensor
    """Predicted noise given the prompt, N x C x H x W."""
    unconditional: Tensor
    """The same without a prompt."""


def over_noises(
    model: WhiteBoxModel, candidates: Candidates, count: int, score: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Return the mean of a score over starting noises, (N,) float64.

    Args:
        model: Whose x_T it is.
        candidates: One per prompt; noise k is their stream "noise k".
        count: How many noises each prompt has.
        score: Takes the starting noise of each prompt, N x C x H x W, and returns (N,).
    """
    drawn = (candidates.normal(f"noise {k}", model.sample_shape).to(model.device) for k in range(count))
    found: np.ndarray = torch.stack([score(noise).double().cpu() for noise in drawn]).mean(0).numpy()
    return found


def last_timestep(model: WhiteBoxModel) -> int:
    """Return the timestep of pure noise."""
    return model.num_train_timesteps - 1


def predicted_noise(model: WhiteBoxModel, x_t: Tensor, t: int, condition: Tensor | None) -> Tensor:
    """Return the noise that the denoiser predicts at timestep t, whatever its prediction type; one call a row."""
    return as_noise(model, x_t, t, predicted(model, x_t, t, condition))


def predicted(model: WhiteBoxModel, x_t: Tensor, t: int, condition: Tensor | None) -> Tensor:
    """Return the denoiser's own prediction at timestep t, without gradients."""
    times = torch.full((len(x_t),), t, device=x_t.device)
    with torch.no_grad():
        return model.predict(x_t, times, condition)


def as_noise(model: WhiteBoxModel, x_t: Tensor, t: int, prediction: Tensor) -> Tensor:
    """Return the noise that a prediction at timestep t says; linear in x_t and the prediction.

    Of a model that starts at alpha = 0 (a flow), pure noise is x_t whatever it predicts: what the prompt moves has the
    factor alpha. It is left out there, so that the prediction itself is returned.
    """
    alpha, sigma = levels(model, t)
    if model.prediction_type == "epsilon" or alpha <= SINGULAR:
        return prediction
    return (x_t - alpha * clean_estimate(model.prediction_type, x_t, prediction, alpha, sigma)) / sigma


def levels(model: WhiteBoxModel, t: int) -> tuple[float, float]:
    """Return (alpha, sigma) at timestep t."""
    alpha, sigma = model.noise_level(torch.tensor([t], device=model.device))
    return float(alpha), float(sigma)


def guided_path(model: WhiteBoxModel, condition: Tensor, noise: Tensor, steps: int, scale: float) -> Iterator[PathStep]:
    """Yield the steps of DDIM with classifier-free guidance from pure noise, two calls each.

    Timesteps are spaced evenly and end at the last one: T - 1, T - 1 - T / steps, and so on.

    Raises:
        BadSetting: the model has fewer timesteps than `steps`.
    """
    count = model.num_train_timesteps
    if steps > count:
        raise BadSetting(f"a path of {steps} steps: this model has {count} timesteps")
    times = [count - 1 - round(step * count / steps) for step in range(steps)]
    x_t = noise
    for now, following in zip(times, [*times[1:], None], strict=True):
        conditional, unconditional = predicted(model, x_t, now, condition), predicted(model, x_t, now, None)
        yield PathStep(now, x_t, as_noise(model, x_t, now, conditional), as_noise(model, x_t, now, unconditional))

        if following is not None:
            guided = unconditional + scale * (conditional - unconditional)
            # From the prediction and not from its noise: in pure noise alpha may be 0.
            alpha, sigma = levels(model, now)
            next_alpha, next_sigma = levels(model, following)
            clean = clean_estimate(model.prediction_type, x_t, guided, alpha, sigma)
            x_t = next_alpha * clean + next_sigma * (x_t - alpha * clean) / sigma
