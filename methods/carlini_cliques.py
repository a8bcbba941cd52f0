"""carlini-cliques: many images of each caption; those that agree with each other give a memorised caption away."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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
    Settings,
)
from ..benchmark.errors import TooFew


class CarliniCliquesSettings(Settings):
    """How many images are made of a caption, and how many of them must agree."""

    images: int = Field(32, ge=3)
    """S: images per caption; the paper's 500 are out of reach of anybody's second run."""
    clique: int = Field(0, ge=0)
    """Images that must agree. 0: the paper's share, 10 of 500, and at least 3."""
    guidance_scale: float = Field(7.5, ge=1)
    """Of classifier-free guidance; 1 is off."""


class CarliniCliques(Attack):
    """Generate and filter, the text-to-image attack of Carlini et al. 2023.

    Captions are asked for S images each. A model that has memorised a caption's image draws it every time, so that
    images agree: a clique of them lies within delta, by the distance of the tile in which two images differ most. The
    paper does not give its delta and looks at its flags by eye. Here the attack makes images and names the method;
    delta is set on held-out captions, and flags are counted, by scoring (`measures/cliques.py`, `stats/flags.py`).
    """

    name: ClassVar[str] = "carlini-cliques"
    title: ClassVar[str] = "known captions, filtered by images that agree"
    paper: ClassVar[str] = "arXiv 2301.13188, section 4"
    access: ClassVar[Access] = "prompts"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = CarliniCliquesSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"images", "clique", "guidance_scale"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"guidance_scale": (1.0, 3.0, 7.5)}

    def caption_filter(self) -> CaptionFilter:
        """Return S and the size of a clique, for scoring."""
        images = self.settings.images
        return CaptionFilter("cliques", images, self.settings.clique or max(3, round(images / 50)))

    def least_candidates(self) -> int:
        """Return the images of one caption: fewer make no clique that could be looked for."""
        return int(self.settings.images)

    def generate(self, model: PromptedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Give candidate i the caption at i // S."""
        known = len(model.prompts)
        if not known:
            raise TooFew(f"{self.name} needs captions: give the pair data.captions")
        chosen = [number // self.settings.images % known for number in candidates.numbers]
        prompts = [model.prompts[place] for place in chosen]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.guidance_scale)
        return Generated(images, {"prompt": np.array(chosen, dtype=np.int64)})
