"""The checks that every measure must pass, built-in or not.

    from sidebench import check_measure
    check_measure("./mine.py:MyMeasure")

Each check raises `NotConformant` with what was seen. The images are made up: a check reads no data.
"""

import numpy as np
import torch

from ..candidates import generator
from ..contracts import Measure
from ..data.references import ImageSet, References
from ..measures.hits import as_distances
from ..measures.scorer import Scorer
from ..measures.shard_scores import SIDES
from ..registry import find, make_measure
from .check_attack import NotConformant

IMAGES = 60
"""On each side; as many candidates, half of them copies of training images."""


def check_measure(name: str, shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """Run every check for a measure (an id such as `nl2:n50:a0.5`, or `file.py:Class`) on images of C x H x W.

    Raises:
        NotConformant: a check failed; the message says which and what was seen.
        MeasureFailed: the measure raised, or returned what its contract does not allow.
    """
    measure: Measure = find("measure", name)() if ".py:" in name else make_measure(name)
    measure.check(IMAGES, IMAGES, True)
    check_bands(measure)
    references = made_up_references(shape)
    check_descriptors(measure, torch.from_numpy(references.training.images).float() / 255)
    check_scores(measure, references)


def made_up_references(shape: tuple[int, int, int]) -> References:
    """Return references of noise, every image a duplicate group of its own."""

    def part(number: int, side: str) -> ImageSet:
        draw = generator(0, "conformance", number, side)
        images = torch.randint(256, (IMAGES, *shape), generator=draw, dtype=torch.uint8).numpy()
        rows = np.arange(IMAGES) + number * IMAGES
        return ImageSet(images, rows, rows)

    return References(part(0, "training"), part(1, "held_out"), part(2, "pool"), part(3, "tuning"), fingerprint="")


def check_bands(measure: Measure) -> None:
    """The id begins with the name; bands are given closest first, next to each other, and within the floor."""
    if measure.id.partition(":")[0] != measure.name:
        raise NotConformant(f"{measure.name}: the id {measure.id!r} does not begin with the name")
    edges = [(band.low, band.high) if measure.distance else (-band.high, -band.low) for band in measure.bands]
    floor = measure.floor if measure.distance else -measure.floor
    ends = [*(low for low, _ in edges[1:]), floor]
    for (low, high), end in zip(edges, ends, strict=False):
        if not low < high <= end:
            raise NotConformant(f"{measure.id}: bands must be given closest first, without overlap, within the floor")


def check_descriptors(measure: Measure, images: torch.Tensor) -> None:
    """An image's descriptor does not depend on its batch, and the images are left as they are."""
    kept = images.clone()
    whole = measure.descriptors(images)
    if not torch.equal(images, kept):
        raise NotConformant(f"{measure.id}: descriptors changes the images that it is given")
    alone = torch.cat([measure.descriptors(images[i : i + 1]) for i in range(5)])
    off = float((alone - whole[:5]).abs().max())
    if off > 1e-5:
        raise NotConformant(f"{measure.id}: an image's descriptor alone is {off:.3g} off from that in a batch")


def check_scores(measure: Measure, references: References) -> None:
    """A copy is the best match; a nearer image never scores worse; the radius is where the score is the floor."""
    half = IMAGES // 2
    images = torch.from_numpy(np.concatenate([references.training.images[:half], references.pool.images[:half]]))
    # What a round trip changes are the references, for which there is no model here.
    measure = measure.round_trip_of or measure
    scorer = Scorer(references, [measure], IMAGES, torch.device("cpu"))
    found = scorer.score_finite(images, measure.space)
    if not np.array_equal(found.best_ids("training")[:half], np.arange(half)):
        raise NotConformant(f"{measure.id}: a copy of a training image is not matched with it")
    best = as_distances(found.best_scores(measure, "training"), measure)
    if best[:half].max() >= best[half:].min():
        raise NotConformant(f"{measure.id}: a copy does not score better than another image")
    both = found.neighbours["training"], found.neighbours["held_out"]
    for side in SIDES:
        scores = as_distances(measure.scores(found.neighbours[side].distances, *both, side), measure)
        if (np.diff(scores, axis=1) < -1e-6).any():
            raise NotConformant(f"{measure.id}: on the {side} side a nearer image scores worse than a farther one")
        radius = measure.radius(*both, side)
        reached = measure.scores(radius[:, None], *both, side)
        if np.isfinite(measure.floor) and not np.allclose(reached, measure.floor, rtol=1e-3):
            raise NotConformant(f"{measure.id}: at its radius the score is {reached[0, 0]:.4g}, not {measure.floor:g}")
