"""The options of a run in a YAML file, `sidebench run --config run.yaml`: its keys are those of the command.

pair: digits
attack:
  carlini-uncond:
  side: {guidance_scale: 0.3}
seed: [0, 1, 2]
candidates: 4096
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from ..contracts import Settings
from ..data.pair import pair_names
from ..errors import BadSetting, first_problem
from ..files import read_yaml
from ..results.run_folder import RunFolder, asked_candidates

ENDINGS = (".yaml", ".yml")
"""What the name of such a file ends with."""


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


def _summary(value: Any) -> Any:
    """Read `json: true` as the option without a value."""
    return ("summary" if value else None) if isinstance(value, bool) else value


Several = Annotated[list[str], BeforeValidator(_listed)]
BySetting = dict[str, dict[str, Any]]
Named = Annotated[BySetting, BeforeValidator(_by_name)]


class RunConfig(Settings):
    """What such a file says, checked; None is what it leaves to the command line, or to the defaults."""

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
    candidates: int | None = None
    seed: Annotated[list[int], BeforeValidator(_listed)] | None = None
    secret_seeds: Annotated[int, Field(ge=1)] | None = None
    measure: Several | None = None
    tuned: Several | None = None
    device: str | None = None
    dtype: str | None = None
    micro_batch: int | None = None
    compiled: bool | None = Field(None, alias="compile")
    out: str | None = None
    fresh: bool | None = None
    fresh_attack: Several | None = None
    engine: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    plan_only: bool | None = None
    track: Several | None = None
    allow_pickle: bool | None = None
    traceback: bool | None = None
    as_json: Annotated[Literal["summary", "full"] | None, BeforeValidator(_summary)] = Field(None, alias="json")

    def options(self, given: Collection[str] = ()) -> dict[str, Any]:
        """Return what the file says, settings apart, by the option's name with underscores.

        Args:
            given: Options that the command line gives. It wins: what excludes one of them is left out with it.
        """
        said = {**self.model_dump(exclude_none=True, exclude={"set"})}
        said.update({key: list(said[key]) for key in ("attack", "defence") if key in said})
        ruled_out = {other for one in given for other in EXCLUDES.get(one, ())}
        return {key: value for key, value in said.items() if key not in ruled_out and key not in given}

    def settings(self, attacks: Collection[str], defences: Collection[str]) -> BySetting:
        """Return the settings by attack and defence; what stands below a name holds only where that one is run."""
        run = {**(self.attack or {}), **(self.defence or {})}
        below = {name: own for name, own in run.items() if own and name in {*attacks, *defences}}
        return over(below, self.set or {})


_DATA = ("dataset", "split", "holdout", "dataset_config", "image_column", "caption_column", "label_column", "control")

EXCLUDES = {
    "pair": (*_DATA, "variant"),
    "dataset": ("pair", *_DATA[1:]),
    "tier": ("candidates",),
    "candidates": ("tier",),
    "seed": ("secret_seeds",),
    "secret_seeds": ("seed",),
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
    try:
        return RunConfig(**{key.replace("-", "_"): value for key, value in content.items()})
    except ValidationError as error:
        raise BadSetting(first_problem(error, RunConfig).of(name)) from None


def config_of(folder: RunFolder) -> str:
    """Return the file that asks for a run again, from its manifest, as YAML.

    What a manifest cannot name, since it holds no paths (a pair file, a model in place of the pair's, code of your
    own), stands in a comment for whoever has it to fill in.

    Raises:
        CorruptRun: the folder has no manifest that can be read.
    """
    manifest = folder.checked_manifest() or {}
    identity, units = manifest["identity"], list(manifest["units"].values())
    names = {"micro_batch": "micro_batch", "compiled": "compile"}
    batching = {names[key]: value for key, value in manifest.get("batching", {}).items() if key in names}
    found = {
        "pair": identity["pair"],
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
    if identity["pair"] not in pair_names():
        notes.append(f"# {identity['pair']}: no pair that ships with sidebench, write its file")
    said = yaml.safe_dump({key: value for key, value in found.items() if value != {}}, sort_keys=False, width=110)
    return "\n".join([f"# What {folder.path.name} is made of: sidebench run --config FILE.yaml", *notes, said])
