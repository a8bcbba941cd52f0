"""The one sampling loop: denoise, steer, defend, step.

Every attack draws x_T of candidate i from the same stream, so attacks are paired: with no guidance
they all make the same images. Rows are padded to a fixed micro-batch, because the arithmetic of a
convolution may depend on the batch size (measured: 2 of 1,024 uint8 images change between batches of
7 and 256 in fp32; none when padded).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..candidates import Candidates
from ..contracts import Model, SamplerSettings, Steer, Step
from ..errors import BadInput
from .ledger import Ledger
from .prediction_types import as_velocity, score_to_prediction

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def make_scheduler(model: Model, settings: SamplerSettings, *, from_noise: bool = False) -> SchedulerMixin:
    """Build the diffusers scheduler of these settings on the model's own noise schedule.

    Where the model says at which timesteps it samples, the scheduler's own timesteps count these: steps - 1 .. 0.
    `from_noise` begins at the last timestep, whatever spacing the schedule names: a single step of "leading", which is
    Stable Diffusion's, would begin at the first one, where there is no noise.
    """
    import diffusers

    cls, extra = {
        "ddim": (diffusers.DDIMScheduler, {}),
        "ddpm": (diffusers.DDPMScheduler, {}),
        "euler": (diffusers.EulerDiscreteScheduler, {}),
        "dpm-solver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    }[settings.name]
    own = model.timesteps(settings.steps)
    config = dict(model.scheduler_config)
    if from_noise:
        config["timestep_spacing"] = "trailing"
    if is_consistency(model):
        cls, extra = diffusers.LCMScheduler, {}  # their step, for the loop's variance-preserving x_t
    if own is not None:
        # Euler and DPM-Solver divide by alpha: they are given pure noise as diffusers does (rescale_betas_zero_snr).
        least = 2.0**-24 if settings.name in ("euler", "dpm-solver++") else 0.0
        config |= _at_levels(*model.noise_level(own.flip(0)), least)
    if str(config.get("variance_type", "")).startswith("learned"):
        del config["variance_type"]  # what the network says of it is no part of what `predict` returns
    scheduler = cls.from_config(config, **extra)
    # Its tables are on the CPU, and so are its timesteps: looked up by one on the device, each step would wait for it.
    scheduler.set_timesteps(settings.steps, device="cpu")
    return scheduler


def is_consistency(model: Model) -> bool:
    """Return whether a model answers with an image at once, so that fresh noise is drawn after each step.

    That is DDIM's step with all of its noise new (Song et al. 2023, arXiv 2303.01469, algorithm 1; latent ones, arXiv
    2310.04378).
    """
    return model.scheduler_config.get("_class_name") in ("CMStochasticIterativeScheduler", "LCMScheduler")


def _at_levels(alpha: Tensor, sigma: Tensor, least: float) -> dict[str, Any]:
    """Return a diffusers configuration of these noise levels alone, lowest first: each is a step, alpha^2 >= least."""
    alpha_bar = (1 / (1 + (sigma.cpu().double() / alpha.cpu().double()) ** 2)).clamp(min=least)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return {
        "num_train_timesteps": len(alpha_bar),
        "trained_betas": (1 - alpha_bar / before).tolist(),
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": False,
    }


@torch.no_grad()
def sample_latents(
    model: Model,
    candidates: Candidates,
    settings: SamplerSettings,
    micro_batch: int,
    *,
    condition: Tensor | None = None,
    guidance_scale: float = 1.0,
    steer: Steer | None = None,
    steps: int | None = None,
    ledger: Ledger | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one x_0 per candidate, N x C x H x W in the model's own space, on the model's device.

    `steps` are an attack's own number, in place of the settings'.

    Raises:
        BadInput: it is no number of steps of this model.
    """
    if steps is not None and not 1 <= steps <= model.num_train_timesteps:
        raise BadInput(f"an attack asks for {steps} steps; this model takes 1 to {model.num_train_timesteps:,}")
    settings = settings if steps is None else settings.model_copy(update={"steps": steps})
    # Closed-form controls draw exactly where nothing steers, so that their truth is known.
    exact = model.draw(candidates) if condition is None and steer is None else None
    if exact is not None:
        return exact
    outputs = []
    rows = torch.arange(len(candidates))
    for batch, real in zip(candidates.batches(micro_batch), rows.split(micro_batch), strict=True):
        # Every call of the denoiser has the same batch size, since a convolution rounds differently in another: batches
        # of 7 in place of 256 changed 2 of 1,024 images, padded to one size they changed none (docs/traps.md).
        drawn = batch.padded(micro_batch)
        index = torch.cat([real, real[:1].expand(micro_batch - len(batch))])
        given = None if condition is None else condition[index].to(model.device)
        rules = (settings, steps is not None)
        x_0, calls, skipped = _sample_batch(model, drawn, rules, (index, len(batch)), given, guidance_scale, steer)
        if ledger is not None:
            # Rows that only fill the batch up are nobody's cost: NFE must not depend on the micro-batch.
            ledger.nfe[ledger.phase] += calls * len(batch)
            ledger.skipped_steps += skipped * len(batch)
            if model.defences:
                a_sample = model.flops_per_start() + settings.steps * model.flops_per_step()
                ledger.flops["defence"] += len(batch) * a_sample
        outputs.append(x_0[: len(batch)])
        if progress is not None:
            progress(len(batch))
    return torch.cat(outputs)


