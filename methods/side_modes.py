"""side-modes: SIDE with the modes of the denoiser as classes, and candidates that walk to their mode."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Ablation,
    Access,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    Settings,
    Step,
    WhiteBoxModel,
)
from ..benchmark.errors import TooFew
from ..benchmark.sampling.prediction_types import clean_estimate


class SideModesSettings(Settings):
    """How modes are found, how candidates are steered to them, and how they walk there."""

    synthetic_images: int = Field(1024, ge=2)
    """N_syn, as in side."""
    walk_noise: float = Field(0.06, gt=0, lt=1)
    """Noise of the walk, as a share of the T timesteps."""
    walk_rounds: int = Field(4, ge=0)
    """Times that an image is noised, denoised and replaced by what came back; 0: no walk."""
    walk_draws: int = Field(4, ge=1)
    """Noises per round, over which what comes back is averaged."""
    modes: int = Field(128, ge=2)
    """K: at most so many modes, the sharpest first. Fewer find more hits, but fewer unique training images."""
    separation: float = Field(0.35, ge=0)
    """Two images are one mode if they are nearer than this share of the root-mean-square distance between synthetic
    images."""
    background: int = Field(1024, ge=1)
    """Synthetic images in the classifier's mixture beside the modes."""
    bandwidth: float = Field(0.1, gt=0)
    """Standard deviation of the mixture's normals, in units of x_0."""
    guidance_scale: float = Field(1.0, ge=0)
    """lambda. 1 samples p(x | c) as far as the mixture is the model; 0 is plain sampling and the walk."""
    interval: tuple[float, float] = (0.3, 1.0)
    """Steer at timesteps within these shares of T only: at low noise the denoiser ends in the mode by itself."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(f"interval = {list(self.interval)} is not two shares of 0 .. 1 in order")
        return self


class SideModes(Attack):
    """Find the images that the denoiser falls back to, draw candidates evenly from them, and let each fall.

    SIDE (arXiv 2410.02467) clusters the model's samples by their looks, keeps cohesive clusters and trains a
    time-dependent classifier on them. Here a class is one mode of the model: synthetic images are noised a little and
    replaced by the denoiser's mean answer, several times over (a fixed-point iteration towards a mode of the
    smoothed density, since the answer is x + sigma^2 times its score), and images that end in one place are one class.
    The classifier is the posterior of a mixture of normals around modes and synthetic images under forward noise:
    calibrated by construction, without training. It steers at high noise only. Modes are drawn evenly, so that a
    rarely sampled image counts as much as a frequent one, and each candidate walks to its mode in the end, which takes
    off how far samples lie from the image that they are of. With lambda = 0 and no walk it is carlini-uncond image
    for image.

    Where plain sampling finds much already, the steering makes candidates alike: on emoji it found fewer different
    images than plain sampling. side-walk, which leaves the steering out, found more (docs/study-side.md).
    """

    name: ClassVar[str] = "side-modes"
    title: ClassVar[str] = "SIDE with the denoiser's modes as classes"
    paper: ClassVar[str] = "a variant of arXiv 2410.02467"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "class"})
    Settings = SideModesSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"bandwidth", "guidance_scale", "interval"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "walk_rounds": (2, 4),
        "modes": (64, 128, 256),
        "guidance_scale": (0.0, 1.0),
    }
    ablations: ClassVar[Mapping[str, Ablation]] = {
        "no-guidance": Ablation({"guidance_scale": 0.0}),
        "no-walk": Ablation({"walk_rounds": 0}),
        "neither": Ablation({"guidance_scale": 0.0, "walk_rounds": 0}),
    }
    ablated_against: ClassVar[Sequence[str]] = ("carlini-uncond",)

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Draw synthetic images, walk each to its mode, and keep one of those that end in the same place."""
        # 1. Draw N_syn images from the target without condition.
        drawn = Candidates(budget.seed, range(self.settings.synthetic_images), "synthetic")
        x_0 = model.encode(model.sample(drawn)).cpu()

        # 2. Walk each to its mode; images that are learnt by heart have sharp ones.
        walked = self._walk(model, x_0, drawn, max(1, self.settings.walk_rounds), budget)

        # 3. Keep the sharpest image of each mode.
        kept = separate(walked.images, walked.spread, self.settings.modes, self.settings.separation)
        if len(kept) < 2:
            raise TooFew(f"the synthetic images end in {len(kept)} mode, two are needed: lower the setting separation")
        return AttackState(
            {"modes": walked.images[kept], "background": x_0[: self.settings.background]},
            {"classes": len(kept), "spread": walked.spread[kept].tolist()},
        )

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Draw a mode c evenly, steer by the gradient of log p(c | x_t, t) while the noise is high, then walk."""
        chosen = candidates.integers("cluster", int(state.info["classes"]))
        modes = state.tensors["modes"].flatten(1).to(model.device)
        centres = torch.cat([modes, state.tensors["background"].flatten(1).to(model.device)])
        goals = modes[chosen.to(model.device)]
        first, last = (share * model.num_train_timesteps for share in self.settings.interval)

        def steer(step: Step) -> Tensor:
            if not first <= step.time <= last:
                return torch.zeros_like(step.x_t)
            variance = (step.alpha * self.settings.bandwidth) ** 2 + step.sigma**2
            mean = mixture_mean(step.x_t.flatten(1), centres, step.alpha, variance)
            gradient = step.alpha / variance * (goals[step.rows] - mean)
            model.charge(4.0 * centres.numel() * step.real)
            correction: Tensor = self.settings.guidance_scale * gradient.view_as(step.x_t)
            return correction

        images = model.sample(candidates, steer=steer if self.settings.guidance_scale else None)
        if self.settings.walk_rounds:
            walked = self._walk(model, model.encode(images).cpu(), candidates, self.settings.walk_rounds)
            images = model.decode(walked.images.to(model.device)).cpu()
        return Generated(images, {"cluster": chosen.numpy()})

    def _walk(
        self, model: WhiteBoxModel, x_0: Tensor, who: Candidates, rounds: int, budget: Budget | None = None
    ) -> "Walked":
        """Move each x_0 (N x C x H x W) to the denoiser's mean answer to it under noise, `rounds` times over."""
        t = round(self.settings.walk_noise * model.num_train_timesteps)
        alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(t)))
        done, spread = 0, torch.zeros(len(x_0))
        if budget and (saved := budget.checkpoints.load("checkpoint-walk")):
            x_0, spread, done = saved.tensors["images"], saved.tensors["spread"], int(saved.info["done"])
        for turn in range(done, rounds):
            answers = []
            for draw in range(self.settings.walk_draws):
                noise = who.normal(f"walk {turn} {draw}", model.sample_shape)
                answers.append(_denoise(model, alpha * x_0 + sigma * noise, t, alpha, sigma))
            stacked = torch.stack(answers)
            x_0 = stacked.mean(0)
            spread = (stacked - x_0).square().mean((0, 2, 3, 4)).sqrt()
            if budget:
                found = AttackState({"images": x_0, "spread": spread}, {"done": turn + 1})
                budget.checkpoints.save("checkpoint-walk", found)
                budget.progress("walk", turn + 1, rounds)
        return Walked(x_0, spread)


