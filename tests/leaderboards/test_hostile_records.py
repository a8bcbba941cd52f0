"""Files of records that nobody made: each is left out with its reason, and stops nobody else's."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from made_records import store

from sidebench.leaderboards import site
from sidebench.leaderboards.build import build
from sidebench.leaderboards.check import check_files
from sidebench.leaderboards.read_records import record_files
from sidebench.leaderboards.record import Record
from sidebench.leaderboards.tables import BEGIN, END, board_table

Call = Callable[..., tuple[int, str, str]]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def put(text: str, path: str, value: str) -> str:
    """Return a record's text with a value, as JSON spells it, at a dotted path."""
    content = json.loads(text)
    *parents, last = path.split(".")
    place = content
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[int(last) if isinstance(place, list) else last] = "HERE"
    return json.dumps(content).replace('"HERE"', value)


BAD = {
    "candidates": ("candidates", str(2**70)),
    "many candidates": ("candidates", str(2**40)),
    "groups": ("victim.training_groups", str(10**25)),
    "many groups": ("victim.training_groups", str(10**12)),
    "images": ("victim.held_out_images", str(2**60)),
    "seeds": ("seeds", json.dumps(list(range(100_000)))),
    "seed": ("seeds.0", str(2**63)),
    "levels": ("claim.settings", json.dumps(nested(400))),
    "more levels": ("claim.settings", "[" * 50_000 + "]" * 50_000),
    "infinite": ("excess.value", "1e999"),
    "infinite setting": ("claim.settings", '{"a": 1e999}'),
    "NaN": ("excess.low", "NaN"),
    "digits": ("costs.0.hits", "9" * 5000),
    "surrogate": ("submitter", '"\\ud800"'),
    "date": ("submitted", '"2001-99-99"'),
    "null": ("results", "null"),
    "credits": ("hits.0.training_groups", json.dumps({"0" * 16: 2**63})),
}


@pytest.fixture
def records(real_records: list[Record], tmp_path: Path) -> Path:
    """Return a folder of three records and many bad ones."""
    folder = tmp_path / "records"
    good = [store(record, folder) for record in real_records]
    text = good[0].read_text(encoding="utf-8")
    for name, change in BAD.items():
        good[0].with_name(f"bad-{name}.json").write_text(put(text, *change), encoding="utf-8")
    good[0].with_name("bad-cut.json").write_text(text[:1000], encoding="utf-8")
    good[0].with_name("bad-empty.json").touch()
    good[0].with_name("bad-bytes.json").write_bytes(b"\xff" * 100)
    os.mkfifo(good[0].with_name("bad-pipe.json"))
    good[0].with_name("bad-folder.json").mkdir()
    good[0].with_name("bad-link.json").symlink_to(tmp_path / "nothing")
    return folder


def test_bad_records_are_left_out_and_stop_nobody(records: Path, real_records: list[Record], tmp_path: Path) -> None:
    bad = {file.name for file in record_files(records) if file.name.startswith("bad-")}
    assert len(bad) == len(BAD) + 6
    built = build(records, tmp_path / "out", None)
    assert {warning.removeprefix("left out: ").partition(".json")[0] + ".json" for warning in built.warnings} == bad
    for record in real_records:
        assert (tmp_path / f"out/records/{record.id}.html").is_file()
    problems = check_files(record_files(records), records)
    assert {problem.file for problem in problems} == bad
    assert all(len(str(problem)) < 400 and "\n" not in str(problem) for problem in problems), problems


def test_the_commands_say_a_line_for_each(records: Path, call: Call, tmp_path: Path) -> None:
    code, _, err = call("leaderboard", "check", "--records", records)
    assert code == 2 and len(complaints(err)) >= len(BAD) + 6 and "Traceback" not in err
    code, _, err = call("leaderboard", "build", "--records", records, "--out", tmp_path / "out")
    assert code == 0 and len(complaints(err)) == len(BAD) + 6


def test_no_records_are_no_success(tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "holds no records"), ("nowhere", "no such folder of records")):
        code, out, err = call("leaderboard", "check", "--records", tmp_path / folder)
        (line,) = complaints(err)
        assert (code, out) == (2, "") and said in line


@pytest.mark.parametrize("before", ["", " ", "\u200b", "\u2060\t", "\ufeff", "\u202e"])
@pytest.mark.parametrize("first", "=+-@")
def test_no_cell_begins_a_formula(before: str, first: str, real_records: list[Record], tmp_path: Path) -> None:
    from made_records import changed, entry

    from sidebench.leaderboards.ranking import rank

    evil = f"{before}{first}1+cmd|'/C calc'!A1"
    found = rank([entry(changed(record, submitter=evil)) for record in real_records])
    table = board_table(found.boards[0], "csv")
    assert f"'{first}1+cmd" in table
    assert f",{first}1+cmd" not in table and f'"{first}1+cmd' not in table


def test_a_disk_that_is_full_keeps_the_readme(
    real_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    store(real_records[0], tmp_path / "records")
    readme = tmp_path / "README.md"
    before = f"# Mine\n{BEGIN}\nold\n{END}\nand more\n"
    readme.write_text(before, encoding="utf-8")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = call("leaderboard", "build", "--records", tmp_path / "records", "--readme", readme)
    assert code == 3 and "No space left on device" in err
    assert readme.read_text(encoding="utf-8") == before
    (tmp_path / "link.md").symlink_to(readme)
    assert call("leaderboard", "build", "--records", tmp_path / "records", "--readme", tmp_path / "link.md")[0] == 0
    assert (tmp_path / "link.md").is_symlink() and "carlini-uncond" in readme.read_text(encoding="utf-8")


def test_a_first_build_that_was_killed_is_repeated(
    real_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(real_records[0], tmp_path / "records")

    def killed(found: Any) -> Any:
        yield "index.html", "half"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(site, "site_files", killed)
        build(tmp_path / "records", tmp_path / "out", None)
    build(tmp_path / "records", tmp_path / "out", None)
    assert (tmp_path / f"out/records/{real_records[0].id}.html").is_file()


def test_a_site_is_not_written_through_a_link(real_records: list[Record], tmp_path: Path, call: Call) -> None:
    store(real_records[0], tmp_path / "records")
    build(tmp_path / "records", tmp_path / "out", None)
    (tmp_path / "outside").mkdir()
    (tmp_path / "out" / "boards").rename(tmp_path / "out" / "before")
    (tmp_path / "out" / "boards").symlink_to(tmp_path / "outside")
    code, _, err = call("leaderboard", "build", "--records", tmp_path / "records", "--out", tmp_path / "out")
    assert code == 2 and "boards is a link that leads out of the folder" in err
    assert not list((tmp_path / "outside").iterdir())


def test_a_name_that_is_none_makes_no_record(copied: Path, call: Call, tmp_path: Path) -> None:
    for name in ("", "n" * 81, "a\ud800"):
        code, _, err = call("leaderboard", "add", copied, "--as", name, "--records", tmp_path / "records")
        (line,) = complaints(err)
        assert code == 2 and "makes no record, submitter: " in line
    assert not (tmp_path / "records").exists()
