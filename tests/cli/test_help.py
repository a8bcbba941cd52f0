"""What `--help` says: whole sentences, examples that can be parsed, and what to do first."""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command

from sidebench.cli import app
from sidebench.cli.examples import EXAMPLES, START

Call = Callable[..., tuple[int, str, str]]
ROOT: Any = get_command(app)


def commands() -> Iterator[tuple[str, Any]]:
    for name, command in ROOT.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())
        else:
            yield name, command


def test_every_command_has_two_examples() -> None:
    assert {name for name, _ in commands()} == EXAMPLES.keys()
    assert all(len(set(lines)) == 2 for lines in EXAMPLES.values())


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_an_example_is_a_command_with_options_that_exist(name: str, line: str) -> None:
    command = dict(commands())[name]
    program, *words = shlex.split(line)
    given = words[len(name.split()) :]
    assert program == "sidebench" and words[: len(name.split())] == name.split()
    context = type(command).context_class(command, info_name=name)
    options, rest, _ = command.make_parser(context).parse_args(args=given)
    assert not rest, f"{line}: {rest} is too much"
    wanted = {one.name for one in command.params if one.param_type_name == "argument" and one.required}
    assert wanted <= {key for key, value in options.items() if value not in (None, ())}, line


def test_an_option_that_does_not_exist_would_be_seen() -> None:
    command = dict(commands())["gate"]
    context = type(command).context_class(command, info_name="gate")
    with pytest.raises(Exception, match="No such option"):
        command.make_parser(context).parse_args(args=["digits", "--no-such-option"])


def test_help_cuts_no_sentence_and_says_what_to_do_first(call: Call) -> None:
    for words in ((), ("--help",), ("leaderboard",)):
        text = " ".join(call(*words)[1].split())
        assert "..." not in text.replace("[ARGS]...", "").replace("]...", "")
    text = call()[1]
    assert text.index("Commands:") < text.index("Start here:")
    assert all(command in text for command, _ in START)
    assert "Examples:" in call("run", "--help")[1] and "sidebench run digits\n" in call("run", "--help")[1]


def test_start_here_names_commands_that_exist() -> None:
    assert all(re.match(r"sidebench (\w+) ", f"{command} ")[1] in dict(commands()) for command, _ in START)  # type: ignore[index]
