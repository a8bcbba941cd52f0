"""What measures of unit-length descriptors share: cosines from Euclidean distances, |a - b|^2 = 2 - 2 cos."""

import numpy as np


def from_distances(distances: np.ndarray) -> np.ndarray:
    """Return 1 - d^2 / 2, the cosine of unit vectors at distance d, float32."""
    scores: np.ndarray = (1 - distances.astype(np.float64) ** 2 / 2).astype(np.float32)
    return scores


def radius(floor: float, candidates: int) -> np.ndarray:
    """Return for each candidate the distance at which the cosine is `floor`, float32."""
    return np.full(candidates, (2 * (1 - floor)) ** 0.5, dtype=np.float32)
