"""Do images show what their captions say? A classifier of a pair's captions, in pixels.

A defence that keeps an image from coming back should leave what its caption asks for. A text-to-image pair comes
without a network that knows its captions, so the classifier is the nearest neighbour among the images of all captions
of both sides, where images may be moved by a pixel. How near the nearest is does not matter: what is drawn otherwise
than the training image, and still like nothing else, is right. Chance is one over the number of captions.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..contracts import Side
from ..data.captions import captions_of
from ..data.references import References

MOST_IMAGES = 2048
"""Images of a side that the classifier knows, the first ones. Images of other captions are not counted."""

SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Rows and columns by which an image may be moved."""


KEYS: Mapping[Side, str] = {"training": "caption_accuracy", "held_out": "held_out_caption_accuracy"}
"""What the figure of a side's captions is called."""


class CaptionClassifier:
    """Gives an image the caption of the nearest training or held-out image."""

    def __init__(self, images: np.ndarray, captions: np.ndarray) -> None:
        """Take uint8 images, N x C x H x W, and the number of each one's caption, (N,)."""
        self._known, self._captions = torch.from_numpy(images).float().flatten(1) / 255, captions

    def __call__(self, images: Tensor) -> np.ndarray:
        """Return the caption's number of each image, (N,), for uint8 images N x C x H x W."""
        best = [torch.cdist(moved.flatten(1), self._known).min(1) for moved in _moved(images.float() / 255)]
        nearest = torch.stack([found.values for found in best]).argmin(0)
        places = torch.stack([found.indices for found in best])
        captions: np.ndarray = self._captions[places[nearest, torch.arange(len(images))].numpy()]
        return captions


def caption_accuracy(
    candidates: Mapping[str, tuple[Iterable[Tensor], np.ndarray | None]], references: References
) -> dict[str, dict[str, float]]:
    """Return, by unit, the share of images that the classifier gives to their own caption, in 0 .. 1.

    `caption_accuracy` is that of training captions, `held_out_caption_accuracy` that of the others; what no caption was
    sent for is left out.

    Args:
        candidates: By unit, its images, uint8 N x C x H x W, read batch by batch, and the number of the caption that
            each was sampled from (`data.captions`; -1: none), (N,), or None where no attack sent captions.
        references: The pair's images with their captions.
    """
    known = captions_of(references)
    if known is None:
        return {}
    sides = list(known.numbers.own)
    images = np.concatenate([getattr(references, side).images[:MOST_IMAGES] for side in sides])
    own = {side: known.numbers.own[side][:MOST_IMAGES] for side in sides}
    captions = np.concatenate([own[side] for side in sides])
    classify = CaptionClassifier(images[captions >= 0], captions[captions >= 0])
    found = {}
    for unit, (batches, sent) in candidates.items():
        if sent is None:
            continue
        right = np.concatenate([classify(batch) for batch in batches]) == sent
        asked = {side: np.isin(sent, own[side]) & (sent >= 0) for side in sides}
        found[unit] = {KEYS[side]: float(right[rows].mean()) for side, rows in asked.items() if rows.any()}
    return found


def _moved(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    for down, right in SHIFTS:
        yield padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
