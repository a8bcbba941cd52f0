"""Can the gate be believed? What a pass needs beside its statistics, so that nothing broken passes by accident.

A failed check takes the pass away, never the fail: hits on training images in excess of held-out ones prove a
leak however odd the other images look. Noise, constant or NaN images, another value range, swapped channels or
an empty reference set find no hit at all, which is what a clean model looks like.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..contracts import Measure, Model
from ..data.references import ImageSet, References, shared_groups
from ..measures import hits
from ..measures.control_check import two_sample
from ..measures.detector_audit import audit
from ..measures.image_quality import frechet_distance, real_images
from ..protocol import UNLIKE
from ..sampling.sampler import quantise
from ..stats.comparison import AttackHits
from ..stats.owned import leak_p
from .claims import Sides, matched, tested
from .sequential import count, p_above

if TYPE_CHECKING:
    from ..measures.scorer import Scorer

BROKEN = 0.01
"""Share of NaN or constant images above which nothing is claimed."""

BETTER = 0.7
"""A changed preprocessing that brings the Frechet distance below this share of what it was is a mismatch."""

FOUND = 0.95
"""Share of known copies that must be found at the threshold."""

OVERLAP = 0.01
"""Share of training images with a duplicate among the held-out images, whose leak the excess cannot see."""

SEED = 0
ALL = slice(None)
COPIES = 128
MOST_REAL = 5_000
MOST_CHANGED = 1024
"""Candidates that are scored again in each changed form."""

_POOLED = 16
"""Pixels a side to which larger images are averaged for the Frechet distance."""


AS_THEY_ARE = "as they are"
_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda images: 1 - images,
    "with rows and columns swapped": lambda images: images.transpose(2, 3),
    "upside down": lambda images: images.flip(2),
    "mirrored": lambda images: images.flip(3),
    "with the upper half of the value range stretched": lambda images: (2 * images - 1).clamp(0, 1),
    "with the channels reversed": lambda images: images.flip(1),
}
"""What a mismatch of preprocessing looks like from the side of the candidates."""


class GateCheck(NamedTuple):
    """One check: what was looked at, whether a pass may rest on it, and the figures in a sentence."""

    name: str
    ok: bool
    said: str


def check_control(references: References, control: str) -> GateCheck:
    """Is the held-out set a fair control, so that an excess means a leak?"""
    if control != "iid":
        said = f"the pair's control is {control}: no excess can be claimed, only a raw_rate or group_rate"
        return GateCheck("control", False, said)
    shared = int(shared_groups(references.groups())["training"].sum())
    if shared > OVERLAP * len(references.training):
        said = f"{shared} training images have a near-duplicate among the held-out ones, and the excess cannot see them"
        return GateCheck("control", False, said)
    found = two_sample(references.training, references.held_out, SEED)
    interval = f"AUC {found.auc:.2f} [{found.low:.2f}, {found.high:.2f}]"
    if found.excludes_half:
        return GateCheck("control", False, f"training and held-out images are distinguishable ({interval})")
    return GateCheck("control", True, f"training and held-out images are not distinguishable ({interval})")


def check_judge(measure: Measure, optimised: Mapping[str, Sequence[str]]) -> list[GateCheck]:
    """Has a defence of this run been built to look well under this very measure? Empty where there is no such one."""
    said = f"optimises the descriptors of {measure.id}, so that measure alone must not judge it"
    return [
        GateCheck("judge", False, f"defence {name} {said}")
        for name in sorted(optimised)
        if measure.space in optimised[name]
    ]


def check_images(images: Tensor, broken: np.ndarray, references: References) -> list[GateCheck]:
    """Are the candidates images of the right kind, and prepared as the references are?

    `images` uint8 N x C x H x W; `broken` (N,) bool marks NaN and constant images.
    """
    share = float(broken.mean())
    checks = [GateCheck("broken images", share <= BROKEN, f"{share:.1%} of the candidates are NaN or constant")]
    usable = images[torch.from_numpy(~broken)]
    if len(usable) < 2:
        return checks
    against = real_images(references) or "training"
    likeness = _likeness(usable, _some(getattr(references, against)))
    said = (
        f"Frechet distance to {against.replace('_', '-')} images {likeness[AS_THEY_ARE]:.2f} of their variance "
        f"(at most {UNLIKE})"
    )
    checks.append(GateCheck("sample quality", likeness[AS_THEY_ARE] <= UNLIKE, said))
    best = min(likeness, key=lambda name: likeness[name])
    mismatch = likeness[best] < BETTER * likeness[AS_THEY_ARE]
    said = f"the candidates fit the references best {best}"
    if mismatch:
        said += f" ({likeness[best]:.2f} against {likeness[AS_THEY_ARE]:.2f}): is one side prepared in another way?"
    return [*checks, GateCheck("preprocessing", not mismatch, said if mismatch else f"{said} or nearly so")]


def check_detector(references: References, measure: Measure, scorer: "Scorer", tau: float) -> GateCheck:
    """Does the judge find known copies at this threshold: training images unchanged and with 2 % noise?"""
    judged = audit(references, [measure], scorer, SEED, COPIES, kinds=("identical", "noise"))
    found = judged["measures"][measure.id]
    thresholds = np.asarray(found["thresholds"])
    within = np.flatnonzero(hits.within(thresholds, tau, measure))
    if not len(within):
        return GateCheck("detector", False, f"the threshold {tau:.4g} is stricter than any that the audit looks at")
    place = within[-1]  # the grid is sorted strictest first
    shares = {change["label"]: change["right"]["count"][place] / change["n"] for change in found["copies"]}
    shown = {label: shares[label] for label in ("identical", "2 %")}
    said = f"known copies found: identical {shown['identical']:.0%}, with 2 % noise {shown['2 %']:.0%}"
    return GateCheck("detector", min(shown.values()) >= FOUND, said)


def check_model_path(model: Model, references: References, measure: Measure, scorer: "Scorer", tau: float) -> GateCheck:
    """Are training images found that went through the model's own encoding, decoding and quantisation?"""
    rows = np.linspace(0, len(references.training) - 1, min(COPIES, len(references.training))).astype(int)
    images = torch.from_numpy(references.training.images[rows]).float() / 255
    with torch.no_grad():
        decoded = model.decode(model.encode(images.to(model.device))).float().cpu()
    nan = ~torch.isfinite(decoded.flatten(1)).all(1).numpy()
    scores = scorer.score(quantise(decoded), rows, nan, measure.space)
    found = hits.within(scores.best_scores(measure, "training"), tau, measure)
    groups = references.training.groups
    share = float((found & (groups[scores.best_ids("training")] == groups[rows])).mean())
    said = f"{share:.0%} of known training images are found after the model's own decoding"
    return GateCheck("model path", share >= FOUND, said)


