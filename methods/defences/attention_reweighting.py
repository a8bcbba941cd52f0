"""attention-reweighting: look at the beginning of the prompt, and not at its padding (Ren et al. 2024, 2403.11052)."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ...benchmark.contracts import Conditioning, Defence, Model, Settings
from ...benchmark.sampling.defended import DefendedModel


class AttentionReweightingSettings(Settings):
    """How much more weight the beginning has."""

    begin: float = Field(1.25, gt=0)
    """Factor on the attention logit of the token that begins a prompt, before the softmax; the authors' c1."""


class AttentionReweighting(Defence):
    """Hide the padding from cross-attention and raise the logit of the token that begins the prompt.

    Memorised prompts concentrate attention on the tokens behind the prompt, which carry its summary. In calls with a
    prompt only: the authors raise the logit there too, and hide the padding in both calls of a guided step. Needs a
    UNet with cross-attention.
    """

    name: ClassVar[str] = "attention-reweighting"
    title: ClassVar[str] = "cross-attention away from the padding"
    paper: ClassVar[str] = "arXiv 2403.11052"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "denoiser"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = AttentionReweightingSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model with other attention.

        Raises:
            BadInput: its denoiser has no cross-attention that can be changed.
        """
        return DefendedModel(model.reweighted(self.settings.begin))
