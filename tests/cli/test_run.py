"""`sidebench run`: what it prints, and what it leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from complaints import complaints

from sidebench.benchmark.runs import carry_out, track
from sidebench.cli import run

Call = Callable[..., tuple[int, str, str]]


def test_run_prints_tables_or_json(here: Path, call: Call) -> None:
    arguments = ("run", "tiny.yaml", "--candidates", 4, "--attack", "carlini-uncond", "--out", "kept")
    code, text, err = call(*arguments)
    assert code == 0 and not complaints(err)
    (folder,) = Path("kept").iterdir()
    assert "1 attack, 4 images each, seed 0" in text and f"sidebench show {folder} --all" in text
    assert len(text.splitlines()) <= 25 and call("show", folder)[1] == text
    (folder / "report.html").unlink()  # as after a kill between the last number and the page
    code, data, err = call(*arguments, "--json", "full")
    (result,) = json.loads(data)
    assert code == 0 and not complaints(err)
    assert "carlini-uncond" in (folder / "report.html").read_text(encoding="utf-8")
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert result == {"folder": str(folder), **stored}
    code, data, _ = call(*arguments, "--json")
    (told,) = json.loads(data)
    assert code == 0 and told == json.loads(call("show", folder, "--json")[1]) and told["pair"] == "tiny"
    code, _, err = call(*arguments, "--json=short")
    assert code == 2 and complaints(err) == [
        "sidebench: --json short: is no form of it; there is --json, and --json full"
    ]


def test_two_pairs_in_one_command(here: Path, call: Call) -> None:
    second = (here / "tiny.yaml").read_text(encoding="utf-8").replace("name: tiny", "name: second")
    (here / "second.yaml").write_text(second, encoding="utf-8")
    options = ["--candidates", 4, "--attack", "carlini-uncond", "--json"]
    code, data, _ = call("run", "tiny.yaml", "second.yaml", *options)
    assert code == 0 and [result["pair"] for result in json.loads(data)] == ["tiny", "second"]


def test_results_are_printed_before_they_are_sent(finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    printed: list[str] = []

    def send(*_: Any) -> list[str]:
        printed.append(capsys.readouterr().out)
        return ["trackio"]

    monkeypatch.setattr(carry_out, "carry_out", lambda plan, progress, engine: finished)
    monkeypatch.setattr(track, "send", send)
    plan: Any = SimpleNamespace(units=(), candidates=40)
    for as_json in ("summary", None):
        assert run._execute([plan], [None], as_json, None, [track.Tracker("trackio", "mine")]) == 0
        assert "sent to trackio: digits-" in capsys.readouterr().err
    assert json.loads(printed[0])[0]["pair"] == "digits" and "3 attacks" in printed[1]
