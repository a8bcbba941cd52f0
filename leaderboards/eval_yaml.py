"""`eval.yaml` in the root of a results dataset: what the Hub asks of a dataset whose results stand with models.

The Hub shows `.eval_results/sidebench.yaml` of a model (`eval_result`) beside the dataset that it names, if that says
there which tasks it has: https://huggingface.co/docs/hub/eval-results. A task is a board of one model.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from ..benchmark.errors import BadInput
from ..benchmark.files import parse_yaml
from .record import Record

PLACE = "eval.yaml"

HEAD = {
    "name": "sidebench",
    "description": (
        "How much of its training set a diffusion model gives away to extraction attacks: the excess of candidates "
        "that training images own over what held-out images say is chance, in percent of the candidates. Lower is "
        "better; the 95 % interval stands in the notes of each result, and the record that it comes from in records/."
    ),
    "evaluation_framework": "sidebench",
}


def task_id(record: Record) -> str:
    """Return the task that a record's result stands under: its victim on its board."""
    return f"{record.victim.name}-{record.board}"


def eval_yaml(records: Iterable[Record], there: bytes | None = None) -> str:
    """Return the file that names the tasks of these records, and keeps whatever it says already.

    A record counts whose victim is a model on the Hub and attacked without a defence: others have no result there.

    Args:
        records: Those that are published.
        there: The file as it stands in the repository.

    Returns:
        Its text; empty where there is no task to name and no file.

    Raises:
        BadInput: the file that is there is none of this form.
    """
    content = _read(there)
    known = {task.get("id") for task in content["tasks"]}
    ids = {task_id(one) for one in records if one.victim.sources.get("model") and not one.claim.defences}
    new = [{"id": name, "config": "default", "split": "train"} for name in sorted(ids - known)]
    if there is not None and not new:
        return there.decode()
    content["tasks"] = [*content["tasks"], *new]
    return yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True) if content["tasks"] else ""


def _read(there: bytes | None) -> dict[str, Any]:
    if there is None:
        return {**HEAD, "tasks": []}
    content = parse_yaml(there, f"{PLACE} in the repository")
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadInput(f"{PLACE} in the repository has no list of tasks: put it right there, or remove it")
    if not all(isinstance(task.get("id", ""), str | int | float) for task in tasks):
        raise BadInput(f"{PLACE} in the repository has a task whose id is no text: put it right there, or remove it")
    return dict(content)
