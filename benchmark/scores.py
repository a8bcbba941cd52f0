"""Stored scores: the search result of a shard, written and read back; scores follow from its distances.

NumPy and pyarrow only: what reads a run's scores needs no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .contracts import Measure, Neighbours, Side
from .errors import CorruptRun, MeasureFailed, blaming
from .store import RunFolder, read_table, write_table

SCORE_PARTS = ("pairs", "bins", "")
"""The files of a shard's scores; the candidates' one comes last."""

SIDES: tuple[Side, Side] = ("training", "held_out")

SHARDS_AT_ONCE = 16
"""Shards that are read before anything is done with them: 0.3 MB each with 50 neighbours a side and few pairs."""


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
            values = _scored(measure, pairs.distances[places], own, side)
            scores = scores.astype(values.dtype, copy=False)
            scores[places] = values
        keep = scores <= measure.floor if measure.distance else scores >= measure.floor
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
    for side in scores.sides:
        for field, values in scores.neighbours[side]._asdict().items():
            table[f"{side}_{field}"] = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    write_table(folder.scores_file(unit, space, shard), pa.table(table))


def read_scores(folder: RunFolder, unit: str, space: str, shard: int) -> ShardScores:
    """Read a shard's scores.

    Raises:
        CorruptRun: a file is missing, truncated, empty or does not hold what it should.
    """
    current, pairs_file = folder.scores_file(unit, space, shard), folder.scores_file(unit, space, shard, "pairs")
    table, pairs = read_table(current), read_table(pairs_file)
    try:
        neighbours = {side: _neighbours(table, side) for side in SIDES}
        numbers, nan, constant = (table[name].to_numpy() for name in ("candidate", "nan", "constant"))
        current = pairs_file
        held_out = pairs["held_out"].to_numpy()
        found: dict[Side, Pairs] = {}
        for side in SIDES:
            mine = held_out == (side == "held_out")
            found[side] = Pairs(*(pairs[name].to_numpy()[mine] for name in ("row", "reference", "distance")))
    except (KeyError, AttributeError, ValueError) as error:
        raise CorruptRun(
            f"scores/{current.name} does not hold scores ({error}); delete it, and the run makes it again"
        ) from None
    scores = ShardScores(numbers, nan, constant, neighbours, found)
    if problem := _problem(scores):
        name = folder.scores_file(unit, space, shard).name
        raise CorruptRun(f"scores/{name}: {problem}; delete it and its .pairs and .bins, and the run makes them again")
    return scores


def _problem(scores: ShardScores) -> str | None:
    """Say what is impossible about a shard's scores, if anything is."""
    if not len(scores.candidates):
        return "it holds no candidate"
    if np.any(np.diff(scores.candidates) != 1):
        return "the candidates' numbers do not follow one another"
    for side in SIDES:
        known, pairs, name = scores.neighbours[side], scores.pairs[side], side.replace("_", "-")
        if np.isnan(known.distances).any() or np.isnan(known.representatives).any() or np.isnan(pairs.distances).any():
            return f"{name} distances are NaN"
        if (known.ids.size and known.ids.min() < 0) or (pairs.ids.size and pairs.ids.min() < 0):
            return f"it names {name} images by numbers below 0"
        if pairs.rows.size and not 0 <= pairs.rows.min() <= pairs.rows.max() < len(scores.candidates):
            return f"it has {name} pairs of candidates that are not there"
    return None


def read_all_scores(folder: RunFolder, unit: str, space: str, shards: int) -> Iterator[ShardScores]:
    """Yield the scores of a unit in order, `SHARDS_AT_ONCE` shards joined: what is done with each has a fixed price."""
    for start in range(0, shards, SHARDS_AT_ONCE):
        yield _joined([read_scores(folder, unit, space, i) for i in range(start, min(start + SHARDS_AT_ONCE, shards))])


def _joined(shards: list[ShardScores]) -> ShardScores:
    """Return shards one after the other as one."""
    if len(shards) == 1:
        return shards[0]
    starts = np.cumsum([0, *(len(shard.candidates) for shard in shards[:-1])])
    found: dict[Side, Pairs] = {}
    for side in SIDES:
        pairs = [shard.pairs[side] for shard in shards]
        rows = [own.rows + start for own, start in zip(pairs, starts, strict=True)]
        ids, distances = (np.concatenate([getattr(own, name) for own in pairs]) for name in ("ids", "distances"))
        found[side] = Pairs(np.concatenate(rows), ids, distances)
    return ShardScores(
        candidates=np.concatenate([shard.candidates for shard in shards]),
        nan=np.concatenate([shard.nan for shard in shards]),
        constant=np.concatenate([shard.constant for shard in shards]),
        neighbours={side: _joined_neighbours([shard.neighbours[side] for shard in shards]) for side in SIDES},
        pairs=found,
    )


def _joined_neighbours(parts: list[Neighbours]) -> Neighbours:
    if len({part.ids.shape[1] for part in parts}) > 1:
        raise CorruptRun("the shards of a unit keep different numbers of neighbours; delete its scores")
    return Neighbours(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _bin_table(scores: ShardScores, measures: list[Measure]) -> pa.Table:
    """Count pairs by measure, side, reference and score bin (bin i is (i - 1, i] widths for distances)."""
    rows: dict[str, list[Any]] = {"measure": [], "held_out": [], "reference": [], "bin": [], "count": []}
    for measure in measures:
        for side in scores.sides:
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


def _scored(measure: Measure, distances: np.ndarray, neighbours: dict[Side, Neighbours], side: Side) -> np.ndarray:
    """Call `scores` and check what a plug-in returned."""
    with blaming(f"measure {measure.id}", MeasureFailed):
        found = measure.scores(distances, neighbours["training"], neighbours["held_out"], side)
    _check_numbers(measure, "scores", found, distances.shape)
    return found


def radius_of(measure: Measure, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
    """Call `radius` and check what a plug-in returned."""
    with blaming(f"measure {measure.id}", MeasureFailed):
        found = measure.radius(training, held_out, side)
    _check_numbers(measure, "radius", found, (len(training.ids),))
    return found


def _check_numbers(measure: Measure, method: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.shape != shape:
        kind = found.shape if isinstance(found, np.ndarray) else type(found).__name__
        raise MeasureFailed(f"measure {measure.id}: {method} returned {kind}, wanted an array of shape {shape}")
    if np.isnan(found).any():
        raise MeasureFailed(f"measure {measure.id}: {method} returned NaN")


def _neighbours(table: pa.Table, side: Side) -> Neighbours:
    """Return a side's neighbours; a pair without held-out images has no column of theirs."""
    columns = [f"{side}_{field}" for field in Neighbours._fields]
    if side == "held_out" and not set(columns) & set(table.column_names):
        return no_neighbours(len(table))
    return Neighbours(*(_matrix(table[name]) for name in columns))


def no_neighbours(candidates: int) -> Neighbours:
    """Return the neighbours on a side without images: no column."""
    distances = np.empty((candidates, 0), dtype=np.float32)
    return Neighbours(distances.astype(np.int32), distances, distances)


def _matrix(column: Any) -> np.ndarray:
    chunks = column.combine_chunks()
    values: np.ndarray = chunks.flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)


def _take(found: Neighbours, rows: np.ndarray) -> Neighbours:
    return Neighbours(*(values[rows] for values in found))
