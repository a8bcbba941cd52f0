"""Are the candidates images of the right kind? A model that is broken must not pass as one that keeps secrets.

Frechet distance (Heusel et al. 2017, arXiv 1706.08500), precision and recall (Kynkaanniemi et al. 2019,
arXiv 1904.06991, k = 3) and mean pairwise distance, all with pixels as features; and, where the data have
labels, the classification accuracy score (Ravuri and Vinyals 2019, arXiv 1905.10887): a classifier trained
on generated images is tested on real ones. Models with an autoencoder have the Frechet distance in its latents
too. Each stands beside the same figure for the training images. The real images are the held-out ones, or, for a
pair without any, the pool or the tuning part.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts import AttackState
from ..data.fits import Fits
from ..data.image_cache import blocks
from ..data.references import ImageSet, References
from . import frechet
from .output_path import OutputPath

MOST_DIMENSIONS = 4096
"""Pixels per image above which a covariance in pixel space says nothing and costs much."""

MOST_COMPARED = 2048
"""Images of each set, the first ones, that are compared pair by pair: all figures but the Frechet distance."""

FEATURES = "pixels"
"""The feature space of every figure but the classifier's."""

MANIFOLD_NEIGHBOURS = 3
"""k of precision and recall; the paper's value."""


def assess(
    candidates: Mapping[str, Iterable[Tensor]],
    references: References,
    fits: Fits | None = None,
    path: OutputPath | None = None,
) -> dict[str, Any]:
    """Return quality figures by unit, and the same for real training images under "training images".

    Candidates are uint8, N x C x H x W, read batch by batch and not held. What rests on the pair alone is taken from
    `fits`, by default those of these references; what knows the model's autoencoder is `path`.
    """
    if references.training.images[0].size > MOST_DIMENSIONS:
        return {"skipped": f"more than {MOST_DIMENSIONS} values per image: pixel space says nothing"}
    against = real_images(references)
    if against is None:
        return {"skipped": "the pair has fewer than 2 images outside of the training set"}
    real = _Real(references, against, fits or Fits(references.content()), path)
    training = references.training
    labels = None if training.labels is None else training.labels[:MOST_COMPARED]

    def of_training() -> dict[str, Any]:
        return _figures(_batches(training), labels, real)

    found = {"training images": real.fits.values("quality of training images", of_training, encoder=real.encoder)}
    for unit, batches in candidates.items():
        found[unit] = _figures((batch.float() / 255 for batch in batches), None, real, beside=training)
    return found


def real_images(references: References) -> str | None:
    """Return the part, other than the training images, that quality is measured against; None without one."""
    parts = ("held_out", "pool", "tuning")
    return next((name for name in parts if len(getattr(references, name)) > 1), None)


def frechet_distance(first: Iterable[Tensor], second: Tensor) -> float:
    """Return the Frechet distance of two sets of images in [0, 1] in pixel space.

    `first` is read batch by batch, N x C x H x W each; at least two images are needed on both sides.
    """
    return frechet.distance(frechet.moments_of(first), frechet.moments_of([second]).gaussian())


def precision_and_recall(images: Tensor, real: Tensor) -> tuple[float, float]:
    """Return the share of `images` on the manifold of `real` images, and of `real` on that of `images`.

    A set's manifold is the union of balls around its members that reach to their k-th neighbour. Both sets are
    N x C x H x W and should be of one size, as the balls shrink with N; more than k images each.
    """
    ours, theirs = images.flatten(1).double(), real.flatten(1).double()
    return _on_manifolds(ours, theirs, _reach(torch.cdist(ours, ours)), _reach(torch.cdist(theirs, theirs)))


def _on_manifolds(ours: Tensor, theirs: Tensor, our_reach: Tensor, their_reach: Tensor) -> tuple[float, float]:
    between = torch.cdist(ours, theirs)
    precision, recall = (between <= their_reach[None, :]).any(1), (between <= our_reach[:, None]).any(0)
    return float(precision.double().mean()), float(recall.double().mean())


