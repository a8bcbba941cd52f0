"""Are the held-out images a fair control for the training images?

A two-sample classifier finds the sets distinguishable or not. Two more answers stand elsewhere: the duplicate groups
that lie on both sides (`data.references.shared_groups`), and the rate on a training set cut down to the size of the
held-out set (`stats.intervals.matched_rate`).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..candidates import generator
from ..data.duplicates import joined
from ..errors import BadInput, TooFew
from ..protocol import CONFIDENCE
from ..stats.intervals import Interval, normal_quantile

if TYPE_CHECKING:
    from ..data.references import ImageSet

MOST_IMAGES = 5_000
"""Images per side that the classifier sees at most."""

MOST_COMPONENTS = 64
FOLDS = 5
LEAST_GROUPS = 2 * FOLDS
"""Duplicate groups per side below which a fold would hold next to nothing."""

_IMAGES_PER_COMPONENT = 8
"""With nearly as many components as images, scaling would make all images equally far from each other."""

_LEAST_SCALE = 1e-6
"""Standard deviation below which a component is rounding; pixels lie in [0, 1]."""

_SIDE = 32
"""Images larger than this many pixels a side are averaged down to it."""

_STRENGTH = 0.1
"""Inverse ridge penalty of the logistic regression (`C` of scikit-learn)."""

METHOD = (
    f"logistic regression on at most {MOST_COMPONENTS} standardised principal components of the pixels; AUC averaged "
    f"over {FOLDS} folds by duplicate group; Newcombe interval with the variance doubled for cross-validation"
)


class TwoSample(NamedTuple):
    """How distinguishable training and held-out images are: AUC 0.5 is not at all, 1 is perfectly."""

    auc: float
    low: float
    high: float
    images: tuple[int, int]
    """Training and held-out images that were used."""
    method: str
    excludes_half: bool
    """The interval lies above or below 0.5."""


def two_sample(training: "ImageSet", held_out: "ImageSet", seed: int) -> TwoSample:
    """Cross-validate a classifier between the two sets of images (N x C x H x W, uint8).

    The AUC is averaged over folds: out-of-fold scores of different classifiers have different offsets, and
    pooling them gives AUCs below 0.5 on sets that do not differ (Airola et al. 2011, CSDA 55:1828). A
    duplicate group or a caption family is never split between folds. Components and their scale come from the
    images of both sides without their labels, so they carry nothing over from a test fold that the test could gain
    from.
    Deterministic for one seed, library versions and machine.

    Raises:
        BadInput: the images of the two sides differ in shape.
        TooFew: a side has fewer than `LEAST_GROUPS` duplicate groups.
    """
    if training.images.shape[1:] != held_out.images.shape[1:]:
        shapes = ["x".join(map(str, part.images.shape[1:])) for part in (training, held_out)]
        raise BadInput(f"training images are {shapes[0]} (C x H x W), held-out images {shapes[1]}")
    chosen = [_sample(part, seed, side) for part, side in ((training, "training"), (held_out, "held_out"))]
    parts = [part.images[rows] for part, rows in zip((training, held_out), chosen, strict=True)]
    groups = np.concatenate([training.groups[chosen[0]], held_out.groups[chosen[1]]])
    if training.families is not None and held_out.families is not None:
        families = [*(training.families[row] for row in chosen[0]), *(held_out.families[row] for row in chosen[1])]
        # Images of a family are alike and all of one side: learnt in one fold, they would give away those of another.
        groups = joined(groups, families)
    # 1 is a training image. Each side is cut to the same number at most; AUC needs no equal sides.
    labels = np.repeat([1, 0], [len(part) for part in parts])
    for side, label in (("training", 1), ("held-out", 0)):
        if (found := len(np.unique(groups[labels == label]))) < LEAST_GROUPS:
            raise TooFew(f"{found} near-duplicate groups among the {side} images; the classifier needs {LEAST_GROUPS}")
    folds = _folds(groups, labels, seed)
    auc = _cross_validated(_features(parts, seed), labels, folds)
    interval = auc_interval(auc, _effective(groups[labels == 1]), _effective(groups[labels == 0]))
    sizes = (len(parts[0]), len(parts[1]))
    return TwoSample(auc, *interval, sizes, METHOD, not interval.low <= 0.5 <= interval.high)


def auc_interval(auc: float, first: float, second: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of a fold-averaged AUC from `first` and `second` independent images (or groups).

    All theta with (auc - theta)^2 <= 2 z^2 V(theta), V being the variance of Hanley and McNeil (1982,
    Radiology 143:29) as Newcombe (2006, Stat. Med. 25:559, method 5) uses it, taken at theta rather than at
    the estimate, so that an AUC of 1 has an interval too. The factor 2 is for cross-validation: each pair of
    folds meets twice, once on either side of training and test. For a linear score without any shift, fold
    i's AUC is 1/2 plus a sum of products d_i d_j over the other folds j; every product comes twice in the
    average, which doubles the variance that independent test sets would have (that it cannot be had from the
    folds' own spread: Bengio and Grandvalet 2004, JMLR 5:1089). With a shift the factor is conservative.
    """
    from scipy.optimize import brentq

    z2 = 2 * normal_quantile(confidence) ** 2

    def outside(theta: float) -> float:
        return float((auc - theta) ** 2 - z2 * _hanley_mcneil(theta, first, second))

    step = 1e-9  # theta = auc = 1 is a root of its own, V being 0 there
    low = brentq(outside, 0.0, auc - step) if auc > 1e-6 else 0.0
    high = brentq(outside, auc + step, 1.0) if auc < 1 - 1e-6 else 1.0
    return Interval(float(low), float(high))


