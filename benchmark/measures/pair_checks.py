"""The checks of a pair's setup that no candidate changes, fitted once per pair: the detector's audit, the control's.

What they find is kept by content (`data.fits`), since together they take several times as long as scoring.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..contracts import Measure
from ..data.duplicates import turned_copies
from ..data.fits import Fits, code_beside
from ..data.references import References, shared_groups
from ..registry import layers
from .control_check import TwoSample, two_sample
from .detector_audit import audit

if TYPE_CHECKING:
    from .scorer import Scorer

SEED = 0
"""Draws of the audit and of the two-sample folds; the same in every run of a pair."""

TURNED_RMS = 0.02
"""How far at least (rms) a held-out image may lie from a training image that it is turned: a copy saved again moves."""


def audit_of_pair(references: References, measures: Sequence[Measure], scorer: "Scorer", fits: Fits) -> dict[str, Any]:
    """Return the audit of the detector, all changes; see `detector_audit.audit`."""
    return fits.values(
        "audit of the detector",
        lambda: audit(references, measures, scorer, SEED),
        measures=[measure.id for measure in measures],
        weights=[measure.weights() for measure in measures],
        code=code_beside([type(layer) for measure in measures for layer in layers(measure)]),
        neighbours=scorer.k,
        device=scorer.device.type,
        path=None if scorer.path is None else scorer.path.content,
        seed=SEED,
    )


def control_of_pair(references: References, fits: Fits) -> TwoSample | None:
    """Say whether training and held-out images are distinguishable, without groups that lie on both sides.

    None without held-out images.

    Raises:
        TooFew: as `two_sample`.
    """
    if not len(references.held_out):
        return None

    def compared() -> dict[str, Any]:
        marks = shared_groups(references.groups())
        training = references.training.take(~marks["training"])
        return two_sample(training, references.held_out.take(~marks["held_out"]), SEED)._asdict()

    found = fits.values("two-sample check of the control", compared, seed=SEED)
    return TwoSample(**{**found, "images": tuple(found["images"])})


def turned_of_pair(references: References, fits: Fits) -> int:
    """Count the held-out images that are training images mirrored or turned; groups on both sides are none of them.

    They stay in every comparison. A model that was trained with flips has seen them, which nothing here can know, and
    other pictures are symmetric by nature.
    """
    radius = max(TURNED_RMS, references.duplicate_rms)

    def counted() -> dict[str, Any]:
        marks = shared_groups(references.groups())
        held_out = references.held_out.take(~marks["held_out"])
        return {"count": int(turned_copies(held_out.images, references.training.images, radius).sum())}

    if not len(references.held_out):
        return 0
    return int(fits.values("held-out images that are turned training images", counted, rms=radius)["count"])
