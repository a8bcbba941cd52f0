"""dori: learn a few numbers of a prompt's embedding that make the model draw a given image (arXiv 2507.16880)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Access,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    Replays,
    Settings,
    TargetedModel,
)
from ..benchmark.errors import BadSetting, TooFew
from ..benchmark.sampling.prediction_types import training_target

BLOCK = 16
"""Targets between two checkpoints."""


class DoriSettings(Settings):
    """How much is learned of each image, from where, and how often it is then asked for."""

    steps: int = Field(50, ge=0)
    """Steps of Adam for each target; the paper's 50. 0 asks with the start alone. More is no stronger attack: with
    enough of them held-out images come too, and the excess falls."""
    vectors: int = Field(2, ge=1)
    """Tokens that are learned, from the second on. The paper learns all of them; in a small model these are more
    numbers than an image has values, and any image could be written into them."""
    start: Literal["caption", "none", "random"] = "caption"
    """From the image's own caption, from the empty prompt, or from normal numbers in the empty prompt."""
    learning_rate: float = Field(0.1, gt=0)
    """Of Adam; the paper's."""
    batch: int = Field(8, ge=1)
    """Noised images of the target in each step, with noises and timesteps of their own; the paper's."""
    targets: int = Field(64, ge=2)
    """Images that are asked for, of both sides; which, is drawn by the run's seed."""
    images: int = Field(4, ge=1)
    """Of each target."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of classifier-free guidance; 1 is off."""


class Dori(Attack):
    """The adaptive test of text defences: is the image gone, or only the way from its caption?

    The attack is given images of both sides with their captions, in one shuffled list, and does the same with each: it
    learns embeddings under the defended model, by the denoiser's loss on the noised image, and samples with them. A
    defence that cut the way from caption to image alone gives training images back after few steps. Held-out images,
    which no model can remember, say how many steps write an image instead of finding one. The attack sees training
    images, so it is never ranked.
    """

    name: ClassVar[str] = "dori"
    title: ClassVar[str] = "learned embeddings of given images: the adaptive test of text defences"
    paper: ClassVar[str] = "arXiv 2507.16880"
    access: ClassVar[Access] = "oracle"
    replays: ClassVar[Replays] = "captions"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = DoriSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"images", "guidance_scale"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"steps": (0, 10, 50, 200)}

    def prepare(self, model: TargetedModel, budget: Budget) -> AttackState:
        """Learn the embedding of each target, in blocks that a killed run does not make again.

        Raises:
            TooFew: there is no image with a caption.
            BadSetting: as many numbers are learned as the image has values.
        """
        targets = list(range(min(self.settings.targets, len(model.prompts))))
        if not targets or not isinstance(model, TargetedModel):
            raise TooFew(f"{self.name} needs captions: give the pair data.captions")
        begin = self._begin(model, targets, budget.seed)
        kept = budget.checkpoints.load("embeddings")
        found = begin[:0] if kept is None else kept.tensors["embeddings"].to(model.device)
        for first in range(len(found), len(targets), BLOCK):
            block = slice(first, first + BLOCK)
            x_0 = model.encode(model.images_of(targets[block]).to(model.device))
            found = torch.cat([found, self._learned(model, x_0, begin[block], targets[block], budget.seed)])
            budget.checkpoints.save("embeddings", AttackState({"embeddings": found.cpu()}))
            budget.progress("embeddings", len(found), len(targets))
        return AttackState({"embeddings": found.cpu()})

    def _begin(self, model: TargetedModel, targets: Sequence[int], seed: int) -> Tensor:
        """Return the embedding that each target starts from, a row each."""
        texts = [model.prompts[target] if self.settings.start == "caption" else "" for target in targets]
        # A prompt of the tokens that are learned, between one that begins and one that ends it.
        begin = model.with_tokens(model.embed(texts), self.settings.vectors + 2)
        learned, values = self._learnable(model), int(np.prod(model.sample_shape))
        if int(learned.sum()) >= values or self.settings.vectors > int(model.token_of().max()):
            raise BadSetting(
                f"{self.name}: {self.settings.vectors} tokens, {int(learned.sum())} numbers, could hold an image of "
                f"{values} values, whatever the model has learnt; lower {self.name}.vectors"
            )
        if self.settings.start == "random":
            drawn = Candidates(seed, list(targets), self.name).normal("start", tuple(begin.shape[1:]))
            return torch.where(learned, drawn.to(begin.device), begin)
        return begin

    def _learnable(self, model: TargetedModel) -> Tensor:
        """Return which numbers of an embedding are learned, in the shape of one row."""
        token = model.token_of()
        learned: Tensor = (token >= 1) & (token <= self.settings.vectors)
        return learned

    def _learned(self, model: TargetedModel, x_0: Tensor, begin: Tensor, targets: Sequence[int], seed: int) -> Tensor:
        """Return embeddings with which the denoiser sees x_0 best, each by its own loss alone."""
        settings = self.settings
        learned, found = self._learnable(model), begin.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([found], lr=settings.learning_rate)
        clean = x_0.repeat_interleave(settings.batch, dim=0)
        rows = [target * settings.batch + row for target in targets for row in range(settings.batch)]
        for step in range(settings.steps):
            # Drawn again in every step, or the embedding would fit one path of noise.
            drawn = Candidates(seed, rows, f"{self.name} {step}")
            noise = drawn.normal("noise", model.sample_shape).to(clean.device)
            t = drawn.integers("timestep", model.num_train_timesteps).to(clean.device)
            x_t = model.add_noise(clean, noise, t)
            wanted = training_target(model.prediction_type, clean, noise, *model.noise_level(t))
            with torch.enable_grad():
                given = torch.where(learned, found, begin).repeat_interleave(settings.batch, dim=0)
                error = (model.predict(x_t, t, given) - wanted).square().flatten(1).mean(1)
                # The mean over a target's own rows: how many targets there are changes nothing.
                (found.grad,) = torch.autograd.grad(error.sum() / settings.batch, found)
            optimiser.step()
        return torch.where(learned, found.detach(), begin)

    def generate(self, model: TargetedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the embedding of target i // images, over again where they run out."""
        embeddings = state.tensors["embeddings"]
        targets = [number // self.settings.images % len(embeddings) for number in candidates.numbers]
        model.asks_for(candidates, [model.prompts[target] for target in targets])
        condition = embeddings[targets].to(model.device)
        images = model.sample(candidates, condition=condition, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"target": np.array(targets, dtype=np.int64)})
