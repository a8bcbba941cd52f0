"""Files that are whole or not there, and nothing that keeps them open."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import BadInput, BadPair
from sidebench.benchmark.files import parse_yaml, read_state, read_yaml, write_state, write_text


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
