"""Are the candidates images of the right kind? A model that is broken must not pass as one that keeps secrets.

Frechet distance (Heusel et al. 2017, arXiv 1706.08500), precision and recall (Kynkaanniemi et al. 2019,
arXiv 1904.06991, k = 3) and mean pairwise distance, all with pixels as features; and, where the data have
labels, the classification accuracy score (Ravuri and Vinyals 2019, arXiv 1905.10887): a classifier trained
on generated images is tested on real ones. Each stands beside the same figure for the training images. The
real images are the held-out ones, or, for a pair without any, the pool or the tuning part.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.references import ImageSet, References

MOST_DIMENSIONS = 4096
"""Pixels per image above which a covariance in pixel space says nothing and costs much."""

MOST_LABELLED = 2048
"""Candidates on which the classifier is trained."""

FEATURES = "pixels"
"""The feature space of every figure but the classifier's."""

MANIFOLD_NEIGHBOURS = 3
"""k of precision and recall; the paper's value."""


def assess(candidates: Mapping[str, Iterable[Tensor]], references: References) -> dict[str, Any]:
    """Return quality figures by unit, and the same for real training images under "training images"."""
    if references.training.images[0].size > MOST_DIMENSIONS:
        return {"skipped": f"more than {MOST_DIMENSIONS} values per image: pixel space says nothing"}
    against = real_images(references)
    if against is None:
        return {"skipped": "the pair has fewer than 2 images outside of the training set"}
    real = references.training.floats()
    found = {"training images": _figures(iter([real]), references.training.labels, references, against)}
    for unit, batches in candidates.items():
        images = (batch.float() / 255 for batch in batches)
        found[unit] = _figures(images, None, references, against)
    return found


def real_images(references: References) -> str | None:
    """Return the part, other than the training images, that quality is measured against; None without one."""
    parts = ("held_out", "pool", "tuning")
    return next((name for name in parts if len(getattr(references, name)) > 1), None)


def frechet_distance(first: Iterable[Tensor], second: Tensor) -> float:
    """Return the Frechet distance of two sets of images in [0, 1] in pixel space.

    `first` is read batch by batch, N x C x H x W each; at least two images are needed on both sides.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Pixels(second[0].numel()), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(second, real=True)
    for images in first:
        metric.update(images, real=False)
    return float(metric.compute())


def precision_and_recall(images: Tensor, real: Tensor) -> tuple[float, float]:
    """Return the share of `images` on the manifold of `real` images, and of `real` on that of `images`.

    A set's manifold is the union of balls around its members that reach to their k-th neighbour. Both sets are
    N x C x H x W and should be of one size, as the balls shrink with N; more than k images each.
    """
    ours, theirs = images.flatten(1).double(), real.flatten(1).double()
    between = torch.cdist(ours, theirs)
    precision = (between <= _reach(theirs)[None, :]).any(1)
    recall = (between <= _reach(ours)[:, None]).any(0)
    return float(precision.double().mean()), float(recall.double().mean())


def _reach(flat: Tensor) -> Tensor:
    """Return each row's distance to its k-th neighbour, itself not counted."""
    return torch.cdist(flat, flat).kthvalue(MANIFOLD_NEIGHBOURS + 1, dim=1).values


def diversity(images: Tensor) -> float:
    """Return the mean rms distance of two different images, in [0, 1]."""
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def label_accuracy(images: Tensor, labels: np.ndarray | None, references: References) -> float | None:
    """Return how well a classifier trained on these images labels the real ones, in 0 .. 1.

    Images without labels get them from a classifier trained on the pool and the tuning part, which are
    neither training nor those real images. None without labelled data.
    """
    from sklearn.svm import SVC

    against = real_images(references)
    real: ImageSet | None = getattr(references, against) if against else None
    if real is None or real.labels is None:
        return None
    if labels is None:
        teachers = [part for part in (references.pool, references.tuning) if len(part) and part is not real]
        if not teachers or any(part.labels is None for part in teachers):
            return None
        known = np.concatenate([_flat(part) for part in teachers])
        labels = SVC().fit(known, np.concatenate([part.labels for part in teachers])).predict(images.flatten(1))
    if len(np.unique(labels)) < 2:
        return 0.0
    student = SVC().fit(images.flatten(1), labels)
    return float(student.score(_flat(real), real.labels))


def _figures(
    batches: Iterator[Tensor], labels: np.ndarray | None, references: References, against: str
) -> dict[str, Any]:
    few: list[Tensor] = []

    def watched() -> Iterator[Tensor]:
        for batch in batches:
            few.append(batch[: max(0, MOST_LABELLED - sum(map(len, few)))])
            yield batch

    real = getattr(references, against).floats()
    distance = frechet_distance(watched(), real)
    images = torch.cat(few)
    size = min(len(images), len(real))
    precision, recall = precision_and_recall(images[:size], real[:size]) if size > MANIFOLD_NEIGHBOURS else (None, None)
    return {
        "against": against,
        "frechet_distance": distance if np.isfinite(distance) else None,
        "precision": precision,
        "recall": recall,
        "diversity": diversity(images[:size]) if size > 1 else None,
        "label_accuracy": label_accuracy(images, labels, references),
    }


def _flat(part: ImageSet) -> np.ndarray:
    flat: np.ndarray = part.images.reshape(len(part), -1) / 255
    return flat


class _Pixels(nn.Module):
    """Pixels as features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double()
