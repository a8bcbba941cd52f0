"""The contact sheet: the strongest pairs of a unit, with names of training images that only the folder resolves."""

import base64
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..contracts import Measure
from ..errors import CorruptRun
from ..files import read_json
from ..measures import ams_ums, hits
from ..results.keyed_names import keyed_hash, training_group
from ..results.run_folder import RunFolder
from ..results.unit_scores import UnitScores


class ShownPair(NamedTuple):
    """A generated image and the training image nearest to it."""

    candidate: int
    score: float
    band: str
    """Of the headline measure; "none" where the pair is no hit."""
    name: str
    """Keyed hash of the training image's duplicate group."""
    image_found: int
    """Candidates in the closest band whose best match is this image."""
    group_found: int
    """The same for any image of its duplicate group."""
    group_size: int
    picture: str | None
    """Both images side by side as a data URI, where images were asked for."""


def strongest_pairs(
    folder: RunFolder,
    unit: str,
    measure: Measure,
    scores: UnitScores,
    groups: np.ndarray,
    key: bytes,
    *,
    with_images: bool,
) -> list[ShownPair]:
    """Return a unit's strongest pairs, closest first; `groups` has each training image's duplicate group.

    Raises:
        CorruptRun: the stored pairs name images that the run does not have.
    """
    source = folder.path / "evidence" / unit
    stored = read_json(source / "pairs.json")
    frequencies = _found(measure, scores, len(groups))
    _, position, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = ams_ums.by_group(frequencies, groups)
    pairs = []
    for rank, (candidate, reference, score) in enumerate(_checked(stored, len(groups), unit), start=1):
        file = source / f"{rank:02d}-candidate{candidate}-training{reference}.png"
        pairs.append(
            ShownPair(
                candidate=candidate,
                score=score,
                band=_band(measure, score),
                name=keyed_hash(key, training_group(int(groups[reference]))),
                image_found=int(frequencies[reference]),
                group_found=int(by_group[position[reference]]),
                group_size=int(sizes[position[reference]]),
                picture=_data_uri(file) if with_images else None,
            )
        )
    return pairs


def _found(measure: Measure, scores: UnitScores, references: int) -> np.ndarray:
    """Return how often each training image was the best match in the closest band; zeros without bands."""
    if not measure.bands:
        return np.zeros(references, dtype=np.int64)
    best = scores.best_scores[measure.id, "training"]
    return ams_ums.best_frequencies(scores.best_ids["training"], best, measure.bands[0], references, measure)


def _band(measure: Measure, score: float) -> str:
    inside = [b.name for b in measure.bands if hits.in_band(np.array([score]), b, measure)[0]]
    return inside[0] if inside else "none"


def _checked(stored: dict[str, Any], references: int, unit: str) -> list[tuple[int, int, float]]:
    """Return (candidate, reference, score) of the stored pairs; their numbers are parts of file names."""
    try:
        pairs = [(int(p["candidate"]), int(p["reference"]), float(p["score"])) for p in stored["pairs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRun(f"evidence/{unit}/pairs.json does not hold pairs ({error})") from None
    if any(candidate < 0 or not 0 <= reference < references for candidate, reference, _ in pairs):
        raise CorruptRun(f"evidence/{unit}/pairs.json, pairs: a number is out of range")
    return pairs


def _data_uri(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CorruptRun(f"{file.parent.name}/{file.name} cannot be read: {error.strerror}") from None
    return "data:image/png;base64," + base64.b64encode(content).decode()
