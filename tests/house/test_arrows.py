"""The staircase: an import points to the left of this order, and no files import each other in a circle.

    words < stats, data < models < sampling < measures < results < reports < runs < gate

Imports inside functions count as well: they are arrows that only run later.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"contracts", "candidates", "protocol", "registry", "errors", "files", "progress", "environment"}
"""Modules that every room may use, beside the rooms in benchmark/."""
STEPS = ("words", "stats", "data", "models", "sampling", "measures", "results", "reports", "runs", "gate")
SIDE_BY_SIDE = {("data", "stats"), ("stats", "data")}
"""Rooms on one step, which know nothing of each other."""
METHODS_SEE = {"words", "sampling", "methods", "benchmark.data.pixels", "benchmark.models.flops"}
"""Rooms and single modules: an attack or defence of a third party gets no more than the built-in ones."""


def modules(root: Path) -> dict[str, Path]:
    """Return every module of the package by its name inside it, such as `benchmark.stats.intervals`."""
    tops = [root / top for top in ("benchmark", "methods", "leaderboards", "notebook", "cli")]
    files = [file for top in tops for file in top.rglob("*.py")] + list(root.glob("*.py"))
    return {".".join(parts_of(file.relative_to(root))): file for file in files}


def parts_of(file: Path) -> tuple[str, ...]:
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(file: Path, root: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, at its top or inside a function."""
    inside = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "sidebench":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            package = ".".join(filter(None, base))
            for alias in node.names:
                whole = f"{package}.{alias.name}" if package else alias.name
                yield whole if whole in known else package
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "sidebench")


def arrows(root: Path) -> list[tuple[str, str]]:
    known = modules(root)
    found = [(name, other) for name, file in known.items() for other in imported(file, root, known)]
    return sorted({(name, other) for name, other in found if name != other})


def room(module: str) -> str:
    """Return the step of a module of benchmark/, or the top-level folder of any other."""
    parts = module.split(".")
    if parts[0] != "benchmark":
        return parts[0]
    return "words" if len(parts) == 1 or parts[1] in WORDS else parts[1]


def wrong(name: str, other: str) -> bool:
    """Tell whether an arrow points where it may not."""
    here, there = room(name), room(other)
    if here == "methods":
        return not {there, other} & METHODS_SEE
    if here == "leaderboards":
        return there in ("cli", "notebook", "methods")
    if here in ("cli", "notebook"):
        return there in ("cli", "notebook") and there != here
    if here not in STEPS:
        return False
    return there not in STEPS or STEPS.index(there) > STEPS.index(here) or (here, there) in SIDE_BY_SIDE


def circle(found: list[tuple[str, str]]) -> list[str]:
    """Return the modules of one circle in their order, or nothing where there is none."""
    order: TopologicalSorter[str] = TopologicalSorter()
    for name, other in found:
        order.add(name, other)
    try:
        order.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_arrow_points_up_the_staircase() -> None:
    found = arrows(ROOT)
    assert len(found) > 400
    assert [f"{name} -> {other}" for name, other in found if wrong(name, other)] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(arrows(ROOT)) == []


def test_a_leading_underscore_stays_in_its_file() -> None:
    private = [
        f"{name}: {alias.name}"
        for name, file in modules(ROOT).items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.endswith("__")
    ]
    assert private == []


def test_every_module_of_benchmark_stands_in_a_room() -> None:
    names = {name.split(".")[1] for name in modules(ROOT) if name.startswith("benchmark.")}
    assert names == WORDS | set(STEPS[1:])


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("from ..runs import runner", "benchmark/stats/new.py"),
        ("from ..runs.runner import execute", "benchmark/results/new.py"),
        ("def f():\n    from ..gate import judge", "benchmark/runs/new.py"),
        ("def f():\n    import sidebench.benchmark.gate.judge", "benchmark/runs/new.py"),
        ("from sidebench.benchmark.reports.page import write_report", "benchmark/measures/new.py"),
        ("from ..stats.intervals import wilson", "benchmark/data/new.py"),
        ("from .stats.intervals import wilson", "benchmark/files.py"),
        ("from ...methods.side import Side", "benchmark/runs/new.py"),
        ("from ..leaderboards.record import Record", "benchmark/errors.py"),
        ("from ..benchmark.data.references import load_references", "methods/new.py"),
        ("from ..benchmark.models import load_model", "methods/new.py"),
        ("from ..methods.side import Side", "leaderboards/new.py"),
        ("from ..cli.options import Device", "notebook/new.py"),
        ("from ..notebook.commands import run", "cli/new.py"),
    ],
)
def test_an_arrow_against_the_order_is_found(line: str, file: str, tmp_path: Path) -> None:
    house(tmp_path, {file: line})
    assert [name for name, other in arrows(tmp_path) if wrong(name, other)] == [".".join(parts_of(Path(file)))]


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("from ..measures import hits", "benchmark/results/new.py"),
        ("from ..benchmark.sampling.sampler import quantise", "methods/new.py"),
        ("from ..benchmark.data.pixels import flat", "methods/new.py"),
        ("from ..benchmark.gate import judge", "leaderboards/new.py"),
        ("from ..leaderboards.build import build", "cli/new.py"),
    ],
)
def test_an_arrow_down_the_staircase_is_none(line: str, file: str, tmp_path: Path) -> None:
    house(tmp_path, {file: line})
    assert [arrow for arrow in arrows(tmp_path) if wrong(*arrow)] == []


def test_a_circle_is_found_though_one_arrow_stands_in_a_function(tmp_path: Path) -> None:
    house(
        tmp_path,
        {
            "benchmark/runs/one.py": "from .two import b",
            "benchmark/runs/two.py": "def b():\n    from . import three",
            "benchmark/runs/three.py": "from sidebench.benchmark.runs.one import a",
        },
    )
    assert set(circle(arrows(tmp_path))) == {f"benchmark.runs.{name}" for name in ("one", "two", "three")}


def house(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, and empty ones in the place of the real modules, so that names resolve."""
    for name in modules(ROOT).values():
        (folder / name.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (folder / name.relative_to(ROOT)).touch()
    for file, text in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
