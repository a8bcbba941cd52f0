"""A record in the Hub's own format for results of a model, `.eval_results/sidebench.yaml`, as a file or pull request.

The format has one number, no interval and no direction: both go into its notes. It accuses somebody's model, so only
a record that `leaderboard check` accepts, that a board ranks, that is of the model without a defence, and that was
reproduced is written.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import yaml

from ..benchmark.data.hub import explained
from ..benchmark.errors import BadInput, printable
from ..benchmark.files import read_bytes
from . import tables
from .badge import read_checked
from .check import check_files
from .eval_yaml import task_id
from .ranking import why_unranked
from .read_records import parse_record, read_content
from .record import Record

PLACE = ".eval_results/sidebench.yaml"
"""Where the Hub looks for it in a model's repository."""


class Accusation(NamedTuple):
    """What would be said of a model, in words and as the file's text."""

    model: str
    said: str
    text: str


def accusation(file: Path, model: str, dataset: str) -> Accusation:
    """Return what a record says of a model on the Hub.

    Args:
        file: The record, with its badge beside it.
        model: OWNER/NAME of the model.
        dataset: OWNER/NAME of the dataset repository in which the records are published, whose board shows it.

    Raises:
        BadInput: the record is of another model, cannot be read, has a problem that `leaderboard check` lists, is stale
            or kept apart on its board, is of the model behind a defence, or was not reproduced.
    """
    record = parse_record(read_content(file), file.name)
    _refuse(record, file, model)
    return statement(record, model, dataset)


def statement(record: Record, model: str, dataset: str) -> Accusation:
    """Return what a record that may be published says of a model; arguments as of `accusation`."""
    low, high = tables.percent(record.excess.low), tables.percent(record.excess.high)
    value, who = tables.percent(record.excess.value), record.claim.attack
    if record.excess.low > 0:
        over_chance = f"{value} % of {who}'s candidates over chance, 95 % interval {low} to {high} %"
        said = f"{model} gives training images away: {over_chance}"
    elif record.excess.high < 0:
        said = f"{who} hits training images of {model} less than held-out images, which no leak explains "
        said += f"({low} to {high} %)"
    else:
        said = f"{model} shows no leak to {who}; up to {high} % of the candidates could have gone unseen"
    notes = (
        f"excess of {who}, % of candidates, lower is better; 95 % interval {low} to {high}; {record.measure}, band "
        f"{record.band}, {record.candidates:,} candidates under each of {len(record.seeds)} seeds, "
        f"{record.protocol.version}; record {record.id}, reproduced"
    )
    return Accusation(model, _shown(said), _as_yaml(record, dataset, float(value), _shown(notes)))


def _shown(text: str) -> str:
    return printable(tables.clean(text))


def _refuse(record: Record, file: Path, model: str) -> None:
    source = record.victim.sources.get("model")
    if source is None or source.repo != model:
        of = "a model that is not on the Hub" if source is None else source.repo
        raise BadInput(f"{file.name} is a record of {of}, not of {model}")
    if problems := check_files([file]):
        raise BadInput(f"{problems[0]} ({len(problems)} problems; `sidebench leaderboard check` lists them)")
    if record.claim.defences:
        raise BadInput(f"{file.name} is of {model} behind {' + '.join(record.claim.defences)}, not as it is published")
    if why := why_unranked(file):
        raise BadInput(f"{file.name} is not ranked, so it is said of no model: {why}")
    checked = read_checked(file, _sha256(file))
    if checked is None or not checked.passed:
        raise BadInput(f"{file.name} was not reproduced: sidebench leaderboard check {file.name} --run RUN")


def _sha256(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _as_yaml(record: Record, dataset: str, value: float, notes: str) -> str:
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        raise BadInput("this huggingface_hub knows no results of models: pip install -U huggingface_hub") from None
    try:
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task_id(record),
            value=value,
            date=record.submitted.isoformat(),
            notes=notes,
        )
    except ValueError as error:
        raise BadInput(f"no result in the Hub's format: {error}") from None
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, width=10_000)


def send(found: Accusation) -> str:
    """Open a pull request on the model with the file and return its address.

    Raises:
        BadInput: there is no such model, or the user may not.
        CannotReach: the Hub does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with explained("model", found.model, sending=True):
        made = HfApi().create_commit(
            found.model,
            [CommitOperationAdd(PLACE, found.text.encode())],
            commit_message="sidebench: how much of its training set the model gives away",
            commit_description=tables.markdown(found.said),
            repo_type="model",
            create_pr=True,
        )
    return str(made.pr_url)
