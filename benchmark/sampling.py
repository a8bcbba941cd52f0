"""The one sampling loop, and the views of a model that an attack gets.

Every attack draws x_T of candidate i from the same stream, so attacks are paired: with no guidance
they all make the same images. Rows are padded to a fixed micro-batch, because the arithmetic of a
convolution may depend on the batch size (measured: 2 of 1,024 uint8 images change between batches of
7 and 256 in fp32; none when padded).
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .contracts import (
    AttackState,
    BlackBoxModel,
    Checkpoints,
    Model,
    OracleModel,
    Progress,
    PromptedModel,
    Steer,
    Step,
    WhiteBoxModel,
)
from .operations import OperationCount
from .prediction import as_velocity, score_to_prediction
from .protocol import SamplerSettings
from .streams import Candidates

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


class Ledger:
    """Counts the work of an attack by phase: denoiser calls (NFE) and other operations (FLOP)."""

    def __init__(self) -> None:
        self.nfe: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)
        self.skipped_steps = 0
        self.phase = "prepare"

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count what happens inside under this phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by phase."""
        return {"nfe": dict(self.nfe), "flops": dict(self.flops), "skipped_steps": self.skipped_steps}


def make_scheduler(model: Model, settings: SamplerSettings) -> SchedulerMixin:
    """Build the diffusers scheduler of these settings on the model's own noise schedule."""
    import diffusers

    cls, extra = {
        "ddim": (diffusers.DDIMScheduler, {}),
        "ddpm": (diffusers.DDPMScheduler, {}),
        "euler": (diffusers.EulerDiscreteScheduler, {}),
        "dpm-solver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    }[settings.name]
    config = dict(model.scheduler_config)
    if str(config.get("variance_type", "")).startswith("learned"):
        del config["variance_type"]  # what the network says of it is no part of what `predict` returns
    scheduler = cls.from_config(config, **extra)
    scheduler.set_timesteps(settings.steps, device=model.device)
    return scheduler


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
    ledger: Ledger | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one x_0 per candidate, N x C x H x W in the model's own space, on the model's device."""
    exact = model.draw(candidates) if condition is None and steer is None else None
    if exact is not None:
        return exact
    outputs = []
    rows = torch.arange(len(candidates))
    for batch, real in zip(candidates.batches(micro_batch), rows.split(micro_batch), strict=True):
        drawn = batch.padded(micro_batch)
        index = torch.cat([real, real[:1].expand(micro_batch - len(batch))])
        given = None if condition is None else condition[index].to(model.device)
        x_0, calls, skipped = _sample_batch(model, drawn, settings, index, given, guidance_scale, steer)
        if ledger is not None:
            ledger.nfe[ledger.phase] += calls * len(batch)
            ledger.skipped_steps += skipped
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
    settings: SamplerSettings,
    index: Tensor,
    condition: Tensor | None,
    guidance_scale: float,
    steer: Steer | None,
) -> tuple[Tensor, int, int]:
    scheduler = make_scheduler(model, settings)
    takes = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "eta" in takes:
        options["eta"] = model.eta(settings.eta)
    if "generator" in takes:  # one generator per row, so that a candidate's noise does not depend on its batch
        options["generator"] = candidates.generators("sampler")

    noise = candidates.normal("noise", model.sample_shape).to(model.device)
    condition = model.conditioned(condition, candidates)
    x = model.started(noise, condition, candidates) * scheduler.init_noise_sigma
    calls = skipped = 0
    for t in scheduler.timesteps:
        # Denoise. After scaling, x_t is variance-preserving under every scheduler.
        x_t = scheduler.scale_model_input(x, t)
        at = t.expand(len(x))
        scale = 1.0 if condition is None else model.guidance_scale(t, guidance_scale)
        prediction = model.predict(x_t, at, None if scale == 0 else condition)
        calls += 1
        if scale not in (0, 1):
            unconditional = model.predict(x_t, at, None)
            prediction = unconditional + scale * (prediction - unconditional)
            calls += 1

        # Steer: a correction of the score, in the model's own prediction type.
        if steer is not None:
            alpha, sigma = (float(level) for level in model.noise_level(t))
            with torch.enable_grad():
                correction = steer(Step(x_t, t, alpha, sigma, prediction, index))
            correction = model.steering(t) * correction.detach()
            change = score_to_prediction(model.prediction_type, correction, alpha, sigma)
            if change is None:
                skipped += 1
            else:
                prediction = prediction + change

        # Defend: the last word, so that no guidance undoes it.
        if model.defences:
            alpha, sigma = (float(level) for level in model.noise_level(t))
            prediction = model.corrected(Step(x_t, t, alpha, sigma, prediction, index), candidates)

        # Step. Schedulers know no straight path: a flow is handed to them as the velocity that it is.
        if model.prediction_type == "flow_prediction":
            alpha, sigma = (float(level) for level in model.noise_level(t))
            prediction = as_velocity("flow_prediction", x_t, prediction, alpha, sigma)
        x = scheduler.step(prediction, t, x, **options).prev_sample
    return x, calls, skipped


class AuditedModel(WhiteBoxModel):
    """The white-box view: everything goes through here, so every denoiser call is counted.

    Plain samples made for an attack's own use (purpose other than "candidate") are kept under a
    content key, so that attacks that ask for the same synthetic images share them, and a killed run
    goes on where it was; their NFE is counted each time, since each attack alone would have to pay.
    """

    def __init__(
        self,
        model: Model,
        sampler: SamplerSettings,
        micro_batch: int,
        *,
        kept: Checkpoints | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._model = model
        self._sampler = sampler
        self._micro_batch = micro_batch
        self._kept = kept
        self._progress = progress
        self.ledger = Ledger()
        self.kept_keys: list[str] = []
        """Content keys of the plain samples made or taken from the store, in order."""
        self.sample_shape = model.sample_shape
        self.image_shape = model.image_shape
        self.conditioning = model.conditioning
        self.num_train_timesteps = model.num_train_timesteps
        self.prediction_type = model.prediction_type
        self.device = model.device

    def sample(
        self,
        candidates: Candidates,
        *,
        condition: Tensor | None = None,
        guidance_scale: float = 1.0,
        steer: Steer | None = None,
    ) -> Tensor:
        """Sample images; see `WhiteBoxModel.sample`."""
        if candidates.purpose != "candidate" and condition is None and steer is None:
            return self._sample_kept(candidates)
        return self._sample(candidates, condition, guidance_scale, steer)

    def _sample(
        self, candidates: Candidates, condition: Tensor | None, guidance_scale: float, steer: Steer | None
    ) -> Tensor:
        x_0 = sample_latents(
            self._model,
            candidates,
            self._sampler,
            self._micro_batch,
            condition=condition,
            guidance_scale=guidance_scale,
            steer=steer,
            ledger=self.ledger,
        )
        with self._charging():
            return self._model.decode(x_0).float().cpu()

    def sample_prompts(self, candidates: Candidates, prompts: Sequence[str], guidance_scale: float) -> Tensor:
        """Sample from a prompt each; see `PromptedModel.sample_prompts`."""
        with self._charging():
            embedding = self._model.embed(self._model.prompted(prompts, candidates))
        return self._sample(candidates, embedding, guidance_scale, None)

    @contextmanager
    def _charging(self) -> Iterator[None]:
        """Count the operations of an autoencoder or text encoder inside; pixels need none."""
        with OperationCount() as counter:
            yield
        if counter.total:
            self.charge(counter.total)

    def _sample_kept(self, candidates: Candidates) -> Tensor:
        """Sample plain images, in uint8 precision so that those from the store are the same."""
        images, done = [], 0
        for batch in candidates.batches(self._micro_batch):
            key = self._content_key(batch)
            found = self._kept.load(key) if self._kept else None
            if found is None:
                phase = self.ledger.phase
                before, defended = self.ledger.nfe[phase], self.ledger.flops.get("defence", 0.0)
                charged = self.ledger.flops.get(phase, 0.0)
                made = quantise(self._sample(batch, None, 1.0, None))
                if self._kept:
                    nfe, decoding = self.ledger.nfe[phase] - before, self.ledger.flops.get(phase, 0.0) - charged
                    defence = self.ledger.flops.get("defence", 0.0) - defended
                    cost = {"nfe": nfe, "defence": defence, "decoding": decoding}
                    self._kept.save(key, AttackState({"images": made}, cost))
            else:
                made = found.tensors["images"]
                self.ledger.nfe[self.ledger.phase] += int(found.info["nfe"])
                if found.info["defence"]:
                    self.ledger.flops["defence"] += found.info["defence"]
                if more := found.info.get("decoding"):
                    self.charge(more)
            self.kept_keys.append(key)
            images.append(made)
            done += len(batch)
            if self._progress is not None:
                self._progress(f"{candidates.purpose} images", done, len(candidates))
        return torch.cat(images).float() / 255

    def _content_key(self, batch: Candidates) -> str:
        content = {
            "model": self._model.spec.content()["sha256"],
            "sampler": self._sampler.model_dump(),
            "micro_batch": self._micro_batch,
            "seed": batch.seed,
            "numbers": list(batch.numbers),
            "purpose": batch.purpose,
            **({"defences": dict(self._model.defences)} if self._model.defences else {}),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return f"samples-{digest}"

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the denoiser in padded micro-batches and count the rows that were asked for."""
        self.ledger.nfe[self.ledger.phase] += len(x_t)
        size = self._micro_batch
        outputs = []
        for rows in torch.arange(len(x_t)).split(size):
            padded = torch.cat([rows, rows[:1].expand(size - len(rows))]).to(x_t.device)
            given = None if condition is None else condition[padded]
            outputs.append(self._model.predict(x_t[padded], t[padded], given)[: len(rows)])
        return torch.cat(outputs)

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self._model.noise_level(t)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise."""
        return self._model.add_noise(x_0, noise, t)

    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to x_0 in the model's own space."""
        with self._charging():
            return self._model.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        """Map x_0 to images in [0, 1]."""
        with self._charging():
            return self._model.decode(x_0)

    def adapted(self, state: Mapping[str, Tensor]) -> WhiteBoxModel:
        """Return the view of the adapted model, with the same ledger."""
        again = copy.copy(self)
        again._model = self._model.adapted(state)
        return again

    def charge(self, flops: float) -> None:
        """Add operations outside the denoiser to the current phase."""
        self.ledger.flops[self.ledger.phase] += flops


class SamplesOnly(BlackBoxModel):
    """The black-box view of an audited model: samples for candidates, nothing else."""

    def __init__(self, audited: AuditedModel) -> None:
        self.image_shape = audited.image_shape
        self.conditioning = audited.conditioning
        self._sample = audited.sample

    def sample(self, candidates: Candidates, *, condition: Tensor | None = None, guidance_scale: float = 1.0) -> Tensor:
        """Sample images; see `BlackBoxModel.sample`."""
        return self._sample(candidates, condition=condition, guidance_scale=guidance_scale)


class SamplesAndPrompts(SamplesOnly, PromptedModel):
    """The black-box view with known captions."""

    def __init__(self, audited: AuditedModel, prompts: Sequence[str]) -> None:
        super().__init__(audited)
        self.prompts = prompts
        self._sample_prompts = audited.sample_prompts

    def sample_prompts(self, candidates: Candidates, prompts: Sequence[str], *, guidance_scale: float = 1.0) -> Tensor:
        """Sample images; see `PromptedModel.sample_prompts`."""
        return self._sample_prompts(candidates, prompts, guidance_scale)


class AuditedOracle(AuditedModel, OracleModel):
    """The white-box view with the labelled training images."""

    def __init__(self, audited: AuditedModel, training: Tensor, labels: Tensor) -> None:
        self.__dict__.update(audited.__dict__)
        self.training, self.labels = training, labels


def view_for(
    access: str, audited: AuditedModel, prompts: Sequence[str] = (), labelled: tuple[Tensor, Tensor] | None = None
) -> BlackBoxModel:
    """Return what an attack with this access level may see."""
    if access == "oracle" and labelled is not None:
        return AuditedOracle(audited, *labelled)
    if access == "prompts":
        return SamplesAndPrompts(audited, prompts)
    return SamplesOnly(audited) if access == "samples" else audited


def quantise(images: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8, the form in which they are stored and scored."""
    return images.nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
