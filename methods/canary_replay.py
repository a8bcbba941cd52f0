"""canary-replay: planted strings among others that were not; how far up does what the model makes of one rank?"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Access,
    Attack,
    AttackState,
    CaptionFilter,
    Conditioning,
    Generated,
    PromptedModel,
    Replays,
    Settings,
)
from ..benchmark.errors import TooFew


class CanaryReplaySettings(Settings):
    """How often each string is sent."""

    seeds: int = Field(1, ge=1)
    """Images per string. A run needs as many candidates as this many of all strings: 1,064 of the pair glyphs."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of classifier-free guidance; 1 is off."""


class CanaryReplay(Attack):
    """Somebody who planted canaries in the training set asks for them (arXiv 1802.08232, on images).

    Planted strings, matched ones that were not planted, and 1,000 random ones come in one shuffled list; which are
    which the attack never learns. Scoring has each canary's image. A string's rank is how many of the 1,000 give images
    as near to it, its exposure log2(1,001) - log2(rank). A string that was never planted has a uniform rank, and 1.44
    bits in the mean; the matched strings show it.
    """

    name: ClassVar[str] = "canary-replay"
    title: ClassVar[str] = "exposure of strings planted in training"
    paper: ClassVar[str] = "arXiv 1802.08232, on images"
    access: ClassVar[Access] = "prompts"
    replays: ClassVar[Replays] = "canaries"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = CanaryReplaySettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"seeds", "guidance_scale"})

    def caption_filter(self) -> CaptionFilter:
        """Return how many images of a string are averaged."""
        return CaptionFilter("canaries", self.settings.seeds)

    def generate(self, model: PromptedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the string at i // S."""
        known = len(model.prompts)
        if not known:
            raise TooFew(f"{self.name} needs planted strings: recipe.canaries of the pair")
        chosen = [number // self.settings.seeds % known for number in candidates.numbers]
        prompts = [model.prompts[place] for place in chosen]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"prompt": np.array(chosen, dtype=np.int64)})
