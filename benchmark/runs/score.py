"""Score the images of a run, shard by shard."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..contracts import Measure, Progress
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


class ScoreJob(NamedTuple):
    """A file of images that has no scores yet in some descriptor spaces."""

    name: str
    """Unit, or key of the samples."""
    shard: Shard
    images: Path
    spaces: tuple[str, ...]


def score_unit(plan: RunPlan, folder: RunFolder, unit: tuple[str, str, int], scorer: Any, progress: Progress) -> None:
    """Score a unit's candidates, and the samples that its `prepare` asked for: they cost as much and may hit too."""
    name = unit[0]
    for job in _files(plan, folder, name):
        _score_file(plan, folder, job, scorer)
        if job.name == name:
            progress(f"{name}: scores", min(job.shard.numbers.stop, plan.candidates), plan.candidates)


def is_scored(plan: RunPlan, folder: RunFolder, unit: str) -> bool:
    """Return whether all of a unit's candidates have scores by every measure of the plan, and its samples too."""
    return not any(job.spaces for job in _files(plan, folder, unit))


def lacking(plan: RunPlan, folder: RunFolder, units: Iterable[str]) -> list[ScoreJob]:
    """Return what is to be scored of these units; samples that several of them share are there once."""
    found = {(job.name, job.shard.name): job for unit in units for job in _files(plan, folder, unit)}
    return [job for job in found.values() if job.spaces]


def score_shard(plan: RunPlan, folder: RunFolder, unit: str, shard: Shard, scorer: Any) -> None:
    """Score one shard of a unit's images, unless its scores are there."""
    _score_file(plan, folder, _job(plan, folder, unit, shard, folder.images_file(unit, shard)), scorer)


def scored(
    measures: Sequence[Measure], scorer: Any, images: Mapping[str, Any], first: int, spaces: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return by descriptor space the tables of a file of images, whose candidates are numbered from `first` on."""
    import numpy as np

    from ..results.score_files import score_tables

    numbers = first + np.arange(len(images["images"]), dtype=np.int64)
    nan = images["nan"].numpy() if "nan" in images else np.zeros(len(numbers), dtype=bool)
    columns = {key.removeprefix("column_"): value.numpy() for key, value in images.items() if key.startswith("column_")}
    found = {}
    for space in spaces:
        scores = scorer.score(images["images"], numbers, nan, space)
        if "caption" in images:
            scores = replace(scores, captions=images["caption"].numpy())
        found[space] = score_tables(scores, measures, columns)
    return found


def keep_scores(folder: RunFolder, job: ScoreJob, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the tables that `scored` has made of a job."""
    from ..results.score_files import write_tables

    for space, parts in tables.items():
        write_tables(folder, job.name, space, job.shard, parts)


def _files(plan: RunPlan, folder: RunFolder, unit: str) -> list[ScoreJob]:
    """Return every file that a unit is scored by, those too that have all their scores."""
    shards = below(folder.image_shards(unit), plan.candidates)
    keys = read_info(folder.state_file(unit))["cost"]["samples"]
    samples = folder.shared_samples()
    return [
        *(_job(plan, folder, unit, shard, folder.images_file(unit, shard)) for shard in shards),
        *(_job(plan, folder, key, SAMPLES, samples.file(key)) for key in keys),
    ]


def _job(plan: RunPlan, folder: RunFolder, name: str, shard: Shard, images: Path) -> ScoreJob:
    spaces = dict.fromkeys(measure.space for measure in plan.measures)
    return ScoreJob(name, shard, images, tuple(s for s in spaces if not _has_scores(folder, name, s, shard)))


def _has_scores(folder: RunFolder, name: str, space: str, shard: Shard) -> bool:
    return all(folder.scores_file(name, space, shard, part).exists() for part in SCORE_PARTS)


def _score_file(plan: RunPlan, folder: RunFolder, job: ScoreJob, scorer: Any) -> None:
    images = read_state(job.images).tensors if job.spaces else {}
    for space in job.spaces:
        keep_scores(folder, job, scored(plan.measures, scorer, images, job.shard.numbers.start, [space]))
