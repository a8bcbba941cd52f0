"""eta: stochastic sampling, the eta of DDIM (arXiv 2010.02502, equation 16)."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ...benchmark.contracts import Defence, Model, Settings, VictimFacts
from ...benchmark.errors import BadInput
from ...benchmark.sampling.defended import DefendedModel


class EtaSettings(Settings):
    """How stochastic."""

    eta: float = Field(1.0, ge=0, le=1)
    """0: deterministic DDIM. 1: as stochastic as DDPM."""


class Eta(Defence):
    """Sample with fresh noise in every step, so that the starting noise alone does not fix the image."""

    name: ClassVar[str] = "eta"
    title: ClassVar[str] = "stochastic sampling"
    paper: ClassVar[str] = "arXiv 2010.02502"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "loop"
    replaces: ClassVar[frozenset[str]] = frozenset({"eta"})
    Settings = EtaSettings

    def check(self, victim: VictimFacts) -> None:
        """Refuse samplers without eta."""
        if victim.sampler != "ddim":
            raise BadInput(f"eta is a setting of the sampler ddim; this run samples with {victim.sampler}")

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model with its own eta."""
        return _Stochastic(model, self.settings.eta)


class _Stochastic(DefendedModel):
    def __init__(self, inside: Model, eta: float) -> None:
        super().__init__(inside)
        self._eta = eta

    def eta(self, eta: float) -> float:
        return self._eta
