"""The checks that a model of somebody's own must pass.

    from sidebench import check_model
    check_model("./mine.py:mine")

Each check raises `NotConformant` with what was seen. What a module was trained with is only known by who trained it;
the check of the prediction type finds out whether that was said right.
"""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..candidates import Candidates
from ..contracts import Model, ModelSpec, PredictionType, SamplerSettings
from ..environment import pick_device
from ..errors import BadInput
from ..models.flops import OperationCount
from ..models.own_model import facts_of, live_spec, load_tried, owner_of
from ..models.schedule import alphas_cumprod
from ..models.try_model import noise, some_condition
from ..sampling.defended import DefendedModel
from ..sampling.prediction_types import as_velocity
from ..sampling.sampler import sample_latents
from .check_attack import COST_TOLERANCE, NotConformant

KINDS: tuple[PredictionType, ...] = get_args(PredictionType)
ROWS = 8
STEPS = 20
"""Of the sampler, for images of the model's own."""
LEVELS = (0.1, 0.3, 0.5, 0.7)
"""Levels sigma^2 at which images are noised and denoised again."""
DENOISES, MARGIN = 0.5, 0.05
"""A trained denoiser explains at least the first share over these levels. Another type is named where it does so and
scores better than the one that was stated by the second. Measured on `digits`, `digits-clean` and exact models of all
four types, narrow and wide: 0.74 to 0.94 explained, and the right type scores best by 0.1 or more."""
NO_FLOW = 0.0
"""A flow's samples, drawn and read as epsilon, explain less than this: -1.7 to -0.3 of exact models, -5 to -2.4 of the
network of `digits` trained as a flow for 5 to 80 steps. Trained as epsilon, the same network explains 0.42 and more as
soon as its reading as a flow explains the half that a type is named for (80 to 800 steps, two seeds)."""
FLAT, PURE = 0.01, 0.3
"""Samples with a smaller standard deviation say nothing. x_T with a larger alpha than the second holds an image too."""
CLOSE = 1e-3
"""Noise levels and outputs of one row agree this far, relative to their size."""


def check_model(
    model: str | Model, *, images: Tensor | np.ndarray | None = None, device: str = "cpu", allow_pickle: bool = False
) -> None:
    """Run every check for a model (`FILE.py:NAME`, a registered name, or the `Model` itself).

    Args:
        model: What to check.
        images: Some of the images that it was trained on, a tensor or an array, N x C x H x W in [0, 1]. With them
            schedule, time and range of the images are checked as well; without, a model that was not trained passes as
            one that was.
        device: Where to run it.
        allow_pickle: Read weights that are a pickle.

    Raises:
        NotConformant: a check failed; the message says which and what was seen.
        BadInput: the model cannot be built, or not be called, or the images are not such.
    """
    if isinstance(model, str):
        spec = ModelSpec(family="pixel", location=model, allow_pickle=allow_pickle)
        spec = spec.model_copy(update={"sha256": facts_of(spec).sha256})
    else:
        spec = live_spec(model)
    loaded, owner = load_tried(spec.model_copy(update={"device": str(pick_device(device))})), owner_of(spec.location)
    shown = None if images is None else _as_images(images, loaded.image_shape)
    with torch.no_grad():
        check_levels(loaded, owner)
        check_rows(loaded, owner)
        check_cost(loaded, owner)
        check_prediction(loaded, owner, shown)


def _as_images(given: Any, shape: tuple[int, int, int]) -> Tensor:
    """Return images as float32, N x C x H x W in [0, 1].

    Raises:
        BadInput: they are of another type, shape or range; the message says what to do.
    """
    if not isinstance(given, Tensor | np.ndarray):
        raise BadInput(f"images are a tensor or an array, N x C x H x W in [0, 1], was a {type(given).__name__}")
    found = tuple(given.shape)
    if found[1:] != shape or not found[0]:
        height_first = found[1:] == (*shape[1:], shape[0])
        fix = "; move the channel axis: numpy.moveaxis(images, -1, 1)" if height_first else ""
        raise BadInput(f"images: wanted N x C x H x W with (C, H, W) = {shape}, was {found}{fix}")
    images = torch.as_tensor(given)
    if not images.is_floating_point():
        raise BadInput(f"images: wanted floats in [0, 1], was {images.dtype}; divide uint8 by 255")
    if not (images.min() >= 0 and images.max() <= 1):
        low, high = float(images.min()), float(images.max())
        raise BadInput(f"images: wanted values in [0, 1], 0 is black, was {low:.3g} to {high:.3g}; scale them")
    return images.float()


