"""The results of record: each stands up to the check, and the README's tables are made of them."""

import hashlib
from pathlib import Path

from sidebench.leaderboards.build import build
from sidebench.leaderboards.check import check_files
from sidebench.leaderboards.owners import read_owners
from sidebench.leaderboards.ranking import read_leaderboard
from sidebench.leaderboards.read_records import record_files

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "leaderboards" / "records"


def test_every_record_stands_up_to_the_check() -> None:
    files = record_files(RECORDS)
    assert files, "no result of record is shipped"
    assert [str(problem) for problem in check_files(files, RECORDS)] == []


def test_the_registry_lists_what_is_here_and_no_record_that_is_gone() -> None:
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in record_files(RECORDS)]
    assert read_owners(RECORDS).unsigned == sorted(hashes), "a hash that is left over lets an old record come back"


def test_every_record_is_on_a_board() -> None:
    found = read_leaderboard(RECORDS)
    assert not found.stale and not found.unusable
    rows = sum(len(board.ranked) + len(board.apart) for board in found.boards)
    of_detectors = sum(len(board.current) for board in found.detections)
    assert of_detectors and not any(board.stale for board in found.detections)
    assert rows + of_detectors >= len(record_files(RECORDS))


def test_the_readme_shows_them() -> None:
    build(RECORDS, None, ROOT / "README.md", check=True)
