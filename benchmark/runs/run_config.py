"""The options of a run in a YAML file, `sidebench run --config run.yaml`: its keys are those of the command.

pair: digits
attack:
  carlini-uncond:
  side: {guidance_scale: 0.3}
seed: [0, 1, 2]
candidates: 4096
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from ..contracts import Settings
from ..data import model_files
from ..data.pair import Pair, load_pair, pair_names
from ..errors import BadSetting, first_problem
from ..files import read_yaml
from ..registry import Kind, names
from ..results.run_folder import RunFolder, asked_candidates

ENDINGS = (".yaml", ".yml")
"""What the name of such a file ends with."""

OTHER_ENDINGS = (".json", ".toml", ".ini", ".cfg", ".conf", ".txt", ".py")
"""What names of other files end with, and no data set's configuration."""


def names_file(config: str) -> bool:
    """Return whether `--config` names a file of options, and not a data set's configuration as it once did.

    Examples:
        >>> names_file("run.yaml"), names_file("20220301.en")
        (True, False)

    Raises:
        BadSetting: it names a file of another kind.
    """
    if config.endswith(ENDINGS):
        return True
    # Path.is_file raises of a name that no file system takes.
    if config.lower().endswith((*ENDINGS, *OTHER_ENDINGS)) or os.path.isfile(config):  # noqa: PTH113
        raise BadSetting(f"--config {config}: a file of options is YAML, and its name ends in .yaml or .yml")
    return False


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | Mapping) else [value]


def _by_name(value: Any) -> Any:
    """Read names alone as names without settings."""
    if isinstance(value, Mapping):
        return {name: {} if own is None else own for name, own in value.items()}
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name, a list of names, or names with settings below each are wanted")
    return {name: {} for name in names}