class Walked(NamedTuple):
    """Where images ended."""

    images: Tensor
    """N x C x H x W, in the model's own space."""
    spread: Tensor
    """(N,) root-mean-square deviation of the last round's answers from their mean: how sharp the mode is."""


def separate(images: Tensor, spread: Tensor, most: int, separation: float) -> Tensor:
    """Return the positions of at most `most` images, the smallest spread first, no two nearer than `separation`.

    `images` is N x C x H x W, `spread` (N,); `separation` is a share of the root-mean-square distance between two
    images, which one image that makes up most of the set does not bring to 0.
    """
    flat = images.flatten(1).double()
    radius = separation * float((2 * flat.var(0).sum()).sqrt())
    kept: list[int] = []
    for position in spread.argsort(stable=True).tolist():
        if kept and float((flat[kept] - flat[position]).square().sum(1).min().sqrt()) < radius:
            continue
        kept.append(position)
        if len(kept) == most:
            break
    return torch.tensor(kept)


def mixture_mean(x_t: Tensor, centres: Tensor, alpha: float, variance: float) -> Tensor:
    """Return the posterior mean of the centre (M x D) that each x_t (N x D) comes from.

    Under equal weights and x_t ~ N(alpha centre, variance I). The gradient of log p(c | x_t) in that mixture is
    alpha / variance (centre_c - mean).
    """
    # Of |x_t - alpha m|^2 the part that all centres share is left out.
    logits = alpha * x_t @ centres.T - alpha**2 / 2 * centres.square().sum(1)
    mean: Tensor = (logits / variance).softmax(1) @ centres
    return mean


@torch.no_grad()
def _denoise(model: WhiteBoxModel, x_t: Tensor, t: int, alpha: float, sigma: float) -> Tensor:
    """Return the denoiser's x_0 for each row of x_t, on the CPU."""
    x_t = x_t.to(model.device)
    prediction = model.predict(x_t, torch.full((len(x_t),), t, device=model.device))
    return clean_estimate(model.prediction_type, x_t, prediction, alpha, sigma).cpu()
