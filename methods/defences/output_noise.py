"""output-noise: Gaussian noise on the denoiser's output, the simplest defence there is."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Defence, Model, Settings, Step
from ...benchmark.sampling.defended import DefendedModel


class OutputNoiseSettings(Settings):
    """How much noise."""

    scale: float = Field(0.1, ge=0)
    """Standard deviation of the noise. The prediction of an epsilon model has standard deviation 1."""


class OutputNoise(Defence):
    """Add scale * n to the prediction in every step, n standard normal and fresh per candidate and step."""

    name: ClassVar[str] = "output-noise"
    title: ClassVar[str] = "noise on the denoiser's output"
    paper: ClassVar[str] = "none: a baseline"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "loop"
    Settings = OutputNoiseSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model with noise in its loop."""
        return _Noisy(model, self.settings.scale)


class _Noisy(DefendedModel):
    def __init__(self, inside: Model, scale: float) -> None:
        super().__init__(inside)
        self.scale = scale

    def corrected(self, step: Step, candidates: Candidates) -> Tensor:
        # The stream's name holds the timestep, so candidate i meets the same noise in any batch or process.
        noise = candidates.normal(f"output-noise/{step.time:g}", self.sample_shape)
        return self.inside.corrected(step, candidates) + self.scale * noise.to(step.x_t.device)
