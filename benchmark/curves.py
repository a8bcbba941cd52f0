"""Rates by threshold: what every rate would be, were the closest band wider or narrower. NumPy and SciPy only."""

from typing import NamedTuple

import numpy as np

from . import tally
from .comparison import excess_of
from .contracts import Band, Measure, Side
from .protocol import CONFIDENCE
from .results import UnitScores, attack_hits
from .statistics import unique_count, wilson

MOST_THRESHOLDS = 40


class Curves(NamedTuple):
    """Rates of one unit by threshold; each array is T x 3: value, lower and upper end of the 95 % interval."""

    thresholds: list[float]
    ams: dict[Side, np.ndarray]
    ums: dict[Side, np.ndarray]
    excess: np.ndarray


def by_threshold(measure: Measure, scores: UnitScores, groups: dict[Side, np.ndarray]) -> Curves:
    """Return AMS, UMS and excess of a unit for thresholds on the stored bins; `groups` as in `measure_result`."""
    thresholds = _grid(measure, scores)
    bands = [_within(measure, threshold) for threshold in thresholds]
    hits = [attack_hits(measure, band, scores, groups) for band in bands]
    found = [excess_of(hit, CONFIDENCE) for hit in hits]
    counts: dict[Side, list[int]] = {
        "training": [int(hit.training_hits.sum()) for hit in hits],
        "held_out": [int(hit.held_out_hits.sum()) for hit in hits],
    }
    n = scores.candidates
    return Curves(
        thresholds,
        ams={side: np.array([(hit / n, *wilson(hit, n, CONFIDENCE)) for hit in counts[side]]) for side in groups},
        ums={side: np.array([_ums(measure, b, scores, side, len(own)) for b in bands]) for side, own in groups.items()},
        excess=np.array([(value, *interval) for value, interval in found]),
    )


def _within(measure: Measure, threshold: float) -> Band:
    """Return the band of all scores at least as close as the threshold."""
    return Band("", 0.0, threshold) if measure.distance else Band("", threshold, 1.0)


def _grid(measure: Measure, scores: UnitScores) -> list[float]:
    """Return multiples of the stored bins from the closest score to the floor, or to the farthest best match."""
    near, far = (0.0, measure.floor) if measure.distance else (1.0, measure.floor)
    if not np.isfinite(far):
        best = scores.best_scores[measure.id, "training"]
        finite = best[np.isfinite(best)]
        far = float(finite.max(initial=near) if measure.distance else finite.min(initial=near))
    steps = max(1, round(abs(far - near) / measure.bin_width))
    stride = -(-steps // MOST_THRESHOLDS)
    sign = 1 if measure.distance else -1
    return [round(near + sign * measure.bin_width * step, 9) for step in range(stride, steps + 1, stride)]


def _ums(measure: Measure, band: Band, scores: UnitScores, side: Side, references: int) -> tuple[float, float, float]:
    ids, values = scores.pair_ids[measure.id, side], scores.pair_scores[measure.id, side]
    frequencies = tally.ums_frequencies(ids, values, band, references, distance=measure.distance)
    interval, n = unique_count(frequencies, references, CONFIDENCE), scores.candidates
    return int((frequencies > 0).sum()) / n, interval.low / n, interval.high / n
