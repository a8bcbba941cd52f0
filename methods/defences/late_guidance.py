"""late-guidance: guidance from a transition point on (arXiv 2411.16738), or in an interval (arXiv 2404.07724)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from ...benchmark.contracts import Defence, Model, Settings, VictimFacts
from ...benchmark.errors import BadInput
from ...benchmark.sampling.defended import DefendedModel


class LateGuidanceSettings(Settings):
    """When guidance acts; sampling runs from t / T = 1 down to 0."""

    start: float = Field(0.5, ge=0, le=1)
    """Guidance starts once t / T is at most this; 0.5 is the fixed transition point of arXiv 2411.16738."""
    stop: float = Field(0.0, ge=0, le=1)
    """... and stops below this."""
    outside: Literal["unconditional", "conditional"] = "unconditional"
    """What the denoiser is asked outside, where there is a condition. The two papers differ: unconditional is a
    classifier-free scale of 0 (arXiv 2411.16738), conditional one of 1 (arXiv 2404.07724)."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.stop > self.start:
            raise ValueError(f"stop = {self.stop} lies before start = {self.start}: t / T falls from 1 to 0")
        return self


class LateGuidance(Defence):
    """Let guidance act in one part of the sampling only: classifier-free guidance, and an attack's steering alike.

    Sampling without a condition is not guided, so nothing changes there.
    """

    name: ClassVar[str] = "late-guidance"
    title: ClassVar[str] = "guidance that starts late"
    paper: ClassVar[str] = "arXiv 2411.16738"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "loop"
    Settings = LateGuidanceSettings

    def check(self, victim: VictimFacts) -> None:
        """Refuse `unconditional` where the model always needs a class."""
        if (victim.family, victim.conditioning, self.settings.outside) == ("pixel", "class", "unconditional"):
            raise BadInput(
                "late-guidance: a class-conditional pixel model has no unconditional branch; "
                "set late-guidance.outside=conditional"
            )

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model that is guided in the interval only."""
        return _Late(model, self.settings)


class _Late(DefendedModel):
    def __init__(self, inside: Model, settings: LateGuidanceSettings) -> None:
        super().__init__(inside)
        self.settings = settings

    def guidance_scale(self, t: Tensor, asked: float) -> float:
        if self._acts(t):
            return self.inside.guidance_scale(t, asked)
        return 0.0 if self.settings.outside == "unconditional" else 1.0

    def steering(self, t: Tensor) -> float:
        return self.inside.steering(t) if self._acts(t) else 0.0

    def _acts(self, t: Tensor) -> bool:
        return bool(self.settings.stop <= float(t) / self.num_train_timesteps <= self.settings.start)
