"""What the first page answers: which attack finds most, which defence leaves least at what quality, what is safe."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from . import tables
from .corrected import corrected_low
from .ranking import Board, BoardRow, method_of
from .record import Record
from .svg import Scale, scale

ROWS = 5
"""Rows of a board that the first page shows."""

BOARDS = 4
"""Boards of attacks that it shows."""


class Ranking(NamedTuple):
    """The first rows of a board of attacks, on one axis for all of them."""

    board: Board
    rows: list[BoardRow]
    scale: Scale


class DefenceRow(NamedTuple):
    """One defence of a victim: its row on each board, None where it has none, and how good its images are."""

    method: str
    rows: list[BoardRow | None]
    frechet: float | None


class Defences(NamedTuple):
    """The boards of defences of one victim side by side, the least leak first; `without` has no defence."""

    boards: list[Board]
    rows: list[DefenceRow]
    without: DefenceRow
    frechet_of_training: float | None


class Leaks(NamedTuple):
    """What the attacks of a board say of its model."""

    board: Board
    said: str
    leaks: bool


def rankings(boards: Sequence[Board]) -> list[Ranking]:
    """Return the first rows of the boards of attacks, those with most to rank first."""
    found = sorted((board for board in boards if board.kind == "attacks" and board.ranked), key=_first_excess)
    return [Ranking(board, board.ranked[:ROWS], _axis(board.ranked[:ROWS])) for board in found[:BOARDS]]


def defences(boards: Sequence[Board]) -> list[Defences]:
    """Return the boards of defences, those of one victim under one protocol as one table."""
    alike: dict[tuple[str, ...], list[Board]] = {}
    for board in boards:
        if board.kind == "defences" and board.ranked:
            alike.setdefault(shared(board), []).append(board)
    return [_side_by_side(own) for own in alike.values()]


def models(boards: Sequence[Board]) -> list[Leaks]:
    """Say of the model of each board of attacks what the attack that finds most has found."""
    return [_said_of(board) for board in boards if board.kind == "attacks" and board.ranked]


def shared(board: Board) -> tuple[str, ...]:
    """Return what a reader must know of a board beside its method, as words."""
    record = board.first
    return (
        record.victim.name,
        f"revision {record.victim.revision}",
        record.victim.identity,
        record.measure,
        f"protocol {record.protocol.version}",
        f"{record.candidates:,} candidates",
        f"control {record.victim.control}",
    )


def same_in_all(records: Sequence[Record]) -> dict[str, str]:
    """Return what several rows of a board all have, by its name: said once, it needs no column."""
    told = {
        "submitter": [record.submitter for record in records],
        "preparations": [str(len(record.seeds)) for record in records],
        "hardware": [tables.hardware(record) for record in records],
    }
    return {name: values[0] for name, values in told.items() if len(values) > 1 and len(set(values)) == 1}


class BandMean(NamedTuple):
    """Rates in one band of the measure that ranks, the mean over seeds; `excess` with its interval where it ranks."""

    band: str
    ams: float
    ums: float
    groups: float
    control: float | None
    excess: float | None
    interval: tuple[float, float] | None


def means(record: Record) -> list[BandMean]:
    """Return the mean over the seeds of a record in each band of the measure that ranks it."""
    results = [record.headline(seed) for seed in record.seeds]
    found = []
    for place, band in enumerate(results[0].bands):
        own = [result.bands[place] for result in results]
        control = [side.ams.value for one in own if (side := one.reference or one.held_out) is not None]
        excess = [one.excess.value for one in own if one.excess is not None]
        claimed = record.claims_excess and len(excess) == len(own)
        ranks = claimed and band.band == record.band
        found.append(
            BandMean(
                band.band,
                fmean(one.training.ams.value for one in own),
                fmean(one.training.ums.value for one in own),
                fmean(one.training.groups for one in own),
                fmean(control) if len(control) == len(own) else None,
                record.excess.value if ranks else fmean(excess) if claimed else None,
                (record.excess.low, record.excess.high) if ranks else None,
            )
        )
    return found


def in_common(boards: Sequence[Board]) -> list[str]:
    """Return what is the same on all boards, and so is said once."""
    facts = [shared(board)[3:] for board in boards]
    return [fact for fact in dict.fromkeys(facts[0]) if all(fact in own for own in facts)] if facts else []


def _first_excess(board: Board) -> float:
    return -board.ranked[0].record.excess.value


def _axis(rows: Sequence[BoardRow]) -> Scale:
    ends = [end for row in rows for end in (row.record.excess.low, row.record.excess.high)]
    return scale(min([0.0, *ends]), max([0.0, *ends]), 4)


def _side_by_side(boards: list[Board]) -> Defences:
    methods = dict.fromkeys(method_of(row.record) for board in boards for row in board.ranked)
    rows = [_defence(method, boards) for method in methods]
    rows.sort(key=lambda row: max(found.record.excess.value for found in row.rows if found))
    without: list[BoardRow | None] = [next(iter(board.reference), None) for board in boards]
    qualities = [row.record.quality for board in boards for row in board.ranked if row.record.quality]
    real = next((quality.frechet_of_training for quality in qualities), None)
    return Defences(boards, rows, DefenceRow("no defence", without, _worst_frechet(without)), real)


def _defence(method: str, boards: Sequence[Board]) -> DefenceRow:
    rows = [next((row for row in board.ranked if method_of(row.record) == method), None) for board in boards]
    return DefenceRow(method, rows, _worst_frechet(rows))


def _worst_frechet(rows: Sequence[BoardRow | None]) -> float | None:
    return max((row.record.quality.frechet for row in rows if row and row.record.quality), default=None)


def _said_of(board: Board) -> Leaks:
    """Say what the attacks together show.

    "Gives images away" takes the attack that shows most of several, so its lower end is Bonferroni's over all of them.
    The largest of all upper ends bounds the largest leak as surely as its own end does and needs no correction; nor
    does "all of them hit less", where each one must.
    """
    rows = len(board.ranked)
    most = max(board.ranked, key=lambda row: corrected_low(row.record, rows)).record
    if not most.claims_excess:
        return Leaks(board, "no fair control, so nothing is claimed", False)
    if (low := corrected_low(most, rows)) > 0:
        corrected = f" (95 % limit, corrected for {rows:,} results)" if rows > 1 else ""
        share = f"at least {tables.percent(low)} % of {method_of(most)}'s candidates{corrected}"
        return Leaks(board, f"gives training images away: {share}", True)
    unseen = max(row.record.excess.high for row in board.ranked)
    if unseen < 0:
        return Leaks(board, "training images are hit less than held-out images, which no leak explains", False)
    said = f"no leak was seen; up to {tables.percent(unseen)} % of the candidates could have gone unseen"
    return Leaks(board, said, False)
