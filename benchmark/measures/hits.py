"""When a score is a hit: bands, and their unions."""

from collections.abc import Sequence

import numpy as np

from ..contracts import Band


def in_band(scores: np.ndarray, band: Band, *, distance: bool) -> np.ndarray:
    """Return which scores lie in the band."""
    if distance:
        near = scores > band.low if band.low > 0 else np.ones(scores.shape, dtype=bool)
        inside: np.ndarray = near & (scores <= band.high)
    else:
        near = scores < band.high if band.high < 1 else np.ones(scores.shape, dtype=bool)
        inside = near & (scores >= band.low)
    return inside


def cumulative_bands(bands: Sequence[Band], *, distance: bool) -> list[Band]:
    """Return for bands ordered closest first the unions "high+mid", "high+mid+low", ..."""
    return [
        Band(
            "+".join(band.name for band in bands[: i + 1]),
            bands[0].low if distance else bands[i].low,
            bands[i].high if distance else bands[0].high,
        )
        for i in range(1, len(bands))
    ]
