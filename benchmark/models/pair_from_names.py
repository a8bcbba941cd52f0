"""A pair from names on the command line: a model, a data set, and which of its splits the model was trained on."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from ..contracts import Conditioning, Model, SamplerSettings
from ..data import model_files, pipeline_folder
from ..data.dataset_files import describe_source
from ..data.model_files import model_configs
from ..data.pair import (
    AS_GIVEN,
    GIVEN,
    AttackDefaults,
    Control,
    DataSource,
    ModelSource,
    Overrides,
    Pair,
    Selection,
    array_of,
    beside,
    is_own_location,
    load_pair,
    named_model,
    repository,
)
from ..errors import BadInput
from ..progress import say
from . import inspect_files
from .find_model import find_source

CONSISTENCY_STEPS = 2
"""In which a consistency model is drawn where nobody says."""

LCM_STEPS = 4
"""In which a latent consistency model is drawn where nobody says, as diffusers' pipeline does."""

FIRST_ATTACK = {"none": "carlini-uncond", "class": "carlini-uncond", "text": "prompt-replay"}
"""What runs by conditioning where no attack is named, with its own defaults."""


IN_PAIR_FILE = {
    "config": "data.config",
    "image_column": "data.images",
    "caption_column": "data.captions",
    "label_column": "data.labels",
    "variant": "model.variant",
    "control": "control",
}
"""What else may be said of a model and a data set by name, and the key of a pair file that says it."""

OPTIONS = {"config": "dataset-config"}
"""The option that says it, where that is not the key with hyphens."""

_CAPTIONS = ("caption", "captions", "text", "prompt")
"""Names of the column that is taken for captions where several hold text."""


def chosen_pairs(
    names: list[str],
    model: str | Model | None,
    dataset: str | None,
    split: str | None,
    holdout: str | None,
    allow_pickle: bool = False,
    **more: str | None,
) -> tuple[list[Pair], str | Model | None]:
    """Return the pairs that a command names and the model that replaces theirs, if any.

    Args:
        names: Pairs that ship, or pair files.
        model: A model, in place of the pairs' or with its data.
        dataset: The data of the model.
        split: That the model was trained on.
        holdout: That it was not trained on.
        allow_pickle: Pickled weights may be loaded.
        more: What else `pair_of` takes, None where it is not given.

    Raises:
        BadInput: neither pairs nor a model with its data are named, or both.
    """
    given = {key: value for key, value in more.items() if value is not None}
    if dataset is None and split is None and holdout is None:
        if given:
            key = next(iter(given))
            option = OPTIONS.get(key, key.replace("_", "-"))
            raise BadInput(
                f"--{option} goes with --model and --dataset; a pair file says it itself ({IN_PAIR_FILE[key]})"
            )
        if not names:
            raise BadInput("name a PAIR (sidebench list pairs), or give --model, --dataset, --split and --holdout")
        return [load_pair(name) for name in names], model
    if names or model is None or dataset is None:
        raise BadInput(
            "--model with --dataset, --split and --holdout takes the place of a pair: give both, and no pair"
        )
    pair = pair_of(model, dataset, split, holdout, allow_pickle, **given)
    if pair.claim:
        say(pair.claim)
    return [pair], model if isinstance(model, Model) else None


def pair_of(
    model: str | Model,
    dataset: str | Path,
    split: str | None,
    holdout: str | None = None,
    allow_pickle: bool = False,
    *,
    config: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    variant: str | None = None,
    control: str | None = None,
) -> Pair:
    """Make a pair of a model and a data set, each a folder or `OWNER/NAME@REVISION` on the Hub.

    The model may be code of your own too: `FILE.py:NAME`, a registered name, or the `Model` itself, which `plan_run` is
    then given once more. The images are brought to the model's size by the rule `centre`; columns that are not named
    are found by their types. An official split that the model was not trained on is a surrogate control; `control`
    "iid" claims more, and every result says who claims it. An npz file is a data set whose arrays are splits.

    Raises:
        BadInput: one of them cannot be used, or a name is missing.
    """
    if split is None:
        raise BadInput("--dataset needs --split, the split that the model was trained on (and --holdout, another)")
    dataset = _named_data(dataset, split, holdout)
    kind, claim = _control(control, split, holdout)
    victim = _victim(model, variant, allow_pickle)
    height, width, channels = victim.size
    if height != width or channels not in (1, 3):
        said = f"{victim.owner} makes images of {height}x{width}x{channels}; square grey or RGB ones can be run"
        if isinstance(model, Model):
            from .try_model import shape_asked

            said += f"; {shape_asked(model)}"
        raise BadInput(said)
    columns = {"images": image_column, "captions": caption_column, "labels": label_column}
    named = {key: value for key, value in columns.items() if value is not None}
    data, data_licence = _data(dataset, split, holdout, {"size": height, "channels": channels, "config": config}, named)
    first = AS_GIVEN if victim.source.family == "images" else FIRST_ATTACK[victim.conditioning]
    return Pair(
        name=_slug(f"{victim.owner}.{data.repo or Path(dataset).resolve().name}"),
        title=f"{victim.owner} and {dataset}",
        description="made on the command line",
        revision=1,
        control=kind,
        claim=claim,
        model=victim.source,
        data=data,
        protocol=victim.protocol,
        attacks={first: AttackDefaults(origin="defaults of the attack, untuned")},
        licence=f"model: {victim.licence}; data: {data_licence}, as their cards say",
    )


