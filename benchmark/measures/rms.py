"""Per-element root-mean-square distance in [0, 1], the l2 of Carlini et al. 2023 (arXiv 2301.13188)."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts import Measure, Neighbours, Side
from ..data.pixels import SPACE, pixel_descriptors

if TYPE_CHECKING:
    from torch import Tensor


class Rms(Measure):
    """rms(a, b) = sqrt(mean((a - b)^2)). It has no fixed bands: what is near depends on the data."""

    name: ClassVar[str] = "rms"
    title: ClassVar[str] = "root-mean-square distance"
    paper: ClassVar[str] = "arXiv 2301.13188"
    space: ClassVar[str] = SPACE
    distance: ClassVar[bool] = True
    floor = 0.15
    """The near-copy threshold of the paper; pairs beyond it are not stored."""
    bin_width = 0.01

    def descriptors(self, images: "Tensor") -> "Tensor":
        """Return the scaled pixels."""
        return pixel_descriptors(images)

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the distances themselves."""
        return distances

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the floor for every candidate."""
        return np.full(len(training.ids), self.floor, dtype=np.float32)
