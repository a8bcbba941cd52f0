"""Are a unit's images of the pair's kind? A model that was read wrongly finds nothing, and must not be called clean."""

from typing import Any

from ..files import read_json
from ..protocol import UNLIKE
from .run_folder import RunFolder

WORSE = 2.0
"""How many times the distance of as many training images that of the candidates must be: few images are all far off."""


def is_unlike(far: float, training: float) -> bool:
    """Return whether images are no such images, by both distances in units of the real images' variance."""
    return far > UNLIKE and far > WORSE * training


def said_of_unlike(folder: RunFolder, unit: str) -> str | None:
    """Return in a sentence how far a unit's images are from the pair's, None where they are not, or it is not known.

    It is not known where pixel space says nothing (large images), without images outside of the training set, and in
    runs of before it was asked.
    """
    file = folder.path / "quality.json"
    found: dict[str, Any] = read_json(file).get(unit, {}) if file.exists() else {}
    far, training = found.get("of_variance"), found.get("of_variance_training")
    if far is None or training is None or not is_unlike(far, training):
        return None
    against = str(found["against"]).replace("_", "-")
    return (
        f"the images are not of the pair's kind: their Frechet distance to {against} images is {far:.2f} of the "
        f"variance of these, that of as many training images {training:.2f}. Is the model read as it was trained "
        f"(prediction type, range, size), and does it make such images?"
    )