def _named_data(dataset: Any, split: Any, holdout: Any) -> str:
    """Return the data set's name.

    Raises:
        BadInput: images themselves are given, or anything else that is no name, or an empty one.
    """
    if isinstance(dataset, Path):
        dataset = str(dataset)
    for option, named in (("dataset", dataset), ("split", split), ("holdout", holdout)):
        if isinstance(named, str) and not named:
            raise BadInput(f"--{option} has no name behind it")
        if named is not None and not isinstance(named, str):
            raise BadInput(
                f"pair_of takes a data set and its splits by name, not a {type(named).__name__}; save arrays by "
                f"numpy.savez('a.npz', x=training, y=held_out) and write pair_of(model, 'a.npz', 'x', 'y')"
            )
    return str(dataset)


def _control(wanted: str | None, split: str, holdout: str | None) -> tuple[Control, str]:
    """Return the control of a pair by name, and what its user claims by it."""
    if wanted not in (None, "iid", "surrogate"):
        raise BadInput(
            f"control {wanted}: by name it is iid or surrogate, and none without held-out images (--holdout)"
        )
    if holdout is None:
        if wanted is not None:
            raise BadInput(f"control {wanted} needs a held-out split (--holdout), which the model was not trained on")
        return "none", ""
    if wanted == "iid":
        return "iid", (
            f"control iid is claimed by whoever ran this: {holdout} is a random part of the same pool of images as "
            f"{split}, and the model was not trained on it"
        )
    return "surrogate", ""


class _Victim(NamedTuple):
    """What a pair needs to know of its model."""

    owner: str
    source: ModelSource
    size: tuple[int, int, int]
    """(height, width, channels)."""
    conditioning: Conditioning
    licence: str
    protocol: Overrides = Overrides()
    """The steps of the sampler, where those of the protocol do not fit the model."""


def _protocol(folder: Path, layout: pipeline_folder.Layout) -> Overrides:
    """Return the steps of the sampler where those of the protocol do not fit the pipeline's noise schedule."""
    timesteps = pipeline_folder.timesteps(pipeline_folder.scheduler_config(folder, layout.owner))
    if layout.pipeline == "ConsistencyModelPipeline":
        return _few(min(CONSISTENCY_STEPS, timesteps), "a consistency model")
    if (most := pipeline_folder.most_steps(folder)) is not None:
        return _few(min(LCM_STEPS, most), "a latent consistency model")
    return _at_most(timesteps)


def _few(steps: int, what: str) -> Overrides:
    return Overrides(sampler=SamplerSettings(steps=steps), reason=f"{what} is drawn in {steps} steps")


def _at_most(timesteps: int) -> Overrides:
    """Return as many steps as there are timesteps, where the protocol takes more."""
    if timesteps >= SamplerSettings().steps:
        return Overrides()
    reason = f"the model's noise schedule has {timesteps} timesteps"
    return Overrides(sampler=SamplerSettings(steps=timesteps), reason=reason)


