"""Stored scores: the search result of a shard, written and read back; scores follow from its distances.

NumPy and pyarrow only: what reads a run's scores needs no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..contracts import Measure, Neighbours, Side
from ..errors import CorruptRun
from ..files import read_table, write_table
from ..measures.hits import as_distances, within
from ..measures.shard_scores import SIDES, Pairs, ShardScores, no_neighbours
from .run_folder import RunFolder
from .shards import Shard, below, missing

SCORE_PARTS = ("pairs", "bins", "")
"""The files of a shard's scores; the candidates' one comes last."""

SHARDS_AT_ONCE = 16
"""Shards that are read before anything is done with them: 0.3 MB each with 50 neighbours a side and few pairs."""


def score_tables(
    scores: ShardScores, measures: Sequence[Measure], columns: Mapping[str, np.ndarray]
) -> dict[str, pa.Table]:
    """Return what is stored of a shard's scores, by the files of `SCORE_PARTS`."""
    pairs = pa.table(
        {
            "candidate": np.concatenate([scores.candidates[scores.pairs[side].rows] for side in SIDES]),
            "row": np.concatenate([scores.pairs[side].rows for side in SIDES]),
            "held_out": np.concatenate([np.full(len(scores.pairs[s].rows), s == "held_out") for s in SIDES]),
            "reference": np.concatenate([scores.pairs[side].ids for side in SIDES]),
            "distance": np.concatenate([scores.pairs[side].distances for side in SIDES]),
        }
    )
    table: dict[str, Any] = {
        "candidate": scores.candidates,
        "nan": scores.nan,
        "constant": scores.constant,
        **({} if scores.captions is None else {"caption": scores.captions}),
        **{f"attack_{name}": values for name, values in columns.items()},
    }
    for side in scores.sides:
        for field, values in scores.neighbours[side]._asdict().items():
            table[f"{side}_{field}"] = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    return {"pairs": pairs, "bins": _bin_table(scores, measures), "": pa.table(table)}


def write_scores(
    folder: RunFolder,
    unit: str,
    space: str,
    shard: Shard,
    scores: ShardScores,
    measures: Sequence[Measure],
    columns: Mapping[str, np.ndarray],
) -> None:
    """Store a shard's scores; the candidates' file comes last and says that the shard is complete."""
    write_tables(folder, unit, space, shard, score_tables(scores, measures, columns))


def write_tables(folder: RunFolder, unit: str, space: str, shard: Shard, tables: Mapping[str, pa.Table]) -> None:
    """Store what `score_tables` has made, wherever it was made."""
    # Pairs and bins first: whoever stops the run in between leaves a shard without its candidates' file, which reads as
    # one that was never scored and is scored once more, never as one that is whole.
    for part in SCORE_PARTS:
        write_table(folder.scores_file(unit, space, shard, part), tables[part])


def read_scores(folder: RunFolder, unit: str, space: str, shard: Shard) -> ShardScores:
    """Read a shard's scores.

    Raises:
        CorruptRun: a file is missing, truncated, empty or does not hold what it should.
    """
    # `current` is the file that a message would name: the one that is being read when something is missing.
    current, pairs_file = folder.scores_file(unit, space, shard), folder.scores_file(unit, space, shard, "pairs")
    table, pairs = read_table(current), read_table(pairs_file)
    try:
        neighbours = {side: _neighbours(table, side) for side in SIDES}
        numbers, nan, constant = (table[name].to_numpy() for name in ("candidate", "nan", "constant"))
        captions = table["caption"].to_numpy() if "caption" in table.column_names else None
        current = pairs_file
        held_out = pairs["held_out"].to_numpy()
        found: dict[Side, Pairs] = {}
        for side in SIDES:
            mine = held_out == (side == "held_out")
            found[side] = Pairs(*(pairs[name].to_numpy()[mine] for name in ("row", "reference", "distance")))
    except (KeyError, AttributeError, ValueError) as error:
        raise CorruptRun(
            f"scores/{current.name} does not hold scores ({error}); delete it, and the run rebuilds it"
        ) from None
    scores = ShardScores(numbers, nan, constant, neighbours, found, captions)
    if problem := _problem(scores, shard.numbers):
        name = folder.scores_file(unit, space, shard).name
        raise CorruptRun(f"scores/{name}: {problem}; delete it and its .pairs and .bins, and the run rebuilds them")
    return scores


def _problem(scores: ShardScores, numbers: range) -> str | None:
    """Say what is impossible about the scores of these candidates (of any, where there are none), if anything is."""
    if not len(scores.candidates):
        return "it holds no candidate"
    if odd := _odd_type(scores):
        return f"its {odd} are of another type"
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
    if numbers and (scores.candidates[0] != numbers.start or len(scores.candidates) != len(numbers)):
        return "it holds other candidates than its name says"
    return None