# ---- The classifier ---------------------------------------------------------------------------------


def _sample(part: "ImageSet", seed: int, side: str) -> np.ndarray:
    """Return the positions of at most `MOST_IMAGES` images, sorted."""
    import torch

    order: np.ndarray = torch.randperm(len(part), generator=generator(seed, "shift", 0, side)).numpy()
    return np.sort(order[:MOST_IMAGES])


def _folds(groups: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold per image: whole groups, dealt out in turn within each kind (one side, other, both).

    `StratifiedGroupKFold` of scikit-learn keeps groups whole too, but deals them out in another order: every AUC in
    a published record would move.
    """
    import torch

    _, own, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    share = np.bincount(own, weights=labels) / sizes
    kind = np.where(share == 1, 0, np.where(share == 0, 1, 2))
    tie = torch.randperm(len(sizes), generator=generator(seed, "shift", 0, "folds")).numpy()
    fold = np.empty(len(sizes), dtype=np.int64)
    # Largest groups first, dealt out in turn, so that folds come out nearly equal; `tie` orders equal ones by the seed,
    # not by the numbers that groups happen to have.
    fold[np.lexsort((tie, -sizes, kind))] = np.arange(len(sizes)) % FOLDS
    found: np.ndarray = fold[own]
    return found


def _features(parts: list[np.ndarray], seed: int) -> np.ndarray:
    """Return standardised principal components of the pixels, N x D with D at most `MOST_COMPONENTS`."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    pixels = np.concatenate([_pixels(part) for part in parts])
    components = min(MOST_COMPONENTS, pixels.shape[1], max(1, len(pixels) // _IMAGES_PER_COMPONENT))
    with threadpool_limits(1):
        found = PCA(components, random_state=seed % 2**32).fit_transform(pixels)
    scale = found.std(0)
    # What is left of a direction without any variance is rounding; the other components are divided by their scale.
    features: np.ndarray = np.divide(found, scale, out=np.zeros_like(found), where=scale > _LEAST_SCALE)
    return features


def _pixels(images: np.ndarray) -> np.ndarray:
    """Return the images as rows of float32 in [0, 1], averaged down to at most `_SIDE` pixels a side."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    size = (min(_SIDE, images.shape[2]), min(_SIDE, images.shape[3]))
    blocks = torch.from_numpy(images).split(256)
    rows = [adaptive_avg_pool2d(block.float() / 255, size).flatten(1) for block in blocks]
    pixels: np.ndarray = torch.cat(rows).numpy()
    return pixels


def _cross_validated(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Return the mean over folds of the AUC of a classifier that was trained on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_score
    from threadpoolctl import threadpool_limits

    for fold in range(FOLDS):
        test = folds == fold
        if len(np.unique(labels[test])) < 2 or len(np.unique(labels[~test])) < 2:
            raise TooFew(f"fold {fold + 1} of {FOLDS} holds images of one side only: too few near-duplicate groups")
    model = LogisticRegression(C=_STRENGTH, max_iter=1000)
    with threadpool_limits(1):
        found = cross_val_score(
            model, features, labels, scoring="roc_auc", cv=PredefinedSplit(folds), error_score="raise"
        )
    return float(found.mean())


def _effective(groups: np.ndarray) -> float:
    """Return how many independent images the groups are worth: (sum of sizes)^2 / sum of squared sizes (Kish)."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _hanley_mcneil(theta: float, first: float, second: float) -> float:
    middle = (first + second) / 2 - 1
    shape = 1 + middle * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * shape / (first * second)
