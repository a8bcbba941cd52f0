"""The checks of a pair's setup that no candidate changes, fitted once per pair: the detector's audit, the control's.

What they find is kept by content (`data.fits`), since together they take several times as long as scoring.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..contracts import Measure
from ..data.fits import Fits, code_beside
from ..data.references import References, shared_groups
from ..registry import layers
from .control_check import TwoSample, two_sample
from .detector_audit import audit

if TYPE_CHECKING:
    from .scorer import Scorer

SEED = 0
"""Draws of the audit and of the two-sample folds; the same in every run of a pair."""


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
