"""The examples in docstrings print what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def with_examples() -> list[str]:
    """Return every module of the package that has an example."""
    files = [
        file
        for room in ("benchmark", "methods", "leaderboards", "notebook", "cli")
        for file in (ROOT / room).rglob("*.py")
    ]
    shown = [file.relative_to(ROOT) for file in files if "skeletons" not in file.parts and ">>> " in file.read_text()]
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in shown)


def test_there_are_examples_in_every_room() -> None:
    rooms = {name.split(".")[1] if name.startswith("benchmark.") else name.split(".")[0] for name in with_examples()}
    assert rooms >= {"data", "models", "sampling", "measures", "stats", "results", "methods", "leaderboards"}


@pytest.mark.parametrize("name", with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"sidebench.{name}"))
    assert done.attempted and not done.failed, done


def test_every_public_function_of_stats_shows_an_example_and_names_its_arguments() -> None:
    functions = [
        (file.name, node)
        for file in sorted((ROOT / "benchmark" / "stats").glob("*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert len(functions) > 40
    bare = [
        f"{file}: {node.name} has no {section}"
        for file, node in functions
        for section in ("Args:", "Examples:")
        if section not in (ast.get_docstring(node) or "")
    ]
    assert bare == []
