"""Records go to a dataset repository on the Hub: dry first, then by commit on a known parent, or as a pull request."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from local_hub import TOKEN, LocalHub
from made_records import changed, list_file, store

from sidebench.leaderboards.make_records import make_records, write_record
from sidebench.leaderboards.owners import FILE, claim, parse_owners, read_owners

CLIENT = r"""
import contextlib, io, json, sys
from sidebench.cli import main

said = []
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line)
        except SystemExit as stop:
            code = stop.code
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""
"""Runs several commands in one process: the client takes seconds to import."""


def commands(hub: LocalHub, home: Path, lines: list[list[str]], token: str | None = TOKEN, **more: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(lines),
        env=hub.environment(home, token, **more),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def records(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for record in make_records(finished.folder, "somebody"):
        store(record, folder)
    return folder


def test_dry_then_sent_then_nothing_left(records: Path, tmp_path: Path) -> None:
    publish = ["leaderboard", "publish", "--repo", "someone/board", "--records", str(records)]
    with LocalHub() as hub:
        repo = hub.add("datasets", "someone/board", {"README.md": b"# board"})
        first = repo.branches["main"]
        dry, sent, again = commands(hub, tmp_path, [publish, [*publish, "--send"], publish])
        assert dry[0] == 0 and "records/sidebench-2/digits/side-" in dry[1] and "nothing was sent" in dry[2]
        files = repo.commits[repo.branches["main"]]
        assert sent[0] == 0 and repo.branches["main"] != first and repo.branches["main"] in sent[1]
        assert sorted(files) == [
            "README.md",
            *(f"records/{f.relative_to(records)}" for f in sorted(records.rglob("*.json"))),
        ]
        for file in records.rglob("*.json"):
            assert files[f"records/{file.relative_to(records)}"] == file.read_bytes()
        assert again[0] == 0 and "0 files" in again[1] and "4 are there already" in again[1]


def test_pull_request_leaves_main_alone(records: Path, tmp_path: Path) -> None:
    publish = ["leaderboard", "publish", "--repo", "someone/board", "--records", str(records), "--send", "--create-pr"]
    with LocalHub() as hub:
        repo = hub.add("datasets", "someone/board", {"README.md": b"# board"})
        [asked] = commands(hub, tmp_path, [publish])
        assert asked[0] == 0 and "discussions/1" in asked[1]
        assert list(repo.commits[repo.branches["main"]]) == ["README.md"]
        assert len(repo.commits[repo.branches["refs/pr/1"]]) == 5


RACE = r"""
import json, sys
from pathlib import Path
from sidebench.leaderboards import publish

first = publish.prepare("someone/board", Path(sys.argv[1]))
second = publish.prepare("someone/board", Path(sys.argv[1]))
publish.send(first)
try:
    publish.send(second)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_two_submitters_cannot_overwrite_each_other(records: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        repo = hub.add("datasets", "someone/board", {"README.md": b"# board"})
        done = subprocess.run(
            [sys.executable, "-c", RACE, str(records)],
            env=hub.environment(tmp_path, TOKEN),
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
        assert done.stdout.startswith("RunConflict somebody else published to someone/board")
        assert len(repo.commits) == 2


def test_wrong_input_is_one_line_without_the_token(records: Path, tmp_path: Path, finished: Any) -> None:
    changed = tmp_path / "changed"
    [record] = make_records(finished.folder, "somebody", ["side"])
    file = store(record, changed)
    with LocalHub() as hub:
        hub.add("datasets", "someone/board", {f"records/{file.relative_to(changed)}": b"{}"})
        hub.add("datasets", "someone/open", {"README.md": b"# board"})

        def line(repo: str, folder: Path, *more: str) -> list[str]:
            return ["leaderboard", "publish", "--repo", repo, "--records", str(folder), *more]

        (tmp_path / "empty").mkdir()
        other, nowhere, badly, empty = commands(
            hub,
            tmp_path,
            [line("someone/board", changed), line("someone/none", changed), line("a b/c d", changed),
             line("someone/board", tmp_path / "empty")],
        )  # fmt: skip
        [stranger] = commands(hub, tmp_path, [line("someone/open", records, "--send")], token="hf_of_a_stranger")
    [away] = commands(hub, tmp_path, [line("someone/board", records)])
    for found, code, words in (
        (other, 2, "records are never changed"),
        (nowhere, 2, "no dataset repository someone/none"),
        (badly, 2, "no repository name"),
        (empty, 2, "holds no records"),
        (stranger, 2, "may not write to someone/open"),
        (away, 3, "cannot be reached"),
    ):
        assert found[0] == code and words in found[2], found
        assert len([row for row in found[2].splitlines() if row.startswith("sidebench:")]) == 1
        assert "hf_of" not in found[1] + found[2]


def test_names_stay_their_owners(records: Path, tmp_path: Path, finished: Any) -> None:
    [record] = make_records(finished.folder, "other", ["side"])
    folders = {name: tmp_path / name for name in ("new", "rival", "unsigned")}
    for name, submitter in (("new", "other"), ("rival", "Some Body")):
        (signed,) = claim([changed(record, submitter=submitter)], folders[name], tmp_path / f"{name}.pem")
        write_record(signed, folders[name])
    forged = changed(record, submitter="somebody", submitted=date(2026, 1, 2))
    list_file(write_record(forged, folders["unsigned"]), "somebody", folders["unsigned"])
    there = {f"records/{file.relative_to(records)}": file.read_bytes() for file in records.rglob("*.json")}
    with LocalHub() as hub:
        repo = hub.add("datasets", "someone/board", there)
        first = repo.branches["main"]
        publish = ["leaderboard", "publish", "--repo", "someone/board", "--send", "--records"]
        rival, unsigned, new, again = commands(
            hub, tmp_path, [[*publish, str(folders[name])] for name in ("rival", "unsigned", "new", "new")]
        )
    assert rival[0] == 2 and f"{FILE}, names.somebody: belongs to the maintainers in what is merged" in rival[2]
    assert unsigned[0] == 2 and "signature: is missing" in unsigned[2]
    assert new[0] == 0 and again[0] == 0 and "0 files" in again[1], (new, again)
    before, after = (parse_owners(repo.commits[sha][f"records/{FILE}"]) for sha in (first, repo.branches["main"]))
    (mine,) = read_owners(folders["new"]).maintainers
    assert after == before.naming("other", mine), "the repository's maintainers stay the only ones"
    assert there.items() - repo.commits[repo.branches["main"]].items() == {
        (f"records/{FILE}", there[f"records/{FILE}"])
    }