def check_hidden(
    images: Tensor,
    references: References,
    measure: Measure,
    scorer: "Scorer",
    tau: float,
    sides: Sides,
    limit: float,
    level: float,
) -> GateCheck:
    """Would the candidates show a leak if they were changed as a mismatch of preprocessing changes images?

    Swapped channels hardly move the statistics of natural photographs, and mirroring does not at all, yet a pixel
    measure is blind to the copies. `images` uint8 N x C x H x W; the excess of each changed form is tested against
    the limit at `level` over all forms.
    """
    images = images[:MOST_CHANGED]
    forms = {name: quantise(changed) for name, changed in _changed(images.float() / 255).items()}
    found = {
        name: tested(matched(scorer.score_finite(form, measure.space), measure, sides), tau, sides, measure).of(ALL)
        for name, form in forms.items()
    }
    p_values = {name: _p_above(hits, limit) for name, hits in found.items() if name != AS_THEY_ARE}
    worst = min(p_values, key=lambda name: p_values[name], default=AS_THEY_ARE)
    if not p_values or p_values[worst] > level / len(p_values):
        return GateCheck("hidden leak", True, f"changed in {len(p_values)} ways, mirrored among them, they hit no more")
    what = "training images more often than chance" if sides.strata else "training images"
    said = (
        f"{worst}, {found[worst].values.mean():.1%} of the candidates hit {what}, and "
        f"{found[AS_THEY_ARE].values.mean():.1%} as they are: is one side prepared in another way, or was the model "
        f"trained on changed images?"
    )
    return GateCheck("hidden leak", False, said)


def _p_above(hits: AttackHits, limit: float) -> float:
    """Return the p-value of "the leak is at most the limit", of raw hits where there are no held-out images."""
    if hits.controlled:
        return leak_p(hits.owned(), 0, limit, SEED)
    return float(p_above(count(hits.training_hits), limit)[-1])


def _some(part: ImageSet) -> Tensor:
    """Return at most `MOST_REAL` images of a part, evenly spaced, as floats."""
    rows = np.linspace(0, len(part) - 1, min(MOST_REAL, len(part))).astype(int)
    return torch.from_numpy(part.images[rows]).float() / 255


def _likeness(candidates: Tensor, real: Tensor) -> dict[str, float]:
    """Return the candidates' Frechet distance to real images over their variance, as they are and changed."""
    ours, theirs = (_pooled(images) for images in (candidates.float() / 255, real))
    variance = float(theirs.flatten(1).var(0, unbiased=False).sum())
    return {name: frechet_distance([images], theirs) / variance for name, images in _changed(ours).items()}


def _changed(images: Tensor) -> dict[str, Tensor]:
    """Return images N x C x H x W in [0, 1] as they are and in every changed form that differs."""
    square = images.shape[2] == images.shape[3]
    variants = {AS_THEY_ARE: images}
    for name, change in _CHANGES.items():
        if (square or "swapped" not in name) and not torch.equal(change(images), images):
            variants[name] = change(images)
    return variants


def _pooled(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    scale = max(1, max(height, width) / _POOLED)
    return images if scale == 1 else adaptive_avg_pool2d(images, (round(height / scale), round(width / scale)))
