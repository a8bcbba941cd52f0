"""What a measure can see: the share of reference images that would be found if the model gave them away whole."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..contracts import Band, Measure, Side
from ..measures import hits
from ..protocol import CONFIDENCE
from ..stats.intervals import Interval, wilson
from .schema import How, LeakClaim, Metrics, Reach, ReachedShare

ROUND_TRIP = "roundtrip"
"""Name of the measure whose references go through the autoencoder too."""
LEAST = 0.5
"""Reach of the training images below which "no leak seen" says nothing."""


def identity(measures: Sequence[Measure], sizes: Mapping[Side, int]) -> list[Reach]:
    """Return the reach where candidates are what the model makes, unchanged: a perfect copy is an exact one."""
    found = []
    for measure, band in _bands(measures):
        here = bool(hits.in_band(np.array(hits.closest(measure)), band, measure))
        shares = {side: _exact(size, here=here) for side, size in sizes.items()}
        found.append(_reach(measure, band, "identity", "", shares))
    return found


def none(measures: Sequence[Measure], reason: str) -> list[Reach]:
    """Return that no reach exists, and why."""
    return [_reach(measure, band, "none", reason, {}) for measure, band in _bands(measures)]


def counted(
    measures: Sequence[Measure],
    how: How,
    reason: str,
    images: Mapping[Side, int],
    counts: Mapping[str, Mapping[str, Mapping[Side, int]]],
) -> list[Reach]:
    """Return the reach with its intervals, from counts by measure, band and side, of so many images of each side."""
    found = []
    for measure, band in _bands(measures):
        sides = counts[measure.id][band.name]
        shares = {side: _share(count, images[side]) for side, count in sides.items()}
        found.append(_reach(measure, band, how, reason, shares))
    return found


def least_reach(metrics: Metrics, measure: str, band: str) -> float | None:
    """Return the share of training images that are reached in this band or a closer one, in [0, 1].

    It is the least that a perfect copier could score here: 1.0 where candidates are exact copies. Names of bands and
    of their unions ("high+mid") are taken. None where no reach exists (a defence inside the sampling loop), where the
    measure has no such band, and for runs of before this was recorded, whose `metrics.reach` is empty.
    """
    single = [found for found in metrics.reach if found.measure == measure and "+" not in found.band]
    names = [found.band for found in single]
    last = band.rpartition("+")[2]
    if last not in names:
        return None
    shares = [found.training for found in single[: names.index(last) + 1] if found.training is not None]
    return sum(share.count for share in shares) / shares[0].images if shares else None


def flags(metrics: Metrics) -> list[str]:
    """Return a sentence where the headline measure's closest band cannot see most of the training images."""
    if not metrics.results or not metrics.results[0].bands:
        return []
    measure, band = metrics.results[0].measure, metrics.results[0].bands[0].band
    share = least_reach(metrics, measure, band)
    if share is None or share >= LEAST:
        return []
    first = metrics.reach[0]
    like = f"; `--measure {ROUND_TRIP}:{measure}` compares with round trips" if first.how == "round trip" else ""
    seen, missed = f"{100 * share:.1f} %", f"{100 * (1 - share):.1f} %"
    return [
        f"{measure}, band {band}, finds only {seen} of the training images again once they went "
        f"{first.reason}: a perfect copy would be called clean in {missed} of cases{like}"
    ]


def said_within_reach(metrics: Metrics) -> list[LeakClaim]:
    """Return the claims, where those that saw no excess say "cannot see" if most training images are out of reach."""
    found = []
    for claim in metrics.claims:
        share = least_reach(metrics, claim.measure, claim.bands[0].band)
        blind = claim.says == "none seen" and share is not None and share < LEAST
        found.append(claim.model_copy(update={"says": "cannot see"}) if blind else claim)
    return found


def _exact(size: int, *, here: bool) -> ReachedShare:
    share = float(here)
    return ReachedShare.counted(size if here else 0, size, Interval(share, share))


def _share(count: int, images: int) -> ReachedShare:
    return ReachedShare.counted(count, images, wilson(count, images, CONFIDENCE))


def _reach(measure: Measure, band: Band, how: How, reason: str, shares: Mapping[Side, ReachedShare]) -> Reach:
    return Reach(
        measure=measure.id,
        band=band.name,
        how=how,
        reason=reason,
        training=shares.get("training"),
        held_out=shares.get("held_out"),
    )


def _bands(measures: Sequence[Measure]) -> Iterator[tuple[Measure, Band]]:
    return ((measure, band) for measure in measures for band in hits.all_bands(measure))
