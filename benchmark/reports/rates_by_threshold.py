"""Rates by threshold: what every rate would be, were the closest band wider or narrower. NumPy and SciPy only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..contracts import Measure
from ..measures import hits
from ..protocol import CONFIDENCE
from ..results.rates import attack_hits, side_result
from ..results.schema import Rate
from ..results.unit_scores import Groups, UnitScores
from ..stats.comparison import excess_of

MOST_THRESHOLDS = 40


class Curves(NamedTuple):
    """Rates of one unit by threshold; each array is T x 3: value, lower and upper end of the 95 % interval.

    `ams` and `ums` have the keys "training" and, where there is such a control, "held_out" or "reference" (the
    reference model's candidates against the training images). `excess` is None without a control.
    """

    thresholds: list[float]
    ams: dict[str, np.ndarray]
    ums: dict[str, np.ndarray]
    excess: np.ndarray | None


def by_threshold(measure: Measure, scores: UnitScores, groups: Groups, reference: UnitScores | None = None) -> Curves:
    """Return AMS, UMS and excess of a unit for thresholds on the stored bins; arguments as in `measure_result`."""
    thresholds = _grid(measure, scores)
    bands = [hits.band_to(threshold, measure) for threshold in thresholds]
    found_hits = [attack_hits(measure, band, scores, groups, reference) for band in bands]
    found = {side: [side_result(measure, band, scores, groups, side) for band in bands] for side in groups}
    sides = {str(side): results for side, results in found.items()}
    if reference is not None:
        sides["reference"] = [side_result(measure, band, reference, groups, "training") for band in bands]
    excess = [excess_of(hit, CONFIDENCE) for hit in found_hits if hit.controlled]
    return Curves(
        thresholds,
        ams={side: _rows([result.ams for result in results]) for side, results in sides.items()},
        ums={side: _rows([result.ums for result in results]) for side, results in sides.items()},
        excess=np.array([(value, *interval) for value, interval in excess]) if excess else None,
    )


def _grid(measure: Measure, scores: UnitScores) -> list[float]:
    """Return multiples of the stored bins from the closest score to the floor, or to the farthest best match."""
    near, far = hits.closest(measure), measure.floor
    if not np.isfinite(far):
        best = scores.best_scores[measure.id, "training"]
        finite = best[np.isfinite(best)]
        far = float(finite.max(initial=near) if measure.distance else finite.min(initial=near))
    steps = max(1, round(abs(far - near) / measure.bin_width))
    stride = -(-steps // MOST_THRESHOLDS)
    sign = 1 if measure.distance else -1
    return [round(near + sign * measure.bin_width * step, 9) for step in range(stride, steps + 1, stride)]


def _rows(rates: Sequence[Rate]) -> np.ndarray:
    return np.array([(rate.value, rate.low, rate.high) for rate in rates])