def _odd_type(scores: ShardScores) -> str:
    """Return which columns are of a type that no run writes, or nothing."""
    kinds = {"candidates' numbers": (scores.candidates, "iu"), "marks": (scores.nan, "b")}
    kinds["marks of constant images"] = (scores.constant, "b")
    if scores.captions is not None:
        kinds["captions' numbers"] = (scores.captions, "i")
    for side in SIDES:
        known, pairs, name = scores.neighbours[side], scores.pairs[side], side.replace("_", "-")
        kinds |= {f"{name} images": (known.ids, "iu"), f"{name} distances": (known.distances, "f")}
        kinds |= {f"{name} representatives": (known.representatives, "f"), f"{name} pairs' rows": (pairs.rows, "iu")}
        kinds |= {f"{name} pairs' images": (pairs.ids, "iu"), f"{name} pairs' distances": (pairs.distances, "f")}
    return next((name for name, (values, kind) in kinds.items() if values.size and values.dtype.kind not in kind), "")


def read_all_scores(folder: RunFolder, unit: str, space: str, count: int) -> Iterator[ShardScores]:
    """Yield the scores of a unit's first `count` candidates in order.

    `SHARDS_AT_ONCE` shards are joined: what is done with each has a fixed price.

    Raises:
        CorruptRun: as `read_scores`, or some of the candidates have no scores.
    """
    shards = below(folder.score_shards(unit, space), count)
    if lacking := missing(shards, count, count):
        first, last = lacking[0].numbers[0], lacking[0].numbers[-1]
        raise CorruptRun(f"{folder.path.name} has no scores of {unit} for candidates {first:,} to {last:,}")
    for start in range(0, len(shards), SHARDS_AT_ONCE):
        parts = [read_scores(folder, unit, space, shard) for shard in shards[start : start + SHARDS_AT_ONCE]]
        yield first_scores(_joined(parts), count - shards[start].numbers.start)


def first_scores(scores: ShardScores, kept: int) -> ShardScores:
    """Return the scores of the first `kept` candidates."""
    if kept >= len(scores.candidates):
        return scores
    return ShardScores(
        candidates=scores.candidates[:kept],
        nan=scores.nan[:kept],
        constant=scores.constant[:kept],
        neighbours={
            side: Neighbours(*(column[:kept] for column in scores.neighbours[side])) for side in scores.neighbours
        },
        pairs={side: Pairs(*(column[own.rows < kept] for column in own)) for side, own in scores.pairs.items()},
        captions=None if scores.captions is None else scores.captions[:kept],
    )


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
        captions=_joined_captions([shard.captions for shard in shards]),
    )


def _joined_captions(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if known and len(known) < len(parts):
        raise CorruptRun("some shards of a unit say which captions were replayed and some do not; delete its scores")
    return np.concatenate(known) if known else None


def _joined_neighbours(parts: list[Neighbours]) -> Neighbours:
    if len({part.ids.shape[1] for part in parts}) > 1:
        raise CorruptRun("the shards of a unit keep different numbers of neighbours; delete its scores")
    return Neighbours(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _bin_table(scores: ShardScores, measures: Sequence[Measure]) -> pa.Table:
    """Count pairs by measure, side, reference and score bin (bin i is (i - 1, i] widths, [i, i + 1) for similarities).

    A pair lies in the closest bin whose far edge, i widths, it is within, so that sums of bins are those of bands.
    """
    rows: dict[str, list[Any]] = {"measure": [], "held_out": [], "reference": [], "bin": [], "count": []}
    for measure in measures:
        for side in scores.sides:
            _, ids, values = scores.pair_scores(measure, side)
            # Division finds the bin but for rounding, as with 0.3 / 0.05; at an edge `within` decides, as for a band.
            steps = np.ceil(as_distances(values.astype(np.float64), measure) / measure.bin_width - 1e-6)
            steps += ~within(values, as_distances(steps, measure) * measure.bin_width, measure)
            bins = as_distances(steps, measure).astype(np.int64)
            keys, counts = np.unique(np.stack([ids, bins]), axis=1, return_counts=True)
            rows["measure"] += [measure.id] * len(counts)
            rows["held_out"] += [side == "held_out"] * len(counts)
            rows["reference"] += keys[0].tolist()
            rows["bin"] += keys[1].tolist()
            rows["count"] += counts.tolist()
    types = {"measure": pa.string(), "held_out": pa.bool_(), "reference": pa.int32(), "bin": pa.int32()}
    return pa.table(rows, schema=pa.schema([*types.items(), ("count", pa.int32())]))


def _neighbours(table: pa.Table, side: Side) -> Neighbours:
    """Return a side's neighbours; a pair without held-out images has no column of theirs."""
    columns = [f"{side}_{field}" for field in Neighbours._fields]
    if side == "held_out" and not set(columns) & set(table.column_names):
        return no_neighbours(len(table))
    return Neighbours(*(_matrix(table[name]) for name in columns))


def _matrix(column: Any) -> np.ndarray:
    chunks = column.combine_chunks()
    values: np.ndarray = chunks.flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)
