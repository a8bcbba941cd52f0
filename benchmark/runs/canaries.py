"""Canaries of a pair: strings planted in training, matched ones that were not, and others to rank them among."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.pair import Pair, TextRecipe

if TYPE_CHECKING:
    from torch import Tensor

OTHERS = 1_000
"""Random strings that were never planted."""

_SEED = 0
"""Draws them: the same for every run, so that runs can be compared."""


class Canaries(NamedTuple):
    """Strings and, of those that have one, images."""

    texts: list[str]
    """Canaries, matched strings and others, sorted."""
    places: np.ndarray
    """(K,) where canaries and matched strings stand in `texts`."""
    images: np.ndarray
    """(K, C, H, W) uint8, theirs."""
    copies: np.ndarray
    """(K,) how often each was planted; 0: matched."""


class Ranks(NamedTuple):
    """One entry per canary or matched string."""

    copies: np.ndarray
    """How often it was planted."""
    distance: np.ndarray
    """Root mean square between its image and what was made of the string, the mean over the images made."""
    nearer: np.ndarray
    """Strings never planted whose images come at least as near."""
    others: np.ndarray
    """How many there are."""


def canaries_of(pair: Pair, size: tuple[int, int, int]) -> Canaries:
    """Return a pair's canaries; `size` is (height, width, channels) of its images.

    Others are as long as the canaries, of the same letters.
    """
    from ..models.zoo.text_recipe import LETTERS, canaries

    assert isinstance(pair.recipe, TextRecipe) and pair.recipe.canaries is not None
    height, width, channels = size
    planted = canaries(pair.recipe.canaries, (channels, height, width))
    assert planted.captions is not None and planted.labels is not None
    draw, length = np.random.Generator(np.random.PCG64(_SEED)), max(map(len, planted.captions))
    others: dict[str, None] = {}
    while len(others) < OTHERS:
        others["".join(draw.choice(list(LETTERS), length))] = None
    texts = sorted({*planted.captions, *others})
    places = np.searchsorted(np.array(texts), np.array(planted.captions))
    return Canaries(texts, places, planted.images, planted.labels)


def ranked(canaries: Canaries, made: Mapping[int, "Tensor"]) -> Ranks:
    """Rank each canary by the distance of what was made of its string to its image, among all others' distances.

    Args:
        canaries: The strings and their images.
        made: Images, uint8 S x C x H x W, by place in `texts`. A canary without one, since its images are NaN, has no
            rank.
    """
    others = np.setdiff1d(np.array(sorted(made)), canaries.places)
    distances, nearer, copies = [], [], []
    for place, image, planted in zip(canaries.places.tolist(), canaries.images, canaries.copies.tolist(), strict=True):
        if place not in made:
            continue
        copies.append(planted)
        own = _distance(made[place].numpy(), image)
        distances.append(own)
        nearer.append(sum(_distance(made[int(each)].numpy(), image) <= own for each in others))
    count = np.full(len(distances), len(others))
    return Ranks(np.array(copies, dtype=np.int64), np.array(distances), np.array(nearer, dtype=np.int64), count)


def _distance(images: np.ndarray, image: np.ndarray) -> float:
    gap = (images.astype(np.float64) - image) / 255
    return float(np.sqrt((gap**2).reshape(len(images), -1).mean(1)).mean())
