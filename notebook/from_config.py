"""`sidebench.run(config="run.yaml")`: arguments from the file that `sidebench run --config` takes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from ..benchmark.errors import BadSetting
from ..benchmark.progress import say
from ..benchmark.runs.run_config import RunConfig, names_file, over, read_config

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

ARGUMENTS = {"attack": "attacks", "defence": "defences", "seed": "seeds", "measure": "measures"}
"""What a key of the file is called as an argument, where that is not its own name."""

KEYS = {argument: key for key, argument in ARGUMENTS.items()}

OF_THE_SCREEN = ("as_json", "traceback")
"""Keys about what the command prints, which say nothing here."""

OF_THE_COMMAND = ("secret_seeds", "fresh_attack", "engine", "workers", "plan_only")
"""Keys that the command alone has."""


def takes_config(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function take its arguments from a file too; what the call itself gives wins."""

    plain: Callable[..., Result] = function

    @functools.wraps(function)
    def called(*pair: Arguments.args, **given: Arguments.kwargs) -> Result:
        arguments: dict[str, Any] = dict(given)
        config = arguments.pop("config", None)
        if isinstance(config, str) and not names_file(config):
            say("config=NAME is an old spelling, which still works: dataset_config=NAME")
            arguments["dataset_config"] = config
        elif config is not None:
            named = {"pair": pair[0]} if pair else {}
            return plain(**_with(read_config(config), {**named, **arguments}))
        return plain(*pair, **arguments)

    return called


def _with(config: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's arguments under those that the call gives."""
    said = config.options({KEYS.get(name, name) for name in given})
    if of_the_command := [key for key in OF_THE_COMMAND if key in said]:
        raise BadSetting(f"config, {of_the_command[0]}: only the command `sidebench run` has it")
    pairs: Sequence[str] = said.pop("pair", [])
    if len(pairs) > 1:
        raise BadSetting(f"config, pair: names {len(pairs)}; sidebench.run attacks one")
    found = {ARGUMENTS.get(key, key): value for key, value in said.items() if key not in OF_THE_SCREEN}
    found.update({"pair": pairs[0]} if pairs else {}, **given)
    attacks, defences = (_names(found.get(name, ())) for name in ("attacks", "defences"))
    return {**found, "settings": over(config.settings(attacks, defences), found.get("settings") or {})}


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
