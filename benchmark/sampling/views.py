"""What an attack sees of the model: images alone, images for prompts, predictions and gradients, or labels too.

Each view counts what the attack asks for in the ledger, so that no attack can forget to report its cost.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..candidates import Candidates, generator
from ..contracts import (
    AdapterPlan,
    AttackState,
    Attended,
    BlackBoxModel,
    Checkpoints,
    Model,
    OracleModel,
    Progress,
    PromptedModel,
    QueriedModel,
    Replays,
    SamplerSettings,
    Steer,
    TargetedModel,
    TrainableModel,
    WhiteBoxModel,
)
from ..models.flops import OperationCount
from .ledger import Ledger
from .sampler import quantise, sample_latents

CANARY = -2
"""The number of the first canary, in place of a caption's; they are counted down."""


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
        self._sent: dict[int, str] = {}
        self.prompts: Sequence[str] = ()
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
        sampler: SamplerSettings | None = None,
        steps: int | None = None,
        steer: Steer | None = None,
    ) -> Tensor:
        """Sample images; see `WhiteBoxModel.sample`."""
        chosen = sampler or self._sampler
        if candidates.purpose != "candidate" and condition is None and steer is None and steps is None:
            return self._sample_kept(candidates, chosen)
        return self._sample(candidates, condition, guidance_scale, chosen, steer, steps)

    def _sample(
        self,
        candidates: Candidates,
        condition: Tensor | None,
        guidance_scale: float,
        sampler: SamplerSettings,
        steer: Steer | None,
        steps: int | None = None,
    ) -> Tensor:
        x_0 = sample_latents(
            self._model,
            candidates,
            sampler,
            self._micro_batch,
            condition=condition,
            guidance_scale=guidance_scale,
            steer=steer,
            steps=steps,
            ledger=self.ledger,
        )
        with self._charging():
            return self._model.decode(x_0).float().cpu()

    def sample_prompts(
        self,
        candidates: Candidates,
        prompts: Sequence[str],
        *,
        guidance_scale: float = 1.0,
        steps: int | None = None,
    ) -> Tensor:
        """Sample from a prompt each; see `PromptedModel.sample_prompts`. Which candidate had which is remembered."""
        if candidates.purpose == "candidate":
            self._sent |= dict(zip(candidates.numbers, prompts, strict=True))
        embedding = self._embedded_once(self._model.prompted(prompts, candidates))
        return self._sample(candidates, embedding, guidance_scale, self._sampler, None, steps)

    def _embedded_once(self, prompts: Sequence[str]) -> Tensor:
        """Return a row for each prompt, where equal ones are embedded once.

        Each is charged for itself: what a candidate costs must not depend on those beside it.
        """
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        with OperationCount() as counter:
            rows = self._model.embed(list(places))
        if counter.total:
            self.charge(counter.total / len(places) * len(prompts))
        return rows[[places[prompt] for prompt in prompts]]

    def captions_of(self, candidates: Candidates, replayed: Replays) -> Tensor | None:
        """Return the number of the caption that each candidate was sampled from, -1 for none; None without captions.

        It is the harness that binds candidates to captions: an attack does not know how they are numbered. Canaries are
        counted down from -2, so that none of them is taken for a caption.
        """
        numbers = {text: number for number, text in enumerate(self._model.prompts)}
        if replayed == "canaries":
            numbers = {text: CANARY - number for number, text in enumerate(self._model.planted)}
        if replayed == "none" or not numbers:
            return None
        sent = [numbers.get(self._sent.get(number, ""), -1) for number in candidates.numbers]
        return torch.tensor(sent, dtype=torch.int64)

    @contextmanager
    def _charging(self) -> Iterator[None]:
        """Count the operations of an autoencoder or text encoder inside; pixels need none."""
        with OperationCount() as counter:
            yield
        if counter.total:
            self.charge(counter.total)

    def _sample_kept(self, candidates: Candidates, sampler: SamplerSettings) -> Tensor:
        """Sample plain images, in uint8 precision so that those from the store are the same."""
        images, done = [], 0
        for batch in candidates.batches(self._micro_batch):
            key = self._content_key(batch, sampler)
            found = self._kept.load(key) if self._kept else None
            if found is None:
                phase = self.ledger.phase
                before, defended = self.ledger.nfe[phase], self.ledger.flops.get("defence", 0.0)
                charged = self.ledger.flops.get(phase, 0.0)
                made = quantise(self._sample(batch, None, 1.0, sampler, None))
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

    def _content_key(self, batch: Candidates, sampler: SamplerSettings) -> str:
        content = {
            "model": self._model.spec.content()["sha256"],
            "sampler": sampler.model_dump(),
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
        if torch.is_grad_enabled() and (x_t.requires_grad or (condition is not None and condition.requires_grad)):
            # The way back, to what the denoiser is given and not to its weights, costs about what the call does.
            self.charge(float(self._model.flops_per_sample() * len(x_t)))
        outputs = []
        for count, padded in self._micro_batches(x_t):
            given = None if condition is None else condition[padded]
            outputs.append(self._model.predict(x_t[padded], t[padded], given)[:count])
        return torch.cat(outputs)

    def _micro_batches(self, x_t: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield rows, padded to the micro-batch by repeats, and how many of them are real."""
        for rows in torch.arange(len(x_t)).split(self._micro_batch):
            yield len(rows), torch.cat([rows, rows[:1].expand(self._micro_batch - len(rows))]).to(x_t.device)

    def token_of(self) -> Tensor:
        """Return of which token each number of an embedding is a state."""
        return self._model.token_of()

    def with_tokens(self, condition: Tensor, least: int) -> Tensor:
        """Return embeddings that count as of at least so many tokens."""
        return self._model.with_tokens(condition, least)

    def prompt_tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return how many tokens each prompt is."""
        return self._model.prompt_tokens(prompts)

    @torch.no_grad()
    def attend(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Attended:
        """Call the denoiser as `predict` does, and keep its cross-attention."""
        self.ledger.nfe[self.ledger.phase] += len(x_t)
        predictions, maps = [], defaultdict[str, list[Tensor]](list)
        for count, padded in self._micro_batches(x_t):
            given = None if condition is None else condition[padded]
            found = self._model.attend(x_t[padded], t[padded], given)
            predictions.append(found.prediction[:count])
            for layer, values in found.maps.items():
                maps[layer].append(values[:count])
        return Attended(torch.cat(predictions), {layer: torch.cat(parts) for layer, parts in maps.items()})

    def differentiate(self, x_t: Tensor, t: Tensor, along: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the derivative of `predict` along a direction, in padded micro-batches."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self.ledger.nfe[self.ledger.phase] += 2 * len(x_t)
        outputs = []
        for count, padded in self._micro_batches(x_t):
            given = None if condition is None else condition[padded]
            denoise = partial(self._model.predict, t=t[padded], condition=given)
            # Fused attention has no forward-mode derivative.
            with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                outputs.append(torch.func.jvp(denoise, (x_t[padded],), (along[padded],))[1][:count])
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
        again.conditioning = again._model.conditioning
        return again

    def trainable(self, plan: AdapterPlan, seed: int) -> TrainableModel:
        """Return adapters to train, whose calls are counted here."""
        return _AuditedTraining(self._model.trainable(plan, seed), self, self._model.flops_per_sample())

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the embedding of each prompt."""
        with self._charging():
            return self._model.embed(prompts)

    def charge(self, flops: float) -> None:
        """Add operations outside the denoiser to the current phase."""
        self.ledger.flops[self.ledger.phase] += flops


class _AuditedTraining(TrainableModel):
    """Adapters in training, each call of which is counted: forward as NFE, backward as operations."""

    def __init__(self, inside: TrainableModel, audited: AuditedModel, denoiser_flops: int) -> None:
        self._inside, self._audited, self._flops = inside, audited, denoiser_flops
        self.parameters = inside.parameters

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self._audited.ledger.nfe[self._audited.ledger.phase] += len(x_t)
        if torch.is_grad_enabled():
            self._audited.charge(2.0 * self._flops * len(x_t))
        return self._inside.predict(x_t, t, condition)


class SamplesOnly(BlackBoxModel):
    """The black-box view of an audited model: samples for candidates, nothing else."""

    def __init__(self, audited: AuditedModel) -> None:
        self.image_shape = audited.image_shape
        self.conditioning = audited.conditioning
        self._sample = audited.sample

    def sample(
        self,
        candidates: Candidates,
        *,
        condition: Tensor | None = None,
        guidance_scale: float = 1.0,
        sampler: SamplerSettings | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Sample images; see `BlackBoxModel.sample`."""
        return self._sample(
            candidates, condition=condition, guidance_scale=guidance_scale, sampler=sampler, steps=steps
        )


class Queries(SamplesOnly, QueriedModel):
    """The black-box view that takes prompts."""

    def __init__(self, audited: AuditedModel) -> None:
        super().__init__(audited)
        self.device = audited.device
        self._sample_prompts, self._charge = audited.sample_prompts, audited.charge

    def sample_prompts(
        self,
        candidates: Candidates,
        prompts: Sequence[str],
        *,
        guidance_scale: float = 1.0,
        steps: int | None = None,
    ) -> Tensor:
        """Sample images; see `QueriedModel.sample_prompts`."""
        return self._sample_prompts(candidates, prompts, guidance_scale=guidance_scale, steps=steps)

    def charge(self, flops: float) -> None:
        """Count operations outside the denoiser."""
        self._charge(flops)


class SamplesAndPrompts(Queries, PromptedModel):
    """The black-box view with known captions."""

    def __init__(self, audited: AuditedModel, prompts: Sequence[str]) -> None:
        super().__init__(audited)
        self.prompts = prompts


class AuditedOracle(AuditedModel, OracleModel):
    """The white-box view with the labelled training images."""

    def __init__(self, audited: AuditedModel, training: Tensor, labels: Tensor) -> None:
        self.__dict__.update(audited.__dict__)
        self.training, self.labels = training, labels


class Shown(NamedTuple):
    """An image of each caption, and the order in which an attack is given captions."""

    images: Tensor
    """uint8, N x C x H x W."""
    order: Tensor
    """(N,)"""


class AuditedTargets(AuditedModel, TargetedModel):
    """The white-box view with an image of each caption."""

    def __init__(self, audited: AuditedModel, prompts: Sequence[str], shown: Shown) -> None:
        self.__dict__.update(audited.__dict__)
        self.prompts, self._shown = prompts, shown

    def images_of(self, places: Sequence[int]) -> Tensor:
        """Return an image of each of these of `prompts`, in [0, 1]."""
        return self._shown.images[self._shown.order[list(places)]].float() / 255

    def asks_for(self, candidates: Candidates, prompts: Sequence[str]) -> None:
        """Note whose image each candidate is meant to be."""
        self._sent |= dict(zip(candidates.numbers, prompts, strict=True))


def order_of(seed: int, count: int) -> Tensor:
    """Return the order in which attacks are given captions, (count,), drawn by the run's seed alone.

    Sorted, as a run keeps them, their place would say what they begin with, and so which are of one family.
    """
    return torch.randperm(count, generator=generator(seed, "captions", 0, "order"))


def in_order_of(seed: int, prompts: Sequence[str]) -> Sequence[str]:
    """Return captions in the order in which attacks are given them."""
    return [prompts[place] for place in order_of(seed, len(prompts)).tolist()]


def view_for(
    access: str,
    audited: AuditedModel,
    prompts: Sequence[str] = (),
    labelled: tuple[Tensor, Tensor] | None = None,
    shown: Shown | None = None,
) -> BlackBoxModel:
    """Return what an attack with this access level may see; `shown` are images of the prompts."""
    if access == "oracle" and shown is not None:
        return AuditedTargets(audited, prompts, shown)
    if access == "oracle" and labelled is not None:
        return AuditedOracle(audited, *labelled)
    if access == "prompts":
        return SamplesAndPrompts(audited, prompts)
    if access == "queries":
        return Queries(audited)
    if access == "samples":
        return SamplesOnly(audited)
    audited.prompts = prompts
    return audited