def _victim(model: str | Model, variant: str | None, allow_pickle: bool) -> _Victim:
    own = isinstance(model, Model) or is_own_location(named_model(model).location)
    if own and variant is not None:
        raise BadInput(f"--variant {variant}: a model of your own has no variants; a diffusers pipeline may")
    if isinstance(model, Model):
        from .own_model import live_spec

        spec = live_spec(model)
        source = ModelSource(**{"family": spec.family, "location": spec.location})
        channels, height, width = model.image_shape
        size, few = (height, width, channels), _at_most(model.num_train_timesteps)
        return _Victim(spec.location, source, size, model.conditioning, "not stated", few)
    named = named_model(model)
    if named.family == "images":
        size = inspect_files(find_source(named, None, allow_pickle).spec).image_size
        owner = Path(named.location.removeprefix(GIVEN)).resolve().name
        return _Victim(owner, named, size, "none", "not stated")
    named = named.model_copy(update={"variant": variant})
    if is_own_location(named.location):
        from .own_model import owner_of

        spec = find_source(named, None, allow_pickle).spec
        files, source = inspect_files(spec), ModelSource(**{**named.model_dump(), "family": spec.family})
        few = Overrides() if files.outline is None else _at_most(files.outline.num_train_timesteps)
        owner = owner_of(named.location)
        return _Victim(owner, source, files.image_size, files.conditioning, "not stated", few)
    folder, licence = model_configs(named, allow_pickle)
    pipeline_folder.check_configs(folder, model_files.owner_of(folder))
    found = pipeline_folder.read_folder(folder, model_files.owner_of(folder))[0]
    source = ModelSource(**{**named.model_dump(), "family": found.family})
    size, conditioning = pipeline_folder.image_size(folder), pipeline_folder.conditioning(folder)
    return _Victim(found.owner, source, size, conditioning, licence, _protocol(folder, found))


def _data(
    dataset: str, split: str, holdout: str | None, form: dict[str, Any], columns: dict[str, str]
) -> tuple[DataSource, str]:
    """Return the data source, with its columns, and the licence that its card names."""
    dataset = beside(Path(), dataset) if dataset.startswith("~") else dataset
    if dataset.endswith(".npz"):
        return _arrays(dataset, split, holdout, form, columns), "not stated"
    if Path(dataset).is_file():
        raise BadInput(f"{dataset} is a file: name the folder that it is in, or an .npz file (numpy.savez writes one)")
    place: dict[str, Any] = {"source": "folder", "path": dataset}
    if not Path(dataset).is_dir():
        repo, revision = repository(dataset)
        place = {"source": "hub", "repo": repo, "revision": revision}
    held_out = None if holdout is None else Selection(split=holdout)
    bare = DataSource(**place, **form, members=Selection(split=split), held_out=held_out)
    features, licence = describe_source(bare)
    found = {
        "images": _only(features, _is_image),
        "labels": _only(features, lambda column: column.get("_type") == "ClassLabel"),
        "captions": _only(features, _is_text, _CAPTIONS) or _only(features, _are_texts, _CAPTIONS),
    }
    return bare.model_copy(update={**found, **columns}), licence


def _arrays(file: str, split: str, holdout: str | None, form: dict[str, Any], columns: dict[str, str]) -> DataSource:
    """Return the arrays of an npz file as a data source; `FILE.npz:ARRAY` names one of another file."""
    named = {**columns, **({} if form["config"] is None else {"config": form["config"]})}
    if wrong := sorted(set(named) - {"labels"}):
        option = {"images": "image-column", "captions": "caption-column", **OPTIONS}.get(wrong[0], wrong[0])
        raise BadInput(f"--{option}: an npz file has arrays; --split and --holdout name those of images")
    sides = [name if name is None or ".npz:" in name else f"{file}:{name}" for name in (split, holdout)]
    try:
        for side in sides:
            if side is not None:
                array_of(Selection(split=side))
    except ValueError as error:
        raise BadInput(str(error)) from None
    return DataSource(**{"source": "npz", "training": sides[0], "held_out": sides[1], **columns})


def _only(
    features: dict[str, Any] | None, fits: Callable[[dict[str, Any]], bool], known: Collection[str] = ()
) -> str | None:
    """Return the only column of this type, or of several the only one with a known name; else None.

    The reader then says what columns there are.
    """
    found = [name for name, column in (features or {}).items() if isinstance(column, dict) and fits(column)]
    if len(found) > 1:
        found = [name for name in found if name in known]
    return found[0] if len(found) == 1 else None


def _is_image(column: dict[str, Any]) -> bool:
    # Tables that `datasets` did not write have no type for it, and the two fields of one.
    return column.get("_type") == "Image" or column.keys() == {"bytes", "path"}


def _is_text(column: dict[str, Any]) -> bool:
    return column.get("_type") == "Value" and column.get("dtype") in ("string", "large_string")


def _are_texts(column: dict[str, Any]) -> bool:
    return column.get("_type") in ("List", "LargeList", "Sequence") and _is_text(column.get("feature") or {})


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64]
