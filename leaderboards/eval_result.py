"""A record in the Hub's own format for results of a model, `.eval_results/sidebench.yaml`, as a file or pull request.

The format has one number, no interval and no direction: both go into its notes. It accuses somebody's model, so only
a record that was reproduced, with a control that is a random part of the same images, is written.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import yaml

from ..benchmark.data.hub import explained
from ..benchmark.errors import BadInput
from ..benchmark.files import read_bytes
from . import tables
from .badge import read_checked
from .ranking import method_of
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
        BadInput: the record is of another model or cannot be read, has no fair iid control, or was not reproduced.
    """
    record = parse_record(read_content(file), file.name)
    _refuse(record, file, model)
    low, high = tables.percent(record.excess.low), tables.percent(record.excess.high)
    value = tables.percent(record.excess.value)
    who = record.claim.attack + (f" behind {method_of(record)}" if record.claim.defences else "")
    over_chance = f"{value} % of {who}'s candidates over chance, 95 % interval {low} to {high} %"
    said = (
        f"{model} gives training images away: {over_chance}"
        if record.excess.low > 0
        else f"{model} shows no leak to {who}; up to {high} % of the candidates could have gone unseen"
    )
    notes = (
        f"excess of {who}, % of candidates, lower is better; 95 % interval {low} to {high}; {record.measure}, band "
        f"{record.band}, {record.candidates:,} candidates under each of {len(record.seeds)} seeds, "
        f"{record.protocol.version}; record {record.id}, reproduced"
    )
    return Accusation(model, said, _as_yaml(record, dataset, float(value), notes))


def _refuse(record: Record, file: Path, model: str) -> None:
    source = record.victim.sources.get("model")
    if source is None or source.repo != model:
        of = "a model that is not on the Hub" if source is None else source.repo
        raise BadInput(f"{file.name} is a record of {of}, not of {model}")
    if record.victim.control != "iid" or not record.claims_excess:
        raise BadInput(f"{file.name}: only an excess over a fair iid control is said of a model")
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
            task_id=f"{record.victim.name}-{record.board}",
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
            commit_description=found.said,
            repo_type="model",
            create_pr=True,
        )
    return str(made.pr_url)
