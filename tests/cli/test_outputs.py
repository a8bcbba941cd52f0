"""What a command writes where it is told to: never through a link, onto a pipe, or over somebody's file unasked."""

import os
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from matplotlib.figure import Figure
from typer.main import get_command

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.reports import page
from sidebench.cli import COMMANDS, LEADERBOARD, app

Call = Callable[..., tuple[int, str, str]]

FOUR_YEARS = "four years"


@pytest.fixture
def run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work beside a finished run."""
    monkeypatch.chdir(copied.parent)
    Path("thesis.tex").write_text(FOUR_YEARS, encoding="utf-8")
    return copied


def test_a_report_replaces_a_report_and_nothing_else(run: Path, call: Call) -> None:
    code, _, err = call("report", run, "--out", "thesis.tex")
    (line,) = complaints(err)
    assert code == 2 and "thesis.tex is there and sidebench did not write it" in line
    assert Path("thesis.tex").read_text(encoding="utf-8") == FOUR_YEARS
    assert [call("report", run, "--out", "page.html")[0] for _ in range(2)] == [0, 0]
    assert call("report", run, "--out", "thesis.tex", "--force")[0] == 0
    assert Path("thesis.tex").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize(
    "command",
    [
        ("report", "RUN", "--out"),
        ("compare", "RUN", "RUN", "--out"),
        ("compare", "RUN", "RUN", "--plot"),
        ("replay", "RUN", 0, "--attack", "side", "--out"),
        ("gate", "RUN", "--policy", "example", "--junit"),
        ("gate", "RUN", "--policy", "example", "--summary"),
        ("gate", "RUN", "--policy", "example", "--report"),
    ],
)
def test_no_option_replaces_what_is_no_file(command: tuple[object, ...], run: Path, call: Call) -> None:
    os.mkfifo("pipe.png")
    Path("link.png").symlink_to("thesis.tex")
    Path("folder.png").mkdir()
    for place in ("pipe.png", "link.png", "folder.png", "thesis.tex"):
        before = Path(place).lstat()
        code, _, err = call(*[run if part == "RUN" else part for part in command], place)
        (line,) = complaints(err)
        assert code == 2 and place in line, line
        assert (Path(place).lstat().st_ino, Path(place).lstat().st_mode) == (before.st_ino, before.st_mode)
        if place != "thesis.tex":
            code, _, err = call(*[run if part == "RUN" else part for part in command], place, "--force")
            assert code == 2 and "cannot write" in err, err
    assert Path("thesis.tex").read_text(encoding="utf-8") == FOUR_YEARS


def test_pictures_stay_in_their_folder_and_replace_their_own(tmp_path: Path) -> None:
    """`--figures DIR`; names of units and attacks are parts of the files' names."""
    place, pictures = tmp_path / "all", {"../one": page.Picture("one", Figure)}
    for _ in range(2):
        page.written(pictures, place)
    assert sorted(file.name for file in place.iterdir()) == ["..-one.png", "..-one.svg"]
    (place / "..-one.png").write_text(FOUR_YEARS, encoding="utf-8")
    with pytest.raises(BadInput, match="add --force"):
        page.written(pictures, place)
    assert (place / "..-one.png").read_text(encoding="utf-8") == FOUR_YEARS
    page.written(pictures, place, force=True)
    assert (place / "..-one.png").read_bytes().startswith(b"\x89PNG")


def test_a_label_sheet_empties_nobodys_file(run: Path, call: Call) -> None:
    for make in (Path.symlink_to, Path.hardlink_to):
        (run / ".lock").unlink(missing_ok=True)
        make(run / ".lock", Path("thesis.tex").resolve())
        code, _, err = call("label", run)
        (line,) = complaints(err)
        assert code == 2 and ".lock" in line and "remove it" in line
        assert Path("thesis.tex").read_text(encoding="utf-8") == FOUR_YEARS


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".yaml", "a\0b", "\udcff"])
def test_names_that_no_file_has_end_in_a_line(name: str, run: Path, call: Call) -> None:
    for command in (("report", name), ("show", name), ("run", name), ("gate", run, "--policy", name), ("label", name)):
        code, out, err = call(*command)
        assert (code, out) == (2, "") and len(complaints(err)) == 1 and "Traceback" not in err


def test_a_file_that_may_not_be_read_is_named(run: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refused)  # of a folder of mode 000; whoever tests may be root
    code, _, err = call("report", run)
    assert (code, complaints(err)) == (2, [f"sidebench: {run / 'manifest.json'}: Permission denied"])


# ---- One spelling -----------------------------------------------------------------------------------

BESIDES = {
    "report": "FILE.html",
    "figures": "FOLDER",
    "summary": "FILE.md",
    "card": "FILE.md",
    "junit": "FILE.xml",
    "sarif": "FILE.sarif",
    "readme": "FILE.md",
    "checkpoints": "FOLDER",
}
"""What a command can write beside `--out`, by kind: the same word and form in every command."""

READ = {
    "config",
    "policy",
    "baseline",
    "tuned",
    "tuning",
    "negatives",
    "prompts",
    "records",
    "key",
    "run_folder",
    "base",
}
"""Options that name what is read, or the collection that `sidebench leaderboard` works on."""

OLD = {("compare", "plot")}
"""Older spellings, accepted and not shown."""


def options() -> Iterator[tuple[str, Any]]:
    root: Any = get_command(app)
    for name, command in root.commands.items():
        below = getattr(command, "commands", None)
        for word, each in below.items() if below else [("", command)]:
            yield from ((f"{name} {word}".strip(), one) for one in each.params if one.param_type_name == "option")


def test_outputs_have_one_spelling() -> None:
    shown = [(command, one) for command, one in options() if not one.hidden]
    forms = {(command, one.name): one.metavar for command, one in shown if one.name in {"out", *BESIDES}}
    for (command, name), form in forms.items():
        if name == "out":
            assert form in ("FOLDER", "FILE.html", "FILE.png", "FILE.json"), command
        else:
            assert form == BESIDES[name] and (command, "out") in forms, (command, name)
    said = {command: one.help for command, one in shown if one.name == "out"}
    assert all(forms[command, "out"].partition(".")[0].lower() in text.lower() for command, text in said.items())


def test_every_path_is_known_as_read_or_written() -> None:
    given = [
        parameter
        for call in (*COMMANDS.values(), *LEADERBOARD.values())
        for parameter in signature(call).parameters.values()
    ]
    paths = {one.name for one in given if "Path" in str(one.annotation) and "Option" in str(one.annotation)}
    assert paths == {"out", *BESIDES, *READ, *(name for _, name in OLD)}


def test_what_writes_a_file_that_one_names_has_force() -> None:
    files = {
        command
        for command, one in options()
        if not one.hidden and one.name in {"out", *BESIDES} - {"readme"} and str(one.metavar).startswith("FILE")
    }
    forced = {command for command, one in options() if one.name == "force"}
    assert files and files <= forced


def test_an_old_spelling_still_writes_and_says_the_new_one(finished: Any, copied: Path, here: Path, call: Call) -> None:
    assert {(command, one.name) for command, one in options() if one.hidden} == OLD
    assert "--plot" not in call("compare", "--help")[1]
    code, text, err = call("compare", finished.folder.path, copied, "--plot", "leak.svg")
    assert code == 0 and "--plot" not in text and Path("leak.svg").is_file()
    (line,) = complaints(err)
    assert "old spelling" in line and "--figures FOLDER" in line
