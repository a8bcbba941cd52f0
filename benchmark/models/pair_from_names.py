"""A pair from names on the command line: a model, a data set, and which of its splits the model was trained on."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ..contracts import Conditioning, Model
from ..data import model_files, pipeline_folder
from ..data.dataset_files import describe_source
from ..data.model_files import model_configs
from ..data.pair import (
    AS_GIVEN,
    GIVEN,
    AttackDefaults,
    DataSource,
    ModelSource,
    Pair,
    Selection,
    beside,
    is_own_location,
    load_pair,
    named_model,
    repository,
)
from ..errors import BadInput
from . import inspect_files
from .find_model import find_source

FIRST_ATTACK = {"none": "carlini-uncond", "class": "carlini-uncond", "text": "prompt-replay"}
"""What runs by conditioning where no attack is named, with its own defaults."""


def chosen_pairs(
    names: list[str],
    model: str | None,
    dataset: str | None,
    split: str | None,
    holdout: str | None,
    allow_pickle: bool = False,
) -> tuple[list[Pair], str | None]:
    """Return the pairs that a command names and the model that replaces theirs, if any.

    Raises:
        BadInput: neither pairs nor a model with its data are named, or both.
    """
    if dataset is None and split is None and holdout is None:
        if not names:
            raise BadInput("name a PAIR (sidebench list pairs), or give --model, --dataset, --split and --holdout")
        return [load_pair(name) for name in names], model
    if names or model is None or dataset is None:
        raise BadInput(
            "--model with --dataset, --split and --holdout takes the place of a pair: give both, and no pair"
        )
    return [pair_of(model, dataset, split, holdout, allow_pickle)], None


def pair_of(
    model: str | Model, dataset: str, split: str | None, holdout: str | None = None, allow_pickle: bool = False
) -> Pair:
    """Make a pair of a model and a data set, each a folder or `OWNER/NAME@REVISION` on the Hub.

    The model may be code of your own too: `FILE.py:NAME`, a registered name, or the `Model` itself, which `plan_run` is
    then given once more. The images are brought to the model's size by the rule `centre`, the columns are found by
    their types. An official split that the model was not trained on is a surrogate control, never iid.

    Raises:
        BadInput: one of them cannot be used, or a name is missing.
    """
    if split is None:
        raise BadInput("--dataset needs --split, the split that the model was trained on (and --holdout, another)")
    victim = _victim(model, allow_pickle)
    height, width, channels = victim.size
    if height != width or channels not in (1, 3):
        raise BadInput(
            f"{victim.owner} makes images of {height}x{width}x{channels}; square grey or RGB ones can be run"
        )
    data, data_licence = _data(dataset, split, holdout, {"size": height, "channels": channels})
    first = AS_GIVEN if victim.source.family == "images" else FIRST_ATTACK[victim.conditioning]
    return Pair(
        name=_slug(f"{victim.owner}.{data.repo or Path(str(data.path)).resolve().name}"),
        title=f"{victim.owner} and {dataset}",
        description="made on the command line",
        revision=1,
        control="none" if holdout is None else "surrogate",
        model=victim.source,
        data=data,
        attacks={first: AttackDefaults(origin="defaults of the attack, untuned")},
        licence=f"model: {victim.licence}; data: {data_licence}, as their cards say",
    )


class _Victim(NamedTuple):
    """What a pair needs to know of its model."""

    owner: str
    source: ModelSource
    size: tuple[int, int, int]
    """(height, width, channels)."""
    conditioning: Conditioning
    licence: str


def _victim(model: str | Model, allow_pickle: bool) -> _Victim:
    if isinstance(model, Model):
        from .own_model import live_spec

        spec = live_spec(model)
        source = ModelSource(**{"family": spec.family, "location": spec.location})
        channels, height, width = model.image_shape
        return _Victim(spec.location, source, (height, width, channels), model.conditioning, "not stated")
    named = named_model(model)
    if named.family == "images":
        size = inspect_files(find_source(named, None, allow_pickle).spec).image_size
        owner = Path(named.location.removeprefix(GIVEN)).resolve().name
        return _Victim(owner, named, size, "none", "not stated")
    if is_own_location(named.location):
        from .own_model import owner_of

        spec = find_source(named, None, allow_pickle).spec
        files, source = inspect_files(spec), ModelSource(**{**named.model_dump(), "family": spec.family})
        return _Victim(owner_of(named.location), source, files.image_size, files.conditioning, "not stated")
    folder, licence = model_configs(named, allow_pickle)
    found = pipeline_folder.read_folder(folder, model_files.owner_of(folder))[0]
    source = ModelSource(**{**named.model_dump(), "family": found.family})
    size, conditioning = pipeline_folder.image_size(folder), pipeline_folder.conditioning(folder)
    return _Victim(found.owner, source, size, conditioning, licence)


def _data(dataset: str, split: str, holdout: str | None, form: dict[str, Any]) -> tuple[DataSource, str]:
    """Return the data source, with its columns, and the licence that its card names."""
    dataset = beside(Path(), dataset) if dataset.startswith("~") else dataset
    place: dict[str, Any] = {"source": "folder", "path": dataset}
    if not Path(dataset).is_dir():
        repo, revision = repository(dataset)
        place = {"source": "hub", "repo": repo, "revision": revision}
    held_out = None if holdout is None else Selection(split=holdout)
    bare = DataSource(**place, **form, members=Selection(split=split), held_out=held_out)
    features, licence = describe_source(bare)
    columns = {
        "images": _only(features, {"_type": "Image"}),
        "labels": _only(features, {"_type": "ClassLabel"}),
        "captions": _only(features, {"_type": "Value", "dtype": "string"}),
    }
    return bare.model_copy(update=columns), licence


def _only(features: dict[str, Any] | None, kind: dict[str, str]) -> str | None:
    """Return the only column of this type, or None: the reader then says what columns there are."""
    given = {name: column for name, column in (features or {}).items() if isinstance(column, dict)}
    found = [name for name, column in given.items() if kind.items() <= column.items()]
    return found[0] if len(found) == 1 else None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64]
