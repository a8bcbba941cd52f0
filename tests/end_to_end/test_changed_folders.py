"""145 changes to a run folder, most of them sealed again: each is repaired, refused in a line, or does no harm."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from mutations import CHANGES, mutate
from time_limit import time_limit

from sidebench.benchmark.results import whole

Call = Callable[..., tuple[int, str, str]]

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("report", "RUN", "--with-images"),
    ("show", "RUN"),
    ("leaderboard", "add", "RUN", "--as", "me", "--records", "records"),
    ("score", "RUN", "--bands", "near=0:0.3"),
    ("compare", "RUN", "OTHER"),
    ("label", "RUN"),
    ("replay", "RUN", "0", "--attack", "side"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of its own; nothing beside it may change."""
    outside = tmp_path / "outside"
    (tmp_path / "work").mkdir()
    outside.mkdir()
    (outside / "thesis.tex").write_text("four years", encoding="utf-8")
    for name in ("HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path
    assert [file.name for file in outside.iterdir()] == ["thesis.tex"]
    assert (outside / "thesis.tex").read_text(encoding="utf-8") == "four years"


def test_there_are_enough() -> None:
    assert len(CHANGES) >= 145


@pytest.mark.parametrize("start", range(0, len(CHANGES), 10))
def test_a_changed_folder_is_refused_in_a_line_or_does_no_harm(
    start: int, place: Path, finished: Any, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, run = finished.folder.path, place / "work" / "run"
    for number in range(start, min(start + 10, len(CHANGES))):
        shutil.copytree(other, run)
        name = mutate(run, number, place / "outside")
        arguments = [{"RUN": run, "OTHER": other}.get(part, part) for part in COMMANDS[number % len(COMMANDS)]]
        with time_limit(20):
            code, out, err = call(*arguments)
        assert code in (0, 2), (name, arguments, err)
        assert code == 0 or (len(complaints(err)) == 1 and not out and len(err) < 2500), (name, arguments, err)
        shutil.rmtree(place / "work")
        (place / "work").mkdir()
        monkeypatch.chdir(place / "work")


@pytest.mark.parametrize("number", [number for number, (name, _) in enumerate(CHANGES) if "images/" in name])
def test_what_a_run_goes_on_with_is_repaired_or_refused(number: int, place: Path, copied: Path) -> None:
    """`run` reads every piece before it goes on: what is not what was written is made again."""
    from sidebench.benchmark.errors import BadInput
    from sidebench.benchmark.results.run_folder import read_run

    mutate(copied, number, place / "outside")
    try:
        folder = read_run(copied)
        with folder.locked():
            whole.drop_damaged(folder, {"side.s0", "carlini-cond.s0", "carlini-uncond.s0"})
    except BadInput as error:
        assert "\n" not in str(error)
    left = list((copied / "images" / "side.s0").glob("*")) if not (copied / "images" / "side.s0").is_symlink() else []
    assert all(whole.is_whole(file) for file in left)
