"""Files that are whole or not there, and nothing that keeps them open."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import BadInput, BadPair, CorruptRun
from sidebench.benchmark.files import (
    MADE,
    check_output,
    lock_of,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_state,
    read_table,
    read_yaml,
    refuse_links,
    write_state,
    write_table,
    write_text,
)


def test_text_is_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "ä\nb\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa4\nb\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_state_that_was_read_does_not_map_its_file(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    write_state(file, AttackState({"images": torch.arange(100_000)}, {}))
    state = read_state(file)
    assert str(file) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert torch.equal(state.tensors["images"], torch.arange(100_000))


# ---- YAML ----

NINES = "9" * 5000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3: a stands twice, the first time in line 1"),
        ("a: {b: 1,\n 'b': 2}", "x, line 2: b stands twice, the first time in line 1"),
        ("true: 1\nyes: 2", "x, line 2: yes stands twice, the first time in line 1"),
        ("a: &k {b: 1}\nc: {<<: *k, <<: *k}", "x, line 2: << stands twice, the first time in line 2"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", "x, line 2: a tag (!...) is not read here"),
        ("!!str 5", "x, line 1: a tag (!...) is not read here"),
        ("a: !own {b: 1}", "x, line 1: a tag (!...) is not read here"),
        ("a: &k\n  b: [*k]", "x, line 2: *k contains itself"),
        ("[" * 900 + "]" * 900, "x, line 1: nested deeper than 64 levels"),
        ("[" * 100_000, "x, line 1: nested deeper than 64 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(900)), "x, line 64: nested deeper than 64 levels"),
        (f"a: 1\nb: {NINES}", f"x, line 2: {NINES[:37] + '...'!r} cannot be read as a number; put text in quotes"),
        (f"a: 0x{NINES}", f"x, line 1: {'0x' + NINES[:35] + '...'!r} cannot be read as a number; put text in quotes"),
        (f"? {NINES}\n: 1", f"x, line 1: {NINES[:37] + '...'!r} cannot be read as a number; put text in quotes"),
        (f"a: {2**64}", f"x, line 1: '{2**64}' cannot be read as a number; put text in quotes"),
        ("a: 0b_", "x, line 1: '0b_' cannot be read as a number; put text in quotes"),
        ("a:\n- 2001-99-99", "x, line 2: '2001-99-99' cannot be read as a date; put text in quotes"),
        ('a: "\\ud800"', r"x, line 1: '\ud800' cannot be read as text; put text in quotes"),
        ('a: "\\Uffffffff"', "x is not YAML"),
        ("a: [", "x is not YAML, line 1"),
        ("a: *b", "x is not YAML, line 1"),
        ("a: 1\n--- {}", "x is not YAML, line 2"),
        ("? [1]\n: 2", "x is not YAML, line 1"),
        ("a: \x00", "x is not YAML"),
        (b"a: \xff", "x is not YAML: it is no text in UTF-8"),
        ("a: 1".encode("utf-16"), "x is not YAML: it is no text in UTF-8"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(BadPair) as raised:
        parse_yaml(text, "x", BadPair)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "{a: 1, b: 2.5, c: 1e3, d: .inf, e: 0x10, f: 017, g: 1_000, h: 1:30, i: yes, j: ~, k: 2001-01-02, l: 'yes'}",
        "a: &k {x: 1, y: [1, 2]}\nb: {<<: *k, x: 2}\nc: {<<: [*k, {z: 1}]}\nd: *k",
        "[" * 63 + "1" + "]" * 63,
        'a: |\n  text\n  more\nb: "\\u00e4"',
        "\ufeffa: 1",
        "- 1\n- {1: a, 1.5: b, null: c}",
        *(file.read_text(encoding="utf-8") for file in Path(__file__).parents[2].glob("benchmark/*/*/*.yaml")),
    ],
)
def test_good_yaml_has_the_values_of_safe_load(text: str) -> None:
    assert parse_yaml(text, "x") == yaml.safe_load(text) and repr(parse_yaml(text, "x")) == repr(yaml.safe_load(text))
    assert parse_yaml(text.encode(), "x") == yaml.safe_load(text)


def test_yaml_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^pair none: No such file or directory; look elsewhere$"):
        read_yaml(tmp_path / "none", "pair none", advice="look elsewhere")
    with pytest.raises(BadInput, match=r"^x: Is a directory$"):
        read_yaml(tmp_path, "x")


# ---- What is not a plain file, or too much of one ----


def not_files(folder: Path) -> dict[str, Path]:
    """Return what a name can stand for besides a file, all inside the folder."""
    (folder / "target").write_text("four years", encoding="utf-8")
    (folder / "link").symlink_to(folder / "target")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    found = {name: folder / name for name in ("link", "pipe", "folder")}
    with suppress(PermissionError):  # a device, where whoever tests may make one: here the null device
        os.mknod(folder / "device", 0o20600, os.makedev(1, 3))
        found["device"] = folder / "device"
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices")
def test_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    for name, place in not_files(tmp_path).items():
        before = place.lstat()
        refused = rf"^cannot write .*{name}: it is (a link|a folder|no regular file)"
        with pytest.raises(BadInput, match=refused):
            write_text(place, "x")
        with pytest.raises(BadInput, match=refused):
            check_output(place, force=True)
        assert (place.lstat().st_mode, place.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert (tmp_path / "target").read_text(encoding="utf-8") == "four years"
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices")
def test_nothing_but_a_file_is_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, and a device might never end."""
    for name, place in not_files(tmp_path).items():
        if name == "link":
            assert read_bytes(place) == b"four years"
            continue
        with pytest.raises(OSError, match="Is a directory" if name == "folder" else "Not a regular file"):
            read_bytes(place)
        with pytest.raises(CorruptRun, match="cannot be read"):
            read_json(place)
        with pytest.raises(BadInput, match=r"^policy: "):
            read_yaml(place, "policy")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="Larger than 4 bytes"):
        read_bytes(tmp_path / "file", 4)


