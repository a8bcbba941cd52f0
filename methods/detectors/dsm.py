"""dsm: how much the conditional noise changes between two steps of a guided path."""

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Detector, Settings, WhiteBoxModel
from .predicted_noise import guided_path, over_noises


class DsmSettings(Settings):
    """Which path, and which of its steps."""

    noises: int = Field(1, ge=1)
    """Starting noises of a prompt, the mean over them; the authors take one."""
    step: int = Field(1, ge=0, le=900)
    """The earlier of the two steps; 0 is the one in pure noise."""
    path: int = Field(50, ge=2, le=1000)
    """Steps of the whole path, which say how far apart two of them are."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of the path. The score depends on it: the two points are where guidance led."""


class Dsm(Detector):
    """|| eps(x_{t+1}, c) - eps(x_t, c) ||^2 between steps 1 and 2 (counted from 0) of a path guided by c."""

    name: ClassVar[str] = "dsm"
    title: ClassVar[str] = "change of the conditional noise between two guided steps"
    paper: ClassVar[str] = "DSM, repository randomnameforicml/icml-2026"
    Settings = DsmSettings

    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return the squared distance for each prompt."""
        chosen, condition = self.settings, model.embed(prompts)

        def change(noise: Tensor) -> Tensor:
            path = guided_path(model, condition, noise, chosen.path, chosen.guidance_scale)
            before, after = islice(path, chosen.step, chosen.step + 2)
            return (after.conditional - before.conditional).square().flatten(1).sum(1)

        return over_noises(model, candidates, chosen.noises, change)
