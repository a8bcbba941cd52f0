"""Similarity of CLIP image embeddings (Radford et al. 2021, arXiv 2103.00020): what a caption would say of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..data import pipeline_folder
from . import networks
from .embedding import Embedding

if TYPE_CHECKING:
    from torch import Tensor

KINDS = frozenset({"clip", "clip_vision_model"})


class Clip(Embedding):
    """Cosine similarity of image embeddings in the space that images and captions share.

    It has no fixed bands: any two photographs are similar (their embeddings fill a narrow cone), so what is a copy must
    be calibrated.
    """

    name: ClassVar[str] = "clip"
    title: ClassVar[str] = "similarity of CLIP image embeddings"
    paper: ClassVar[str] = "arXiv 2103.00020"
    floor = 0.8
    """Pairs that are less similar are not stored."""
    bin_width = 0.02
    architectures = ("vit-base-patch32", "vit-base-patch16", "vit-large-patch14")
    default = ("vit-large-patch14", "bicubic224", "openai", "projection")
    home = "openai/clip-"
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def load(self, place: Path, digest: str, device: str) -> Callable[[Tensor], Tensor]:
        """Return what maps normalised images to projected embeddings."""
        # A whole CLIP network states the projection's width beside its parts, not in the image part.
        stated = pipeline_folder.read_json(place / networks.CONFIG).get("projection_dim")
        width = {"projection_dim": stated} if isinstance(stated, int) else {}
        network = networks.load(place, digest, "CLIPVisionModelWithProjection", KINDS, device, **width)
        return lambda images: network(images, interpolate_pos_encoding=True).image_embeds
