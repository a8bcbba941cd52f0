"""One concept, one place: what is decided, read or translated once is not written a second time elsewhere."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    file
    for top in ("benchmark", "methods", "leaderboards", "notebook", "cli", "docs")
    for file in (ROOT / top).rglob("*.py")
)


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


@functools.cache
def users() -> dict[str, set[str]]:
    """Return for each imported name or attribute the files whose code names it; text does not count."""
    found: dict[str, set[str]] = {}
    for file, tree in trees().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                found.setdefault(name, set()).add(file)
    return found


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("SafeLoader", "benchmark/files.py"),
        ("FileSystemLoader", "benchmark/reports/templates.py"),
        ("RepositoryNotFoundError", "benchmark/data/hub.py"),
        ("HfHubHTTPError", "benchmark/data/hub.py"),
        ("HFValidationError", "benchmark/data/hub.py"),
        ("ndtri", "benchmark/stats/intervals.py"),
        ("proportion_confint", "benchmark/stats/intervals.py"),
    ],
)
def test_a_thing_is_done_in_its_place_alone(name: str, place: str) -> None:
    assert users()[name] == {place}


@pytest.mark.parametrize("name", ["safe_load", "fcntl", "msvcrt"])
def test_nothing_goes_past_the_one_reader_and_the_one_lock(name: str) -> None:
    assert name not in users()


def test_a_unit_is_named_by_the_one_function() -> None:
    spelt = {file.name for file in FILES if "}.s{" in file.read_text(encoding="utf-8")}
    assert spelt == {"manifest.py"}


def test_a_class_that_readers_meet_has_a_name_of_its_own() -> None:
    """The words that once stood for two or three things each."""
    words = ("Victim", "Claim", "Pair", "Source", "Check", "Board", "Yardstick", "Spending", "Line", "Point", "Row")
    classes = [node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [word for word in words if classes.count(word) > 1] == []


@pytest.mark.parametrize(
    "room", sorted(file for file in trees() if file.endswith("/__init__.py") and "pages" not in file)
)
def test_a_room_says_what_lives_there_and_may_be_imported_with_an_example(room: str) -> None:
    text = " ".join((ast.get_docstring(trees()[room]) or "").split())
    assert text
    if room.count("/") == 1 + room.startswith("benchmark/") - (room == "benchmark/__init__.py"):
        assert "import " in text.replace("may import", "").replace("May import", ""), "no example"
        assert "may only point" in text or "may import" in text.lower(), "it does not say what may be imported"
