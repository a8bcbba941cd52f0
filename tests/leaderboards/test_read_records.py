"""What is named where a record is wanted, and is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import BadRecord
from sidebench.leaderboards.read_records import chosen_files, read_record

Call = Callable[..., tuple[int, str, str]]


def test_what_is_no_record_says_what_it_is_and_what_one_is(finished: Any, tmp_path: Path, call: Call) -> None:
    run = finished.folder.path
    wrong = {
        tmp_path / "none.json": "none.json is not there",
        run: f"{run.name} is a run folder, no record",
        tmp_path: f"{tmp_path.name} is a folder that holds no record",
        run / "manifest.json": "manifest.json is no record of sidebench: its schema is not one",
    }
    for path, said in wrong.items():
        with pytest.raises(BadRecord) as raised:
            read_record(path)
        assert str(raised.value).startswith(said) and "`sidebench leaderboard add RUN" in str(raised.value)
    code, _, err = call("leaderboard", "check", run)
    assert code == 2 and "is a run folder, no record" in err and "1 records, 1 problems" in err


def test_a_folder_stands_for_the_records_in_it(finished: Any, tmp_path: Path) -> None:
    for name in ("a/b/two.json", "one.json", "one.checked.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    records = [file for file in chosen_files([tmp_path], Path("elsewhere")) if "checked" not in file.name]
    assert records == [tmp_path / "a/b/two.json", tmp_path / "one.json"]
    run = finished.folder.path
    assert chosen_files([run, tmp_path / "one.json"], Path("elsewhere")) == [run, tmp_path / "one.json"]
