"""Captions that an attack calls memorised: flagged below a threshold that held-out captions set."""

from typing import Any

import numpy as np

from ..contracts import Measure, Side
from ..data.captions import CaptionNumbers
from ..errors import CorruptRun, TooFew
from ..files import read_table
from ..measures import hits
from ..protocol import CONFIDENCE
from ..stats.families import compare_families, family_shares
from ..stats.flags import flag_threshold, halves
from ..stats.intervals import wilson
from .own_images import replayed, threshold_of
from .run_folder import RunFolder
from .schema import CaptionFlags, Estimate, Result
from .unit_scores import Groups, UnitScores


def caption_flags(
    folder: RunFolder,
    unit: str,
    result: Result,
    measure: Measure,
    scores: UnitScores,
    groups: Groups,
    captions: CaptionNumbers,
) -> CaptionFlags | None:
    """Return what flags of one unit say, None where its attack flags nothing.

    `result` is the unit's under this measure, which says when the image that stands for a caption is a training image.
    """
    rated = (folder.manifest() or {"units": {}})["units"].get(unit, {}).get("filter")
    if rated is None or rated["kind"] == "canaries":
        return None
    table = _ratings(folder, unit, scores.candidates)
    sides = {side: _Rated.of(table, captions, scores, groups, side) for side in ("training", "held_out")}
    ours, theirs = sides["training"], sides["held_out"]
    head: dict[str, Any] = {
        "attack": result.attack,
        "seed": result.seed,
        "measure": measure.id,
        "kind": rated["kind"],
        "training_captions": len(ours.scores),
        "control_captions": len(theirs.scores),
    }
    sets = halves(theirs.families)
    try:
        threshold = flag_threshold(theirs.scores[sets])
        if not len(ours.scores) or sets.all():
            raise TooFew("captions of one side alone were rated")
    except TooFew as error:
        return CaptionFlags(**head, refused=str(error))
    rest = theirs.rows(~sets)
    flagged = [side.rows(side.scores < threshold) for side in (ours, rest)]
    shares = [family_shares((side.scores < threshold).astype(np.float64), side.families) for side in (ours, rest)]
    found = compare_families(shares[0], shares[1], CONFIDENCE)
    near, own = _returned(flagged, result, measure, scores, groups, captions)
    count = sum(len(side.scores) for side in flagged)
    return CaptionFlags(
        **head,
        refused="",
        threshold=threshold if rated["kind"] == "cliques" else -threshold,
        calibrated_on=int(sets.sum()),
        training=Estimate.of(*found.first),
        control=Estimate.of(*found.second),
        difference=Estimate.of(*found.difference),
        p=found.p,
        flags=count,
        true=near,
        own=own,
        precision=Estimate.of(near / count, wilson(near, count, CONFIDENCE)) if count else None,
    )


class _Rated:
    """The rated captions of one side."""

    def __init__(self, captions: np.ndarray, families: np.ndarray, scores: np.ndarray, candidates: np.ndarray) -> None:
        self.captions, self.families, self.scores, self.candidates = captions, families, scores, candidates

    @classmethod
    def of(
        cls, table: dict[str, np.ndarray], captions: CaptionNumbers, scores: UnitScores, groups: Groups, side: Side
    ) -> "_Rated":
        """Read them off; captions whose images all lie in near-duplicate groups of both sides take no part."""
        nothing = np.empty(0, dtype=np.int64)
        own, families = (each.get(side, nothing) for each in captions)
        kept = ~scores.left_out.get(side, np.zeros(len(own), dtype=bool)) & (own >= 0)
        known, first = np.unique(own[kept], return_index=True)
        chosen = np.isin(table["caption"], known)
        numbers = table["caption"][chosen]
        return cls(
            numbers,
            families[kept][first[np.searchsorted(known, numbers)]] if len(known) else nothing,
            table["score"][chosen],
            table["candidate"][chosen],
        )

    def rows(self, chosen: np.ndarray) -> "_Rated":
        """Return some of them."""
        return _Rated(self.captions[chosen], self.families[chosen], self.scores[chosen], self.candidates[chosen])


def _returned(
    flagged: list[_Rated],
    result: Result,
    measure: Measure,
    scores: UnitScores,
    groups: Groups,
    captions: CaptionNumbers,
) -> tuple[int, int]:
    """Return how many flags stand for a training image, any that is within the threshold, and how many for the own."""
    band = threshold_of(result, measure).band
    best = {side: scores.matched_scores[measure.id, side] for side in scores.sides}
    ours = hits.owned_shares(best["training"], best["held_out"], measure)[0] == 1
    true = hits.in_band(best["training"], band, measure) & ours
    stands = np.concatenate([side.candidates for side in flagged])
    stands = stands[stands >= 0]
    links = replayed(measure, scores, groups, captions, "training")
    linked = np.empty(0, dtype=np.int64) if links is None else links.numbers[links.own == 1]
    near = np.flatnonzero(np.isin(scores.numbers, stands) & true)
    return len(near), int(np.isin(scores.numbers[near], linked).sum())


def _ratings(folder: RunFolder, unit: str, candidates: int) -> dict[str, np.ndarray]:
    table = read_table(folder.captions_file(unit, candidates))
    try:
        return {name: table[name].to_numpy() for name in ("caption", "score", "candidate")}
    except KeyError as error:
        raise CorruptRun(f"captions/{unit}.{candidates}.parquet has no column {error}; delete it") from None
