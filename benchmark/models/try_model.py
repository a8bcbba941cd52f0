"""Try a model of somebody's own on noise, before any work: shapes, ranges, noise levels, the same answer twice."""

from typing import Any, get_args

import torch
from torch import Tensor

from ..candidates import generator
from ..contracts import Conditioning, Model, PredictionType
from ..errors import BadInput

TOLERANCE = 1e-3
"""Outputs for the same input may differ by this, relative to their size: accelerators add up in any order."""


@torch.no_grad()
def try_model(model: Model, owner: str) -> None:
    """Call every part of a model once on two rows of noise.

    Raises:
        BadInput: it does not do what the contract says; the message says what, and what to do about it.
        Exception: whatever the model raises.
    """
    _check_noise_levels(model, owner)
    x_t = noise(model, 2)
    condition = some_condition(model, 2)
    for t in (0, model.num_train_timesteps // 2, model.num_train_timesteps - 1):
        answer = predicted(model, x_t, t, condition, owner)
    again = predicted(model, x_t, t, condition, owner)
    if not same(answer, again):
        raise BadInput(
            f"model {owner} gives two answers to one question: is there noise, or dropout that eval() leaves on?"
        )
    images = model.decode(x_t)
    _check_shaped(images, (2, *model.image_shape), f"model {owner}: decode", model.device)
    if not (images.min() >= 0 and images.max() <= 1):
        raise BadInput(f"model {owner}: decode returned values outside [0, 1]; clip them")
    _check_shaped(model.encode(images), (2, *model.sample_shape), f"model {owner}: encode", model.device)


def shape_asked(model: Model) -> str:
    """Ask whether the shape of images was said right, for the end of a message."""
    return f"is image_shape={model.image_shape} right? it is (channels, height, width)"


def noise(model: Model, rows: int) -> Tensor:
    """Return x_t of pure noise, the same every time, on the model's device."""
    drawn = torch.randn(rows, *model.sample_shape, generator=generator(0, "conformance", 0, "noise"))
    return drawn.to(model.device)


def some_condition(model: Model, rows: int) -> Any:
    """Return a condition for each row: the first class, or the embedding of no words; None where there is none."""
    if model.conditioning == "class":
        return torch.zeros(rows, dtype=torch.long, device=model.device)
    return model.embed([""] * rows) if model.conditioning == "text" else None


def predicted(model: Model, x_t: Tensor, t: int, condition: Any, owner: str) -> Tensor:
    """Call the denoiser at one timestep and check what it returns.

    Raises:
        BadInput: it is not a tensor of the right shape, type and device, or not finite.
    """
    time = torch.full((len(x_t),), t, device=model.device)
    answer = model.predict(x_t, time, condition)
    _check_shaped(answer, tuple(x_t.shape), f"model {owner}: predict", model.device)
    if answer.dtype != torch.float32:
        raise BadInput(f"model {owner}: predict returned {answer.dtype}, wanted torch.float32; add .float()")
    if not answer.isfinite().all():
        raise BadInput(f"model {owner}: predict returned values that are not finite at t = {t}; check its weights")
    return answer


def same(first: Tensor, second: Tensor) -> bool:
    """Return whether two answers are the same but for rounding."""
    return float((first - second).abs().max()) <= TOLERANCE * max(1.0, float(first.abs().max()))


def check_attributes(model: Model, owner: str) -> None:
    """Raise `BadInput` where a model does not say what it is, or says something impossible."""
    for key in ("sample_shape", "image_shape"):
        shape = getattr(model, key, None)
        if not (isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
            raise BadInput(f"model {owner}: {key} is (channels, height, width), was {shape!r}")
    for key, known in (("conditioning", get_args(Conditioning)), ("prediction_type", get_args(PredictionType))):
        if (value := getattr(model, key, None)) not in known:
            raise BadInput(f"model {owner}: {key} is one of {', '.join(known)}, was {value!r}")
    steps = getattr(model, "num_train_timesteps", None)
    if not isinstance(steps, int) or steps < 2:
        raise BadInput(f"model {owner}: num_train_timesteps is a whole number of 2 or more, was {steps!r}")
    if not hasattr(model, "scheduler_config"):
        raise BadInput(
            f"model {owner}: scheduler_config, the diffusers configuration of its noise schedule, is missing"
        )


def _check_noise_levels(model: Model, owner: str) -> None:
    """Raise `BadInput` where (alpha, sigma) is no variance-preserving schedule from clean to noise."""
    steps = torch.arange(model.num_train_timesteps, device=model.device)
    levels = model.noise_level(steps)
    for level in levels:
        _check_shaped(level, tuple(steps.shape), f"model {owner}: noise_level", model.device)
    alpha, sigma = levels
    if not torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=TOLERANCE):
        raise BadInput(f"model {owner}: noise_level must have alpha^2 + sigma^2 = 1 (variance-preserving)")
    if not (alpha.diff() < 0).all():
        raise BadInput(f"model {owner}: noise_level must have an alpha that falls with t, from clean to noise")


def _check_shaped(found: Any, shape: tuple[int, ...], what: str, device: torch.device) -> None:
    if not isinstance(found, Tensor):
        raise BadInput(f"{what} returned a {type(found).__name__}, wanted a tensor of shape {shape}")
    if tuple(found.shape) != shape:
        raise BadInput(f"{what} returned shape {tuple(found.shape)}, wanted {shape}")
    if found.device.type != device.type:
        raise BadInput(f"{what} returned a tensor on {found.device}, the model is on {device}")
