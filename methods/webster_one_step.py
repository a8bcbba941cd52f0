"""webster-one-step and webster-edges: what one step says of a caption decides which captions are replayed in full.

Of Webster 2023 (arXiv 2305.08694): a model that has memorised a caption's image commits to it at once. From the weights
that shows in how far one step goes (`webster-one-step`), from outside in edges that the one-step images of several
seeds share (`webster-edges`). There is no licence on the paper's code; this is written from the description.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

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
    CaptionFilter,
    Conditioning,
    Generated,
    PromptedModel,
    Replays,
    Settings,
    WhiteBoxModel,
)
from ..benchmark.errors import TooFew
from ..benchmark.sampling.prediction_types import SINGULAR, clean_estimate

BLOCK = 64
"""Captions between two checkpoints."""

EDGE_SIZE = 256
"""Larger images are shrunk to this before edges are looked for, as in the paper; smaller ones are not enlarged."""


class OneStepSettings(Settings):
    """How captions are scored, how many are kept, and how those are replayed."""

    seeds: int = Field(4, ge=1)
    """Starting noises of a caption's score, its mean over them; the paper's default is one."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of classifier-free guidance, in the one step and in the images that follow; 1 is off."""
    kept: float = Field(0.25, gt=0, le=1)
    """Share of the captions that are replayed, those with the highest scores. 1: no filter."""
    images: int = Field(4, ge=1)
    """Of each caption that is kept."""


class EdgeSettings(OneStepSettings):
    """The same, and what counts as an edge."""

    edge: float = Field(1.5, gt=0)
    """Sobel magnitude, summed over three channels in [0, 1], above which a pixel is an edge; the paper's value."""