def _number(value: Any) -> Any:
    """Refuse true and false, which pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"a whole number is wanted, not {str(value).lower()}")
    return value


def _summary(value: Any) -> Any:
    """Read `json: true` as the option without a value."""
    return ("summary" if value else None) if isinstance(value, bool) else value


Several = Annotated[list[str], BeforeValidator(_listed)]
BySetting = dict[str, dict[str, Any]]
Named = Annotated[BySetting, BeforeValidator(_by_name)]
Number = Annotated[int, BeforeValidator(_number)]
AtLeastOne = Annotated[Number, Field(ge=1)]


class RunConfig(Settings):
    """What such a file says, checked; None is what it leaves to the command line, or to the defaults.

    `--allow-pickle` is no key: a pickle can run code, so whoever gives the command says it.
    """

    pair: Several | None = None
    attack: Named | None = None
    """A name, a list of names, or names with the settings of each below it."""
    defence: Named | None = None
    """Likewise."""
    set: BySetting | None = None
    """Settings of attacks and defences by name, over those below `attack` and `defence`."""
    model: str | None = None
    dataset: str | None = None
    split: str | None = None
    holdout: str | None = None
    dataset_config: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    variant: str | None = None
    control: str | None = None
    tier: str | None = None
    candidates: Number | None = None
    seed: Annotated[list[Number], BeforeValidator(_listed)] | None = None
    secret_seeds: AtLeastOne | None = None
    measure: Several | None = None
    tuned: Several | None = None
    device: str | None = None
    dtype: str | None = None
    micro_batch: Number | None = None
    compiled: bool | None = Field(None, alias="compile")
    out: str | None = None
    fresh: bool | None = None
    fresh_attack: Several | None = None
    engine: str | None = None
    workers: AtLeastOne | None = None
    plan_only: bool | None = None
    track: Several | None = None
    traceback: bool | None = None
    as_json: Annotated[Literal["summary", "full"] | None, BeforeValidator(_summary)] = Field(None, alias="json")

    def options(self, given: Collection[str] = (), off: Collection[str] = ()) -> dict[str, Any]:
        """Return what the file says, settings apart, by the option's name with underscores.

        Args:
            given: Options that the command line gives. It wins: what excludes one of them is left out with it.
            off: Switches that it turns off. They win too, and leave out nothing else.
        """
        said = {**self.model_dump(exclude_none=True, exclude={"set"})}
        said.update({key: list(said[key]) for key in ("attack", "defence") if key in said})
        ruled_out = {other for one in given for other in EXCLUDES.get(one, ())}
        return {key: value for key, value in said.items() if key not in {*ruled_out, *given, *off}}

    def settings(self, attacks: Collection[str], defences: Collection[str]) -> BySetting:
        """Return the settings by attack and defence.

        What stands below a name holds only where that one is run. So does what `set` says of an attack, or a defence,
        where others than the file's are run in its place; of what nobody knows it stays, to be refused.
        """
        run = {**(self.attack or {}), **(self.defence or {})}
        below = {name: own for name, own in run.items() if own and name in {*attacks, *defences}}
        left_out = {*_replaced("attack", self.attack, attacks), *_replaced("defence", self.defence, defences)}
        kept = {name: own for name, own in (self.set or {}).items() if name not in left_out - {*attacks, *defences}}
        return over(below, kept)


def _replaced(kind: Kind, of_file: BySetting | None, run: Collection[str]) -> set[str]:
    """Return all names of a kind where others are run than the file names, else none."""
    return {*names(kind), *(of_file or ())} if run and list(run) != list(of_file or ()) else set()


_DATA = ("dataset", "split", "holdout", "dataset_config", "image_column", "caption_column", "label_column", "control")

EXCLUDES = {
    "pair": (*_DATA, "variant"),
    "dataset": ("pair", *_DATA[1:]),
    "tier": ("candidates",),
    "candidates": ("tier",),
    "seed": ("secret_seeds",),
    "secret_seeds": ("seed", "track"),
    "engine": ("plan_only",),
    "plan_only": ("engine", "workers"),
}
"""Options of a file that have no place beside one of the command line."""


def over(below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]) -> BySetting:
    """Return settings by name, key by key those above before those below.

    >>> over({"side": {"clusters": 3, "width": 8}}, {"side": {"clusters": 9}, "eta": {"eta": 1}})
    {'side': {'clusters': 9, 'width': 8}, 'eta': {'eta': 1}}
    """
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in {**below, **above}}


def read_config(source: str | Path | Mapping[str, Any]) -> RunConfig:
    """Read a file, or take what one would hold.

    Raises:
        BadSetting: the file cannot be read, or has an unknown key or an impossible value; it is named.
    """
    if isinstance(source, Mapping):
        return _checked(source, "config")
    return _checked(read_yaml(Path(source), f"config {source}", BadSetting), Path(source).name)


def _checked(content: Any, name: str) -> RunConfig:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise BadSetting(f"{name} holds no options; its keys are those of `sidebench run`, such as pair: digits")
    said = {key.replace("-", "_"): value for key, value in content.items()}
    if len(said) < len(content):
        twice = next(key for key in content if "-" in key and key.replace("-", "_") in content)
        raise BadSetting(f"{name}, {twice}: stands twice, with hyphens and with underscores")
    if "allow_pickle" in said:
        raise BadSetting(
            f"{name}, allow-pickle: a pickle can run code, so no file allows it: give --allow-pickle to the command"
        )
    try:
        return RunConfig(**said)
    except ValidationError as error:
        raise BadSetting(first_problem(error, RunConfig).of(name)) from None


def config_of(folder: RunFolder) -> str:
    """Return the file that asks for a run again, from its manifest, as YAML.

    What a manifest cannot name, since it holds no paths (a pair file, data by name, a model in place of the pair's,
    code of your own), stands in a comment for whoever has it to fill in. Until then the file is refused, so that it
    never asks for another victim.

    Raises:
        CorruptRun: the folder has no manifest that can be read.
    """
    manifest = folder.checked_manifest() or {}
    identity, units = manifest["identity"], list(manifest["units"].values())
    named = identity["pair"] in pair_names()
    known = named and load_pair(identity["pair"]).identity() == identity["pair_identity"]
    other = _another_model(manifest) if known else ""
    names = {"micro_batch": "micro_batch", "compiled": "compile"}
    batching = {names[key]: value for key, value in manifest.get("batching", {}).items() if key in names}
    found = {
        "pair": identity["pair"] if known or not named else f"{identity['pair']}.yaml",
        **({"model": MODEL} if other else {}),
        "attack": {unit["attack"]: unit["settings"] for unit in units},
        "defence": identity["defences"],
        "seed": sorted({unit["seed"] for unit in units}),
        "candidates": asked_candidates(manifest),
        "measure": identity["measures"],
        "dtype": identity["protocol"].get("dtype", "float32"),
        **batching,
    }
    own = {unit["attack"]: unit.get("code", {}) for unit in units} | identity.get("code", {})
    notes = [f"# {name}: its code is a local file, write FILE.py:CLASS" for name, code in own.items() if "file" in code]
    if not known:
        notes += [f"# {identity['pair']}: {_ANOTHER if named else _UNKNOWN}", *([] if named else [_BY_NAME])]
    notes += [f"# model: {other}, not the pair's own; write it in place of {MODEL}"] if other else []
    said = yaml.safe_dump({key: value for key, value in found.items() if value != {}}, sort_keys=False, width=110)
    first = f"# What {folder.path.name} is made of: sidebench run --config FILE.yaml"
    # A name may come from anybody: it begins no line, where it would be a key.
    return "\n".join([*(" ".join(line.split()) for line in (first, *notes)), said])


MODEL = "MODEL.NOT.NAMED"
"""Stands for a model that a manifest cannot name; there is none of this name."""

_ANOTHER = "not the pair of this name that ships (model, data, variant, control or protocol), write its file"

_UNKNOWN = "no pair that ships with sidebench, write its file, and model where another took its place;"

_BY_NAME = "# for data by name: model, dataset, split and holdout, and the columns, variant and control that were given"


def _another_model(manifest: Mapping[str, Any]) -> str:
    """Return what the model of a run on a pair that ships is called, if it is not the pair's, else nothing."""
    model, pair = manifest["identity"]["model"], load_pair(manifest["identity"]["pair"])
    if model["family"] == pair.model.family and _files_are(pair, manifest):
        return ""
    named = manifest.get("model_name") or manifest.get("sources", {}).get("model", {}).get("repo")
    return str(named or f"another of family {model['family']}")


def _files_are(pair: Pair, manifest: Mapping[str, Any]) -> bool:
    """Return whether a run's model is the pair's: by the files that ship, or else by the repository and the commit.

    A branch has other commits later: that the run names the same one is all that can be known without the Hub.
    """
    own, files = pair.model, manifest["identity"]["model"]["sha256"]
    if own.repo is None:
        return bool(files == model_files.check_files(model_files.locate(own.location), own.sha256, own.variant))
    source = manifest.get("sources", {}).get("model", {})
    pinned = all(files.get(name) == digest for name, digest in own.sha256.items())
    return pinned and source.get("repo") == own.repo and own.revision in (source.get("revision"), source.get("commit"))
