"""Rate the captions that an attack replayed, from its images or from its state: what flags are made of."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.captions import captions_of
from ..errors import AttackFailed
from ..files import read_state, write_table
from ..results.run_folder import RunFolder
from ..results.shards import below
from .canaries import Ranks, canaries_of, ranked
from .plan import RunPlan

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.references import References


class Ratings(NamedTuple):
    """One entry per rated caption."""

    caption: np.ndarray
    """Its number (`data.captions`)."""
    score: np.ndarray
    """Smaller is more suspicious."""
    candidate: np.ndarray
    """The candidate that stands for it, -1 for none."""


def rate_captions(plan: RunPlan, folder: RunFolder, unit: tuple[str, str, int], references: "References") -> None:
    """Write the ratings of a unit's captions, or the ranks of its canaries; nothing for an attack without either.

    Raises:
        AttackFailed: it replays no captions, or its state does not hold what it says.
    """
    import pyarrow as pa

    name, _, seed = unit
    manifest = folder.manifest()
    assert manifest is not None
    rated = manifest["units"][name].get("filter")
    if rated is None:
        return
    candidates, captions = _candidates(folder, name, plan.candidates)
    found: Ratings | Ranks
    if rated["kind"] == "cliques":
        found = _by_cliques(folder, name, candidates, captions, rated)
    elif rated["kind"] == "canaries":
        found = ranked(canaries_of(plan.pair, plan.image_size), _strings(folder, name, candidates, captions))
    else:
        known = captions_of(references)
        texts = [] if known is None else known.texts
        found = _by_state(folder, name, seed, candidates, captions, texts)
    write_table(folder.captions_file(name, plan.candidates), pa.table(found._asdict()))


def _candidates(folder: RunFolder, unit: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a unit's whole images among the first, and the caption of each."""
    numbers, captions = [], []
    for shard in below(folder.image_shards(unit), count):
        stored = read_state(folder.images_file(unit, shard)).tensors
        if "caption" not in stored:
            raise AttackFailed(f"{unit}: its captions are to be rated, and it was given none: set replays")
        kept = ~stored["nan"].numpy() & (np.asarray(shard.numbers) < count)
        numbers.append(np.asarray(shard.numbers)[kept])
        captions.append(stored["caption"].numpy()[kept])
    return np.concatenate(numbers), np.concatenate(captions)


def _by_cliques(
    folder: RunFolder, unit: str, candidates: np.ndarray, captions: np.ndarray, rated: dict[str, Any]
) -> Ratings:
    """Rate each caption with all of its images by its tightest clique, whose medoid stands for it."""
    from ..measures.cliques import tightest_clique, tile_distances

    known, counts = np.unique(captions[captions >= 0], return_counts=True)
    chosen, scores, medoids = known[counts >= rated["images"]], [], []
    for caption in chosen:
        own = candidates[captions == caption][: rated["images"]]
        clique = tightest_clique(tile_distances(_images(folder, unit, own)), rated["clique"])
        scores.append(clique.delta)
        medoids.append(own[clique.medoid] if clique.medoid >= 0 else -1)
    return Ratings(chosen, np.array(scores, dtype=np.float64), np.array(medoids, dtype=np.int64))


def _images(folder: RunFolder, unit: str, numbers: np.ndarray) -> "Tensor":
    """Return candidates by number, uint8 N x C x H x W; a caption's lie in one shard or two."""
    import torch

    parts = []
    for shard in folder.image_shards(unit):
        inside = numbers[(numbers >= shard.numbers.start) & (numbers < shard.numbers.stop)]
        if len(inside):
            stored = read_state(folder.images_file(unit, shard)).tensors["images"]
            parts.append(stored[torch.from_numpy(inside - shard.numbers.start)])
    return torch.cat(parts)


def _strings(folder: RunFolder, unit: str, candidates: np.ndarray, captions: np.ndarray) -> "dict[int, Tensor]":
    """Return the images of each string by its place in the sorted list."""
    from ..sampling.views import CANARY

    known = np.unique(captions[captions <= CANARY])
    return {CANARY - int(each): _images(folder, unit, candidates[captions == each]) for each in known}


def _by_state(
    folder: RunFolder, unit: str, seed: int, candidates: np.ndarray, captions: np.ndarray, texts: list[str]
) -> Ratings:
    """Rate each caption by the attack's own score; the first candidate that was sampled from it stands for it."""
    from ..sampling.views import in_order_of

    given = in_order_of(seed, texts)
    scores = folder.attack_state(unit).tensors.get("caption_scores")
    if scores is None or scores.shape != (len(given),) or not scores.isfinite().all():
        raise AttackFailed(
            f"{unit}: its state must hold caption_scores, a finite number for each of {len(given)} captions"
        )
    place = {text: number for number, text in enumerate(texts)}
    numbers = np.array([place[text] for text in given], dtype=np.int64)
    order = np.argsort(numbers)
    known, first = np.unique(captions, return_index=True)
    stands = {int(caption): int(candidates[at]) for caption, at in zip(known, first, strict=True)}
    return Ratings(
        numbers[order],
        -scores.double().numpy()[order],
        np.array([stands.get(int(caption), -1) for caption in numbers[order]], dtype=np.int64),
    )