class _Filtered(Attack):
    """Score every caption in one step, then replay the best ones."""

    paper: ClassVar[str] = "arXiv 2305.08694"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    generation_settings: ClassVar[frozenset[str]] = frozenset({"images", "kept"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"kept": (0.1, 0.25, 0.5, 1.0)}

    def caption_filter(self) -> CaptionFilter:
        """Return that the state holds a score for each caption."""
        return CaptionFilter("state")

    def scored(self, model: Any, prompts: Sequence[str], budget: Budget, score: Callable[..., Tensor]) -> AttackState:
        """Return the score of every caption, in blocks that a killed run does not make again.

        `score` takes prompts and the numbers of their first starting noises.
        """
        if not prompts:
            raise TooFew(f"{self.name} needs captions: give the pair data.captions")
        kept = budget.checkpoints.load("scores")
        scores = torch.empty(0, dtype=torch.float64) if kept is None else kept.tensors["caption_scores"]
        for start in range(len(scores), len(prompts), BLOCK):
            block = prompts[start : start + BLOCK]
            scores = torch.cat([scores, score(block, start).double().cpu()])
            budget.checkpoints.save("scores", AttackState({"caption_scores": scores}))
            budget.progress("captions", len(scores), len(prompts))
        return AttackState({"caption_scores": scores})

    def generate(self, model: Any, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the caption at i // images among those that are kept, highest score first."""
        scores = state.tensors["caption_scores"]
        order = torch.argsort(scores, descending=True, stable=True)[: max(1, round(self.settings.kept * len(scores)))]
        places = [number // self.settings.images % len(order) for number in candidates.numbers]
        chosen = order[places]
        prompts = [model.prompts[place] for place in chosen.tolist()]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"prompt": chosen.numpy(), "caption_score": scores[chosen].numpy()})


class WebsterOneStep(_Filtered):
    """The denoising confidence score, from the weights.

    One step from pure noise x_T = sigma_max n goes all the way to an estimate of the image. The score is the mean
    square of x_T minus it: sigma_max^2 times that of the predicted noise. High: the model commits already.
    """

    name: ClassVar[str] = "webster-one-step"
    title: ClassVar[str] = "known captions, filtered by one step of the denoiser"
    access: ClassVar[Access] = "white box"
    replays: ClassVar[Replays] = "captions"
    Settings = OneStepSettings

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Score every caption."""
        seeds = self.settings.seeds

        def score(prompts: Sequence[str], start: int) -> Tensor:
            condition, numbers = model.embed(prompts), [(start + place) * seeds for place in range(len(prompts))]
            total = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
            for seed in range(seeds):
                drawn = Candidates(budget.seed, [number + seed for number in numbers], "one step")
                noise = drawn.normal("noise", model.sample_shape)
                total += self._distances(model, condition, noise).double()
            mean: Tensor = total / seeds
            return mean

        return self.scored(model, model.prompts, budget, score)

    def _distances(self, model: WhiteBoxModel, condition: Tensor, noise: Tensor) -> Tensor:
        """Return the mean square of one step from each noise, (N,)."""
        noise = noise.to(model.device)
        t = torch.full((len(noise),), model.num_train_timesteps - 1, device=model.device)
        with torch.no_grad():
            predicted = model.predict(noise, t, condition)
            if self.settings.guidance_scale != 1:
                unconditional = model.predict(noise, t)
                predicted = unconditional + self.settings.guidance_scale * (predicted - unconditional)
        alpha, sigma = (float(level) for level in model.noise_level(t[:1]))
        if model.prediction_type != "epsilon":
            clean = clean_estimate(model.prediction_type, noise, predicted, alpha, sigma)
            predicted = (noise - alpha * clean) / sigma
        # sigma_max is sigma / alpha. Where alpha is 0 the factor is left out: it is the same for all captions.
        scale = sigma / alpha if alpha > SINGULAR else 1.0
        distances: Tensor = (scale * predicted).square().flatten(1).mean(1)
        return distances


class WebsterEdges(_Filtered):
    """Edge consistency, from outside: the share of pixels that are an edge in most of a caption's one-step images.

    One step from noise gives a blur without edges, unless the model knows the image already.
    """

    name: ClassVar[str] = "webster-edges"
    title: ClassVar[str] = "known captions, filtered by edges of one-step images"
    access: ClassVar[Access] = "prompts"
    Settings = EdgeSettings

    def prepare(self, model: PromptedModel, budget: Budget) -> AttackState:
        """Score every caption."""
        seeds = self.settings.seeds

        def score(prompts: Sequence[str], start: int) -> Tensor:
            numbers = range(start * seeds, (start + len(prompts)) * seeds)
            asked = [prompt for prompt in prompts for _ in range(seeds)]
            scale = self.settings.guidance_scale
            made = model.sample_prompts(
                Candidates(budget.seed, numbers, "one step"), asked, guidance_scale=scale, steps=1
            )
            groups = made.split(seeds)
            return torch.tensor([edge_consistency(images, self.settings.edge) for images in groups])

        return self.scored(model, model.prompts, budget, score)


def edge_consistency(images: Tensor, edge: float) -> float:
    """Return the share of pixels that are an edge in more than half of the images.

    Args:
        images: S x C x H x W in [0, 1].
        edge: Sobel magnitude summed over three channels (a single one counts three times) above which a pixel is one.
    """
    from scipy.ndimage import sobel

    values = _shrunk(images)
    # A plane at a time: over the whole array it would smooth across channels and images.
    planes = values.reshape(-1, *values.shape[-2:])
    gradients = np.stack([np.hypot(sobel(plane, axis=0), sobel(plane, axis=1)) for plane in planes])
    magnitude = gradients.reshape(values.shape).sum(1) * (3 / values.shape[1])
    agreed: np.ndarray = (magnitude > edge).mean(0) > 0.5
    return float(agreed.mean())


def _shrunk(images: Tensor) -> np.ndarray:
    """Return images at most 256 pixels wide and high, float32."""
    from PIL import Image

    values: np.ndarray = images.numpy()
    if max(values.shape[-2:]) <= EDGE_SIZE:
        return values
    size = (EDGE_SIZE, EDGE_SIZE)
    return np.array(
        [[np.asarray(Image.fromarray(c).resize(size, Image.Resampling.LANCZOS)) for c in i] for i in values]
    )
