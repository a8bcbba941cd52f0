"""prompt-replay: generate from the captions of training images, several seeds each."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from ..benchmark.candidates import Candidates, generator
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
    """Somebody who knows captions of the training set asks the model for them.

    The generate step of Carlini et al. 2023 (arXiv 2301.13188, section 4) on captions that are known, without their
    filter over many generations of one prompt. The column `prompt` is the training image whose caption was used.
    """

    name: ClassVar[str] = "prompt-replay"
    title: ClassVar[str] = "known captions, several seeds each"
    paper: ClassVar[str] = "arXiv 2301.13188, section 4"
    access: ClassVar[Access] = "prompts"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = PromptReplaySettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"seeds", "guidance_scale"})

    def generate(self, model: PromptedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the caption at i // S in an order drawn by the run seed, over again where they run out."""
        known = len(model.prompts)
        if not known:
            raise TooFew(f"{self.name} needs captions: give the pair data.captions")
        order = torch.randperm(known, generator=generator(candidates.seed, "prompts", 0, "order"))
        chosen = [int(order[number // self.settings.seeds % known]) for number in candidates.numbers]
        prompts = [model.prompts[position] for position in chosen]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"prompt": np.array(chosen, dtype=np.int64)})
