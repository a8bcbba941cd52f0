"""late-guidance: guidance from a transition point on (arXiv 2411.16738), or in an interval (arXiv 2404.07724)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from ...benchmark.contracts import Defence, Model, Settings
from ...benchmark.defending import DefendedModel


class LateGuidanceSettings(Settings):
    """When guidance acts; sampling runs from t / T = 1 down to 0."""

    start: float = Field(0.5, ge=0, le=1)
    """Guidance starts once t / T is at most this."""
    stop: float = Field(0.0, ge=0, le=1)
    """... and stops below this."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.stop > self.start:
            raise ValueError(f"stop = {self.stop} lies before start = {self.start}: t / T falls from 1 to 0")
        return self


class LateGuidance(Defence):
    """Let guidance act in one part of the sampling only: classifier-free guidance, and an attack's steering alike.

    Plain sampling is not guided, so nothing changes there.
    """

    name: ClassVar[str] = "late-guidance"
    title: ClassVar[str] = "guidance that starts late"
    paper: ClassVar[str] = "arXiv 2411.16738"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "loop"
    Settings = LateGuidanceSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model that is guided in the interval only."""
        return _Late(model, self.settings.start, self.settings.stop)


class _Late(DefendedModel):
    def __init__(self, inside: Model, start: float, stop: float) -> None:
        super().__init__(inside)
        self.start, self.stop = start, stop

    def guidance(self, t: Tensor) -> float:
        inside = self.stop <= float(t) / self.num_train_timesteps <= self.start
        return self.inside.guidance(t) if inside else 0.0
