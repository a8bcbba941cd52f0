"""carlini-cond: guidance by an ordinary, time-independent classifier."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
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
    Step,
    WhiteBoxModel,
)
from ..benchmark.sampling.prediction_types import clean_estimate
from . import surrogate
from .classifier_check import by_timestep
from .denoise import denoised
from .features import check_weights
from .networks import gradient_flops


class CarliniCondSettings(surrogate.SurrogateSettings):
    """The surrogate's settings, and those of the guidance."""

    reads: Literal["x_t", "x0_hat"] = "x_t"
    """What the classifier is given at each step. x_t, the raw noisy input, is the paper's reading; x0_hat is
    the denoiser's estimate of x_0, its gradient passed on without one through the denoiser."""


class CarliniCond(Attack):
    """The baseline "Carlini Cond" of arXiv 2410.02467: classifier guidance with a time-independent classifier.

    Labels, network and training budget are those of side, so that only time-dependence differs. The
    classifier is trained on clean synthetic images.
    """

    name: ClassVar[str] = "carlini-cond"
    title: ClassVar[str] = "guidance by a time-independent classifier"
    paper: ClassVar[str] = "arXiv 2410.02467, section 4"
    version: ClassVar[int] = 2
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "class"})
    Settings = CarliniCondSettings
    later_settings: ClassVar[frozenset[str]] = surrogate.LATER_SETTINGS
    generation_settings: ClassVar[frozenset[str]] = surrogate.GENERATION_SETTINGS | {"reads"}
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = surrogate.TUNING_GRID
    ablations: ClassVar[Mapping[str, Ablation]] = surrogate.ABLATIONS
    ablated_against: ClassVar[Sequence[str]] = ("carlini-uncond",)

    def check(self) -> None:
        """Refuse features whose network cannot be loaded."""
        check_weights(self.settings.features)

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Label synthetic images by clustering and train the classifier on them."""
        images = surrogate.synthetic_images(model, self.settings, budget)
        others = surrogate.images_to_check(model, self.settings, budget)
        labels = surrogate.pseudo_label(model, images, self.settings, budget.seed, others)
        learnt, unseen = labels.encoded(model)
        network = surrogate.make_classifier(model, len(labels.sizes), self.settings, time_conditioned=False)
        info = surrogate.train(network, model, learnt, self.settings, budget)
        checked = by_timestep(network, model, learnt, unseen, budget.seed)
        return surrogate.save_classifier(network, labels, info, checked)

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Steer each candidate towards a cluster drawn uniformly."""
        network = surrogate.load_classifier(model, state, self.settings, time_conditioned=False)
        clusters = candidates.integers("cluster", int(state.info["classes"]))
        target = clusters.to(model.device)
        work = gradient_flops(network, model.sample_shape, of="inputs")

        def steer(step: Step) -> Tensor:
            if not surrogate.guides(self.settings, state, step.time, model.num_train_timesteps):
                return torch.zeros_like(step.x_t)
            x = step.x_t.detach()
            slope = 1.0
            if self.settings.reads == "x0_hat":
                x, slope = _clean_estimate(model, step), 1 / step.alpha
            x = x.requires_grad_()
            logits = network(x) / self.settings.temperature
            log_p = logits.log_softmax(1).gather(1, target[step.rows, None])
            (gradient,) = torch.autograd.grad(log_p.sum(), x)
            model.charge(work * step.real)
            return surrogate.weighted(self.settings, slope * gradient, step, model.prediction_type)

        images = model.sample(candidates, steer=steer if self.settings.guidance_scale else None)
        images = denoised(model, images, self.settings.denoise, 1 if self.settings.denoise else 0)
        return Generated(images, {"cluster": clusters.numpy()})


def _clean_estimate(model: WhiteBoxModel, step: Step) -> Tensor:
    """Return x_0 as the denoiser sees it at this step; pixels are clipped to the range of images."""
    x_0 = clean_estimate(model.prediction_type, step.x_t, step.prediction, step.alpha, step.sigma)
    return (x_0.clamp(-1, 1) if model.sample_shape == model.image_shape else x_0).detach()
