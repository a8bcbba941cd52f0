"""The names that `import sidebench` offers: the same at run time and for type checkers, each with its real type."""

import ast
import importlib
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import sidebench

HERE = Path(sidebench.__file__).parent

SNIPPET = """\
import sidebench
from sidebench import Attack, AttackState, Candidates, Generated, WhiteBoxModel

reveal_type(sidebench.Attack)
reveal_type(sidebench.load_pair)
reveal_type(sidebench.AverageMemorizationScore)
sidebench.load_pair(3, 4, 5)
sidebench.Attak


class Right(Attack):
    name = "right"

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        return Generated(model.sample(candidates))


class Wrong(Attack):
    name = "wrong"

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> list[int]:
        return [len(candidates)]
"""
SKIPPED = (
    *("torch", "torchmetrics", "numpy", "pandas", "scipy", "sklearn", "pyarrow", "diffusers", "transformers"),
    *("datasets", "matplotlib", "statsmodels", "huggingface_hub", "jinja2", "typer", "rich", "safetensors"),
    *("tabulate", "psutil", "threadpoolctl", "yaml"),
)
"""Libraries whose types the snippet does not need; without them the check takes seconds."""


def for_type_checkers() -> dict[str, str]:
    """Return module by name, from the block that only type checkers read."""
    tree = ast.parse((HERE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom) and line.level == 1 and line.module
        for name in line.names:
            # `X as X` is what makes an imported name public for a type checker.
            assert name.asname == name.name
            found[name.name] = line.module
    return found


def test_type_checkers_are_told_the_same_names() -> None:
    assert for_type_checkers() == sidebench._MODULES


@pytest.mark.parametrize("name", sidebench._MODULES)
def test_every_name_resolves_and_comes_from_the_module_that_defines_it(name: str) -> None:
    found = getattr(sidebench, name)
    assert found.__name__ == name
    assert found.__module__ == f"sidebench.{sidebench._MODULES[name]}"
    assert found is getattr(importlib.import_module(found.__module__), name)


def test_dir_and_star_hold_the_public_names_alone() -> None:
    assert dir(sidebench) == sorted(["__version__", *sidebench._MODULES])
    everything: dict[str, object] = {}
    exec("from sidebench import *", everything)
    assert set(everything) - {"__builtins__"} == set(dir(sidebench))


@pytest.mark.parametrize(("name", "meant"), [("Attak", "Attack"), ("exceute", "execute"), ("loadpair", "load_pair")])
def test_a_misspelt_name_is_answered_with_the_close_one(name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean '{meant}'[?]$") as caught:
        getattr(sidebench, name)
    assert "".join(traceback.format_exception(caught.value)).lower().count("did you mean") == 1


def test_a_name_like_no_other_is_refused_without_a_guess() -> None:
    name = "qqqq"
    with pytest.raises(AttributeError, match=r"^module 'sidebench' has no attribute 'qqqq'$"):
        getattr(sidebench, name)


def test_mypy_knows_the_types_and_refuses_wrong_plugins(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    config = ["[mypy]", "strict = True", "follow_imports = silent"]
    if "site-packages" not in HERE.parts:
        # A checkout, whatever it is called; an installed package is found by its py.typed.
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "sidebench").symlink_to(HERE, target_is_directory=True)
        config.append(f"mypy_path = {tmp_path / 'path'}")
    config += [f"[mypy-{','.join(f'{name}.*' for name in SKIPPED)}]", "follow_imports = skip"]
    config += ["ignore_missing_imports = True"]
    (tmp_path / "mypy.ini").write_text("\n".join(config), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "snippet.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = re.findall(r"^snippet\.py:(\d+): (.*)$", done.stdout, re.M)
    lines = SNIPPET.splitlines()
    revealed = [text for _, text in said if text.startswith("note: Revealed")]
    assert len(revealed) == 3 and not any(re.search(r'is "(Any|None)"', text) for text in revealed), done
    assert "-> sidebench.benchmark.contracts.Attack" in revealed[0]
    assert '(name: str) -> sidebench.benchmark.data.pair.Pair"' in revealed[1]
    assert "-> sidebench.benchmark.measures.metrics.AverageMemorizationScore" in revealed[2]
    refused = {lines[int(number) - 1].strip() for number, text in said if text.startswith("error")}
    assert refused == {
        "sidebench.load_pair(3, 4, 5)",
        "sidebench.Attak",
        "def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> list[int]:",
    }, done


def test_importing_the_rooms_imports_nothing_heavy() -> None:
    rooms = ("stats", "data", "models", "sampling", "measures", "results", "reports", "runs", "gate")
    code = "import sys\n" + "".join(f"import sidebench.benchmark.{room}\n" for room in rooms)
    code += "heavy = {'torch', 'torchmetrics', 'diffusers', 'scipy', 'statsmodels', 'pandas', 'sklearn', 'pyarrow'}\n"
    code += "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)
