"""Records go to a dataset repository on the Hub: dry first, then by commit on a known parent, or as a pull request."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from local_hub import TOKEN, Commands, LocalHub
from made_detections import detection_folder
from made_records import changed, list_file, store

from sidebench.leaderboards.make_detection import add_detection
from sidebench.leaderboards.make_records import make_records, write_record
from sidebench.leaderboards.owners import FILE, claim, parse_owners, read_owners
from sidebench.leaderboards.publish import _tasks
from sidebench.leaderboards.read_records import record_files
from sidebench.leaderboards.record import Record, Source


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def run(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(hub, tmp_path_factory.mktemp("client"), HF_TOKEN=TOKEN) as commands:
        yield commands


@pytest.fixture(scope="module")
def records(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for record in make_records(finished.folder, "somebody"):
        store(record, folder)
    return folder


def publishing(repo: str, records: Path, *more: str) -> list[str]:
    return ["leaderboard", "publish", "--repo", repo, "--records", str(records), *more]


def test_dry_then_sent_then_nothing_left(hub: LocalHub, run: Commands, records: Path) -> None:
    repo = hub.add("datasets", "someone/board", {"README.md": b"# board"})
    first = repo.branches["main"]
    more: list[list[str]] = [[], ["--send"], []]
    dry, sent, again = (run(*publishing("someone/board", records, *each)) for each in more)
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


def test_a_dry_run_asks_nobody(records: Path, call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    arguments = publishing("nobody/has-this", records, "--dry-run")
    code, out, err = call(*arguments)
    assert code == 0 and not err
    for file in records.rglob("*.json"):
        assert f"records/{file.relative_to(records).as_posix()} ({file.stat().st_size:,} bytes)" in out
    assert "all records are in order; nobody/has-this was not asked" in out
    assert call(*arguments, "--send")[0] == 2
    assert call(*publishing("no name", records, "--dry-run"))[0] == 2
    assert call(*publishing("a/b", tmp_path, "--dry-run"))[0] == 2


def test_records_of_both_tracks_are_published_and_only_extraction_has_tasks(
    real_records: list[Record], call: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    source = Source(repo="someone/model", commit="a" * 40)
    store(changed(real_records[0], sources={"model": source}), folder)
    file = add_detection(detection_folder(tmp_path / "glyphs-0"), "another", folder, tmp_path / "key.pem")
    code, out, err = call(*publishing("nobody/has-this", folder, "--dry-run"))
    assert (code, err) == (0, "") and f"records/{file.relative_to(folder).as_posix()}" in out and "eval.yaml (" in out
    assert list(_tasks("nobody/has-this", "", record_files(folder), there=False)) == ["eval.yaml"]


def test_pull_request_leaves_main_alone(hub: LocalHub, run: Commands, records: Path) -> None:
    repo = hub.add("datasets", "someone/asked", {"README.md": b"# board"})
    asked = run(*publishing("someone/asked", records, "--send", "--create-pr"))
    assert asked[0] == 0 and "discussions/1" in asked[1]
    assert list(repo.commits[repo.branches["main"]]) == ["README.md"]
    assert len(repo.commits[repo.branches["refs/pr/1"]]) == 5


def test_two_submitters_cannot_overwrite_each_other(hub: LocalHub, run: Commands, records: Path) -> None:
    repo = hub.add("datasets", "someone/busy", {"README.md": b"# board"})
    hub.meanwhile.append(lambda: repo.commit({"README.md": b"# somebody else was here"}))
    code, _, err = run(*publishing("someone/busy", records, "--send"))
    assert code == 2 and "sidebench: somebody else published to someone/busy" in err
    assert len(repo.commits) == 2 and list(repo.commits[repo.branches["main"]]) == ["README.md"]


def test_wrong_input_is_one_line_without_the_token(
    hub: LocalHub, run: Commands, records: Path, tmp_path: Path, finished: Any
) -> None:
    changed = tmp_path / "changed"
    [record] = make_records(finished.folder, "somebody", ["side"])
    file = store(record, changed)
    hub.add("datasets", "someone/other", {f"records/{file.relative_to(changed)}": b"{}"})
    hub.add("datasets", "someone/open", {"README.md": b"# board"})
    (tmp_path / "empty").mkdir()
    other = run(*publishing("someone/other", changed))
    nowhere = run(*publishing("someone/none", changed))
    badly = run(*publishing("a b/c d", changed))
    empty = run(*publishing("someone/other", tmp_path / "empty"))
    stranger = run(*publishing("someone/open", records, "--send"), HF_TOKEN="hf_of_a_stranger")
    with hub.gone():
        away = run(*publishing("someone/other", records), HF_TOKEN=TOKEN)
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


def test_names_stay_their_owners(hub: LocalHub, run: Commands, records: Path, tmp_path: Path, finished: Any) -> None:
    [record] = make_records(finished.folder, "other", ["side"])
    folders = {name: tmp_path / name for name in ("new", "rival", "unsigned")}
    for name, submitter in (("new", "other"), ("rival", "Some Body")):
        (signed,) = claim([changed(record, submitter=submitter)], folders[name], tmp_path / f"{name}.pem")
        write_record(signed, folders[name])
    forged = changed(record, submitter="somebody", submitted=date(2026, 1, 2))
    list_file(write_record(forged, folders["unsigned"]), "somebody", folders["unsigned"])
    there = {f"records/{file.relative_to(records)}": file.read_bytes() for file in records.rglob("*.json")}
    repo = hub.add("datasets", "someone/owned", there)
    first = repo.branches["main"]
    names = ("rival", "unsigned", "new", "new")
    rival, unsigned, new, again = (run(*publishing("someone/owned", folders[name], "--send")) for name in names)
    assert rival[0] == 2 and f"{FILE}, names.somebody: belongs to the maintainers in what is merged" in rival[2]
    assert unsigned[0] == 2 and "signature: is missing" in unsigned[2]
    assert new[0] == 0 and again[0] == 0 and "0 files" in again[1], (new, again)
    before, after = (parse_owners(repo.commits[sha][f"records/{FILE}"]) for sha in (first, repo.branches["main"]))
    (mine,) = read_owners(folders["new"]).maintainers
    assert after == before.naming("other", mine), "the repository's maintainers stay the only ones"
    assert there.items() - repo.commits[repo.branches["main"]].items() == {
        (f"records/{FILE}", there[f"records/{FILE}"])
    }
