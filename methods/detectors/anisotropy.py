"""anisotropy: norm and direction of the guidance in pure noise (ICLR 2026)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import last_timestep, over_noises, predicted_noise

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST = 16
"""Letters of a reference prompt, at most."""


class AnisotropySettings(Settings):
    """How often it is asked, and on what the two parts are brought to one scale."""

    noises: int = Field(4, ge=1)
    """Starting noises of a prompt, the mean over them."""
    references: int = Field(32, ge=8)
    """Prompts of random letters; mean and deviation of each part over them make it a z-score."""


class Anisotropy(Detector):
    """z(|| s_D ||) + z(cos(s_D, s_0)) with s_D = s(x_T, c) - s(x_T, empty) and s_0 = s(x_T, empty).

    The authors add the two parts with weights that they set for each model on the prompts that they report (1 and 2,
    1 and 0.1, 2 and 1). Nothing is tuned here: both parts are z-scores over prompts of random letters, which nobody
    trained on and which are the same for all prompts that are scored, and they weigh the same. A score on predicted
    noise is one on the scores of the density: they differ by the factor -1 / sigma, which cancels in both parts.
    """

    name: ClassVar[str] = "anisotropy"
    title: ClassVar[str] = "norm and direction of the guidance in pure noise"
    paper: ClassVar[str] = "anisotropy of the score, ICLR 2026"
    Settings = AnisotropySettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the sum of the two z-scores for each prompt."""
        drawn = Candidates(candidates.seed, range(self.settings.references), f"{candidates.purpose} reference")
        known = self._parts(model, random_prompts(drawn), drawn)
        found = self._parts(model, prompts, candidates)
        z_scores = (found - known.mean(1, keepdims=True)) / known.std(1, ddof=1, keepdims=True)
        total: np.ndarray = z_scores.sum(0)
        return total

    def _parts(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the norm and the cosine of each prompt, 2 x N float64, means over noises."""
        condition, t = model.embed(prompts), last_timestep(model)

        def parts(noise: Tensor) -> Tensor:
            unconditional = predicted_noise(model, noise, t, None).flatten(1)
            change = predicted_noise(model, noise, t, condition).flatten(1) - unconditional
            return torch.stack([change.norm(dim=1), torch.cosine_similarity(change, unconditional, dim=1)])

        return over_noises(model, candidates, self.settings.noises, parts)


def random_prompts(candidates: Candidates) -> list[str]:
    """Return a word of 4 to 16 random letters for each candidate."""
    lengths = (candidates.integers("length", LONGEST - 3) + 4).tolist()
    letters = [candidates.integers(f"letter {place}", len(LETTERS)).tolist() for place in range(LONGEST)]
    return ["".join(LETTERS[row[which]] for row in letters[:length]) for which, length in enumerate(lengths)]
