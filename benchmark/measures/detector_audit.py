"""The audit of the detector: the same judge on known copies and on known non-copies.

Known copies are training images changed in stated ways at several strengths; known non-copies are the
pool, images of neither side. Both take the path that candidates take: uint8, one search, best match.
What comes out is how often a copy is found (recall) and how often a non-copy is called one
(false-positive rate), each by threshold and with a Wilson interval.
"""

import functools
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..candidates import generator
from ..contracts import Measure
from ..protocol import CONFIDENCE
from ..stats.intervals import wilson
from . import hits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..data.references import ImageSet, References
    from .scorer import Scorer

IMAGES_PER_KIND = 128
"""Training images that each change is applied to (the same ones for every change)."""

MOST_NON_COPIES = 1024
"""Pool images that are judged at most."""

_BATCH = 64
_MOST_THRESHOLDS = 200


class Change(NamedTuple):
    """One way to change an image: kind, strength in the unit that `label` names, and the function itself."""

    kind: str
    strength: float
    label: str
    apply: "Callable[[Tensor, torch.Generator], Tensor]"
    """Takes one image, C x H x W in [0, 1], and the image's own random stream."""


def changes() -> list[Change]:
    """Return every change of the audit, mildest first within each kind.

    Noise: standard deviation in shares of the value range. JPEG: Pillow's quality. Shift: pixels in a random
    one of four directions, edges replicated, fractions by linear interpolation. Brightness: share of the
    range that is added. Contrast: factor on the distance from the image's mean. All are clipped to [0, 1].
    """
    found = [Change("identical", 0.0, "identical", lambda image, _: image)]
    found += [Change("noise", sd, f"{100 * sd:g} %", functools.partial(_noise, sd)) for sd in (0.02, 0.05, 0.1, 0.2)]
    found += [Change("jpeg", q, f"q {q}", functools.partial(_jpeg, q)) for q in (90, 70, 50, 30)]
    found += [Change("shift", px, f"{px:g} px", functools.partial(_shift, px)) for px in (0.25, 0.5, 1.0, 2.0)]
    found += [Change("flip", 0.0, "flipped", lambda image, _: image.flip(-1))]
    found += [Change("brightness", b, f"+{100 * b:g} %", functools.partial(_brightness, b)) for b in (0.05, 0.1, 0.2)]
    found += [Change("contrast", c, f"x {c:g}", functools.partial(_contrast, c)) for c in (0.9, 0.75, 0.5)]
    return found


def audit(
    references: "References",
    measures: Sequence[Measure],
    scorer: "Scorer",
    seed: int,
    images_per_kind: int = IMAGES_PER_KIND,
    kinds: Collection[str] = (),
) -> dict[str, Any]:
    """Judge known copies and known non-copies by the measures and return plain JSON values.

    `scorer` must have been made of the same references and (at least) these measures; its stored
    descriptors are used again. `images_per_kind` training images are drawn, at most |X|, and changed in the ways
    of these `kinds` (default: all). By measure the result holds `thresholds` (the grid of stored bins and the
    band edges), for each change the counts `right` (best match within the threshold and of the source's
    duplicate group) and `any` (within the threshold, whichever image) with the ends of their 95 % Wilson
    intervals, the same for the non-copies (None where the pool is empty; `non_copies_missing` then says so), and
    `table`, the band edges alone.
    """
    copied = _drawn(len(references.training), images_per_kind, seed, "copies")
    others = _drawn(len(references.pool), MOST_NON_COPIES, seed, "non-copies")
    listed = [change for change in changes() if not kinds or change.kind in kinds]
    found: dict[str, Any] = {}
    for space in dict.fromkeys(measure.space for measure in measures):
        mine = [measure for measure in measures if measure.space == space]
        originals = _as_compared(references.training, copied, mine[0], scorer)
        copies = [_judge(_changed(originals, copied, c, seed), mine, scorer) for c in listed]
        outside = None
        if len(others):
            outside = _judge(_as_compared(references.pool, others, mine[0], scorer).split(_BATCH), mine, scorer)
        groups = references.training.groups
        for measure in mine:
            found[measure.id] = _by_threshold(measure, listed, copies, outside, groups, groups[copied])
    return {
        "seed": seed,
        "copied_images": len(copied),
        "non_copies": len(others),
        "non_copies_missing": None if len(others) else "the pair has no pool: false positives were not measured",
        "changes": [{"kind": c.kind, "strength": c.strength, "label": c.label} for c in listed],
        "measures": {measure.id: found[measure.id] for measure in measures},
    }


