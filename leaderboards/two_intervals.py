"""A record's interval beside the one that its run shows: of several preparations they are made in different ways."""

from ..benchmark.reports.screen import by_attack, excess_of
from ..benchmark.results.schema import Metrics
from .record import Record
from .tables import percent


def two_intervals(record: Record, metrics: Metrics) -> str:
    """Return one line where the ends of a record's excess are not those that its run shows, and why; else nothing.

    The record takes the candidates of all its seeds together, so that boards can compare records candidate by
    candidate; the run takes preparations as the sample, as far as it can, and otherwise shows the limits of its claim.
    """
    own = by_attack(metrics).get(record.claim.attack)
    found = excess_of(metrics, own) if own and own[0].bands else None
    board = (record.excess.value, record.excess.low, record.excess.high)
    if found is None or not record.claims_excess or _shown(found) == _shown(board):
        return ""
    return (
        f"{record.claim.attack}: the board shows an excess of {_shown(board)}, the run {_shown(found)}: the record "
        f"takes the candidates of its {len(record.seeds)} seeds together, the run its preparations as the sample "
        "(docs/concepts.md, two intervals)"
    )


def _shown(excess: tuple[float, float | None, float | None]) -> str:
    value, low, high = excess
    ends = "" if low is None or high is None else f" [{percent(low)}, {percent(high)}]"
    return f"{percent(value)} %{ends}"
