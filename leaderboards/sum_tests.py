"""Which rows of a board differ where records hold sums alone: preparations as units, and counts of the same run.

Preparations are the units of any two records (Welch's t test). Two attacks of one run whose preparations are not
random have a table of counts too (`record.PairedCounts`), so that they are tested as on other boards: candidate by
candidate, and over groups. Of groups such records say how many own about how many candidates; the largest variance that
fits is taken, and the covariance, which is above 0 as attacks favour the same groups, is left out. Both make fewer
rows differ, never more. Where groups are of several size classes, whose weights the histograms do not hold, and
where both records' tables do not fit each other, preparations alone are tested.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .rank_tests import Standing, prepares, standing_of, welch
from .record import PARTS, Cell, PairedCounts, Part, Record, Shares


def standing_of_sums(records: Sequence[Record], *, highest_first: bool, by_cost: bool = False) -> Standing | None:
    """Return the rank ranges of records that hold sums, at equal candidates or at equal cost.

    None at equal cost where a preparation costs nothing, which compares with none.
    """
    values = [excess_by_preparation(record) for record in records]
    worth = [np.ones(len(own)) for own in values]
    if by_cost:
        spent = [np.array([cost.denoiser_equivalents for cost in record.costs]) for record in records]
        if any((own <= 0).any() for own in spent):
            return None
        worth = [1 / own for own in spent]
    p = p_of_sums(records, worth)
    means = np.array([float((own * rate).mean()) for own, rate in zip(values, worth, strict=True)])
    direction = np.sign(means[:, None] - means[None, :]).astype(np.int8)
    return standing_of(p, direction, highest_first=highest_first)


def p_of_sums(records: Sequence[Record], worth: Sequence[np.ndarray]) -> np.ndarray:
    """Return p (rows, rows), two-sided and uncorrected; `worth` (preparations,) is what a hit counts in each row."""
    p = welch([excess_by_preparation(each) * own for each, own in zip(records, worth, strict=True)], unvarying=1.0)
    for row, column in combinations(range(len(records)), 2):
        both = (records[row], records[column])
        tables = _tables(*both)
        if tables and not any(map(prepares, both)):
            rates = [float(worth[place].mean()) for place in (row, column)]
            p[row, column] = p[column, row] = _paired_p(both, tables, rates)
    return p


def excess_by_preparation(record: Record) -> np.ndarray:
    """Return the excess of each preparation in the closest band, 0 where it has none."""
    found = [record.headline(seed).bands[0].excess for seed in record.seeds]
    return np.array([0.0 if excess is None else excess.value for excess in found])


def _tables(first: Record, second: Record) -> list[PairedCounts]:
    """Return the counts of both records' candidates, one per preparation; none unless all of them can be relied on.

    Each must stand in both records, turned, and add up to what either side owns under both attacks. Groups of one size
    class alone and more than one of either side, else the histograms do not bound a variance.
    """
    groups = first.victim.compared_groups().values()
    if len(first.victim.classes) > 1 or min(groups) < 2:
        return []
    ours, theirs = _of_closest(first, second), _of_closest(second, first)
    if not ours.keys() == theirs.keys() == set(first.seeds) == set(second.seeds):
        return []
    found = list(ours.values())
    fits = all(np.array_equal(np.transpose(own.counts), theirs[seed].counts) for seed, own in ours.items())
    return found if fits and all(_adds_up(first, own, 1) and _adds_up(second, own, 0) for own in found) else []


def _of_closest(record: Record, other: Record) -> dict[int, PairedCounts]:
    """Return a record's tables in its closest band that name the other record's scores, by preparation."""
    scores = other.hashes.scores
    return {
        each.seed: each
        for each in record.paired
        if each.band == record.band and each.scores == scores.get(str(each.seed))
    }


def _adds_up(record: Record, table: PairedCounts, axis: int) -> bool:
    """Return whether a table's sums along an axis are what the record's sides own in this preparation."""
    (own,) = [share for share in _shares(record) if share.seed == table.seed]
    wanted = (own.training, own.control, record.candidates - own.training - own.control)
    return bool(np.allclose(np.sum(table.counts, axis=axis), wanted))


class _Sums(NamedTuple):
    """One record in its closest band: what all of its preparations own, and what an owned candidate counts."""

    training: float
    control: float
    weight: float
    """Of a candidate that the control owns, so that the excess is training less weight times control."""

    @classmethod
    def of(cls, record: Record) -> "_Sums":
        shares = _shares(record)
        training, control = (sum(getattr(share, side) for share in shares) for side in ("training", "control"))
        total = record.candidates * float(excess_by_preparation(record).sum())
        return cls(training, control, (training - total) / control if control else 1.0)

    @property
    def values(self) -> np.ndarray:
        """What a candidate counts that training, the control or nobody owns."""
        return np.array([1.0, -self.weight, 0.0])


def _shares(record: Record) -> list[Shares]:
    return [share for share in record.shares if share.band == record.band]


def _paired_p(records: tuple[Record, Record], tables: Sequence[PairedCounts], worth: Sequence[float]) -> float:
    """Return p, two-sided, of two attacks finding the same for their worth: the larger of both kinds of unit."""
    from scipy.stats import norm, t

    parts = [_Sums.of(record) for record in records]
    # Of two rows the dearer one's hits count for less, as in `rank_tests`.
    rates = [rate / max(worth) for rate in worth]
    counts = np.sum([table.counts for table in tables], axis=0)
    n = float(counts.sum())
    # What a candidate adds to the difference, by what owns it under either attack; a tied one counts as its halves,
    # so that the sum of squares is the largest that it can be.
    each = rates[0] * parts[0].values[:, None] - rates[1] * parts[1].values[None, :]
    gap = float((counts * each).sum())
    # Bonett and Price: one more candidate on either side.
    centre = gap / (n + 2)
    variance = (float((counts * each**2).sum()) + 2) / (n + 2) - centre**2
    by_candidate = 2 * norm.sf(abs(centre) / math.sqrt(variance / (n + 2)))
    groups, spread = records[0].victim.compared_groups(), 0.0
    for record, part, rate in zip(records, parts, rates, strict=True):
        for side, weight in zip(PARTS, (1.0, part.weight), strict=True):
            spread += (rate * weight) ** 2 * _most_variance(record, side, groups[side])
    if spread == 0:
        return float(by_candidate)
    by_group = 2 * t.sf(abs(gap) / math.sqrt(spread), min(groups.values()) - 1)
    return float(max(by_candidate, by_group))


def _most_variance(record: Record, side: Part, groups: int) -> float:
    """Return the largest variance of what all groups of a side own together, summed over preparations."""
    deviations = []
    for share in _shares(record):
        owned: float = getattr(share, side)
        cells: Sequence[Cell] = getattr(share, f"{side}_groups")
        squares = sum(map(_most_squares, cells)) + (owned - sum(cell.candidates for cell in cells)) ** 2
        deviations.append(math.sqrt(max(0.0, squares - owned**2 / groups)))
    # The same groups own much in each preparation: at most, their deviations add up.
    return groups / (groups - 1) * sum(deviations) ** 2


def _most_squares(cell: Cell) -> float:
    """Return the largest sum of squares of a cell's credits: as many groups at either end as its sum allows."""
    low, high = cell.least - 0.5, float(cell.most)
    at_high = (cell.candidates - cell.groups * low) / (high - low)
    return at_high * high**2 + (cell.groups - at_high) * low**2
