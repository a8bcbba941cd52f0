"""Measures that are the cosine of unit-length descriptors, from Euclidean distances: |a - b|^2 = 2 - 2 cos."""

from typing import ClassVar

import numpy as np

from ..contracts import Measure, Neighbours, Side


class CosineMeasure(Measure):
    """The cosine of descriptors of length 1; pairs below `floor` are not stored."""

    distance: ClassVar[bool] = False

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return 1 - d^2 / 2, the cosine of unit vectors at distance d, float32."""
        cosines: np.ndarray = (1 - distances.astype(np.float64) ** 2 / 2).astype(np.float32)
        return cosines

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return for each candidate the distance at which the cosine is `floor`, float32."""
        return np.full(len(training.ids), (2 * (1 - self.floor)) ** 0.5, dtype=np.float32)


class NetworkMeasure(CosineMeasure):
    """The cosine of a network's descriptors, under an id that spells network and preprocessing in `options`."""

    options: tuple[str, ...]

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return ":".join((self.name, *self.options))

    @property
    def space(self) -> str:  # type: ignore[override]
        """The descriptor space: each network and preprocessing has its own."""
        return self.id.replace(":", "-")
