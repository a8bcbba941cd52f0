"""A record in the Hub's format: the number with its interval and direction, and only what was reproduced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_hub import TOKEN, Commands, LocalHub
from made_records import badge, changed, entry, store

from sidebench.benchmark.errors import BadInput
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.eval_result import PLACE, accusation
from sidebench.leaderboards.record import Record, Source

MODEL = "someone/model"


def stored(record: Record, folder: Path, *, agreed: int | None = 32, **changes: Any) -> Path:
    """Write a record of a model on the Hub with its badge and return its file."""
    source = Source(repo=MODEL, commit="a" * 40)
    made = changed(record, sources={"model": source}, **changes)
    file = store(made, folder)
    if agreed is not None:
        found = badge(entry(made), agreed=agreed)
        checked_file(file).write_text(found.model_dump_json(by_alias=True), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def run(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(hub, tmp_path_factory.mktemp("client"), HF_TOKEN=TOKEN) as commands:
        yield commands


def test_the_file_has_the_number_its_interval_and_its_direction(real_records: list[Record], tmp_path: Path) -> None:
    record = real_records[0]
    excess = record.excess.model_copy(update={"value": 0.2, "low": 0.1, "high": 0.3})
    found = accusation(stored(record, tmp_path, excess=excess), MODEL, "someone/results")
    (written,) = yaml.safe_load(found.text)
    assert written["value"] == 20.0 and written["dataset"]["id"] == "someone/results"
    assert "lower is better; 95 % interval 10.00 to 30.00" in written["notes"] and "reproduced" in written["notes"]
    assert found.said.startswith(f"{MODEL} gives training images away: 20.00 % of ")
    excess = excess.model_copy(update={"low": -0.1})
    found = accusation(stored(record, tmp_path / "clear", excess=excess), MODEL, "someone/results")
    assert found.said.startswith(f"{MODEL} shows no leak to ") and "up to 30.00 %" in found.said


def test_what_was_not_reproduced_or_has_no_fair_control_is_refused(real_records: list[Record], tmp_path: Path) -> None:
    record = real_records[0]
    with pytest.raises(BadInput, match="was not reproduced"):
        accusation(stored(record, tmp_path / "1", agreed=None), MODEL, "a/b")
    with pytest.raises(BadInput, match="was not reproduced"):
        accusation(stored(record, tmp_path / "2", agreed=31), MODEL, "a/b")
    with pytest.raises(BadInput, match="only an excess over a fair iid control"):
        accusation(stored(record, tmp_path / "3", control="surrogate"), MODEL, "a/b")
    with pytest.raises(BadInput, match="is a record of someone/model, not of other/model"):
        accusation(stored(record, tmp_path / "4"), "other/model", "a/b")


def test_it_is_said_first_and_sent_as_a_pull_request_when_asked(
    real_records: list[Record], hub: LocalHub, run: Commands, tmp_path: Path
) -> None:
    repo = hub.add("models", MODEL, {"README.md": b"# model"})
    main = repo.branches["main"]
    file = stored(real_records[0], tmp_path / "records")
    arguments = ["leaderboard", "eval-result", str(file), "--model", MODEL, "--dataset", "someone/results"]
    code, out, err = run(*arguments, "--out", str(tmp_path))
    assert code == 0 and "this says of a model in public: someone/model " in err and "nothing was sent" in err
    assert (tmp_path / PLACE).read_text(encoding="utf-8") == out and list(repo.branches) == ["main"]
    code, out, err = run(*arguments, "--send")
    assert code == 0 and "discussions/1" in out, err
    assert repo.branches["main"] == main
    (asked,) = (branch for branch in repo.branches if branch != "main")
    assert yaml.safe_load(repo.commits[repo.branches[asked]][PLACE])[0]["dataset"]["id"] == "someone/results"
