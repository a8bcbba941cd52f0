"""Values of `--set` and `--try` are strict YAML."""

import pytest

from sidebench.benchmark.errors import BadSetting
from sidebench.cli.values import grid, settings


def test_values_have_the_types_of_yaml() -> None:
    read = settings(["a.b=3", "a.c=[1, 2]", "d.e=yes", "d.f=text"])
    assert read == {"a": {"b": 3, "c": [1, 2]}, "d": {"e": True, "f": "text"}}
    assert grid(["k=1,2.5,x"]) == {"k": [1, 2.5, "x"]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[1", "is not YAML, line 1"),
        ("{x: 1, x: 2}", "line 1: x stands twice"),
        ("9" * 5000, "cannot be read as a number"),
        ("2001-99-99", "'2001-99-99' cannot be read as a date"),
        ("[" * 900, "nested deeper than 64 levels"),
        ("!!str 5", "a tag"),
    ],
)
def test_what_is_not_yaml_is_one_short_line(value: str, reason: str) -> None:
    with pytest.raises(BadSetting, match=r"^--set 'side\.k=.*cannot be read: the value") as raised:
        settings([f"side.k={value}"])
    assert reason in str(raised.value) and len(str(raised.value)) < 250