def table_rows(audit: dict[str, Any], measure_id: str) -> list[dict[str, Any]]:
    """Return one row per change, and one for the non-copies, with percent and interval at each band edge.

    A measure without bands is shown at a quarter, half and the whole of its stored range.
    """
    found = audit["measures"][measure_id]
    sign = "<=" if found["distance"] else ">="
    places = [(edge, found["thresholds"].index(edge)) for edge in found["edges"]]
    rows = []
    for change in found["copies"]:
        name = change["kind"] if change["kind"] == change["label"] else f"{change['kind']} {change['label']}"
        rows.append(
            {"images": f"copies, {name}", "n": change["n"]}
            | {f"score {sign} {edge:g}": _percent(change["right"], i, change["n"]) for edge, i in places}
        )
    outside = found["non_copies"]
    if outside is not None:
        cells = {f"score {sign} {edge:g}": _percent(outside["any"], i, outside["n"]) for edge, i in places}
        rows.append({"images": "non-copies (false positives)", "n": outside["n"]} | cells)
    return rows


# ---- Making and judging images ----------------------------------------------------------------------


def _drawn(size: int, most: int, seed: int, what: str) -> np.ndarray:
    """Return at most `most` of `size` positions at random, sorted."""
    import torch

    order: np.ndarray = torch.randperm(size, generator=generator(seed, "audit", 0, what)).numpy()
    return np.sort(order[:most])


def _as_compared(part: "ImageSet", positions: np.ndarray, measure: Measure, scorer: "Scorer") -> "Tensor":
    """Return images of a part, uint8 N x C x H x W: out of the autoencoder where the measure's references are."""
    import torch

    return scorer.as_compared(measure, torch.from_numpy(part.images[positions]))


def _changed(images: "Tensor", positions: np.ndarray, change: Change, seed: int) -> "Iterator[Tensor]":
    """Yield batches of changed images as uint8, B x C x H x W; a position names an image's own random stream."""
    import torch

    from ..sampling.sampler import quantise

    for start in range(0, len(positions), _BATCH):
        batch, numbers = [], positions[start : start + _BATCH].tolist()
        for image, position in zip(images[start : start + _BATCH], numbers, strict=True):
            own = generator(seed, "audit", position, f"{change.kind} {change.strength}")
            batch.append(change.apply(image.float() / 255, own).clamp(0, 1))
        yield quantise(torch.stack(batch))


def _judge(
    batches: "Iterable[Tensor]", measures: Sequence[Measure], scorer: "Scorer"
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return each image's best-match score against the training images by measure, and that match."""
    scores: dict[str, list[np.ndarray]] = {measure.id: [] for measure in measures}
    ids = []
    for images in batches:
        finite = np.zeros(len(images), dtype=bool)
        shard = scorer.score(images, np.arange(len(images)), finite, measures[0].space)
        ids.append(shard.best_ids("training"))
        for measure in measures:
            scores[measure.id].append(shard.best_scores(measure, "training"))
    return {name: np.concatenate(parts) for name, parts in scores.items()}, np.concatenate(ids)


def _noise(sd: float, image: "Tensor", own: "torch.Generator") -> "Tensor":
    import torch

    return image + sd * torch.randn(image.shape, generator=own)


def _jpeg(quality: int, image: "Tensor", own: "torch.Generator") -> "Tensor":
    """Encode and decode by Pillow: three channels as RGB, any other number one by one as grey."""
    import torch

    from ..sampling.sampler import quantise

    planes = quantise(image[None])[0].numpy()
    if len(planes) == 3:
        decoded = _through_jpeg(planes.transpose(1, 2, 0), quality).transpose(2, 0, 1)
    else:
        decoded = np.stack([_through_jpeg(plane, quality) for plane in planes])
    return torch.from_numpy(np.ascontiguousarray(decoded)).float() / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="JPEG", quality=quality)
    stream.seek(0)
    with Image.open(stream) as image:
        return np.asarray(image)


def _shift(pixels: float, image: "Tensor", own: "torch.Generator") -> "Tensor":
    import torch

    direction = int(torch.randint(4, (1,), generator=own))
    axis, sign = (-1, -2)[direction % 2], 1 if direction < 2 else -1
    whole, part = int(pixels), pixels - int(pixels)
    near = _moved(image, axis, sign * whole)
    return near if part == 0 else (1 - part) * near + part * _moved(image, axis, sign * (whole + 1))


def _moved(image: "Tensor", axis: int, by: int) -> "Tensor":
    """Move the image by whole pixels; what comes in repeats the edge."""
    import torch

    size = image.shape[axis]
    return image.index_select(axis, (torch.arange(size) - by).clamp(0, size - 1))


def _brightness(added: float, image: "Tensor", own: "torch.Generator") -> "Tensor":
    return image + added


