"""Score a shard: nearest references on both sides, pairs above the floor, counts by score bin.

Measures that share a descriptor space share one search. What is stored are distances; scores follow
from them without the model (`unit_scores`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from .contracts import Measure, Neighbours, Side
from .errors import BadInput, CorruptRun, MeasureFailed, SidebenchError
from .store import RunFolder, read_table, write_table

if TYPE_CHECKING:
    import torch

    from .references import ImageSet, References

SCORE_PARTS = ("pairs", "bins", "")
"""The files of a shard's scores; the candidates' one comes last."""

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
    pairs: dict[Side, Pairs]

    @property
    def valid(self) -> np.ndarray:
        """Which candidates are images at all."""
        usable: np.ndarray = ~(self.nan | self.constant)
        return usable

    def best_scores(self, measure: Measure, side: Side) -> np.ndarray:
        """Return each candidate's best-match score, NaN for images that are none."""
        nearest = self.neighbours[side].distances[:, :1]
        scores = _scored(measure, nearest, self.neighbours, side)[:, 0]
        return np.where(self.valid, scores, np.nan)

    def best_ids(self, side: Side) -> np.ndarray:
        """Return each candidate's nearest reference."""
        ids: np.ndarray = self.neighbours[side].ids[:, 0]
        return ids

    def pair_scores(self, measure: Measure, side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (positions of candidates, reference numbers, scores) of the pairs above this measure's floor."""
        pairs = self.pairs[side]
        own = {name: _take(found, pairs.rows) for name, found in self.neighbours.items()}
        scores = _scored(measure, pairs.distances[:, None], own, side)[:, 0]
        keep = scores <= measure.floor if measure.distance else scores >= measure.floor
        return pairs.rows[keep], pairs.ids[keep], scores[keep]


class Scorer:
    """Searches the training and held-out images of a pair; made after every image was generated.

    torch is imported here alone: what a report reads back needs none.
    """

    def __init__(self, references: "References", measures: list[Measure], k: int, device: "torch.device") -> None:
        self.measures, self.k, self.device = measures, k, device
        self._sides: dict[Side, ImageSet] = {"training": references.training, "held_out": references.held_out}
        kept = min(k, *(len(part.representatives()) for part in self._sides.values()))
        for measure in measures:
            if measure.neighbours > kept:
                raise BadInput(
                    f"measure {measure.id} reads {measure.neighbours} nearest duplicate groups, "
                    f"only {kept} are kept or exist"
                )
        self._descriptors: dict[tuple[str, Side], torch.Tensor] = {}

    def score(self, images: "torch.Tensor", candidates: np.ndarray, nan: np.ndarray, space: str) -> ShardScores:
        """Score uint8 images, N x C x H x W."""
        import torch

        flat = images.flatten(1)
        constant = (flat.amin(1) == flat.amax(1)).numpy() & ~nan
        measures = [measure for measure in self.measures if measure.space == space]
        queries = _described(measures[0], (images.float() / 255).to(self.device))

        neighbours = {side: self._nearest(queries, measures[0], side) for side in SIDES}
        valid = torch.from_numpy(~(nan | constant))
        pairs = {side: self._pairs(queries, measures, neighbours, valid, side) for side in SIDES}
        return ShardScores(candidates, nan, constant, neighbours, pairs)

    def _reference_descriptors(self, measure: Measure, side: Side) -> "torch.Tensor":
        import torch

        key = (measure.space, side)
        if key not in self._descriptors:
            images = torch.from_numpy(self._sides[side].images)
            parts = [_described(measure, (part.float() / 255).to(self.device)) for part in images.split(1024)]
            self._descriptors[key] = torch.cat(parts)
        return self._descriptors[key]

    def _nearest(self, queries: "torch.Tensor", measure: Measure, side: Side) -> Neighbours:
        import torch

        from .measures.search import top_k

        references = self._reference_descriptors(measure, side)
        nearest = top_k(queries, references, self.k)
        first = self._sides[side].representatives()
        if len(first) == len(references):
            representatives = nearest.distances
        else:
            representatives = top_k(queries, references[torch.from_numpy(first).to(self.device)], self.k).distances
        return Neighbours(
            nearest.ids.int().cpu().numpy(), nearest.distances.cpu().numpy(), representatives.cpu().numpy()
        )

    def _pairs(
        self,
        queries: "torch.Tensor",
        measures: list[Measure],
        neighbours: dict[Side, Neighbours],
        valid: "torch.Tensor",
        side: Side,
    ) -> Pairs:
        import torch

        from .measures.search import within

        sides = (neighbours["training"], neighbours["held_out"])
        radius = np.max([_radius(measure, *sides, side) for measure in measures], axis=0).astype(np.float32)
        radius = np.nextafter(radius, np.float32(np.inf))  # keep a pair whose score rounds to the floor
        nearest = neighbours[side]
        references = self._reference_descriptors(measures[0], side)

        # Where the k-th neighbour lies outside the radius, the pairs are among the neighbours already.
        complete = nearest.distances[:, -1] > radius
        if nearest.ids.shape[1] == len(references):
            complete[:] = True
        inside = (nearest.distances <= radius[:, None]) & (complete & valid.numpy())[:, None]
        rows, columns = np.nonzero(inside)
        ids, distances = nearest.ids[rows, columns], nearest.distances[rows, columns]

        rest = np.flatnonzero(~complete & valid.numpy())
        if len(rest):
            chosen = torch.from_numpy(rest).to(self.device)
            more = within(queries[chosen], references, torch.from_numpy(radius[rest]).to(self.device))
            rows = np.concatenate([rows, rest[more.rows.cpu().numpy()]])
            ids = np.concatenate([ids, more.ids.int().cpu().numpy()])
            distances = np.concatenate([distances, more.distances.cpu().numpy()])
        order = np.lexsort((ids, rows))
        return Pairs(rows[order].astype(np.int32), ids[order].astype(np.int32), distances[order])


def write_scores(
    folder: RunFolder,
    unit: str,
    space: str,
    shard: int,
    scores: ShardScores,
    measures: list[Measure],
    columns: dict[str, np.ndarray],
) -> None:
    """Store a shard's scores; the candidates' file comes last and says that the shard is complete."""
    pairs = pa.table(
        {
            "candidate": np.concatenate([scores.candidates[scores.pairs[side].rows] for side in SIDES]),
            "row": np.concatenate([scores.pairs[side].rows for side in SIDES]),
            "held_out": np.concatenate([np.full(len(scores.pairs[s].rows), s == "held_out") for s in SIDES]),
            "reference": np.concatenate([scores.pairs[side].ids for side in SIDES]),
            "distance": np.concatenate([scores.pairs[side].distances for side in SIDES]),
        }
    )
    write_table(folder.scores_file(unit, space, shard, "pairs"), pairs)
    write_table(folder.scores_file(unit, space, shard, "bins"), _bin_table(scores, measures))

    table: dict[str, Any] = {
        "candidate": scores.candidates,
        "nan": scores.nan,
        "constant": scores.constant,
        **{f"attack_{name}": values for name, values in columns.items()},
    }
    for side in SIDES:
        for field, values in scores.neighbours[side]._asdict().items():
            table[f"{side}_{field}"] = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    write_table(folder.scores_file(unit, space, shard), pa.table(table))


def read_scores(folder: RunFolder, unit: str, space: str, shard: int) -> ShardScores:
    """Read a shard's scores.

    Raises:
        CorruptRun: a file is missing, truncated or does not hold what it should.
    """
    current, pairs_file = folder.scores_file(unit, space, shard), folder.scores_file(unit, space, shard, "pairs")
    table, pairs = read_table(current), read_table(pairs_file)
    try:
        neighbours: dict[Side, Neighbours] = {
            side: Neighbours(*(_matrix(table[f"{side}_{field}"]) for field in Neighbours._fields)) for side in SIDES
        }
        numbers, nan, constant = (table[name].to_numpy() for name in ("candidate", "nan", "constant"))
        current = pairs_file
        held_out = pairs["held_out"].to_numpy()
        found: dict[Side, Pairs] = {}
        for side in SIDES:
            mine = held_out == (side == "held_out")
            found[side] = Pairs(*(pairs[name].to_numpy()[mine] for name in ("row", "reference", "distance")))
    except (KeyError, AttributeError, ValueError) as error:
        raise CorruptRun(f"scores/{current.name} does not hold scores ({error})") from None
    return ShardScores(numbers, nan, constant, neighbours, found)


def read_all_scores(folder: RunFolder, unit: str, space: str, shards: int) -> Iterator[ShardScores]:
    """Yield the shards of a unit in order."""
    return (read_scores(folder, unit, space, shard) for shard in range(shards))


def _bin_table(scores: ShardScores, measures: list[Measure]) -> pa.Table:
    """Count pairs by measure, side, reference and score bin (bin i is (i - 1, i] widths for distances)."""
    rows: dict[str, list[Any]] = {"measure": [], "held_out": [], "reference": [], "bin": [], "count": []}
    for measure in measures:
        for side in SIDES:
            _, ids, values = scores.pair_scores(measure, side)
            # Tolerate the rounding of an edge such as 0.3 / 0.05; the scores are float32.
            position = values.astype(np.float64) / measure.bin_width
            bins = np.ceil(position - 1e-6) if measure.distance else np.floor(position + 1e-6)
            keys, counts = np.unique(np.stack([ids, bins.astype(np.int64)]), axis=1, return_counts=True)
            rows["measure"] += [measure.id] * len(counts)
            rows["held_out"] += [side == "held_out"] * len(counts)
            rows["reference"] += keys[0].tolist()
            rows["bin"] += keys[1].tolist()
            rows["count"] += counts.tolist()
    types = {"measure": pa.string(), "held_out": pa.bool_(), "reference": pa.int32(), "bin": pa.int32()}
    return pa.table(rows, schema=pa.schema([*types.items(), ("count", pa.int32())]))


def _described(measure: Measure, images: "torch.Tensor") -> "torch.Tensor":
    """Call `descriptors` and check what a plug-in returned."""
    import torch

    with _blaming(measure):
        found = measure.descriptors(images)
    if not isinstance(found, torch.Tensor) or found.dtype != torch.float32 or found.shape[:-1] != (len(images),):
        kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise MeasureFailed(f"measure {measure.id}: descriptors returned {kind}, wanted float32 ({len(images)}, D)")
    if not found.isfinite().all():
        raise MeasureFailed(f"measure {measure.id}: descriptors are not finite")
    return found


def _scored(measure: Measure, distances: np.ndarray, neighbours: dict[Side, Neighbours], side: Side) -> np.ndarray:
    """Call `scores` and check what a plug-in returned."""
    with _blaming(measure):
        found = measure.scores(distances, neighbours["training"], neighbours["held_out"], side)
    _check_numbers(measure, "scores", found, distances.shape)
    return found


def _radius(measure: Measure, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
    """Call `radius` and check what a plug-in returned."""
    with _blaming(measure):
        found = measure.radius(training, held_out, side)
    _check_numbers(measure, "radius", found, (len(training.ids),))
    return found


def _check_numbers(measure: Measure, method: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.shape != shape:
        kind = found.shape if isinstance(found, np.ndarray) else type(found).__name__
        raise MeasureFailed(f"measure {measure.id}: {method} returned {kind}, wanted an array of shape {shape}")
    if np.isnan(found).any():
        raise MeasureFailed(f"measure {measure.id}: {method} returned NaN")


@contextmanager
def _blaming(measure: Measure) -> Iterator[None]:
    try:
        yield
    except SidebenchError:
        raise
    except Exception as error:  # a plug-in may fail in any way; running out of memory is the run's doing, not its own
        if "out of memory" in str(error).lower():
            raise
        raise MeasureFailed(f"measure {measure.id} failed: {type(error).__name__}: {error}") from error


def _matrix(column: Any) -> np.ndarray:
    chunks = column.combine_chunks()
    values: np.ndarray = chunks.flatten().to_numpy()
    return values.reshape(len(column), -1)


def _take(found: Neighbours, rows: np.ndarray) -> Neighbours:
    return Neighbours(*(values[rows] for values in found))
