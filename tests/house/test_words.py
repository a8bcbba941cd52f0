"""Readers meet the field's words, those of the table in docs/concepts.md, and no riddle in their place."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RIDDLES = {
    "ruler": "measure, or scale",
    "told apart": "distinguishable",
    "the mend": "the fix",
    "anew": "again, or from the start",
    "made again": "reproduced, or rebuilt",
    "make it again": "rebuild it",
    "makes it again": "rebuilds it",
    "makes them again": "rebuilds them",
    "different ones": "unique training images",
}
"""What nobody in the field says, and what is said for it."""

KEPT = {
    # What else is said for the same thing stands in the last column of the table of words.
    "docs/concepts.md": Counter({"told apart": 1, "made again": 1}),
    # Published schemas never change, and these descriptions are part of them.
    "benchmark/results/schema.py": Counter({"ruler": 1}),
    "leaderboards/badge.py": Counter({"made again": 1}),
    "leaderboards/record.py": Counter({"told apart": 1}),
    # Shipped records hold this reason, and a challenge compares it.
    "benchmark/results/rates.py": Counter({"ruler": 1}),
}


def _pages() -> list[Path]:
    rooms = [ROOT / room for room in ("benchmark", "cli", "methods", "notebook", "leaderboards/pages")]
    found = [file for room in rooms for kind in ("*.py", "*.j2", "*.js") for file in room.rglob(kind)]
    return [*found, *ROOT.glob("leaderboards/*.py"), *ROOT.glob("docs/*.*"), *ROOT.glob("*.md"), ROOT / "action.yml"]


def test_there_are_pages_to_read() -> None:
    suffixes = Counter(page.suffix for page in _pages())
    assert suffixes[".py"] > 150 and suffixes[".md"] > 15 and suffixes[".j2"] > 5


@pytest.mark.parametrize("riddle", RIDDLES)
def test_the_fields_word_stands_in_place_of_a_riddle(riddle: str) -> None:
    pattern = re.compile(r"(?<![\w-])" + r"\s+".join(riddle.split()) + r"s?\b", re.I)
    for page in _pages():
        name = page.relative_to(ROOT).as_posix()
        found = [match.group() for match in pattern.finditer(page.read_text(encoding="utf-8"))]
        assert len(found) == KEPT.get(name, Counter())[riddle], f"{name}: {found}: say {RIDDLES[riddle]}"


def test_denoiser_equivalents_stand_beside_denoiser_calls() -> None:
    """A reader who knows NFE is told that this is the same unit, wherever a page or plot names it."""
    for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md", *(ROOT / "leaderboards" / "pages").glob("*.j2")]:
        text = page.read_text(encoding="utf-8")
        if re.search("denoiser-equivalents", text, re.I):
            assert "NFE" in text, page.name
