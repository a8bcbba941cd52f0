"""Lower limits of excesses that hold for all rows of a board at once: whoever points at one of many rows needs them."""

from collections.abc import Sequence

import numpy as np

from ..benchmark.protocol import CONFIDENCE
from ..benchmark.stats.comparison import INTERVAL_SWAPS, excess_of
from ..benchmark.stats.intervals import normal_quantile
from .record import Record, pooled_hits

SWAPPED_ROWS = 20
"""Rows whose limits come from label swaps; they need swaps by the number of rows, so larger boards would take hours."""


def corrected_low(record: Record, rows: int) -> float:
    """Return the lower end of an excess that holds for so many records at once, by Bonferroni.

    Of many rows, and of images that are not public, whose record has no hits to compute it from, the interval is
    widened as a normal one: an approximation, which is not above 0 where so few groups are hit that no swap of their
    sides could show a leak at this level.
    """
    low, confidence = record.excess.low, 1 - (1 - CONFIDENCE) / rows
    if rows == 1 or low <= 0:
        return low
    wider = normal_quantile(confidence) / normal_quantile(CONFIDENCE)
    widened = record.excess.value - wider * (record.excess.value - low)
    if not record.hits:
        return widened
    (found,) = pooled_hits([record], record.seeds)
    if rows <= SWAPPED_ROWS:
        return min(low, excess_of(found, confidence, rows * INTERVAL_SWAPS).interval.low)
    groups = np.count_nonzero(found.training_credits) + np.count_nonzero(found.control_credits)
    return min(widened, 0.0) if 2.0**-groups > (1 - confidence) / 2 else widened


def leaking(records: Sequence[Record]) -> int:
    """Return how many records of one board have an excess above 0, all of them taken together."""
    return sum(corrected_low(record, len(records)) > 0 for record in records)
