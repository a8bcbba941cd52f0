"""Score the images of a run, shard by shard."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts import Progress
from ..errors import BadInput
from ..files import read_info, read_state
from ..results.run_folder import RunFolder
from ..results.score_files import SCORE_PARTS
from ..results.shards import SAMPLES, Shard, below
from .plan import RunPlan

if TYPE_CHECKING:
    from ..data.references import References


def check_references(plan: RunPlan, references: "References") -> None:
    """Refuse reference images of another size than the model's.

    Raises:
        BadInput: the sizes differ; both are named.
    """
    wanted = plan.image_size
    channels, height, width = references.training.images.shape[1:]
    if (height, width, channels) != wanted:
        raise BadInput(
            f"{plan.pair.name}: the images are {height}x{width}x{channels}, "
            f"the model makes {'x'.join(str(n) for n in wanted)}"
        )
    held_out = set(references.held_out.groups)
    if held_out and not (held_out - set(references.training.groups)):
        raise BadInput(
            f"{plan.pair.name}: every held-out image lies in a near-duplicate group with training images, so nothing "
            f"is left to compare; declare control: none"
        )


def score_unit(plan: RunPlan, folder: RunFolder, unit: tuple[str, str, int], scorer: Any, progress: Progress) -> None:
    """Score a unit's candidates, and the samples that its `prepare` asked for: they cost as much and may hit too."""
    name = unit[0]
    for shard in below(folder.image_shards(name), plan.candidates):
        score_shard(plan, folder, name, shard, scorer)
        progress(f"{name}: scores", min(shard.numbers.stop, plan.candidates), plan.candidates)
    for key in read_info(folder.state_file(name))["cost"]["samples"]:
        _score_file(plan, folder, key, SAMPLES, folder.shared_samples().file(key), scorer)


def is_scored(plan: RunPlan, folder: RunFolder, unit: str) -> bool:
    """Return whether all of a unit's candidates have scores by every measure of the plan, and its samples too."""
    wanted = [(unit, shard) for shard in below(folder.image_shards(unit), plan.candidates)]
    wanted += [(key, SAMPLES) for key in read_info(folder.state_file(unit))["cost"]["samples"]]
    spaces = {measure.space for measure in plan.measures}
    return all(_has_scores(folder, name, space, shard) for name, shard in wanted for space in spaces)


def score_shard(plan: RunPlan, folder: RunFolder, unit: str, shard: Shard, scorer: Any) -> None:
    """Score one shard of a unit's images, unless its scores are there."""
    _score_file(plan, folder, unit, shard, folder.images_file(unit, shard), scorer)


def _has_scores(folder: RunFolder, name: str, space: str, shard: Shard) -> bool:
    return all(folder.scores_file(name, space, shard, part).exists() for part in SCORE_PARTS)


def _score_file(plan: RunPlan, folder: RunFolder, name: str, shard: Shard, images_file: Path, scorer: Any) -> None:
    import numpy as np

    from ..results.score_files import write_scores

    for space in dict.fromkeys(measure.space for measure in plan.measures):
        if _has_scores(folder, name, space, shard):
            continue
        stored = read_state(images_file).tensors
        numbers = shard.numbers.start + np.arange(len(stored["images"]), dtype=np.int64)
        nan = stored["nan"].numpy() if "nan" in stored else np.zeros(len(numbers), dtype=bool)
        scores = scorer.score(stored["images"], numbers, nan, space)
        columns = {
            key.removeprefix("column_"): value.numpy() for key, value in stored.items() if key.startswith("column_")
        }
        if "caption" in stored:
            scores = replace(scores, captions=stored["caption"].numpy())
        write_scores(folder, name, space, shard, scores, list(plan.measures), columns)
