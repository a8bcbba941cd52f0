"""attention-entropy: how evenly pixels look at the tokens of a prompt, in pure noise (Ren et al., ECCV 2024)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from ...benchmark.errors import BadSetting
from .predicted_noise import last_timestep, over_noises


class AttentionEntropySettings(Settings):
    """Which layers are read, and how often."""

    noises: int = Field(4, ge=1)
    """Starting noises of a prompt, the mean over them."""
    layer: int = Field(0, ge=0)
    """Which cross-attention layer, from 1 in the order of calls; the paper takes the 4th of 16. 0: the mean over all,
    which nobody chose by looking at results."""


class AttentionEntropy(Detector):
    """E = - sum over tokens of a log a, at the first step (the paper's E-mode).

    a is a layer's cross-attention, averaged over heads and pixels: a distribution over all tokens, begin token and
    padding included. Higher is more memorised.
    """

    name: ClassVar[str] = "attention-entropy"
    title: ClassVar[str] = "entropy of cross-attention over tokens"
    paper: ClassVar[str] = "Ren et al., arXiv 2403.11052, ECCV 2024"
    attends: ClassVar[bool] = True
    Settings = AttentionEntropySettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the entropy for each prompt."""
        condition, t = model.embed(prompts), last_timestep(model)

        def entropy(noise: Tensor) -> Tensor:
            times = torch.full((len(noise),), t, device=noise.device)
            maps = list(model.attend(noise, times, condition).maps.values())
            shares = [each.mean(1).double() for each in self._chosen(maps)]
            return torch.stack([torch.special.entr(share).sum(1) for share in shares]).mean(0)

        return over_noises(model, candidates, self.settings.noises, entropy)

    def _chosen(self, maps: list[Tensor]) -> list[Tensor]:
        if self.settings.layer > len(maps):
            raise BadSetting(f"{self.name}.layer = {self.settings.layer}: this model has {len(maps)} layers")
        return maps if self.settings.layer == 0 else [maps[self.settings.layer - 1]]
