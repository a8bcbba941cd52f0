"""Scores of one shard of candidates: nearest references, pairs above the floor, best matches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..contracts import Measure, Neighbours, Side
from ..errors import MeasureFailed, blaming
from ..registry import source_of
from .hits import within

SIDES: tuple[Side, Side] = ("training", "held_out")


class Pairs(NamedTuple):
    """Pairs above the floor of one side: position of the candidate, reference number, distance."""

    rows: np.ndarray
    ids: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class ShardScores:
    """The search result of one shard in one descriptor space."""

    candidates: np.ndarray
    """Candidate numbers, (N,)."""
    nan: np.ndarray
    """Images with a value that is not finite; never a match."""
    constant: np.ndarray
    """Images of one single value; never a match."""
    neighbours: dict[Side, Neighbours]
    """Both sides; without a column where the pair has no images on that side."""
    pairs: dict[Side, Pairs]
    captions: np.ndarray | None = None
    """The caption that each candidate was sampled from (`data.captions`), (N,) int64, -1 for none; None where no attack
    was given captions."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that have images."""
        return tuple(side for side in SIDES if self.neighbours[side].ids.shape[1])

    @property
    def valid(self) -> np.ndarray:
        """Which candidates are images at all."""
        usable: np.ndarray = ~(self.nan | self.constant)
        return usable

    def best_scores(self, measure: Measure, side: Side, left_out: np.ndarray | None = None) -> np.ndarray:
        """Return each candidate's best-match score, NaN for images that are none.

        References that are marked in `left_out` (references,) are no match.
        """
        nearest = self._nearest(side, left_out)[1][:, None]
        scores = _scored(measure, nearest, self.neighbours, side)[:, 0]
        return np.where(self.valid, scores, np.nan)

    def best_ids(self, side: Side, left_out: np.ndarray | None = None) -> np.ndarray:
        """Return each candidate's nearest reference that is not left out."""
        return self._nearest(side, left_out)[0]

    def _nearest(self, side: Side, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest reference of each candidate and its distance, among those not left out.

        Where all stored neighbours are left out, the stored pairs are searched, which are complete up to the
        measures' floors; where these have none either, the distance is infinite.
        """
        found = self.neighbours[side]
        if left_out is None:
            # Copies: a view of the first column would keep the whole list of neighbours in memory.
            return found.ids[:, 0].copy(), found.distances[:, 0].copy()
        outside = ~left_out[found.ids]
        rows, first = np.arange(len(outside)), outside.argmax(1)
        ids = found.ids[rows, first]
        distances = np.where(outside.any(1), found.distances[rows, first], np.float32(np.inf))
        pairs = self.pairs[side]
        more = ~left_out[pairs.ids] & ~outside.any(1)[pairs.rows]
        # The nearest comes last: of several values for one row the last is kept.
        order = np.lexsort((pairs.ids[more], pairs.distances[more]))[::-1]
        ids[pairs.rows[more][order]] = pairs.ids[more][order]
        distances[pairs.rows[more][order]] = pairs.distances[more][order]
        return ids, distances

    def pair_scores(self, measure: Measure, side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (positions of candidates, reference numbers, scores) of the pairs above this measure's floor."""
        pairs = self.pairs[side]
        scores = np.empty(len(pairs.rows), dtype=np.float32)
        for rows, places in _alike(pairs.rows, len(self.candidates)):
            own = {name: _take(found, rows) for name, found in self.neighbours.items()}
            scores[places] = _scored(measure, pairs.distances[places], own, side)
        keep = within(scores, measure.floor, measure)
        return pairs.rows[keep], pairs.ids[keep], scores[keep]


def _alike(rows: np.ndarray, candidates: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield candidates with about as many pairs, and the places of their pairs, one line each.

    So a candidate's neighbours are looked at once and not once for each of its pairs. Lines are as long as the next
    power of two; what a candidate has not got repeats its last pair.
    """
    counts = np.bincount(rows, minlength=candidates)
    order = np.argsort(rows, kind="stable")
    starts = np.cumsum(counts) - counts
    width = 1
    while width < 2 * counts.max(initial=0):
        chosen = np.flatnonzero((counts > width // 2) & (counts <= width))
        if len(chosen):
            yield chosen, order[starts[chosen, None] + np.minimum(np.arange(width), counts[chosen, None] - 1)]
        width *= 2


def _scored(measure: Measure, distances: np.ndarray, neighbours: dict[Side, Neighbours], side: Side) -> np.ndarray:
    """Call `scores` and check what a plug-in returned; whatever type it was, scores are float32 from here on."""
    with blaming(f"measure {measure.id}", MeasureFailed, source_of(type(measure))):
        found = measure.scores(distances, neighbours["training"], neighbours["held_out"], side)
    _check_numbers(measure, "scores", found, distances.shape)
    return found.astype(np.float32, copy=False)


def radius_of(measure: Measure, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
    """Call `radius` and check what a plug-in returned."""
    with blaming(f"measure {measure.id}", MeasureFailed, source_of(type(measure))):
        found = measure.radius(training, held_out, side)
    _check_numbers(measure, "radius", found, (len(training.ids),))
    return found


def _check_numbers(measure: Measure, method: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.shape != shape:
        kind = found.shape if isinstance(found, np.ndarray) else type(found).__name__
        raise MeasureFailed(f"measure {measure.id}: {method} returned {kind}, wanted an array of shape {shape}")
    if np.isnan(found).any():
        raise MeasureFailed(f"measure {measure.id}: {method} returned NaN")


def no_neighbours(candidates: int) -> Neighbours:
    """Return the neighbours on a side without images: no column."""
    distances = np.empty((candidates, 0), dtype=np.float32)
    return Neighbours(distances.astype(np.int32), distances, distances)


def _take(found: Neighbours, rows: np.ndarray) -> Neighbours:
    return Neighbours(*(values[rows] for values in found))
