"""Cheats on records: what somebody may write into one, each refused by the name of a field.

Others: on folders in test_cheats_on_folders.py, on names in test_owners.py, on costs in test_rank_tests.py.
"""

from pathlib import Path
from typing import Any

import pytest
from made_records import changed, entry, list_file, repeated, store, vary

from sidebench.benchmark.errors import BadRecord
from sidebench.leaderboards.check import check_files, check_record
from sidebench.leaderboards.make_records import write_record
from sidebench.leaderboards.ranking import rank, read_leaderboard
from sidebench.leaderboards.read_records import record_files
from sidebench.leaderboards.record import Record


@pytest.fixture
def genuine(real_records: list[Record]) -> Record:
    return real_records[2]


def fields(record: Record) -> list[str]:
    return [field for field, _ in check_record(record)]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": {"unet/diffusion_pytorch_model.safetensors": "1" * 64}},
        {"sides_sha256": "1" * 64},
        {"held_out_groups": 10},
        {"data_sha256": "1" * 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_cheat_another_victim_under_a_known_name(genuine: Record, changes: dict[str, Any], tmp_path: Path) -> None:
    store(genuine, tmp_path)
    field = f"victim.{next(iter(changes))}"
    forged = repeated(changed(genuine, submitter="mallory", attack="side-walk", **changes))
    with pytest.raises(BadRecord, match=rf"{field}: is not that of digits@1 as its first record has it"):
        store(forged, tmp_path)
    file = write_record(forged, tmp_path)
    list_file(file, "mallory", tmp_path)
    assert field in [problem.field for problem in check_files([file], tmp_path)]
    found = read_leaderboard(tmp_path)
    assert [name for name, _ in found.unusable] == [file.relative_to(tmp_path).as_posix()]
    assert {row.record.submitter for board in found.boards for row in [*board.ranked, *board.apart]} == {"somebody"}


def test_cheat_a_record_copied_under_another_name(genuine: Record, tmp_path: Path) -> None:
    store(genuine, tmp_path)
    copy = store(changed(genuine, submitter="mallory"), tmp_path)
    problems = check_files(record_files(tmp_path), tmp_path)
    assert [problem.field for problem in problems] == ["hashes"] and "is copied" in problems[0].message
    copy.unlink()
    store(repeated(changed(genuine, submitter="mallory")), tmp_path)
    assert check_files(record_files(tmp_path), tmp_path) == [], "a repetition is welcome"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"access": "samples"}, "claim.access"),
        ({"access": "oracle"}, "claim.access"),
        ({"settings": {"peek": True}}, "claim.settings"),
        ({"settings": {"clusters": -1}}, "claim.settings"),
        ({"settings": {}}, "claim.settings"),
        ({"attack": "best-attack"}, "claim.code"),
        ({"code": {"side": {"package": "mine", "version": "1", "sha256": "0" * 64}}}, "claim.code"),
        ({"defences": {"wishful": {}}}, "claim.code"),
        ({"defences": {"eta": {"eta": 5.0}}}, "claim.defences.eta"),
    ],
)
def test_cheat_what_the_attack_has_not(genuine: Record, changes: dict[str, Any], field: str) -> None:
    assert fields(genuine) == []
    assert field in fields(changed(genuine, **changes))


def test_cheat_private_images_called_public_by_their_name(genuine: Record) -> None:
    assert "victim.public" in fields(changed(genuine, public=False))


def test_cheat_a_high_baseline_by_somebody_else(genuine: Record) -> None:
    each: Any = {"candidates": 600, "name": "faces", "seeds": (0, 1, 2)}
    ours = vary(genuine, 0.2, 1, attack="carlini-uncond", **each)
    theirs = vary(genuine, 0.9, 2, attack="carlini-uncond", submitter="mallory", **each)
    side = vary(genuine, 0.5, 3, **each)
    entries = [entry(ours), entry(theirs)._replace(maintainers=False), entry(side)]
    (board,) = rank(entries).boards
    said = {(row.record.submitter, row.record.claim.attack): row.against_plain for row in board.ranked}
    assert said["somebody", "side"] == "finds more"


def test_an_address_is_allowed_where_it_says_how_others_get_it(genuine: Record) -> None:
    where = "https://example.org/mine"
    plugin = {"mine": {"package": "mine", "version": "1", "sha256": "0" * 64, "address": where}}
    found = fields(changed(genuine, attack="mine", code=plugin, made_by=where))
    assert "claim.code" not in [field.rpartition(".")[0] for field in found] and "victim.made_by" not in found
    assert "made.processor" in fields(changed(genuine, processor=where))
