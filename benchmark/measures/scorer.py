"""Score a shard: nearest references on both sides, pairs above the floor, counts by score bin.

Measures that share a descriptor space share one search. What is stored are distances; scores follow
from them without the model (`shard_scores.py`).
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from ..contracts import Measure, Neighbours, Side
from ..data.byte_rows import ByteRows, FloatRows, Rows, as_bytes
from ..data.nearest import top_k, top_k_and_chosen, within
from ..data.products import Prepared, prepare
from ..data.references import ImageSet, References
from ..errors import BadInput, MeasureFailed, blaming
from ..registry import source_of
from .output_path import OutputPath
from .shard_scores import SIDES, Pairs, ShardScores, no_neighbours, radius_of

_BLOCK = 256
"""Reference images turned into descriptors at a time."""


class Scorer:
    """Searches the training and held-out images of a pair; made after every image was generated.

    torch is imported here alone: what a report reads back needs none.
    """

    def __init__(
        self,
        references: References,
        measures: list[Measure],
        k: int,
        device: torch.device,
        path: OutputPath | None = None,
    ) -> None:
        """Take the references, and the model's output path where there is one to speak of.

        Raises:
            BadInput: a measure reads more neighbours than are kept, or needs an autoencoder that is not there.
        """
        self.measures, self.k, self.device, self.path = measures, k, device, path
        self._sides: dict[Side, ImageSet] = {"training": references.training, "held_out": references.held_out}
        kept = min(k, *(len(part.representatives()) for part in self._sides.values() if len(part)))
        for measure in measures:
            if measure.neighbours > kept:
                raise BadInput(
                    f"measure {measure.id} reads the {measure.neighbours} nearest near-duplicate groups, "
                    f"only {kept} are kept or exist"
                )
            if measure.round_trip_of is not None and (path is None or not path.autoencoder):
                raise BadInput(no_autoencoder(measure))
        self._descriptors: dict[tuple[str, Side], Rows] = {}
        self._prepared: dict[tuple[str, Side], Prepared] = {}

    def score(self, images: torch.Tensor, candidates: np.ndarray, nan: np.ndarray, space: str) -> ShardScores:
        """Score uint8 images, N x C x H x W."""
        flat = images.flatten(1)
        constant = (flat.amin(1) == flat.amax(1)).numpy() & ~nan
        measures = [measure for measure in self.measures if measure.space == space]
        queries = self._described(measures[0], images)

        neighbours = {side: self._nearest(queries, measures[0], side) for side in SIDES}
        valid = torch.from_numpy(~(nan | constant))
        pairs = {side: self._pairs(queries, measures, neighbours, valid, side) for side in SIDES}
        return ShardScores(candidates, nan, constant, neighbours, pairs)

    def score_finite(self, images: torch.Tensor, space: str) -> ShardScores:
        """Score uint8 images, N x C x H x W, that are numbered from 0 and had no value that is not finite."""
        return self.score(images, np.arange(len(images)), np.zeros(len(images), dtype=bool), space)

    def reference_descriptors(self, measure: Measure, side: Side) -> Rows:
        """Return the descriptors of a side's images, N x D; made once per descriptor space, or kept as bytes."""
        key = (measure.space, side)
        if key not in self._descriptors:
            self._descriptors[key] = self._as_bytes(measure, side) or self._as_floats(measure, side)
        return self._descriptors[key]

    def _as_bytes(self, measure: Measure, side: Side) -> ByteRows | None:
        """Return pixel descriptors as the images that they are made from; None for all others."""
        if measure.round_trip_of is not None and self.path is not None:
            return None
        images = torch.from_numpy(self._sides[side].images)
        return as_bytes(images, lambda part: self._described(measure, part), _BLOCK)

    def _as_floats(self, measure: Measure, side: Side) -> FloatRows:
        parts = (self._described(measure, part) for part in self._reference_blocks(measure, side))
        # Filled block by block: joining the blocks at the end would need the memory twice.
        first = next(parts)
        found = first.new_empty((len(self._sides[side]), first.shape[1]))
        for number, block in enumerate(itertools.chain([first], parts)):
            found[number * _BLOCK : number * _BLOCK + len(block)] = block
        return FloatRows(found)

    def _described(self, measure: Measure, images: torch.Tensor) -> torch.Tensor:
        return described(measure, (images.float() / 255).to(self.device))

    def _searched(self, measure: Measure, side: Side) -> Prepared:
        """Return a side's descriptors as they are searched; prepared once per descriptor space."""
        key = (measure.space, side)
        if key not in self._prepared:
            self._prepared[key] = prepare(self.reference_descriptors(measure, side), measure.parts)
        return self._prepared[key]

    def as_compared(self, measure: Measure, images: torch.Tensor) -> torch.Tensor:
        """Return images of the data, uint8 N x C x H x W, as this measure compares references: as they are, as a rule.

        A measure of round trips gets what the model's autoencoder makes of them.
        """
        return images if measure.round_trip_of is None or self.path is None else self.path.once(images)[0]

    def _reference_blocks(self, measure: Measure, side: Side) -> Iterator[torch.Tensor]:
        images = self._sides[side].images
        if measure.round_trip_of is None or self.path is None:
            yield from torch.from_numpy(images).split(_BLOCK)
        else:
            yield from self.path.blocks(images, side, _BLOCK)

    def _nearest(self, queries: torch.Tensor, measure: Measure, side: Side) -> Neighbours:
        if not len(self._sides[side]):
            return no_neighbours(len(queries))
        references = self._searched(measure, side)
        first = self._sides[side].representatives()
        if len(first) == len(self._sides[side]):
            nearest = top_k(queries, references, self.k)
            representatives = nearest.distances
        else:
            chosen = torch.zeros(len(self._sides[side]), dtype=torch.bool, device=self.device)
            chosen[torch.from_numpy(first).to(self.device)] = True
            nearest, representatives = top_k_and_chosen(queries, references, chosen, self.k)
        return Neighbours(
            nearest.ids.int().cpu().numpy(), nearest.distances.cpu().numpy(), representatives.cpu().numpy()
        )

    def _pairs(
        self,
        queries: torch.Tensor,
        measures: list[Measure],
        neighbours: dict[Side, Neighbours],
        valid: torch.Tensor,
        side: Side,
    ) -> Pairs:
        nearest = neighbours[side]
        if not nearest.ids.shape[1]:
            none = np.empty(0, dtype=np.int32)
            return Pairs(none, none, np.empty(0, dtype=np.float32))
        sides = (neighbours["training"], neighbours["held_out"])
        radius = np.max([radius_of(measure, *sides, side) for measure in measures], axis=0).astype(np.float32)
        radius = np.nextafter(radius, np.float32(np.inf))  # keep a pair whose score rounds to the floor
        references = self._searched(measures[0], side)

        # Where the k-th neighbour lies outside the radius, the pairs are among the neighbours already.
        complete = nearest.distances[:, -1] > radius
        if nearest.ids.shape[1] == len(self._sides[side]):
            complete[:] = True
        inside = (nearest.distances <= radius[:, None]) & (complete & valid.numpy())[:, None]
        rows, columns = np.nonzero(inside)
        ids, distances = nearest.ids[rows, columns], nearest.distances[rows, columns]

        rest = np.flatnonzero(~complete & valid.numpy())
        if len(rest):
            chosen = torch.from_numpy(rest).to(self.device)
            reach = torch.from_numpy(radius[rest]).to(self.device)
            more = within(queries[chosen], references, reach)
            rows = np.concatenate([rows, rest[more.rows.cpu().numpy()]])
            ids = np.concatenate([ids, more.ids.int().cpu().numpy()])
            distances = np.concatenate([distances, more.distances.cpu().numpy()])
        order = np.lexsort((ids, rows))
        return Pairs(rows[order].astype(np.int32), ids[order].astype(np.int32), distances[order])


def no_autoencoder(measure: Measure) -> str:
    """Say that a measure of round trips has no autoencoder to send references through."""
    plain = "another measure" if measure.round_trip_of is None else measure.round_trip_of.id
    return (
        f"measure {measure.id}: its references go through the model's autoencoder, and there is none here; take {plain}"
    )


def described(measure: Measure, images: torch.Tensor) -> torch.Tensor:
    """Call `descriptors` and check what a plug-in returned."""
    with blaming(f"measure {measure.id}", MeasureFailed, source_of(type(measure))):
        found = measure.descriptors(images)
    if not isinstance(found, torch.Tensor) or found.dtype != torch.float32 or found.shape[:-1] != (len(images),):
        kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise MeasureFailed(f"measure {measure.id}: descriptors returned {kind}, wanted float32 ({len(images)}, D)")
    if not found.isfinite().all():
        raise MeasureFailed(f"measure {measure.id}: descriptors are not finite")
    return found