def _sample_batch(
    model: Model,
    candidates: Candidates,
    rules: tuple[SamplerSettings, bool],
    rows: tuple[Tensor, int],
    condition: Tensor | None,
    guidance_scale: float,
    steer: Steer | None,
) -> tuple[Tensor, int, int]:
    # A scheduler remembers earlier steps (multistep solvers need them), so each batch has its own.
    settings, from_noise = rules
    scheduler = make_scheduler(model, settings, from_noise=from_noise)
    takes = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "eta" in takes:
        options["eta"] = model.eta(settings.eta)
    if "generator" in takes:  # one generator per row, so that a candidate's noise does not depend on its batch
        options["generator"] = candidates.generators("sampler")

    # x_T ~ N(0, I). Candidate i has the same noise under every attack: attacks are compared candidate by candidate, and
    # a guided attack without guidance is plain sampling, image for image.
    noise = candidates.normal("noise", model.sample_shape).to(model.device)
    condition = model.conditioned(condition, candidates)
    x = model.started(noise, condition, candidates) * scheduler.init_noise_sigma
    calls = skipped = 0
    own = model.timesteps(settings.steps)
    times = (scheduler.timesteps if own is None else own).cpu()
    # Everything that a step needs as a number is known before the first: no step waits for the device.
    levels = model.noise_levels(times)
    index, real = rows[0].to(model.device), rows[1]
    if own is not None and model.prediction_type == "flow_prediction":
        # A flow's pipeline takes plain noise for its first level on the straight path, though that may be below 1.
        x = x * sum(levels[0])
    # For t = T .. 1, as in Algorithm 1 of SIDE (arXiv 2410.02467), part 2.
    moments = zip(scheduler.timesteps, times, times.to(model.device), levels, strict=True)
    for place, now, t, (alpha, sigma) in moments:
        # Denoise: s_theta(x_t, t). After scaling, x_t is variance-preserving under every scheduler.
        x_t = scheduler.scale_model_input(x, place)
        at = t.expand(len(x))
        # Classifier-free guidance costs a second call, except at 0 (unconditional alone) and 1 (conditional alone).
        # A denoiser that was distilled from guided ones takes the scale itself, and is called once.
        scale = 1.0 if condition is None else model.guidance_scale(now, guidance_scale)
        given = None if condition is None or scale == 0 else model.guided(condition, scale)
        prediction = model.predict(x_t, at, (None if scale == 0 else condition) if given is None else given)
        calls += 1
        if scale not in (0, 1) and given is None:
            unconditional = model.predict(x_t, at, None)
            prediction = unconditional + scale * (prediction - unconditional)
            calls += 1

        # Steer: s_guided = s_theta(x_t, t) + lambda grad log p(c | x_t), in the model's own prediction type. Sampling
        # runs without gradients; the attack's classifier needs them.
        if steer is not None:
            with torch.enable_grad():
                correction = steer(Step(x_t, t, alpha, sigma, prediction, index, float(now), real))
            correction = model.steering(now) * correction.detach()
            change = score_to_prediction(model.prediction_type, correction, alpha, sigma)
            if change is None:
                # In pure noise (alpha = 0) no x_0 or velocity expresses it: left out, and counted so that a run can say
                # so.
                skipped += 1
            else:
                prediction = prediction + change

        # Defend: the last word, so that no guidance undoes it.
        if model.defences:
            prediction = model.corrected(Step(x_t, t, alpha, sigma, prediction, index, float(now), real), candidates)

        # Step: x_{t-1} = DS(x_t, t, s_guided). Schedulers know no straight path: a flow is handed to them as the
        # velocity that it is.
        if model.prediction_type == "flow_prediction":
            prediction = as_velocity("flow_prediction", x_t, prediction, alpha, sigma)
        x = scheduler.step(prediction, place, x, **options).prev_sample
    return x, calls, skipped


def quantise(images: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8, the form in which they are stored and scored."""
    # What is scored is what is stored: float images would score differently once they are read from the disk.
    return images.nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
