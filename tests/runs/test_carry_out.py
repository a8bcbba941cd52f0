"""What a call says of a folder that holds more than it asked for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.runs import carry_out
from sidebench.benchmark.runs.runner import RunResult


def test_a_call_says_what_else_its_answer_is_over(
    finished: Any, copied: Path, make_plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    whole = make_plan(copied.parent)
    monkeypatch.setattr(carry_out, "execute", lambda *_: RunResult(finished.folder, finished.metrics, {}))
    monkeypatch.setattr(carry_out, "write_report", lambda *_, **__: None)
    carry_out.carry_out(whole)
    assert not caplog.records
    carry_out.carry_out(dataclasses.replace(whole, units=whole.units[:1]))
    (line,) = [record.getMessage() for record in caplog.records]
    others = ", ".join(unit.name for unit in whole.units[1:])
    assert f"{finished.folder.path} holds {others} of earlier calls too" in line and "(out)" in line
