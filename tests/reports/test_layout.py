"""Tables and sentences as wide as a terminal: nothing is left out, and no figure is cut in two."""

import re
from typing import Any

import pytest

from sidebench.benchmark.reports.layout import reader_width, table, wrapped

ROWS: list[dict[str, Any]] = [
    {
        "attack": attack,
        "seed": 0,
        "band": band,
        "AMS": f"{13 + place}.48 [11.52, 15.{70 + place}]",
        "unique training images": 90 + place,
        "excess": f"{3 + place}.09 [2.10, 4.{10 + place}]",
        "verdict": f"no difference is seen in band {band}",
    }
    for place, (attack, band) in enumerate((a, b) for a in ("carlini-uncond", "side") for b in ("high", "low"))
]


def figures(text: str) -> list[str]:
    return sorted(re.findall(r"[\d.]+ \[[\d.]+, [\d.]+\]", text))


def test_a_table_that_fits_stays_as_it_is() -> None:
    whole = table(ROWS, keys=3)
    assert table(ROWS, 200, keys=3) == whole and len(whole.split("\n")) == 6


@pytest.mark.parametrize("width", [100, 80, 60, 48])
def test_a_wide_table_is_folded_and_says_all_of_it(width: int) -> None:
    text = table(ROWS, width, keys=3)
    assert max(map(len, text.split("\n"))) <= width
    assert figures(text) == figures(table(ROWS, keys=3)) and len(figures(text)) == 8
    assert text.startswith("in every row: seed 0\n")
    for word in ("carlini-uncond", "high", "training", "verdict", "difference", "93"):
        assert word in text


def test_what_is_not_there_in_any_row_is_said_once() -> None:
    rows = [{"attack": each, "excess": "-", "note": "x" * 30, "another": "y" * 30} for each in "ab"]
    assert table(rows, 70).startswith("in every row: no excess, note xxx")


def test_headings_stand_once_above_their_rows() -> None:
    lines = table(ROWS, 80, keys=3).split("\n")
    heads = [line for line in lines if line in ("carlini-uncond", "side")]
    assert heads == ["carlini-uncond", "side"]
    assert lines[lines.index("side") + 1].startswith("  high")


def test_columns_that_are_left_over_go_on_below_with_their_keys() -> None:
    rows = [{"attack": "side", "first": "1.00 [0.50, 1.50]", "second": "2.00 [1.50, 2.50]"}]
    first, second = table(rows, 30, keys=1).split("\n\n")
    assert "first" in first and "side" in first and "second" in second and "side" in second


def test_an_interval_stays_in_one_line() -> None:
    text = wrapped("  found: 66.25 [57.44, 74.06] % and 1.82 [0.50, 6.39] %", 25)
    assert text.split("\n") == ["  found: 66.25", "    [57.44, 74.06] % and", "    1.82 [0.50, 6.39] %"]
    assert wrapped("as it is", None) == wrapped("as it is", 40) == "as it is"


def test_without_a_terminal_there_are_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert reader_width() == 120
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert reader_width() == 70
