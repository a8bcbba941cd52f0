"""Similarity of CLIP image embeddings (Radford et al. 2021, arXiv 2103.00020): what a caption would say of images.

The networks are in openai/clip-vit-base-patch32, -base-patch16 and -large-patch14 on the Hub. `sidebench fetch
--weights` brings one in; its hashes are recorded, checked on every later use, and part of a run's identity.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import layout
from ..contracts import Measure, Neighbours, Side
from . import cosine, networks

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = ("vit-base-patch32", "vit-base-patch16", "vit-large-patch14")
DEFAULT = ("vit-large-patch14", "bicubic224", "openai", "projection")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip(Measure):
    """Cosine similarity of projected image embeddings; `bicubicN` resizes to N x N whatever the shape, antialiased.

    It has no fixed bands: any two photographs are similar (their embeddings fill a narrow cone), so what is a copy must
    be calibrated.
    """

    name: ClassVar[str] = "clip"
    title: ClassVar[str] = "similarity of CLIP image embeddings"
    paper: ClassVar[str] = "arXiv 2103.00020"
    distance: ClassVar[bool] = False
    floor = 0.8
    """Pairs that are less similar are not stored."""
    bin_width = 0.02

    def __init__(self, options: list[str] | None = None) -> None:
        self.options = tuple(options) if options else DEFAULT
        size = re.fullmatch(r"bicubic([1-9]\d{1,3})", self.options[1]) if len(self.options) == len(DEFAULT) else None
        if size is None or self.options[0] not in NETWORKS or self.options[2:] != DEFAULT[2:]:
            raise ValueError(f"write it like clip:{':'.join(DEFAULT)}; networks: {', '.join(NETWORKS)}")
        self.size = int(size[1])

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return ":".join((self.name, *self.options))

    @property
    def space(self) -> str:  # type: ignore[override]
        """The descriptor space: each network and preprocessing has its own."""
        return self.id.replace(":", "-")

    def weights(self) -> dict[str, str]:
        """Return the digest of the network's files.

        Raises:
            BadInput: the network is not here; the message says how to bring it in.
            UnsafeFile: it is not the one that was recorded.
        """
        return {self._network: networks.check(self._network, self.id, self._home)[1]}

    def descriptors(self, images: Tensor) -> Tensor:
        """Return the image embeddings, N x D float32, of length 1."""
        place, digest = networks.check(self._network, self.id, self._home)
        kinds = frozenset({"clip", "clip_vision_model"})
        # A whole CLIP network states the projection's width beside its parts, not in the image part.
        stated = layout.read_json(place / networks.CONFIG).get("projection_dim")
        width = {"projection_dim": stated} if isinstance(stated, int) else {}
        network = networks.load(place, digest, "CLIPVisionModelWithProjection", kinds, str(images.device), **width)

        def embed(x: Tensor) -> Tensor:
            embedded: Tensor = network(x, interpolate_pos_encoding=True).image_embeds
            return embedded

        return networks.described(embed, images, self.size, _MEAN, _STD)

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the cosines."""
        return cosine.from_distances(distances)

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the distance at which the similarity is `floor`."""
        return cosine.radius(self.floor, len(training.ids))

    @property
    def _network(self) -> str:
        return f"clip_{self.options[0]}"

    @property
    def _home(self) -> str:
        return f"openai/clip-{self.options[0]}"