def _contrast(factor: float, image: "Tensor", own: "torch.Generator") -> "Tensor":
    mean = image.mean()
    return mean + factor * (image - mean)


# ---- Counting ---------------------------------------------------------------------------------------


def _by_threshold(
    measure: Measure,
    listed: Sequence[Change],
    copies: Sequence[tuple[dict[str, np.ndarray], np.ndarray]],
    outside: tuple[dict[str, np.ndarray], np.ndarray] | None,
    groups: np.ndarray,
    sources: np.ndarray,
) -> dict[str, Any]:
    """Count for one measure; `groups` is by training image, `sources` the copied images' groups."""
    all_scores = np.concatenate([scores[measure.id] for scores, _ in copies])
    edges = _edges(measure, all_scores)
    thresholds = _grid(measure, edges, all_scores)
    found: dict[str, Any] = {"distance": measure.distance, "thresholds": thresholds, "edges": edges}
    found["bands"] = [{"band": b.name, "edge": hits.far_edge(b, measure)} for b in measure.bands]
    found["copies"] = []
    for change, (scores, ids) in zip(listed, copies, strict=True):
        within = _within(scores[measure.id], thresholds, measure)
        found["copies"].append(
            {
                "kind": change.kind,
                "strength": change.strength,
                "label": change.label,
                "n": len(ids),
                "right": _counted(within & (groups[ids] == sources)),
                "any": _counted(within),
            }
        )
    found["non_copies"] = None
    if outside is not None:
        within = _within(outside[0][measure.id], thresholds, measure)
        found["non_copies"] = {"n": within.shape[1], "any": _counted(within)}
    found["table"] = _compact(found)
    return found


def _compact(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return counts at the band edges alone: one entry per edge and change, and per edge for non-copies."""
    entries = []
    for edge in found["edges"]:
        place = found["thresholds"].index(edge)
        for change in found["copies"]:
            head = {"threshold": edge, "kind": change["kind"], "strength": change["strength"], "n": change["n"]}
            entries.append(head | {name: _at(change[name], place) for name in ("right", "any")})
        if found["non_copies"] is not None:
            head = {"threshold": edge, "kind": "non-copies", "strength": None, "n": found["non_copies"]["n"]}
            entries.append(head | {"any": _at(found["non_copies"]["any"], place)})
    return entries


def _within(scores: np.ndarray, thresholds: Sequence[float], measure: Measure) -> np.ndarray:
    """Return thresholds x images; NaN is within none."""
    return hits.within(scores, np.asarray(thresholds)[:, None], measure)


def _counted(within: np.ndarray) -> dict[str, list[float]]:
    n, counts = within.shape[1], within.sum(1).tolist()
    intervals = [_interval(count, n) for count in counts]
    return {"count": counts, "low": [i[0] for i in intervals], "high": [i[1] for i in intervals]}


@functools.cache
def _interval(count: int, n: int) -> tuple[float, float]:
    interval = wilson(count, n, CONFIDENCE)
    return interval.low, interval.high


def _at(counted: dict[str, list[float]], place: int) -> dict[str, float]:
    return {name: values[place] for name, values in counted.items()}


def _reach(measure: Measure, scores: np.ndarray) -> tuple[float, float]:
    """Return the closest and the farthest score that is worth a threshold."""
    finite = scores[np.isfinite(scores)]
    if measure.distance:
        return 0.0, float(measure.floor if np.isfinite(measure.floor) else finite.max(initial=1.0))
    return 1.0, float(measure.floor if np.isfinite(measure.floor) else finite.min(initial=0.0))


def _edges(measure: Measure, scores: np.ndarray) -> list[float]:
    """Return the band edges, closest first; without bands a quarter, half and the whole of the range."""
    if measure.bands:
        return [hits.far_edge(band, measure) for band in measure.bands]
    near, far = _reach(measure, scores)
    steps = max(1, round(abs(far - near) / measure.bin_width))
    sign = 1 if far > near else -1
    return [_tidy(near + sign * measure.bin_width * -(-steps * part // 4)) for part in (1, 2, 4)]


def _grid(measure: Measure, edges: Sequence[float], scores: np.ndarray) -> list[float]:
    near, far = _reach(measure, scores)
    steps = min(_MOST_THRESHOLDS, max(1, round(abs(far - near) / measure.bin_width)))
    width = (far - near) / steps
    return sorted({*(_tidy(near + width * i) for i in range(steps + 1)), *edges}, reverse=not measure.distance)


def _tidy(value: float) -> float:
    """Drop the rounding of sums such as 3 x 0.05."""
    return round(value, 9)


def _percent(counted: dict[str, list[float]], place: int, n: int) -> str:
    value, low, high = counted["count"][place] / n, counted["low"][place], counted["high"][place]
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
