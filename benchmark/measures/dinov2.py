"""Similarity of DINOv2 descriptors (Oquab et al. 2023, arXiv 2304.07193): what images show, more than their pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from . import networks
from .embedding import Embedding

if TYPE_CHECKING:
    from torch import Tensor


class Dinov2(Embedding):
    """Cosine similarity of class tokens after the last normalisation.

    It has no fixed bands: two pictures of the same kind of thing are near, so what is a copy must be calibrated.
    """

    name: ClassVar[str] = "dinov2"
    title: ClassVar[str] = "similarity of DINOv2 descriptors"
    paper: ClassVar[str] = "arXiv 2304.07193"
    floor = 0.5
    """Pairs that are less similar are not stored."""
    bin_width = 0.05
    architectures = ("small", "base", "large", "giant")
    default = ("large", "bicubic224", "imagenet", "cls")
    home = "facebook/dinov2-"
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def load(self, place: Path, digest: str, device: str) -> Callable[[Tensor], Tensor]:
        """Return what maps normalised images to class tokens."""
        network = networks.load(place, digest, "Dinov2Model", frozenset({"dinov2"}), device)
        return lambda images: network(images).last_hidden_state[:, 0]