def test_what_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "page", "1")
    (tmp_path / "page").chmod(0o600)
    write_text(tmp_path / "page", "2")
    assert (tmp_path / "page").read_text(encoding="utf-8") == "2"
    assert sys.platform == "win32" or (tmp_path / "page").stat().st_mode & 0o777 == 0o600


def test_only_what_sidebench_wrote_is_replaced_unasked(tmp_path: Path) -> None:
    mine, theirs, empty = (tmp_path / name for name in ("mine", "theirs", "empty"))
    mine.write_bytes(b"x" * 10_000 + b"<footer>" + MADE + b"</footer>")
    theirs.write_text("four years", encoding="utf-8")
    empty.touch()
    for file in (mine, empty, tmp_path / "new", tmp_path / "no" / "folder", None):
        check_output(file)
    with pytest.raises(BadInput, match=r"theirs is there and sidebench did not write it; .* add --force"):
        check_output(theirs)
    check_output(theirs, force=True)


def test_a_lock_is_an_empty_file(tmp_path: Path) -> None:
    target = tmp_path / "thesis.tex"
    target.write_text("four years", encoding="utf-8")
    (tmp_path / "link").symlink_to(target)
    os.link(target, tmp_path / "other-name")
    (tmp_path / "folder").mkdir()
    for name in ("link", "other-name", "folder", "thesis.tex"):
        with pytest.raises(BadInput, match=rf"{name} in it is no lock of sidebench"):
            lock_of(tmp_path / name)
    assert target.read_text(encoding="utf-8") == "four years"
    for _ in range(2):  # a new one, and the one that is left
        with lock_of(tmp_path / "lock").acquire(timeout=0):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_links_that_stay_in_a_folder_are_no_harm(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "state").mkdir(parents=True)
    outside.mkdir()
    (folder / "state" / "file").touch()
    (folder / "again").symlink_to(folder / "state")
    (tmp_path / "latest").symlink_to(folder)
    refuse_links(folder)
    refuse_links(tmp_path / "latest")
    for name, target in (("state/out", outside), ("gone", tmp_path / "none"), ("loop", folder / "loop")):
        (folder / name).symlink_to(target)
        with pytest.raises(BadInput, match=rf"run: {name} is a link that leads out of the folder; remove it"):
            refuse_links(folder)
        (folder / name).unlink()
    os.mkfifo(folder / "state" / "pipe")
    with pytest.raises(BadInput, match=r"run: state/pipe is no regular file"):
        refuse_links(folder)


# ---- JSON ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no finite number"),
        (f"[{2**70}]", f"{2**70} is beyond 64 bits"),
        ("[" + "9" * 5000 + "]", "9 is beyond 64 bits"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64 levels"),
        ('{"a": ' * 400 + "1" + "}" * 400, "nested deeper than 64 levels"),
        ('["\\ud800"]', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        (b'["\xff"]', "can't decode"),
        ("", "Expecting value"),
    ],
)
def test_json_that_nothing_here_can_work_with_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": [1, -2.5e10, true, null, "\\ud83d\\ude00 \\\\ud800"]}', f"[{2**64 - 1}]", "3"])
def test_other_json_has_the_values_of_the_library(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_numbers_that_libraries_write_into_configurations_pass_where_they_may() -> None:
    text = f'{{"lambda_min_clipped": -Infinity, "model_max_length": {10**30}}}'
    assert parse_json(text, any_number=True) == {"lambda_min_clipped": -float("inf"), "model_max_length": 10**30}
    for wrong, message in (('{"a": NaN}', "NaN is no number"), ("[1e999]", "1e999 is no finite number")):
        with pytest.raises(ValueError, match=message):
            parse_json(wrong, any_number=True)


def test_a_table_that_says_to_be_endless_is_refused(tmp_path: Path) -> None:
    """A column of one value takes no room in the file and fills the memory."""
    file = tmp_path / "a.parquet"
    write_table(file, pa.table({"a": pa.array([0], pa.int8()).take(pa.array([0] * 3_000_000))}))
    assert file.stat().st_size < 40_000
    with pytest.raises(CorruptRun, match="is not what was written"):
        read_table(file)