def _reach(distances: Tensor) -> Tensor:
    """Return each row's distance to its k-th neighbour, itself not counted, from N x N distances."""
    return distances.kthvalue(MANIFOLD_NEIGHBOURS + 1, dim=1).values


def diversity(images: Tensor) -> float:
    """Return the mean rms distance of two different images, in [0, 1]."""
    flat = images.flatten(1).double()
    return _mean_distance(torch.cdist(flat, flat), flat.shape[1])


def _mean_distance(distances: Tensor, dimensions: int) -> float:
    """Return the mean rms distance of two different images from N x N distances, those to themselves not counted."""
    others = distances.sum() - distances.diagonal().sum()
    return float(others / (len(distances) * (len(distances) - 1)) / dimensions**0.5)


def label_accuracy(images: Tensor, labels: np.ndarray | None, references: References) -> float | None:
    """Return how well a classifier trained on these images labels the real ones, in 0 .. 1.

    Images without labels get them from a classifier trained on the pool and the tuning part, which are
    neither training nor those real images. None without labelled data. Each set counts with its first 2,048 images.
    """
    against = real_images(references)
    return None if against is None else _Labels(references, getattr(references, against)).accuracy(images, labels)


class _Real:
    """The real images that quality is measured against, and what is fitted to them once for all units."""

    def __init__(self, references: References, against: str, fits: Fits, path: OutputPath | None = None) -> None:
        self.against, self.fits = against, fits
        self.path = path if path is not None and path.autoencoder else None
        self.encoder = None if self.path is None else self.path.content
        self.part: ImageSet = getattr(references, against)
        self.labels = _Labels(references, self.part)
        self.gaussian = frechet.Gaussian(**fits.tensors("moments of real images", self._fit, part=against).tensors)
        self._reaches: dict[int, Tensor] = {}

    def _fit(self) -> AttackState:
        return AttackState(frechet.moments_of(_batches(self.part)).gaussian()._asdict(), {})

    @functools.cached_property
    def latents(self) -> frechet.Gaussian:
        """Mean and covariance of the real images' latents."""

        def fitted() -> AttackState:
            codes = (self.encoded(batch) for batch in _batches(self.part))
            return AttackState(frechet.moments_of(codes).gaussian()._asdict(), {})

        found = self.fits.tensors("moments of real latents", fitted, part=self.against, encoder=self.encoder)
        return frechet.Gaussian(**found.tensors)

    def encoded(self, images: Tensor) -> Tensor:
        """Return the latents of images in [0, 1]."""
        assert self.path is not None
        return self.path.latents(images)

    def reach(self, size: int) -> Tensor:
        """Return the radii of the manifold of the first `size` real images."""

        def fitted() -> AttackState:
            flat = self.first(size)
            return AttackState({"reach": _reach(torch.cdist(flat, flat))}, {})

        if size not in self._reaches:
            settings = {"part": self.against, "size": size, "neighbours": MANIFOLD_NEIGHBOURS}
            self._reaches[size] = self.fits.tensors("radii of real images", fitted, **settings).tensors["reach"]
        return self._reaches[size]

    @functools.cached_property
    def variance(self) -> float:
        """The sum of their variances over pixels."""
        return float(self.gaussian.factor.square().sum())

    def of_training(self, training: ImageSet, size: int) -> float:
        """Return the Frechet distance of the first `size` training images, in units of the variance."""

        def fitted() -> dict[str, Any]:
            some = frechet.moments_of(_first(_batches(training), size))
            return {"distance": frechet.distance(some, self.gaussian)}

        found = self.fits.values("quality of some training images", fitted, part=self.against, size=size)
        return float(found["distance"]) / self.variance

    def first(self, size: int) -> Tensor:
        """Return the first `size` real images as rows of float64 in [0, 1]."""
        return torch.from_numpy(self.part.images[:size]).float().div(255).flatten(1).double()


