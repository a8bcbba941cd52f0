"""Do images show what their captions say? A classifier of a pair's captions, in pixels.

A defence that keeps an image from coming back should leave what its caption asks for. A text-to-image pair comes
without a network that knows its captions, so the classifier is the nearest neighbour among the images of all captions
of both sides, where images may be moved by a pixel. How near the nearest is does not matter: what is drawn otherwise
than the training image, and still like nothing else, is right. Chance is one over the number of captions.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..contracts import Side
from ..data.captions import captions_of
from ..data.references import References
from .image_quality import MOST_DIMENSIONS

MOST_IMAGES = 2048
"""Images of a side that the classifier knows, the first ones. Images of other captions are not counted."""

SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Rows and columns by which an image may be moved."""


ALIKE = 1e-3
"""Squared distances, of values in 0 .. 1, that differ by less are the same: float32 knows them no better."""

KEYS: Mapping[Side, str] = {"training": "caption_accuracy", "held_out": "held_out_caption_accuracy"}
"""What the figure of a side's captions is called."""


class CaptionClassifier:
    """Says whether an image is as near to an image of a caption as to any other training or held-out image."""

    def __init__(self, images: np.ndarray, captions: np.ndarray) -> None:
        """Take uint8 images, N x C x H x W, at least one, and the number of each one's caption, (N,)."""
        self._known, self._captions = torch.from_numpy(images).flatten(1).float().div_(255), torch.from_numpy(captions)

    def shows(self, images: Tensor, captions: np.ndarray) -> np.ndarray:
        """Return whether each image, uint8 N x C x H x W, shows its caption, (N,) bool; `captions` are numbers, (N,).

        Where images of two captions are alike, an image as near to both shows either.
        """
        moved = (torch.cdist(each.flatten(1), self._known) for each in _moved(images.float() / 255))
        distances = functools.reduce(torch.minimum, moved).square_()
        others = self._captions[None] != torch.from_numpy(captions)[:, None]
        own = distances.masked_fill(others, torch.inf).min(1).values
        found: np.ndarray = (own <= distances.min(1).values + ALIKE).numpy()
        return found


def caption_accuracy(
    candidates: Mapping[str, tuple[Iterable[Tensor], np.ndarray | None]], references: References
) -> dict[str, dict[str, float]]:
    """Return, by unit, the share of images that the classifier gives to their own caption, in 0 .. 1.

    `caption_accuracy` is that of training captions, `held_out_caption_accuracy` that of the others; what no caption was
    sent for is left out, and so are pairs of images of more than 4,096 values, where distances of pixels say nothing.

    Args:
        candidates: By unit, its images, uint8 N x C x H x W, read batch by batch, and the number of the caption that
            each was sampled from (`data.captions`; -1: none), (N,), or None where no attack sent captions.
        references: The pair's images with their captions.
    """
    known = captions_of(references)
    if known is None or references.training.images[0].size > MOST_DIMENSIONS:
        return {}
    sides = list(known.numbers.own)
    images = np.concatenate([getattr(references, side).images[:MOST_IMAGES] for side in sides])
    own = {side: known.numbers.own[side][:MOST_IMAGES] for side in sides}
    captions = np.concatenate([own[side] for side in sides])
    if not (captions >= 0).any():
        return {}
    classifier = CaptionClassifier(images[captions >= 0], captions[captions >= 0])
    found = {}
    for unit, (batches, sent) in candidates.items():
        if sent is None:
            continue
        right = np.concatenate(list(_right(classifier, batches, sent)))
        asked = {side: np.isin(sent, own[side]) & (sent >= 0) for side in sides}
        found[unit] = {KEYS[side]: float(right[rows].mean()) for side, rows in asked.items() if rows.any()}
    return found


def _right(classifier: CaptionClassifier, batches: Iterable[Tensor], sent: np.ndarray) -> Iterator[np.ndarray]:
    begin = 0
    for batch in batches:
        yield classifier.shows(batch, sent[begin : begin + len(batch)])
        begin += len(batch)


def _moved(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    for down, right in SHIFTS:
        yield padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