def check_levels(model: Model, owner: str) -> None:
    """`noise_level` says what `scheduler_config` says, begins nearly clean, and goes on between whole timesteps."""
    steps = torch.arange(model.num_train_timesteps, device=model.device)
    alpha = model.noise_level(steps)[0].cpu()
    wanted = alphas_cumprod(model.scheduler_config).sqrt()
    if len(wanted) != len(alpha):
        raise NotConformant(
            f"{owner}: scheduler_config has {len(wanted)} timesteps, num_train_timesteps is {len(alpha)}"
        )
    gap = (alpha - wanted).abs()
    if gap.max() > CLOSE:
        t = int(gap.argmax())
        raise NotConformant(
            f"{owner}: at t = {t} noise_level has alpha {float(alpha[t]):.4f}, scheduler_config "
            f"{float(wanted[t]):.4f}: attacks and sampler would see two schedules"
        )
    if alpha[0] < 0.9:
        raise NotConformant(f"{owner}: x_t is noisy at t = 0 already (alpha {float(alpha[0]):.2f}); is t turned round?")
    half = float(model.noise_level(steps[:1] + 0.5)[0])
    if not alpha[1] <= half <= alpha[0]:
        raise NotConformant(f"{owner}: noise_level at t = 0.5 does not lie between those at 0 and 1")


def check_rows(model: Model, owner: str) -> None:
    """Row i depends on its own x_t, time and condition alone."""
    x_t, condition = noise(model, 4), some_condition(model, 4)
    t = torch.linspace(0, model.num_train_timesteps - 1, 4, device=model.device).long()
    whole = model.predict(x_t, t, condition)
    for row in range(4):
        alone = model.predict(x_t[row].expand_as(x_t).contiguous(), t[row].expand(4).contiguous(), condition)[row]
        off = float((alone - whole[row]).abs().max())
        if off > CLOSE * max(1.0, float(whole[row].abs().max())):
            raise NotConformant(
                f"{owner}: row {row} is {off:.3g} off where the other rows change; is the batch normalised, or the "
                f"first row's time taken for all?"
            )


def check_cost(model: Model, owner: str) -> None:
    """The operations that the model states are those that torch counts."""
    x_t, t = noise(model, 1), torch.zeros(1, dtype=torch.long, device=model.device)
    with OperationCount() as counter:
        model.predict(x_t, t, some_condition(model, 1))
    stated = model.flops_per_sample()
    if counter.total and abs(stated - counter.total) > COST_TOLERANCE * counter.total:
        raise NotConformant(f"{owner}: flops_per_sample is {stated:.3g}, torch counts {counter.total:.3g}")


