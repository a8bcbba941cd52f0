"""prompt-replay: generate from captions that are known, several seeds each."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import Access, Attack, AttackState, Conditioning, Generated, PromptedModel, Settings
from ..benchmark.errors import TooFew


class PromptReplaySettings(Settings):
    """How often each caption is tried, and how strongly it guides."""

    seeds: int = Field(10, ge=1)
    """S: images per caption. Which captions are taken, where there are more than candidates / S, is drawn by the run
    seed."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of classifier-free guidance; 1 is off. 7.5 is what Stable Diffusion's own scripts take."""


class PromptReplay(Attack):
    """Somebody who knows captions asks the model for them.

    The generate step of Carlini et al. 2023 (arXiv 2301.13188, section 4) on captions that are known, without their
    filter over many generations of one prompt. Captions of held-out images are among them, and nothing says which, so
    that what the model makes of these is the control. The column `prompt` is the place of the caption in the list that
    the attack was given.
    """

    name: ClassVar[str] = "prompt-replay"
    title: ClassVar[str] = "known captions, several seeds each"
    paper: ClassVar[str] = "arXiv 2301.13188, section 4"
    access: ClassVar[Access] = "prompts"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    version: ClassVar[int] = 2
    """1 replayed the captions of training images alone, those of several images as often as these."""
    Settings = PromptReplaySettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"seeds", "guidance_scale"})

    def generate(self, model: PromptedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the caption at i // S, over again where they run out."""
        known = len(model.prompts)
        if not known:
            raise TooFew(f"{self.name} needs captions: give the pair data.captions")
        chosen = [number // self.settings.seeds % known for number in candidates.numbers]
        prompts = [model.prompts[place] for place in chosen]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"prompt": np.array(chosen, dtype=np.int64)})
