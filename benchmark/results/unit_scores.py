"""Best matches and pairs of one attack and seed, read from its stored scores."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..contracts import Measure, Side
from ..data.captions import CaptionNumbers
from ..errors import CorruptRun
from ..files import read_table
from ..measures.shard_scores import SIDES, ShardScores
from .run_folder import RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

Groups = Mapping[Side, np.ndarray]
"""Each reference's duplicate group, by side that has images."""


class UnitScores:
    """The columns of one unit that metrics need: best matches and pairs, for some measures of one space.

    `left_out` marks references, by side, that may not be a match in a comparison of both sides (`shared_groups`):
    `matched_*` are the best matches among the others, the same arrays as `best_*` where none is marked. Shards are
    read one after the other and only these columns of them are kept.
    """

    def __init__(self, shards: Iterable[ShardScores], measures: Sequence[Measure], left_out: Groups | None = None):
        self.candidates = self.nan = self.constant = 0
        self.left_out = {side: marks for side, marks in (left_out or {}).items() if marks.any()}
        self.sides: tuple[Side, ...] = ()
        columns: dict[tuple[str, ...], list[np.ndarray]] = {}
        for shard in shards:
            before, self.sides = self.candidates, shard.sides
            self.candidates += len(shard.candidates)
            self.nan += int(shard.nan.sum())
            self.constant += int(shard.constant.sum())
            found = _columns(shard, measures, self.left_out, before)
            for key, values in found.items():
                columns.setdefault(key, []).append(values)
        whole = {key: np.concatenate(columns.pop(key)) for key in list(columns)}
        self.numbers = whole["numbers",]
        self.captions: np.ndarray | None = whole.get(("captions",))
        self.best_ids = {side: whole["best_ids", side] for side in self.sides}
        self.matched_ids = {side: whole.get(("matched_ids", side), self.best_ids[side]) for side in self.sides}
        keys = [(measure.id, side) for measure in measures for side in self.sides]
        self.best_scores = {key: whole["best", *key] for key in keys}
        self.matched_scores = {key: whole.get(("matched", *key), self.best_scores[key]) for key in keys}
        self.pair_ids = {key: whole["pair_ids", *key] for key in keys}
        self.pair_rows = {key: whole["pair_rows", *key] for key in keys}
        self.pair_scores = {key: whole["pair_scores", *key] for key in keys}


def _columns(
    shard: ShardScores, measures: Sequence[Measure], left_out: Groups, before: int
) -> dict[tuple[str, ...], np.ndarray]:
    """Return what is kept of one shard; `before` candidates came in the shards before it."""
    found: dict[tuple[str, ...], np.ndarray] = {("numbers",): shard.candidates}
    if shard.captions is not None:
        found["captions",] = shard.captions
    for side in shard.sides:
        found["best_ids", side] = shard.best_ids(side)
        if side in left_out:
            found["matched_ids", side] = shard.best_ids(side, left_out[side])
        for measure in measures:
            found["best", measure.id, side] = shard.best_scores(measure, side)
            if side in left_out:
                found["matched", measure.id, side] = shard.best_scores(measure, side, left_out[side])
            rows, ids, scores = shard.pair_scores(measure, side)
            found["pair_rows", measure.id, side] = rows + before
            found["pair_ids", measure.id, side] = ids
            found["pair_scores", measure.id, side] = scores
    return found


def stored_groups(folder: RunFolder) -> Groups:
    """Return each reference's duplicate group by side that has images, from references.parquet."""
    table = read_table(folder.references_file)
    try:
        sides, groups = np.array(table["side"].to_pylist()), table["group"].to_numpy()
    except KeyError as error:
        raise CorruptRun(f"references.parquet has no column {error}") from None
    return {side: groups[sides == side] for side in SIDES if (sides == side).any()}


def sides_hash(table: "pa.Table") -> str:
    """Return a SHA-256 over side, row in the data set and duplicate group of every reference image."""
    columns = [table[name].to_pylist() for name in ("side", "row", "group")]
    return hashlib.sha256("".join(f"{line}\n" for line in zip(*columns, strict=True)).encode()).hexdigest()


def stored_captions(folder: RunFolder) -> CaptionNumbers | None:
    """Return each reference's caption and caption family, from references.parquet; None where it has none."""
    table = read_table(folder.references_file)
    if not {"caption", "family"} <= set(table.column_names):
        return None
    sides = np.array(table["side"].to_pylist())
    chosen = {side: sides == side for side in SIDES if (sides == side).any()}
    own, families = (table[name].to_numpy() for name in ("caption", "family"))
    return CaptionNumbers(
        {side: own[rows] for side, rows in chosen.items()}, {side: families[rows] for side, rows in chosen.items()}
    )