class _Labels:
    """The labels of the real images, and those that other images get."""

    def __init__(self, references: References, real: ImageSet) -> None:
        self.real = real
        self._others = [part for part in (references.pool, references.tuning) if len(part) and part is not real]

    @functools.cached_property
    def teacher(self) -> "_Classifier | None":
        """A classifier trained on labelled images that are neither training nor these real ones."""
        if not self._others or any(part.labels is None for part in self._others):
            return None
        known = np.concatenate([_flat(part, MOST_COMPARED) for part in self._others])[:MOST_COMPARED]
        labels = [part.labels[:MOST_COMPARED] for part in self._others if part.labels is not None]
        return _Classifier(known, np.concatenate(labels)[:MOST_COMPARED])

    def accuracy(self, images: Tensor, labels: np.ndarray | None) -> float | None:
        """Return what `label_accuracy` does."""
        if self.real.labels is None:
            return None
        shown = images[:MOST_COMPARED].flatten(1).double().numpy()
        if labels is None:
            if self.teacher is None:
                return None
            labels = self.teacher.label(shown)
        if len(np.unique(labels)) < 2:
            return 0.0
        found = _Classifier(shown, labels).label(_flat(self.real, MOST_COMPARED))
        return float((found == self.real.labels[:MOST_COMPARED]).mean())


class _Classifier:
    """scikit-learn's SVC as it comes, its kernel by matrix products: libsvm's own loops take ten times as long."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Fit to images, N x D in [0, 1], with two labels or more."""
        from sklearn.metrics.pairwise import rbf_kernel
        from sklearn.svm import SVC

        variance = float(images.var())
        # SVC's gamma "scale".
        self._kernel = functools.partial(rbf_kernel, gamma=1 / (images.shape[1] * variance) if variance else 1.0)
        self._known = images
        self._model = SVC(kernel="precomputed").fit(self._kernel(images, images), labels)

    def label(self, images: np.ndarray) -> np.ndarray:
        """Return each image's label."""
        found: np.ndarray = self._model.predict(self._kernel(images, self._known))
        return found


def _figures(
    batches: Iterable[Tensor], labels: np.ndarray | None, real: _Real, beside: ImageSet | None = None
) -> dict[str, Any]:
    """Return the figures of some images, and how far they and as many of the images `beside` them are from the real."""
    few: list[Tensor] = []
    latents = frechet.Moments()

    def watched() -> Iterator[Tensor]:
        for batch in batches:
            if real.path is not None:
                latents.add(real.encoded(batch))
            few.append(batch[: max(0, MOST_COMPARED - sum(map(len, few)))])
            yield batch

    moments = frechet.moments_of(watched())
    distance = frechet.distance(moments, real.gaussian)
    beside_training: dict[str, float] = {}
    if beside is not None and np.isfinite(distance) and real.variance and min(moments.count, len(beside)) > 1:
        beside_training["of_variance"] = distance / real.variance
        beside_training["of_variance_training"] = real.of_training(beside, min(moments.count, len(beside)))
    in_latents: dict[str, float | None] = {}
    if real.path is not None:
        far = frechet.distance(latents, real.latents)
        in_latents["frechet_distance_latents"] = far if np.isfinite(far) else None
    images = torch.cat(few)
    size = min(len(images), len(real.part))
    ours = images[:size].flatten(1).double()
    within = torch.cdist(ours, ours)
    precision, recall = None, None
    if size > MANIFOLD_NEIGHBOURS:
        precision, recall = _on_manifolds(ours, real.first(size), _reach(within), real.reach(size))
    return {
        "against": real.against,
        "frechet_distance": distance if np.isfinite(distance) else None,
        **in_latents,
        "precision": precision,
        "recall": recall,
        "diversity": _mean_distance(within, ours.shape[1]) if size > 1 else None,
        "label_accuracy": real.labels.accuracy(images, labels),
        **beside_training,
    }


def _batches(part: ImageSet) -> Iterator[Tensor]:
    """Yield the images of a part block by block, in [0, 1]."""
    return (torch.from_numpy(block).float().div(255) for block in blocks(part.images))


def _first(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the first `size` images of these batches."""
    for batch in batches:
        if size <= 0:
            return
        yield batch[:size]
        size -= len(batch)


def _flat(part: ImageSet, most: int) -> np.ndarray:
    """Return the first images of a part, N x D in [0, 1]."""
    flat: np.ndarray = part.images[:most].reshape(-1, part.images[0].size) / 255
    return flat
