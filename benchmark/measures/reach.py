"""Round-trip reach: which reference images a measure would still recognise in their own copy.

Each image is sent through the model's output path and scored as a candidate would be. It is reached in a band if its
best match lies there and is an image of its own duplicate group. What a perfect copier gives away beyond that, no
candidate can show.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..contracts import Measure, Side
from ..data.fits import Fits, code_beside
from ..data.references import References
from ..registry import layers
from . import hits
from .output_path import OutputPath
from .scorer import Scorer

MOST = 512
"""Images of a side that are looked at, evenly spaced: a share is known to 4.3 % at worst."""


class Reached(NamedTuple):
    """How many images of each side were looked at, and how many of them are reached by measure id and band."""

    images: Mapping[Side, int]
    counts: Mapping[str, Mapping[str, Mapping[Side, int]]]


def reached(
    references: References, measures: Sequence[Measure], scorer: Scorer, path: OutputPath, fits: Fits
) -> Reached:
    """Count the images of each side that are reached, in every band and union of bands; kept by content."""
    found = fits.values(
        "round-trip reach",
        lambda: _count(references, measures, scorer, path)._asdict(),
        measures=[measure.id for measure in measures],
        weights=[measure.weights() for measure in measures],
        code=code_beside([type(layer) for measure in measures for layer in layers(measure)]),
        neighbours=scorer.k,
        device=scorer.device.type,
        path=path.content,
        most=MOST,
    )
    return Reached(**found)


def looked_at(size: int) -> np.ndarray:
    """Return the positions of the images of a side that are looked at."""
    return np.linspace(0, size - 1, min(MOST, size)).astype(int)


def _count(references: References, measures: Sequence[Measure], scorer: Scorer, path: OutputPath) -> Reached:
    images: dict[Side, int] = {}
    counts: dict[str, dict[str, dict[Side, int]]] = {}
    for side, groups in references.groups().items():
        part = getattr(references, side)
        rows = looked_at(len(part))
        images[side] = len(rows)
        made, nan = path.once(torch.from_numpy(part.images[rows]))
        for space in dict.fromkeys(measure.space for measure in measures):
            scores = scorer.score(made, rows, nan, space)
            own = groups[scores.best_ids(side)] == groups[rows]
            for measure in (each for each in measures if each.space == space):
                best = scores.best_scores(measure, side)
                for band in hits.all_bands(measure):
                    count = int((hits.in_band(best, band, measure) & own).sum())
                    counts.setdefault(measure.id, {}).setdefault(band.name, {})[side] = count
    return Reached(images, counts)
