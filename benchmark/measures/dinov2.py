"""Similarity of DINOv2 descriptors (Oquab et al. 2023, arXiv 2304.07193): what images show, rather than their pixels.

The networks are in facebook/dinov2-small, -base, -large and -giant on the Hub. `sidebench fetch --weights` brings one
in; its hashes are recorded, checked on every later use, and part of a run's identity.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts import Measure, Neighbours, Side
from . import cosine, networks

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = ("small", "base", "large", "giant")
DEFAULT = ("large", "bicubic224", "imagenet", "cls")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2(Measure):
    """Cosine similarity of class tokens; `bicubicN` resizes to N x N whatever the shape, antialiased.

    It has no fixed bands: two pictures of the same kind of thing are near, so what is a copy must be calibrated.
    """

    name: ClassVar[str] = "dinov2"
    title: ClassVar[str] = "similarity of DINOv2 descriptors"
    paper: ClassVar[str] = "arXiv 2304.07193"
    distance: ClassVar[bool] = False
    floor = 0.5
    """Pairs that are less similar are not stored."""
    bin_width = 0.05

    def __init__(self, options: list[str] | None = None) -> None:
        self.options = tuple(options) if options else DEFAULT
        size = re.fullmatch(r"bicubic([1-9]\d{1,3})", self.options[1]) if len(self.options) == len(DEFAULT) else None
        if size is None or self.options[0] not in NETWORKS or self.options[2:] != DEFAULT[2:]:
            raise ValueError(f"write it like dinov2:{':'.join(DEFAULT)}; networks: {', '.join(NETWORKS)}")
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
        """Return the class token after the last normalisation, N x D float32, of length 1."""
        place, digest = networks.check(self._network, self.id, self._home)
        network = networks.load(place, digest, "Dinov2Model", frozenset({"dinov2"}), str(images.device))
        return networks.described(lambda x: network(x).last_hidden_state[:, 0], images, self.size, _MEAN, _STD)

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the cosines."""
        return cosine.from_distances(distances)

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the distance at which the similarity is `floor`."""
        return cosine.radius(self.floor, len(training.ids))

    @property
    def _network(self) -> str:
        return f"dinov2_{self.options[0]}"

    @property
    def _home(self) -> str:
        return f"facebook/dinov2-{self.options[0]}"
