"""embedding-noise: Gaussian noise on the prompt's embedding (Somepalli et al. 2023, arXiv 2305.20086)."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import NO_STATE, Conditioning, Defence, Model, Settings
from ...benchmark.sampling.defended import DefendedModel


class EmbeddingNoiseSettings(Settings):
    """How much noise."""

    scale: float = Field(0.1, ge=0)
    """Standard deviation of the noise, of each number of the embedding; 0.1 is the paper's."""


class EmbeddingNoise(Defence):
    """Add scale * n to the states that are the embedding of each prompt, n standard normal and the candidate's own."""

    name: ClassVar[str] = "embedding-noise"
    title: ClassVar[str] = "noise on the prompt's embedding"
    paper: ClassVar[str] = "arXiv 2305.20086"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "prompt"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = EmbeddingNoiseSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model whose denoiser is given noisy embeddings."""
        return _Noisy(model, self.settings.scale)


class _Noisy(DefendedModel):
    def __init__(self, inside: Model, scale: float) -> None:
        super().__init__(inside)
        self.scale = scale

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        given = self.inside.conditioned(condition, candidates)
        if given is None:
            return None
        noise = candidates.normal("embedding-noise", tuple(given.shape[1:])).to(given.device)
        return given + self.scale * noise * (self.inside.token_of() != NO_STATE)
