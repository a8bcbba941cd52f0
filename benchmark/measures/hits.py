"""When a score is a hit: the one place that compares scores with an edge, of a band or a threshold.

A distance is a hit at or below the edge, a similarity at or above it. Scores that are not finite are never a hit.

Both sides are compared as float32. Scores follow from float32 distances, and edges are written as decimals, of which
float32 holds few: the score nearest to 0.3 is 0.300000012. Against the decimal it would be no hit, against the edge
as float32 it is one, so a run and a gate that round in two ways disagree about the same image. A score that was
written to a file and read as a Python number is rounded back to what it was. Rounding never turns an order around:
of two edges the looser one still holds every hit of the stricter one.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..contracts import Band, Measure


class Directed(Protocol):
    """What says which way its scores run, as a measure does."""

    @property
    def distance(self) -> bool:
        """True: a smaller score is a closer match. False: a larger one is."""


def within(scores: np.ndarray, edge: float | np.ndarray, measure: Directed) -> np.ndarray:
    """Return which scores are at least as close as the edge (bool); scores and edges are broadcast."""
    with np.errstate(over="ignore"):  # an edge beyond float32 lies beyond all scores
        ours, ends = (np.asarray(values, dtype=np.float32) for values in (scores, edge))
    near: np.ndarray = as_distances(ours, measure) <= as_distances(ends, measure)
    return near & np.isfinite(ours)


def in_band(scores: np.ndarray, band: Band, measure: Directed) -> np.ndarray:
    """Return which scores lie in the band (bool): within its far edge and not within its near one.

    A band that begins at the closest score there can be has no near edge: a cosine may round to more than 1.
    """
    near, far = (band.low, band.high) if measure.distance else (band.high, band.low)
    inside = within(scores, far, measure)
    begins_closest = within(np.array(near), closest(measure), measure)
    return inside if begins_closest else inside & ~within(scores, near, measure)


def as_distances(scores: np.ndarray, measure: Directed) -> np.ndarray:
    """Return the scores, turned where need be, so that a smaller one is a closer match."""
    return scores if measure.distance else -scores


def owned_shares(ours: np.ndarray, theirs: np.ndarray, measure: Directed) -> tuple[np.ndarray, np.ndarray]:
    """Return which share of each candidate either side owns, by its best scores on both: 1 and 0, or 1/2 each on a tie.

    A side without a match (NaN) owns nothing that counts: no such score lies in a band.
    """
    near, far = (as_distances(scores, measure) for scores in (ours, theirs))
    return np.where(near == far, 0.5, ~(far < near)), np.where(near == far, 0.5, ~(near < far))


def owned_by_control(ours: np.ndarray, theirs: np.ndarray, measure: Directed) -> np.ndarray:
    """Return the held-out side's best scores, NaN where a training image is nearer."""
    nearer = as_distances(ours, measure) < as_distances(theirs, measure)
    found: np.ndarray = np.where(nearer, np.nan, theirs)
    return found


def closest(measure: Directed) -> float:
    """Return the score of an exact copy."""
    return 0.0 if measure.distance else 1.0


def far_edge(band: Band, measure: Directed) -> float:
    """Return the edge of the band at which scores stop to be hits."""
    return float(band.high if measure.distance else band.low)


def band_to(edge: float, measure: Directed, name: str = "") -> Band:
    """Return the band of all scores that are at least as close as the edge."""
    return Band(name, 0.0, edge) if measure.distance else Band(name, edge, 1.0)


def cumulative_bands(bands: Sequence[Band], measure: Directed) -> list[Band]:
    """Return for bands ordered closest first the unions "high+mid", "high+mid+low", ..."""
    return [
        Band(
            "+".join(band.name for band in bands[: i + 1]),
            bands[0].low if measure.distance else bands[i].low,
            bands[i].high if measure.distance else bands[0].high,
        )
        for i in range(1, len(bands))
    ]


def nested_bands(measure: Measure) -> list[Band]:
    """Return the closest band and its unions with the others, each within the next: the bands that a verdict reads."""
    return [*measure.bands[:1], *cumulative_bands(measure.bands, measure)]


def all_bands(measure: Measure) -> list[Band]:
    """Return the measure's bands, closest first, and then their unions."""
    return [*measure.bands, *cumulative_bands(measure.bands, measure)]
