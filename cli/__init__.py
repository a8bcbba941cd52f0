"""The `sidebench` command. Each module beside this one declares options, calls a room and prints.

No logic is here, and nothing heavy is imported before a command needs it: `sidebench --help` answers at once.
May import every room; no room imports it.

    from sidebench.cli import app, main

    main()  # what `python -m sidebench` runs: parses sys.argv, prints, and exits with the command's code
"""

import functools
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from .. import __version__
from ..benchmark.environment import collect_seldom, keep_freed_memory
from ..benchmark.errors import BadInput, SidebenchError, printable
from ..benchmark.files import cannot_write
from . import attacks, detect, gate, leaderboard, look, machine, run
from .config_file import Configured, renamed
from .examples import examples_of, start_here
from .grouped import Grouped
from .hints import no_such_option, with_example
from .options import FULL, NONE, SUMMARY
from .output import complain, complain_of

INTERRUPTED, UNEXPECTED, WRONG_USAGE = 130, 70, BadInput.exit_code

Commands = dict[str, Callable[..., int | None]]

COMMANDS: Commands = {
    "run": run.run,
    "worker": run.worker,
    "score-images": run.score_images,
    "plan": run.plan,
    "fetch": run.fetch,
    "list": look.list_,
    "show": look.show_,
    "report": look.report,
    "compare": look.compare,
    "score": look.score,
    "label": look.label,
    "gate": gate.gate,
    "replay": attacks.replay,
    "train": attacks.train,
    "new": attacks.new,
    "tune": attacks.tune,
    "ablate": attacks.ablate,
    "detect": detect.detect,
    "bench": machine.bench,
    "theory": machine.theory,
    "doctor": machine.doctor,
}
"""Every command, in the order of `sidebench --help`."""

LEADERBOARD: Commands = {
    "add": leaderboard.add,
    "check": leaderboard.check,
    "publish": leaderboard.publish,
    "eval-result": leaderboard.eval_result,
    "build": leaderboard.build,
}
"""The commands below `sidebench leaderboard`."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code (0 to 4, 70 or 130)."""
    collect_seldom()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Of a console that knows ASCII alone, say: a letter that it cannot show is spelt by its number.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _command()(args=_spelled_out(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            complain("interrupted; the same command goes on where this one stopped")
    except SidebenchError as error:
        complain_of(error)
        code = error.exit_code
    except typer.TyperException as error:
        complain(_wrong_usage(error))
        code = WRONG_USAGE
    except BrokenPipeError:
        # The reader of stdout has gone (`sidebench list pairs | head`); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # the last resort
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _wrong_usage(error: Exception) -> str:
    """Say what is wrong with a command line, and what may have been meant."""
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        return no_such_option(error)
    message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    return with_example(message, getattr(error, "ctx", None)) if message.startswith("Missing ") else message


JSON_FORMS = {"--json": f"--json={SUMMARY}", "--no-json": f"--json={NONE}"}


def _spelled_out(arguments: list[str]) -> list[str]:
    """Return the arguments as they are written now, and with the value of `--json` of a run, which may be left out.

    Examples:
        >>> _spelled_out(["run", "digits", "--json"]), _spelled_out(["show", "RUN", "--json", "full"])
        (['run', 'digits', '--json=summary'], ['show', 'RUN', '--json=full'])
    """
    if not arguments or arguments[0] not in ("run", "score-images", "show"):
        return renamed(arguments)
    found: list[str] = []
    for argument in renamed(arguments):
        if argument == FULL and found[-1:] == [f"--json={SUMMARY}"]:
            found[-1] = f"--json={FULL}"
        else:
            found.append(JSON_FORMS.get(argument, argument))
    return found


def _unexpected(error: Exception) -> int:
    """Say what nobody foresaw: a file that the system will not name, open, list or write; or a bug."""
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        complain(
            f"names of files are {error.encoding} here, without {error.object!a}: set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        )
        return WRONG_USAGE
    if isinstance(error, OSError) and error.strerror and error.filename:
        complain(f"{str(error.filename)[:200]}: {error.strerror}")
        return cannot_write(Path(str(error.filename)), error).exit_code
    print(printable(traceback.format_exc()), file=sys.stderr)
    complain(f"unexpected {type(error).__name__}: {error}; this is a bug in sidebench")
    return UNEXPECTED


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    _help_alone(context)


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def _group(callback: Callable[..., None], commands: Commands, under: str = "", **options: Any) -> typer.Typer:
    group = typer.Typer(callback=callback, invoke_without_command=True, rich_markup_mode=None, **options)
    for name, command in commands.items():
        # Said whole in the list of commands: typer cuts it at the width of a line otherwise.
        first = " ".join((command.__doc__ or "").partition("\n\n")[0].split())
        kind = Configured if "config" in inspect.signature(command).parameters else Grouped
        group.command(name, cls=kind, short_help=first, epilog=examples_of(under + name))(command)
    return group


app = _group(
    _root,
    COMMANDS,
    name="sidebench",
    help="Privacy evaluation of diffusion models: extraction attacks under one protocol.",
    epilog=start_here(),
    pretty_exceptions_enable=False,
)
app.add_typer(
    _group(_help_alone, LEADERBOARD, "leaderboard ", help="Records of results, and the tables and pages made of them."),
    name="leaderboard",
)


@functools.cache
def _command() -> Any:
    """Return the tree of commands; a process that calls several, a notebook say, builds it once."""
    return get_command(app)
