"""Captions of both sides: what attacks may replay, and which image and family each of them is of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..contracts import Side
from .duplicates import joined
from .references import ImageSet, References


class CaptionNumbers(NamedTuple):
    """Which caption and caption family each image of a side has, in numbers that say nothing of a text."""

    own: Mapping[Side, np.ndarray]
    """The caption of each image of a side, (images,) int64; -1: one that both sides have."""
    families: Mapping[Side, np.ndarray]
    """The caption family of each image of a side, (images,) int64: images that share a caption, a family of the pair's
    own or a near-duplicate group are of one."""


class Captions(NamedTuple):
    """The captions of a pair's training and held-out images; which side one is of stands in `numbers` alone."""

    texts: list[str]
    """Captions that one side alone has, each once and sorted; a caption's number is its place here."""
    numbers: CaptionNumbers


def captions_of(references: References) -> Captions | None:
    """Return the captions of a pair's images, None where it has none.

    A caption of both sides belongs to neither, so that it is in no list: asked for, it could only blur the comparison.
    """
    parts = [part for part in (references.training, references.held_out) if len(part)]
    every = [part.captions for part in parts]
    if any(captions is None for captions in every):
        return None
    sides: list[Side] = ["training", "held_out"]
    known = [set(captions or ()) for captions in every]
    shared = set.intersection(*known) if len(known) > 1 else set()
    texts = sorted(set.union(*known) - shared)
    numbers = {text: number for number, text in enumerate(texts)}
    flat = [text for captions in every for text in captions or ()]
    ends = np.cumsum([len(part) for part in parts])[:-1]
    own = np.array([numbers.get(text, -1) for text in flat], dtype=np.int64)
    by_side = [dict(zip(sides, each, strict=False)) for each in (np.split(own, ends), caption_families(parts))]
    return Captions(texts, CaptionNumbers(*by_side))


def caption_families(parts: Sequence[ImageSet]) -> list[np.ndarray]:
    """Return the caption family of each image of each part, (images,) int64, numbered across all of them.

    Images that share a caption, a family of the pair's own or a near-duplicate group are of one.
    """
    flat = [text for part in parts for text in part.captions or ()]
    named = [family for part in parts for family in part.families or ()]
    together = joined(np.concatenate([part.groups for part in parts]), flat)
    families = np.unique(joined(together, named) if named else together, return_inverse=True)[1]
    return np.split(families.astype(np.int64), np.cumsum([len(part) for part in parts])[:-1])
