"""How often a caption's own image is the nearest one: the link between what was asked for and what came."""

from typing import NamedTuple

import numpy as np

from ..contracts import Band, Measure, Side
from ..data.captions import CaptionNumbers
from ..measures import hits
from ..protocol import CONFIDENCE
from ..stats.families import compare_families, family_rate, family_shares
from ..stats.intervals import Excess
from ..stats.thresholds import calibrates
from .schema import Estimate, OwnImages, Result
from .unit_scores import Groups, UnitScores


class Threshold(NamedTuple):
    """The score within which an own image counts as extracted."""

    band: Band
    q: float | None
    """The rate that it was calibrated to, on candidates with even numbers; None for the closest band as it is."""

    def evaluates(self, numbers: np.ndarray) -> np.ndarray:
        """Return which candidates did not set the threshold, (N,) bool."""
        return np.ones(len(numbers), dtype=bool) if self.q is None else ~calibrates(numbers)


def threshold_of(result: Result, measure: Measure) -> Threshold:
    """Return the threshold of the largest calibration rate that a run supports, else the closest band."""
    for found in result.calibrated:
        if found.tau is not None:
            return Threshold(hits.band_to(found.tau, measure), found.q)
    return Threshold(measure.bands[0], None)


class Replayed(NamedTuple):
    """The candidates that were sampled from captions of one side, N of them."""

    captions: np.ndarray
    """(N,) the caption's number."""
    families: np.ndarray
    """(N,) its family."""
    own: np.ndarray
    """(N,) whether the caption's own image is the nearest of both sides, 1/2 where one of the other side is as near."""
    scores: np.ndarray
    """(N,) of the nearest image on the caption's side."""
    numbers: np.ndarray
    """(N,) candidates."""

    def linked(self) -> np.ndarray:
        """Return the share of candidates with the own image nearest, by family."""
        return family_shares(self.own, self.families)

    def extracted(self, threshold: Threshold, measure: Measure) -> np.ndarray:
        """Return the share with the own image nearest and within the threshold, by family."""
        rows = threshold.evaluates(self.numbers)
        near = self.own * hits.in_band(self.scores, threshold.band, measure)
        return family_shares(near[rows], self.families[rows])


def replayed(
    measure: Measure, scores: UnitScores, groups: Groups, captions: CaptionNumbers, side: Side
) -> Replayed | None:
    """Read off a unit's scores what came of the captions of one side; None where none of them was replayed.

    Captions whose images all lie in near-duplicate groups of both sides take no part.
    """
    if scores.captions is None or side not in groups:
        return None
    kept = ~scores.left_out.get(side, np.zeros(len(groups[side]), dtype=bool))
    own, families = captions.own[side][kept], captions.families[side][kept]
    known, first = np.unique(own, return_index=True)
    chosen = (scores.captions >= 0) & np.isin(scores.captions, known)
    if not chosen.any():
        return None
    asked, best = scores.captions[chosen], scores.matched_scores[measure.id, side][chosen]
    # A caption and a near-duplicate group as one number: the pairs that there are, and those that came.
    wide = int(groups[side].max()) + 1
    came = asked * wide + groups[side][scores.matched_ids[side][chosen]]
    is_own = np.isin(came, own * wide + groups[side][kept]) & np.isfinite(best)
    return Replayed(
        captions=asked,
        families=families[first[np.searchsorted(known, asked)]],
        own=is_own * _shares(measure, scores, side)[chosen],
        scores=best,
        numbers=scores.numbers[chosen],
    )


def _shares(measure: Measure, scores: UnitScores, side: Side) -> np.ndarray:
    """Return which share of each candidate the side owns, (N,); all of it where there is no other side."""
    if len(scores.sides) == 1:
        return np.ones(scores.candidates)
    sides = [scores.matched_scores[measure.id, each] for each in ("training", "held_out")]
    return hits.owned_shares(sides[0], sides[1], measure)[0 if side == "training" else 1]


def own_images(
    result: Result,
    measure: Measure,
    scores: UnitScores,
    groups: Groups,
    captions: CaptionNumbers,
    reference: UnitScores | None = None,
) -> OwnImages | None:
    """Return the own-image rates of one unit, None where it replayed no caption of X.

    `result` is the unit's under this measure. The control is the held-out captions, or the same captions asked of a
    reference model, whose scores are `reference`.
    """
    ours = replayed(measure, scores, groups, captions, "training")
    theirs = (
        replayed(measure, scores, groups, captions, "held_out")
        if reference is None
        else replayed(measure, reference, groups, captions, "training")
    )
    threshold = threshold_of(result, measure)
    if ours is None or not threshold.evaluates(ours.numbers).any():
        return None
    linked = compare_families(ours.linked(), theirs.linked(), CONFIDENCE) if theirs is not None else None
    return OwnImages(
        attack=result.attack,
        seed=result.seed,
        measure=measure.id,
        training_captions=len(np.unique(ours.captions)),
        training_families=len(np.unique(ours.families)),
        control_captions=None if theirs is None else len(np.unique(theirs.captions)),
        control_families=None if theirs is None else len(np.unique(theirs.families)),
        training=Estimate.of(*family_rate(ours.linked(), CONFIDENCE)),
        control=None if linked is None else Estimate.of(*linked.second),
        difference=None if linked is None else Estimate.of(*linked.difference),
        p=None if linked is None else linked.p,
        q=threshold.q,
        threshold=hits.far_edge(threshold.band, measure),
        extracted=Estimate.of(*_extracted(ours, threshold, measure)),
        extracted_control=Estimate.of(*_extracted(theirs, threshold, measure))
        if theirs is not None and threshold.evaluates(theirs.numbers).any()
        else None,
    )


def _extracted(side: Replayed, threshold: Threshold, measure: Measure) -> Excess:
    return family_rate(side.extracted(threshold, measure), CONFIDENCE)
