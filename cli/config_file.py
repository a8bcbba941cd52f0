"""`--config FILE.yaml`: options from a file, which become the command's defaults, so that the command line wins."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperOption

from .grouped import Grouped

PARAMETERS = {"pair": "pairs"}
"""What a key of the file is called by the commands' functions, where that is not its own name."""

NO_KEYS = ("allow_pickle", "help")
"""Switches that no file turns on."""

KEYS = {parameter: key for key, parameter in PARAMETERS.items()}


class Configured(Grouped):
    """A command whose options may come from a file. Keys of options that it lacks, but `run` has, say nothing here.

    What a file turns on, `--no-NAME` turns off.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            if isinstance(param, TyperOption) and param.is_flag and param.name not in NO_KEYS:
                param.secondary_opts = [f"--no-{param.opts[0].removeprefix('--')}"]
                param.show_default = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the file that `--config` names, if it is there, before the values are taken from the command line."""
        given = self._given(ctx, args)
        if "config" in given and "help" not in given:
            from ..benchmark.runs.run_config import names_file, read_config

            names_file(given["config"])
            config = read_config(Path(given.pop("config")))
            off = {name for name, value in given.items() if value is False}
            chosen = config.options({KEYS.get(name, name) for name in given.keys() - off}, off)
            ctx.default_map = self._defaults({PARAMETERS.get(key, key): value for key, value in chosen.items()})
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _defaults(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the file says as this command takes it: `json: full` of `run` is plain `--json` of `plan`."""
        switches = {param.name for param in self.params if isinstance(param, TyperOption) and param.is_flag}
        return {name: bool(value) if name in switches else value for name, value in chosen.items()}

    def _given(self, ctx: Any, args: list[str]) -> dict[str, Any]:
        """Return what the command line itself says, by parameter, as it stands there."""
        said: Mapping[str, Any] = self.make_parser(ctx).parse_args(args=list(args))[0]
        return {name: value for name, value in said.items() if value not in (None, ())}


def renamed(arguments: list[str]) -> list[str]:
    """Return the arguments with `--config NAME`, as a data set's configuration was given before, as it is given now.

    Examples:
        >>> renamed(["plan", "--config", "run.yaml"])
        ['plan', '--config', 'run.yaml']
    """
    if arguments[:1] not in (["run"], ["plan"], ["fetch"], ["score-images"]):
        return arguments
    found = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--config" and _is_old(value if equals else "".join(arguments[place + 1 : place + 2])):
            found[place] = f"--dataset-config{equals}{value}"
            print("--config NAME is an old spelling, which still works: --dataset-config NAME", file=sys.stderr)
    return found


def _is_old(name: str) -> bool:
    from ..benchmark.errors import BadSetting
    from ..benchmark.runs.run_config import names_file

    try:
        return not names_file(name)
    except BadSetting:  # said by the command, which knows whether it takes such a file
        return False
