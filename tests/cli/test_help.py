"""What `--help` says: whole sentences, examples that can be parsed, and what to do first."""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from complaints import complaints
from typer.main import get_command

from sidebench.benchmark.protocol import TIERS
from sidebench.cli import app
from sidebench.cli.examples import EXAMPLES, START, start_here
from sidebench.cli.grouped import GROUPS

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
    assert all(command in re.sub(r" \\\n +", " ", text) for command, _ in START)
    assert "Examples:" in call("run", "--help")[1] and "sidebench run digits\n" in call("run", "--help")[1]


def test_options_stand_in_groups_and_none_is_lost(call: Call) -> None:
    text = call("run", "--help")[1]
    places = [text.index(f"\n{title}:\n") for title in ("Arguments", *GROUPS)]
    assert places == sorted(places) and "\nOptions:\n" not in text
    assert places[1] < text.index("--dataset") < places[2] < text.index("--set ") < places[3] < text.index("--tier")
    for name, command in commands():
        shown = call(*name.split(), "--help")[1]
        listed = [one for one in command.params if not getattr(one, "hidden", False)]
        for option in (option for one in listed for option in one.opts if option.startswith("--")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), (name, option)


def test_groups_name_options_that_exist() -> None:
    known = {one.name for _, command in commands() for one in command.params}
    assert {name for names in GROUPS.values() for name in names} <= known


def test_few_options_need_no_groups(call: Call) -> None:
    text = call("list", "--help")[1]
    assert "\nOptions:\n" in text and "What is written" not in text


def test_the_sizes_of_tiers_are_those_of_the_protocol(call: Call) -> None:
    text = " ".join(call("run", "--help")[1].split())
    assert all(re.search(rf"{name} \({count:,}[),]", text) for name, count in TIERS.items())


def test_start_here_names_commands_that_exist() -> None:
    assert all(re.match(r"sidebench (\w+) ", f"{command} ")[1] in dict(commands()) for command, _ in START)  # type: ignore[index]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_option_is_cut_in_two(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a line of the help that ends at a hyphen, nor by a terminal of 80 columns where a line is longer."""
    monkeypatch.setenv("COLUMNS", str(width))
    for name, command in commands():
        text = command.get_help(type(command).context_class(command, info_name=f"sidebench {name}"))
        assert not re.search(r"\w-$", text, re.M), name
        assert width < 80 or max(map(len, text.splitlines())) <= 80, name
        assert not re.search(r"<\w+", text), name
    assert max(map(len, start_here().splitlines())) <= 78


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run digits --samples 5", "no such option --samples: did you mean --candidates?"),
        ("run digits --n 5", "did you mean --candidates?"),
        ("run digits -n 5", "no such option -n: did you mean --candidates?"),
        ("run digits --num_images 5", "did you mean --candidates?"),
        ("run digits --gpu", "did you mean --device?"),
        ("run digits --batch-size 4", "did you mean --micro-batch?"),
        ("run digits --candidats 4", "did you mean --candidates?"),
        ("run digits --output x", "did you mean --out?"),
        ("gate digits --output x", "did you mean --out?"),
        ("run digits --colour x", "no such option --colour: `sidebench run --help` lists them"),
        ("leaderboard build --samples 5", "no such option --samples: `sidebench leaderboard build --help`"),
        ("list", "for example: sidebench list attacks"),
        ("show", "for example: sidebench show side"),
        ("gate digits", "for example: sidebench gate "),
        ("leaderboard add RUN", "for example: sidebench leaderboard add "),
        ("run digits --device gpu", "no device 'gpu' here: there is cpu; a GPU of NVIDIA or AMD is called cuda"),
    ],
)
def test_what_may_have_been_meant_is_said(line: str, words: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, out, err = call(*line.split())
    assert (code, out) == (2, "")
    assert words in complaints(err)[0]
