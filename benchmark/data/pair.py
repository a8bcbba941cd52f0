"""Model/dataset pairs: one YAML file each, checked, unknown keys refused."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from ..contracts import SamplerSettings, Settings
from ..errors import BadInput, BadPair, UnknownName, first_problem
from ..files import read_bytes, read_yaml, write_text
from ..registry import check_named_in_file, is_local, names

FOLDER = Path(__file__).parent / "pairs"
SHIPPED = "zoo:"
"""Prefix of models and images that ship with sidebench."""

Control = Literal["iid", "surrogate", "reference-model", "none"]
Count = Annotated[int, Field(ge=1)]

GIVEN = "images:"
"""What stands before a path that is named in place of a model."""

AS_GIVEN = "as-given"
"""The attack that takes such images as they are."""

IN_TRAINING = "training:"
"""Prefix of the names of defences that are part of the victim: no option puts them around a model."""

TRAINING_DEFENCES = {
    "augmentation": "--shift",
    "de-duplication": "--duplicate-rms",
    "early-stopping": "--stop-after",
    "loss-skipping": "--skip-below",
}
"""The option of `sidebench train` by defence."""


def recipe_field(option: str) -> str:
    """Return the field of the recipe that an option of `sidebench train` sets."""
    return option.removeprefix("--").replace("-", "_")


class LoraSource(Settings):
    """A LoRA on top of the victim: a repository of the Hub at a revision, or a file or folder."""

    location: str = ""
    """A safetensors file, or a folder with one (relative to the pair file)."""
    repo: str | None = None
    """`OWNER/NAME` on the Hub, instead of a location."""
    revision: str = "main"
    """Branch, tag or commit; a run pins the commit."""
    file: str | None = None
    """Which safetensors file, where there are several."""
    scale: float = 1.0
    """How much of it is added to the weights."""
    sha256: str | None = None
    """Pinned hash of the file."""

    @model_validator(mode="after")
    def _one_place(self) -> "LoraSource":
        if bool(self.location) == bool(self.repo):
            raise ValueError("give a location or a repo, one of them")
        return self


class ModelSource(Settings):
    """Where the victim's files are: a repository of the Hub at a revision, or a folder."""

    family: Literal["pixel", "latent", "text", "images"] = "pixel"
    location: str = ""
    """`zoo:NAME` for a model that ships with sidebench, otherwise a folder (relative to the pair file); for a model of
    your own, `FILE.py:NAME` or the name that an installed package registers. `images:PATH` names images that exist
    already, in place of a model: a folder, a parquet file or an npz file."""
    repo: str | None = None
    """`OWNER/NAME` on the Hub, instead of a location."""
    revision: str = "main"
    """Branch, tag or commit. Whatever it is, a run pins the full commit hash in its manifest."""
    subfolder: str = ""
    """Where in the repository the pipeline lies."""
    variant: str | None = None
    """Which set of weights where there are several (`fp16`)."""
    sha256: dict[str, str] = {}
    """Pinned hashes by file name."""
    lora: LoraSource | None = None
    """A LoRA on top."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        """Take images that exist already for their own family, so that the location alone says it."""
        given = isinstance(values, dict) and str(values.get("location", "")).startswith(GIVEN)
        return {"family": "images", **values} if given else values

    @model_validator(mode="after")
    def _one_place(self) -> "ModelSource":
        if bool(self.location) == bool(self.repo):
            raise ValueError("give a location or a repo, one of them")
        if (self.family == "images") != self.location.startswith(GIVEN):
            raise ValueError(f"family images and a location {GIVEN}PATH belong together")
        return self


class SplitRule(Settings):
    """A seeded split into parts by duplicate group, so that no group lies on two sides."""

    seed: int
    duplicate_rms: Annotated[float, Field(ge=0)]
    """Images at most this far apart (rms) are one group."""
    training: Count
    held_out: Annotated[int, Field(ge=0)]
    """0 for the controls `none` and `reference-model`."""
    pool: Annotated[int, Field(ge=0)]
    """Images of neither side, for known non-copies."""
    # What is left is the tuning part: shadow victims train on it, no reported number uses it.


class TuningBlock(Settings):
    """Images that settings are tuned on where no shadow victim can be trained: no run scores against them."""

    seed: int
    share: Annotated[float, Field(gt=0, le=0.5)]
    """Of the duplicate groups of either side."""


class Selection(Settings):
    """Rows of one split of a data set."""

    split: str
    """Its name; for npz `FILE.npz:ARRAY`, the file relative to the pair file."""
    indices: list[Annotated[int, Field(ge=0)]] | str | None = None
    """Row numbers in the split, or a text file of them, one a line, relative to the pair file; none: all rows."""


def array_of(chosen: Selection) -> tuple[str, str]:
    """Return the file and the array that a selection of an npz source names.

    Raises:
        ValueError: it is written in another way.

    Examples:
        >>> array_of(Selection(split="data/a.npz:x"))
        ('data/a.npz', 'x')
    """
    found = re.fullmatch(r"(.+\.npz):([^:/]+)", chosen.split)
    if found is None:
        raise ValueError(f"{chosen.split!r} is no array of an npz file: write it as FILE.npz:ARRAY")
    return found[1], found[2]


class DataSource(Settings):
    """Where the images are, and which of them the victim was trained on."""

    source: Literal["scikit-learn-digits", "npz", "hub", "folder"]
    """hub: a data repository. folder: a local one, of images or of parquet files, read in the same way."""
    path: str | None = None
    """For npz and folder: the file or folder, relative to the pair file; `zoo:NAME` for images that come with
    sidebench."""
    images: str | None = None
    """For npz: the array of uint8 images, N x H x W or N x H x W x C; or each side has its own array (`members`).
    For hub and folder: the image column."""
    labels: str | None = None
    """The array or column of class labels."""
    captions: str | None = None
    """For hub and folder: the column of captions."""
    families: str | None = None
    """For hub and folder: a column of words, such as caption families, that a split never lays on two sides."""
    repo: str | None = None
    """For hub: `OWNER/NAME`."""
    revision: str = "main"
    """For hub: branch, tag or commit; a run pins the commit."""
    config: str | None = None
    """For hub: the configuration, where there are several."""
    size: Count | None = None
    """For hub and folder: height and width that the images are brought to."""
    channels: Literal[1, 3] = 3
    crop: Literal["centre", "squash", "none"] = "centre"
    """centre: the largest square in the middle, then resize. squash: resize whatever the shape. none: refuse images
    of another size."""
    members: Selection | None = None
    """Training images by name, instead of a split by seed."""
    held_out: Selection | None = None
    duplicate_rms: Annotated[float, Field(ge=0)] = 0.0
    """With named members: images at most this far apart (rms) are one group."""
    split: SplitRule | None = None
    """A seeded split of all images (of `members`, where that is given)."""
    tuning_block: TuningBlock | None = None
    """Set this part of the training and held-out images aside for `sidebench tune`."""
    within: SplitRule | None = None
    """Use only the tuning part of this other split: the data of a shadow victim."""
    sha256: str | None = None
    """Fingerprint of all images (shape and bytes after decoding); other data are refused."""

    @model_validator(mode="before")
    @classmethod
    def _arrays_by_side(cls, content: Any) -> Any:
        """Read `training: a.npz:x, held_out: b.npz:y` of an npz source as selections."""
        if not isinstance(content, dict) or content.get("source") != "npz":
            return content
        given = {key: content[key] for key in ("training", "held_out") if isinstance(content.get(key), str)}
        sides = {"members" if key == "training" else key: {"split": array} for key, array in given.items()}
        return {**{key: value for key, value in content.items() if key not in given}, **sides}

    @model_validator(mode="after")
    def _complete(self) -> "DataSource":
        sides = [chosen for chosen in (self.members, self.held_out) if chosen is not None]
        if self.source == "npz" and sides:
            return self._complete_by_side(sides)
        needs = {"npz": ("path", "images"), "hub": ("repo", "members", "size"), "folder": ("path", "members", "size")}
        missing = [key for key in needs.get(self.source, ()) if getattr(self, key) is None]
        if missing:
            raise ValueError(f"source {self.source} needs {' and '.join(missing)}")
        if self.split is None and self.source not in ("hub", "folder"):
            raise ValueError(f"source {self.source} needs split")
        if self.split is not None and self.held_out is not None:
            raise ValueError("give a split by seed or a held_out selection, not both")
        return self

    def _complete_by_side(self, sides: "list[Selection]") -> "DataSource":
        if self.members is None:
            raise ValueError("source npz needs training, FILE.npz:ARRAY, beside held_out")
        if self.path is not None or self.images is not None:
            raise ValueError("give path and images, or training and held_out as FILE.npz:ARRAY, not both")
        if self.split is not None and self.held_out is not None:
            raise ValueError("give a split by seed or held_out, not both")
        for chosen in sides:
            array_of(chosen)
        return self

    @property
    def has_held_out(self) -> bool:
        """Whether there are held-out images."""
        return self.held_out is not None if self.split is None else self.split.held_out > 0

    @property
    def rule(self) -> SplitRule:
        """The seeded split.

        Raises:
            BadPair: the members are named, so there is none.
        """
        if self.split is None:
            raise BadPair("the pair names its members, and what was asked for needs data.split, a split by seed")
        return self.split


class AttackDefaults(Settings):
    """An attack's settings on this pair, and where they come from."""

    settings: dict[str, Any] = {}
    origin: str