def check_prediction(model: Model, owner: str, images: Tensor | None = None) -> None:
    """The denoiser predicts what `prediction_type` says.

    With the right type its estimate of x_0 is the mean E[x_0 | x_t] (Tweedie's formula): it takes the noise off images
    of its training set better than read as any other type. Without images, samples are drawn as each type would be,
    and a type's score is what it explains of its own and its lead over the others there. Pure noise halves the field:
    the answer changes with it (epsilon, flow), or does not (v, sample). Samples that an epsilon model draws as if it
    were a flow look like a flow's, the more so the less it was trained; but a flow read as epsilon explains less than
    nothing, so what explains anything as epsilon is no flow.
    """
    own = model.prediction_type
    if images is not None:
        found = {kind: _explained(model, kind, model.encode(images)) for kind in KINDS}
        if max(found.values()) < DENOISES / 2:
            raise NotConformant(
                f"{owner}: does not denoise these images, whatever it predicts (at most {max(0, *found.values()):.0%} "
                f"explained): is its schedule, its time or image_range another one than in training?"
            )
        scores = found
    else:
        possible = [kind for kind in KINDS if _follows_noise(model) in (None, kind in ("epsilon", "flow_prediction"))]
        every = {kind: _on_own_samples(model, kind) for kind in {*possible, own}}
        found = {kind: explained[kind] for kind, explained in every.items()}
        scores = {kind: explained[kind] + _lead(explained, kind) for kind, explained in every.items()}
        scores[own] = scores[own] if own in possible else -1.0
        if found.get("epsilon", -1.0) > NO_FLOW:
            scores["flow_prediction"] = -1.0
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best] > scores[own] + MARGIN and found[best] >= DENOISES:
        what = "its own samples" if images is None else "these images"
        raise NotConformant(
            f"{owner}: predicts {best}, not {own}: read so it explains {found[best]:.0%} of {what} and their noise, as "
            f"{own} {max(0.0, found[own]):.0%}"
        )


def _follows_noise(model: Model) -> bool | None:
    """Return whether the answer to pure noise changes as the noise does; None where x_T holds more than noise."""
    last = torch.full((ROWS,), model.num_train_timesteps - 1, device=model.device)
    if float(model.noise_level(last[0])[0]) > PURE:
        return None
    x_t, condition = noise(model, ROWS), some_condition(model, ROWS)
    other = noise(model, 2 * ROWS)[ROWS:]
    change = model.predict(x_t, last, condition) - model.predict(other, last, condition)
    return float((change * (x_t - other)).sum() / (x_t - other).square().sum()) > 0.5


def _on_own_samples(model: Model, kind: PredictionType) -> dict[PredictionType, float]:
    """Return by type the share explained on samples that are drawn as if the model predicted `kind`."""
    rows, steps = Candidates(0, range(ROWS), "conformance"), min(STEPS, model.num_train_timesteps)
    condition = some_condition(model, ROWS)
    drawn = sample_latents(_ReadAs(model, kind), rows, SamplerSettings(steps=steps), ROWS, condition=condition)
    x_0 = model.encode(model.decode(drawn))  # read wrongly, samples may leave the range of images
    if not x_0.isfinite().all() or float(x_0.std()) < FLAT:
        return dict.fromkeys(KINDS, -1.0)
    return {each: _explained(model, each, x_0) for each in KINDS}


def _lead(explained: Mapping[PredictionType, float], kind: PredictionType) -> float:
    return explained[kind] - max(value for other, value in explained.items() if other != kind)


class _ReadAs(DefendedModel):
    """The model with another word for what it predicts; what it returns stays."""

    def __init__(self, inside: Model, kind: PredictionType) -> None:
        super().__init__(inside)
        self.prediction_type = kind
        stated = "v_prediction" if kind == "flow_prediction" else kind
        self.scheduler_config = {**inside.scheduler_config, "prediction_type": stated}


def _explained(model: Model, kind: PredictionType, x_0: Tensor) -> float:
    """Return the share of v = alpha n - sigma x_0 that the denoiser explains, read as this type.

    What the best multiple of x_t explains does not count: with power P = E[x_0^2], P / (alpha^2 P + sigma^2) is left.
    """
    rows, condition = Candidates(0, range(len(x_0)), "conformance"), some_condition(model, len(x_0))
    levels = model.noise_level(torch.arange(model.num_train_timesteps, device=model.device))[1].square()
    off, total, power = 0.0, 0.0, float(x_0.square().mean())
    for level in LEVELS:
        t = (levels - level).abs().argmin().expand(len(x_0))
        drawn = rows.normal(f"noise {level}", model.sample_shape).to(model.device)
        alpha, sigma = (float(each) for each in model.noise_level(t[0]))
        x_t = model.add_noise(x_0, drawn, t)
        v = alpha * drawn - sigma * x_0
        off += float((as_velocity(kind, x_t, model.predict(x_t, t, condition), alpha, sigma) - v).square().mean())
        total += power / (alpha**2 * power + sigma**2)
    return 1 - off / total if off == off else -1.0
