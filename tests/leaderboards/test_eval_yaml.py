"""The tasks that a results dataset names for the Hub are those that results of models name."""

from typing import Any

import pytest
import yaml
from local_hub import TOKEN, Commands, LocalHub
from made_records import changed, store

from sidebench.benchmark.errors import BadInput
from sidebench.leaderboards.eval_result import statement
from sidebench.leaderboards.eval_yaml import PLACE, eval_yaml, task_id
from sidebench.leaderboards.record import Record, Source


def on_the_hub(record: Record, **changes: Any) -> Record:
    return changed(record, sources={"model": Source(repo="someone/model", commit="a" * 40)}, **changes)


def test_a_result_of_a_model_names_a_task_of_the_dataset(real_records: list[Record]) -> None:
    records = [on_the_hub(record) for record in real_records]
    written = yaml.safe_load(eval_yaml(records))
    assert [task["id"] for task in written["tasks"]] == [task_id(records[0])], "a task for each model and board"
    assert (
        written["name"]
        and written["evaluation_framework"] == "sidebench"
        and "Lower is better" in written["description"]
    )
    (result,) = yaml.safe_load(statement(records[0], "someone/model", "someone/results").text)
    assert result["dataset"]["task_id"] in [task["id"] for task in written["tasks"]]


def test_models_that_are_not_there_have_no_task(real_records: list[Record]) -> None:
    assert eval_yaml(real_records) == ""


def test_what_is_there_stays(real_records: list[Record]) -> None:
    record = on_the_hub(real_records[0])
    mine = b"# ours\nname: Board\nkey: kept\ntasks:\n- {id: other, config: a, split: b}\n"
    written = yaml.safe_load(eval_yaml([record], mine))
    assert (written["name"], written["key"]) == ("Board", "kept")
    assert [task["id"] for task in written["tasks"]] == ["other", task_id(record)]
    again = eval_yaml([record]).encode()
    assert eval_yaml([record], again) == again.decode() and eval_yaml(real_records, mine) == mine.decode()
    for wrong in (b"tasks: 3", b"- a", b"tasks: [a]", b"name: [x", b"tasks: [{id: [1]}]", b"tasks: [{id: {a: 1}}]"):
        with pytest.raises(BadInput, match=r"eval\.yaml in the repository"):
            eval_yaml([record], wrong)


def test_a_publication_brings_it_once(real_records: list[Record], tmp_path: Any) -> None:
    store(on_the_hub(real_records[0]), tmp_path / "records")
    (tmp_path / "client").mkdir()
    with LocalHub() as hub, Commands(hub, tmp_path / "client", HF_TOKEN=TOKEN) as run:
        repo = hub.add("datasets", "someone/board", {"README.md": b"# board"})
        command = [
            "leaderboard",
            "publish",
            "--repo",
            "someone/board",
            "--records",
            str(tmp_path / "records"),
            "--send",
        ]
        code, out, err = run(*command)
        assert code == 0, err
        (task,) = yaml.safe_load(repo.commits[repo.branches["main"]][PLACE])["tasks"]
        assert task["id"] == task_id(real_records[0]) and f"{PLACE} (" in out
        assert "0 files" in run(*command)[1]
