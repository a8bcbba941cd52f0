"""carlini-uncond: plain sampling, the control attack of every table."""

from typing import ClassVar

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import Access, Attack, AttackState, BlackBoxModel, Conditioning, Generated


class CarliniUncond(Attack):
    """Sample without guidance and let the harness look for training images.

    Only the sampling part of Carlini et al. 2023 (arXiv 2301.13188, section 5) under the name that
    arXiv 2410.02467 gives it; their full attack draws 2^20 images from each of 16 models.
    A text-to-image model is asked with the empty prompt: what it says of itself, before anybody knows a caption.
    """

    name: ClassVar[str] = "carlini-uncond"
    title: ClassVar[str] = "plain sampling"
    paper: ClassVar[str] = "arXiv 2301.13188"
    access: ClassVar[Access] = "samples"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "class", "text"})

    def generate(self, model: BlackBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample one image per candidate."""
        return Generated(model.sample(candidates))
