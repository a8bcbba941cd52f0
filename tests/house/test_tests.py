"""The tests keep their own order: a folder per room, and whole runs only where runs are what is tested."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOMS = ("words", "stats", "data", "models", "sampling", "measures", "results", "methods")
"""Rooms that know no runs. Their tests take made-up inputs, or the one run that tests/conftest.py makes for all."""


def test_no_whole_run_is_made_in_a_unit_test() -> None:
    """It takes seconds, and says little of where a fault is: what crosses rooms belongs into end_to_end/."""
    made = [
        f"{file.relative_to(TESTS)}:{node.lineno}"
        for room in ROOMS
        for file in (TESTS / room).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "execute"
    ]
    assert made == []


def test_every_folder_is_a_room_of_the_house() -> None:
    benchmark = {path.name for path in (TESTS.parent / "benchmark").iterdir() if (path / "__init__.py").is_file()}
    others = {"words", "methods", "leaderboards", "notebook", "cli", "end_to_end", "house", "helpers", "gpu"}
    assert {path.name for path in TESTS.iterdir() if path.is_dir() and path.name[0] != "_"} == benchmark | others
