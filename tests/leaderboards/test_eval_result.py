"""A record in the Hub's format: the number with its interval and direction, and only what was reproduced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_hub import TOKEN, Commands, LocalHub
from made_records import badge, changed, entry, store

from sidebench.benchmark.errors import BadInput
from sidebench.leaderboards import ranking
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.eval_result import PLACE, accusation, send, statement
from sidebench.leaderboards.owners import FILE
from sidebench.leaderboards.read_records import read_record
from sidebench.leaderboards.record import Record, Source

MODEL = "someone/model"
SMALL = "from sidebench.leaderboards import ranking\nranking.LEAST_PREPARATIONS = ranking.LEAST_CANDIDATES = 1\n"


def stored(record: Record, folder: Path, *, agreed: int | None = 32, **changes: Any) -> Path:
    """Write a record of a model on the Hub with its badge and return its file."""
    source = Source(repo=MODEL, commit="a" * 40)
    file = store(changed(record, sources={"model": source}, **changes), folder)
    if agreed is not None:
        total = record.candidates * len(record.seeds)
        found = badge(entry(read_record(file)), agreed=agreed, of=total)
        checked_file(file).write_text(found.model_dump_json(by_alias=True), encoding="utf-8")
    return file


def with_excess(record: Record, value: float, low: float, high: float, **changes: Any) -> Record:
    excess = record.excess.model_copy(update={"value": value, "low": low, "high": high})
    return changed(record, excess=excess, **changes)


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def run(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(hub, tmp_path_factory.mktemp("client"), before=SMALL, HF_TOKEN=TOKEN) as commands:
        yield commands


def test_the_file_has_the_number_its_interval_and_its_direction(real_records: list[Record]) -> None:
    found = statement(with_excess(real_records[0], 0.2, 0.1, 0.3), MODEL, "someone/results")
    (written,) = yaml.safe_load(found.text)
    assert written["value"] == 20.0 and written["dataset"]["id"] == "someone/results"
    assert "lower is better; 95 % interval 10.00 to 30.00" in written["notes"] and "reproduced" in written["notes"]
    assert found.said.startswith(f"{MODEL} gives training images away: 20.00 % of ")
    found = statement(with_excess(real_records[0], 0.2, -0.1, 0.3), MODEL, "someone/results")
    assert found.said.startswith(f"{MODEL} shows no leak to ") and "up to 30.00 %" in found.said


def test_an_excess_below_zero_bounds_no_leak(real_records: list[Record]) -> None:
    said = statement(with_excess(real_records[0], -0.02, -0.03, -0.01), MODEL, "someone/results").said
    assert "which no leak explains (-3.00 to -1.00 %)" in said and "unseen" not in said


def test_a_name_reaches_neither_the_terminal_nor_the_pull_request_as_more_than_text(
    real_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\x1b[31m@everyone [click](http://x.example)\u202e\nhf_abcdefghijkl"
    found = statement(with_excess(real_records[0], 0.2, 0.1, 0.3, attack=name), MODEL, "someone/results")
    assert found.said.isprintable() and "hf_abcdefghijkl" not in found.said
    assert yaml.safe_load(found.text)[0]["notes"].isprintable()
    sent: dict[str, Any] = {}
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", lambda *_, **given: sent.update(given) or _Made())
    assert send(found) == "http://hub.example/1"
    assert "\\@everyone" in sent["commit_description"] and "\\[click\\]" in sent["commit_description"]


class _Made:
    pr_url = "http://hub.example/1"


def test_what_is_not_reproduced_or_of_another_model_is_refused(real_records: list[Record], tmp_path: Path) -> None:
    record = real_records[0]
    with pytest.raises(BadInput, match="was not reproduced"):
        accusation(stored(record, tmp_path / "1", agreed=None), MODEL, "a/b")
    with pytest.raises(BadInput, match="was not reproduced"):
        accusation(stored(record, tmp_path / "2", agreed=31), MODEL, "a/b")
    with pytest.raises(BadInput, match="is a record of someone/model, not of other/model"):
        accusation(stored(record, tmp_path / "4"), "other/model", "a/b")
    assert accusation(stored(record, tmp_path / "5"), MODEL, "a/b").model == MODEL


def test_what_a_check_refuses_is_said_of_no_model(real_records: list[Record], tmp_path: Path) -> None:
    file = stored(with_excess(real_records[0], 0.2, 0.1, 0.3), tmp_path / "forged")
    with pytest.raises(BadInput, match=r"excess.*`sidebench leaderboard check` lists them"):
        accusation(file, MODEL, "a/b")
    file = stored(real_records[0], tmp_path / "unowned")
    (tmp_path / "unowned" / FILE).unlink()
    with pytest.raises(BadInput, match="signature: is missing"):
        accusation(file, MODEL, "a/b")


KEPT_FROM_A_BOARD = {
    "oracle": ({"access": "oracle"}, "more than an attacker can"),
    "surrogate": ({"control": "surrogate"}, "no fair control"),
    "protocol": ({"rules": "sidebench/0"}, "protocol sidebench/0; "),
    "pair": ({"name": "faces", "made_by": "", "worked_example": False}, "nobody else has the pair faces"),
    "defended": ({"defences": {"flip": {}}}, "someone/model behind flip, not as it is published"),
}


@pytest.mark.parametrize("kind", KEPT_FROM_A_BOARD)
def test_what_no_board_ranks_is_said_of_no_model(
    kind: str, real_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, why = KEPT_FROM_A_BOARD[kind]
    monkeypatch.setattr("sidebench.leaderboards.eval_result.check_files", lambda files: [])
    with pytest.raises(BadInput, match=why):
        accusation(stored(real_records[0], tmp_path, **changes), MODEL, "a/b")


def test_too_few_preparations_are_said_of_no_model(
    real_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "LEAST_PREPARATIONS", 3)
    with pytest.raises(BadInput, match="ranked are at least 3 of"):
        accusation(stored(real_records[0], tmp_path), MODEL, "a/b")


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
