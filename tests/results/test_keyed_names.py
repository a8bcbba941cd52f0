"""Keyed hashes: stable in a run folder, unrelated between folders, and the key stays in its file."""

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidebench.benchmark.errors import BadInput, CorruptRun
from sidebench.benchmark.results.keyed_names import keyed_hash, run_key, training_group
from sidebench.benchmark.results.run_folder import RunFolder


def test_hash_is_hmac_sha256_of_the_text() -> None:
    # RFC 4231, test case 2
    assert keyed_hash(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e"
    key = bytes(range(32))
    assert keyed_hash(key, "ä") == hmac.new(key, "ä".encode(), hashlib.sha256).hexdigest()[:16]


def test_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = run_key(RunFolder(tmp_path))
    assert len(key) == 32 and run_key(RunFolder(tmp_path)) == key
    file = tmp_path / "hash.key"
    assert file.read_bytes() == key and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["hash.key"]


def test_two_folders_name_the_same_group_differently(tmp_path: Path) -> None:
    names = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        names.add(keyed_hash(run_key(RunFolder(tmp_path / name)), training_group(7)))
    assert len(names) == 2


def test_groups_have_names_of_their_own() -> None:
    names = {keyed_hash(b"k" * 32, training_group(group)) for group in range(1000)}
    assert len(names) == 1000 and all(len(name) == 16 for name in names)


@pytest.mark.parametrize("content", [b"short", b"x" * 33])
def test_key_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hash.key").write_bytes(content)
    with pytest.raises(CorruptRun, match=rf"hash.key holds {len(content)} bytes instead of 32; delete it"):
        run_key(RunFolder(tmp_path))


def test_folder_without_a_place_for_the_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read or make .*hash\.key"):
        run_key(RunFolder(tmp_path / "missing"))


def test_key_that_was_never_written_is_made(tmp_path: Path) -> None:
    (tmp_path / "hash.key").touch()
    assert len(run_key(RunFolder(tmp_path))) == 32


def test_writers_that_race_agree_on_one_key(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(run_key, [RunFolder(tmp_path / name)] * 8))
        assert len(set(keys)) == 1
