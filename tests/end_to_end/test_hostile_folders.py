"""A run folder or record is data: no file that it names is run or read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import BadInput, UnknownName
from sidebench.benchmark.files import read_json, write_checked_json
from sidebench.benchmark.registry import registered
from sidebench.benchmark.results.run_folder import read_run
from sidebench.leaderboards.challenge import challenge
from sidebench.leaderboards.make_records import make_records

Call = Callable[..., tuple[int, str, str]]
EVIL = """
from pathlib import Path
from sidebench import Attack, Defence
Path("imported").touch()
class A(Attack): ...
class D(Defence): ...
"""


@pytest.fixture
def hostile(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run folder that brings a Python file along, which leaves a trace when it is imported."""
    (copied / "sub").mkdir()
    (copied / "sub" / "evil.py").write_text(EVIL, encoding="utf-8")
    monkeypatch.chdir(copied)
    return copied


def change(folder: Path, **identity: Any) -> None:
    file = folder / "manifest.json"
    manifest = read_json(file)
    manifest["identity"] |= identity
    write_checked_json(file, manifest)


def test_the_trap_works(hostile: Path, call: Call) -> None:
    """The file is found and imported where the person at the command names it."""
    call("show", "sub/evil.py:D")
    assert (hostile / "imported").exists()


def test_replay_runs_no_defence_of_the_folder(hostile: Path, call: Call) -> None:
    change(hostile, defences={"sub/evil.py:D": {}})
    code, _, err = call("replay", hostile, 0, "--attack", "carlini-uncond")
    assert code == 2 and "defence 'sub/evil.py:D' is a local file" in err
    assert not (hostile / "imported").exists()


def test_a_challenge_runs_no_defence_of_the_folder(hostile: Path, tmp_path: Path) -> None:
    change(hostile, defences={"sub/evil.py:D": {}})
    record = make_records(read_run(hostile), "somebody", ["carlini-uncond"])[0]
    file = tmp_path / "record.json"
    file.write_text(record.text(), encoding="utf-8")
    with pytest.raises(BadInput, match=r"defence 'sub/evil\.py:D' is a local file"):
        challenge(file, read_run(hostile), 1, device="cpu")
    assert not (hostile / "imported").exists()


@pytest.mark.parametrize("command", ["label", "replay"])
def test_a_pair_file_is_named_by_the_person_at_the_command(command: str, hostile: Path, call: Call) -> None:
    (hostile / "sub" / "evil.yaml").write_text("name: evil", encoding="utf-8")
    change(hostile, pair="sub/evil.yaml")
    more = [0, "--attack", "carlini-uncond"] if command == "replay" else []
    code, _, err = call(command, hostile, *more)
    assert code == 2 and "does not ship with sidebench: give --pair FILE" in err


def test_only_installed_names_come_from_folders_and_records() -> None:
    assert registered("attack", "side") == "side"
    assert registered("attack", "side--random-labels") == "side--random-labels"
    for name in ("./evil.py:A", "evil.py:A", "/tmp/evil.py:A--x", "evil.py"):
        with pytest.raises(BadInput, match="runs no code"):
            registered("attack", name)
    with pytest.raises(UnknownName, match="sid"):
        registered("attack", "sid")
