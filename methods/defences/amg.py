"""amg: anti-memorization guidance (arXiv 2404.00922) for pixel models."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Defence, Model, Settings, Step, VictimFacts
from ...benchmark.data.pixels import SPACE
from ...benchmark.errors import BadInput
from ...benchmark.sampling.defended import DefendedModel
from ...benchmark.sampling.prediction_types import score_to_prediction


class AmgSettings(Settings):
    """The values of the authors' code for CIFAR-10, but for the strength, which depends on the image size."""

    strength: float = Field(100.0, ge=0)
    """Factor on (threshold - nL2) grad nL2, a correction of the score. The authors add 80,000 times that, times
    the variance of a stochastic step, to the mean of the step: the same form."""
    neighbours: int = Field(50, ge=1)
    """n of the normaliser; the authors' value."""
    alpha: float = Field(0.5, gt=0, le=1)
    """The authors' value."""
    threshold: float = Field(1.5, gt=0)
    """Guidance acts below this nL2 at t = 0; the authors' value."""
    threshold_end: float = Field(1.95, gt=0)
    """... and below this one at large t, reached as 1 - exp(-6.25 t / T); the authors' values."""


class AntiMemorizationGuidance(Defence):
    """Push a sample away from its nearest training image while their normalised L2 distance is small.

    It needs the training set at inference, and it optimises nL2: judge it by another measure.
    """

    name: ClassVar[str] = "amg"
    title: ClassVar[str] = "anti-memorization guidance"
    paper: ClassVar[str] = "arXiv 2404.00922"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "loop"
    uses_training: ClassVar[bool] = True
    optimises: ClassVar[frozenset[str]] = frozenset({SPACE})
    Settings = AmgSettings

    def check(self, victim: VictimFacts) -> None:
        """Refuse latent models, as the distance is one of pixels, and fewer training images than neighbours."""
        if victim.family in ("latent", "text"):
            raise BadInput(f"amg compares pixels: it does not fit a {victim.family} model")
        if victim.training_images is not None and victim.training_images < self.settings.neighbours:
            raise BadInput(f"amg.neighbours = {self.settings.neighbours} of {victim.training_images} training images")

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the guided model."""
        assert training is not None
        return _Guided(model, model.encode(training), self.settings)


class _Guided(DefendedModel):
    def __init__(self, inside: Model, training: Tensor, settings: AmgSettings) -> None:
        super().__init__(inside)
        self.settings = settings
        self._training = training.flatten(1)

    def corrected(self, step: Step, candidates: Candidates) -> Tensor:
        prediction = self.inside.corrected(step, candidates)
        step = step._replace(prediction=prediction)
        correction = self._correction(step, candidates)
        change = score_to_prediction(self.prediction_type, correction, step.alpha, step.sigma)
        return prediction if change is None else prediction + change

    def _correction(self, step: Step, candidates: Candidates) -> Tensor:
        """Return strength (threshold - nL2) grad nL2 where nL2 is below the threshold, and 0 elsewhere."""
        # Compare x_t with training images noised to the same t. One noise per candidate serves all of them, so
        # taking it off x_t leaves the training images as they are.
        noise = candidates.normal(f"amg/{step.time:g}", self.sample_shape).to(step.x_t.device)
        with torch.enable_grad():
            x_t = step.x_t.detach().requires_grad_()
            distance = self._nl2(((x_t - step.sigma * noise) / step.alpha).flatten(1))
            (gradient,) = torch.autograd.grad(distance.sum(), x_t)

        # Guide where it is too near.
        lack = (self._threshold(step.time) - distance.detach()).clamp(min=0)
        correction: Tensor = self.settings.strength * lack.view(-1, 1, 1, 1) * gradient
        return correction

    def _nl2(self, flat: Tensor) -> Tensor:
        """Return l2 to the nearest training image over alpha times the mean of the n nearest, (N,)."""
        with torch.no_grad():
            nearest = torch.cdist(flat, self._training).topk(self.settings.neighbours, largest=False).indices
        distances = (flat[:, None] - self._training[nearest]).square().mean(2).clamp(min=1e-12).sqrt()
        return distances[:, 0] / (self.settings.alpha * distances.mean(1))

    def _threshold(self, t: float) -> float:
        start, end = self.settings.threshold, self.settings.threshold_end
        share = float(torch.exp(-6.25 * torch.tensor(t, dtype=torch.float32) / self.num_train_timesteps))
        return float(end - (end - start) * share)

    def flops_per_step(self) -> float:
        """Return two operations per value of each training image, and nine per value of each neighbour."""
        values = self._training.shape[1]
        work = 2 * len(self._training) * values + 9 * self.settings.neighbours * values
        return self.inside.flops_per_step() + work