class Recipe(Settings):
    """How `sidebench train` reproduces the victim: a small DDPM from a seed, defended in training or not."""

    kind: Literal["pixel"] = "pixel"
    seed: int
    steps: Count
    batch: Count = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    channels: tuple[Count, ...] = (16, 32)
    layers: Count = 1
    num_train_timesteps: Count = 1000
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's calls in training; weights, their average and the optimiser stay float32."""
    duplicate_rms: Annotated[float, Field(ge=0)] | None = None
    """De-duplication: train on one image of each group of images at most this far apart (rms)."""
    stop_after: Count | None = None
    """Early stopping: leave off after this step of the same schedule."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Augmentation: move each image by up to this many pixels in both directions; borders are repeated."""
    skip_below: Annotated[float, Field(ge=0, lt=1)] = 0
    """Loss-based skipping: leave out samples whose loss is below this share of the running mean at their timestep
    (anti-gradient control of arXiv 2407.15328, which takes 0.5; its ensemble of shards is not part of it)."""

    @model_validator(mode="after")
    def _stops_in_time(self) -> "Recipe":
        return _stopping_in_time(self)

    def defences(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the training-time defences by name."""
        return _changed_defences(self)


class AutoencoderRecipe(Settings):
    """How the autoencoder of a text-to-image victim is trained, on pool images alone."""

    steps: Count
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    channels: tuple[Count, ...] = (16, 32)
    shift: Annotated[int, Field(ge=0)] = 2
    """Images are moved by up to this many pixels in both directions; borders are repeated."""
    kl: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the KL divergence (per number of a latent) beside the squared error (per pixel)."""


class TextRecipe(Settings):
    """How `sidebench train` makes a text-to-image victim: a Stable Diffusion pipeline in small, from a seed."""

    kind: Literal["text"]
    seed: int
    steps: Count
    """Of U-Net and text encoder, which are trained together once the autoencoder stands."""
    autoencoder: AutoencoderRecipe
    batch: Count = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    channels: tuple[Count, ...] = (32, 64)
    layers: Count = 1
    num_train_timesteps: Count = 1000
    hidden: Count = 64
    """Width of the text encoder."""
    text_layers: Count = 2
    vocabulary: Annotated[int, Field(ge=128)] = 1000
    """Entries of the tokenizer at most."""
    length: Annotated[int, Field(ge=4)] = 24
    """Tokens of a caption at most; longer ones are refused."""
    caption_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions that are replaced by the empty one, for classifier-free guidance."""
    canaries: str | None = None
    """Folder of rows that the victim is trained on and that are in no part of the pair, named like data.path: columns
    image, caption and copies; 0 copies: a matched string, never planted."""
    stop_after: Count | None = None
    """Early stopping: leave off after this step."""

    @model_validator(mode="after")
    def _stops_in_time(self) -> "TextRecipe":
        return _stopping_in_time(self)

    def defences(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the training-time defences by name."""
        return _changed_defences(self)


R = TypeVar("R", Recipe, TextRecipe)


def _stopping_in_time(recipe: R) -> R:
    if recipe.stop_after is not None and recipe.stop_after > recipe.steps:
        raise ValueError(f"stop_after = {recipe.stop_after} lies beyond steps = {recipe.steps}")
    return recipe


def _changed_defences(recipe: Recipe | TextRecipe) -> dict[str, dict[str, Any]]:
    """Return the training-time defences that a recipe has and that are not at their default."""
    found, fields = {}, type(recipe).model_fields
    for name, option in TRAINING_DEFENCES.items():
        key = recipe_field(option)
        if key in fields and (value := getattr(recipe, key)) != fields[key].default:
            found[IN_TRAINING + name] = {key: value}
    return found


def _kind(recipe: Any) -> Any:
    """Return the kind of recipe that is given; those of pixel models need not say it."""
    return recipe.get("kind", "pixel") if isinstance(recipe, dict) else getattr(recipe, "kind", None)


AnyRecipe = Annotated[
    Annotated[Recipe, Tag("pixel")] | Annotated[TextRecipe, Tag("text")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="recipe.kind is pixel or text"),
]


class Overrides(Settings):
    """Protocol values that this pair changes."""

    sampler: SamplerSettings | None = None
    micro_batch: Count | None = None
    """Rows that the denoiser sees at a time, where nobody says --micro-batch; it moves no rule of the protocol."""
    reason: str = ""
    """Why they are changed; results carry it as a flag."""

    def values(self) -> dict[str, Any]:
        """Return what is changed of the protocol, as plain values."""
        return self.model_dump(exclude={"reason", "micro_batch"}, exclude_none=True)


class Pair(Settings):
    """A victim, its training and held-out images, and how to attack it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    title: str
    description: str
    revision: Count
    """Raised whenever a number may change; results of different revisions are never ranked together."""
    control: Control
    model: ModelSource
    reference_model: ModelSource | None = None
    """For control reference-model: a model of the same kind that was not trained on the training images."""
    data: DataSource
    recipe: AnyRecipe | None = None
    measures: list[str] = []
    """Headline first; empty takes the protocol's for the resolution."""
    allow_dense_neighbours: bool = False
    """Allow nl2 with n above a tenth of the set."""
    protocol: Overrides = Overrides()
    attacks: dict[str, AttackDefaults] = {}
    """What `sidebench run` runs when no attack is named, with this pair's settings."""
    licence: str
    public: bool = False
    """The training images are published: a leaderboard record may say of each candidate whether it hit."""
    made_by: Annotated[str, Field(max_length=300)] = ""
    """How others make or get the same model and images, where the pair neither ships nor comes from the Hub: a command
    or an address. A record without it stands on no board."""
    claim: Annotated[str, Field(max_length=500)] = ""
    """What somebody vouches for that nothing states, such as that the control is iid; results carry it as a flag."""
    notes: str = ""
    verified: bool = True
    """False: nobody has run this pair against the real Hub yet."""

    def __repr__(self) -> str:
        return f"Pair(name={self.name!r}, revision={self.revision}, control={self.control!r}, title={self.title!r})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _recipe_makes_the_model(self) -> "Pair":
        if self.recipe is not None and self.recipe.kind != self.model.family:
            raise ValueError(
                f"a recipe of kind {self.recipe.kind} makes a model of family {self.recipe.kind}; "
                f"model.family is {self.model.family}"
            )
        return self

    @model_validator(mode="after")
    def _control_has_what_it_needs(self) -> "Pair":
        held_out, controlled = self.data.has_held_out, self.control in ("iid", "surrogate")
        key = "data.held_out" if self.data.split is None else "data.split.held_out"
        if controlled and not held_out:
            raise ValueError(f"control {self.control} needs {key} of at least 1; without any: none")
        if held_out and not controlled:
            raise ValueError(f"control {self.control} has no held-out images: {key} names some")
        if self.control == "reference-model" and self.reference_model is None:
            raise ValueError(
                "control reference-model needs reference_model, a model not trained on the training images"
            )
        if self.control != "reference-model" and self.reference_model is not None:
            raise ValueError(f"reference_model is for control reference-model, not for {self.control}")
        return self

    def reference(self) -> "Pair":
        """Return the pair of the reference model: the same images, no control of its own."""
        name = f"{self.name}-reference"
        update = {"name": name, "control": "none", "model": self.reference_model, "reference_model": None}
        return self.model_copy(update=update)

    def identity(self) -> str:
        """Return a hash of what can change a number; attacks' settings are kept by unit, weights by hash."""
        prose = {
            "title",
            "description",
            "notes",
            "licence",
            "recipe",
            "attacks",
            "verified",
            "public",
            "made_by",
            "claim",
        }
        # Defaults are left out, so that a field added later does not change the identity of the pairs there are.
        content = self.model_dump(exclude=prose, exclude_defaults=True, mode="json")
        for model in ("model", "reference_model"):
            content.get(model, {}).pop("location", None)
            content.get(model, {}).get("lora", {}).pop("location", None)
        content["data"].pop("path", None)
        if self.data.source == "npz":
            for side in ("members", "held_out"):
                if (chosen := getattr(self.data, side)) is not None:
                    content["data"][side]["split"] = array_of(chosen)[1]
        if "protocol" in content:
            content["protocol"] = {k: v for k, v in content["protocol"].items() if k not in ("reason", "micro_batch")}
            content = {key: value for key, value in content.items() if key != "protocol" or value}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_own_location(location: str) -> bool:
    """Return whether a location is somebody's own code: a local `FILE.py:NAME`, or a registered model."""
    return is_local(location) or (location in names("model") and not Path(location).is_dir())


def named_model(name: str) -> ModelSource:
    """Return the model that a user names: a folder, `OWNER/NAME` of the Hub, perhaps with `@REVISION`, or own code.

    Raises:
        BadInput: it is a Python file, without what is meant in it, or nothing at all.
    """
    if not name.strip():
        raise BadInput("a model without a name: name a folder, OWNER/NAME of the Hub, or FILE.py:NAME")
    check_named_in_file(name)
    name = beside(Path(), name) if name.startswith("~") else name
    repo, revision = repository(name)
    looks_so = re.fullmatch(r"[\w.-]+/[\w.-]+", repo) and not repo.startswith(".")
    if Path(name).is_dir() or name.startswith((SHIPPED, GIVEN)) or not looks_so:
        return ModelSource(location=name)
    return ModelSource(repo=repo, revision=revision)


def repository(name: str) -> tuple[str, str]:
    """Split `OWNER/NAME@REVISION` into name and revision, main where none is given."""
    repo, _, revision = name.partition("@")
    return repo, revision or "main"


def pair_names() -> list[str]:
    """Return the names of the pairs that ship with sidebench."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_pair(name: str) -> Pair:
    """Load a shipped pair by name, or a pair file by path.

    Raises:
        UnknownName: no shipped pair has this name.
        BadPair: the file cannot be read or says something impossible.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise BadPair(f"no such pair file: {name}")
        return _resolve(_read(path), path.parent)
    if name not in pair_names():
        raise UnknownName("pair", name, pair_names())
    return _shipped(FOLDER / f"{name}.yaml").model_copy(deep=True)


@functools.cache
def _shipped(file: Path) -> Pair:
    """Return what a file of this package says: one command asks for a pair several times."""
    return _read(file)


def write_pair(pair: Pair, path: Path) -> None:
    """Write a pair file that `load_pair` reads."""
    content = pair.model_dump(mode="json", exclude_defaults=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def _read(path: Path) -> Pair:
    content = read_yaml(path, f"pair file {path.name}", BadPair)
    if not isinstance(content, dict):
        raise BadPair(f"pair file {path.name} holds no settings")
    try:
        return Pair(**content)
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise BadPair(f"pair file {path.name}: keys must be names") from None
        raise BadPair(first_problem(error, Pair).of(f"pair file {path.name}")) from None


def beside(folder: Path, path: str) -> str:
    """Return a path as it stands in a file of this folder: relative to it, absolute, or from the user's home (~)."""
    return str(folder / os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises where there is no such home


def moved(data: DataSource, move: Callable[[str], str]) -> DataSource:
    """Return the source with its paths changed, those of the arrays of an npz source too."""
    update: dict[str, Any] = {} if data.path is None else {"path": move(data.path)}
    for side in ("members", "held_out"):
        if data.source == "npz" and (chosen := getattr(data, side)) is not None:
            file, array = array_of(chosen)
            update[side] = chosen.model_copy(update={"split": f"{move(file)}:{array}"})
    return data.model_copy(update=update)


def _resolve(pair: Pair, folder: Path) -> Pair:
    """Make the paths in a user's pair file relative to that file, and read its lists of row numbers."""
    update: dict[str, Any] = {}
    for key in ("model", "reference_model"):
        model = getattr(pair, key)
        if model is None:
            continue
        if model.location and not model.location.startswith(SHIPPED) and model.location not in names("model"):
            given = GIVEN if model.family == "images" else ""
            place = given + beside(folder, model.location.removeprefix(given))
            model = model.model_copy(update={"location": place})
        if model.lora is not None and model.lora.location:
            lora = model.lora.model_copy(update={"location": beside(folder, model.lora.location)})
            model = model.model_copy(update={"lora": lora})
        update[key] = model
    data = moved(pair.data, lambda path: placed(path, folder))
    for side in ("members", "held_out"):
        chosen = getattr(data, side)
        if chosen is not None and isinstance(chosen.indices, str):
            listed = chosen.model_copy(update={"indices": _read_indices(Path(beside(folder, chosen.indices)))})
            data = data.model_copy(update={side: listed})
    if isinstance(pair.recipe, TextRecipe) and pair.recipe.canaries is not None:
        update["recipe"] = pair.recipe.model_copy(update={"canaries": placed(pair.recipe.canaries, folder)})
    return pair.model_copy(update={**update, "data": data})


def placed(path: str, folder: Path) -> str:
    """Return a path to data as it stands in a file of this folder; `zoo:NAME` is no path."""
    return path if path.startswith(SHIPPED) else beside(folder, path)


def _read_indices(path: Path) -> list[int]:
    try:
        numbers = [int(line) for line in read_bytes(path).decode().split()]
    except (OSError, ValueError) as error:
        # Nothing of the file itself: a pair's author may have named one that is not theirs.
        why = error.strerror if isinstance(error, OSError) else "it holds something else"
        raise BadPair(f"{path.name} is no list of row numbers, one a line: {why}") from None
    if not numbers or min(numbers) < 0:
        raise BadPair(f"{path.name} is no list of row numbers, one a line")
    return numbers
