"""The wheel holds what git tracks, versions are pinned, and light commands stay light."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import sidebench

ROOT = Path(__file__).resolve().parents[2]


def test_constraints_hold_plain_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin), pin


def test_every_dependency_is_constrained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0].lower().replace("_", "-")
        assert f"\n{name}==" in pinned, requirement


def test_wheel_holds_what_git_tracks(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path / "x-1"
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    # By the setuptools of this environment: one of its own would be downloaded first.
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path / "wheel"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sidebench/")}
    kept = ("benchmark/", "cli/", "methods/", "leaderboards/", "notebook/")
    outside = ("leaderboards/records/",)
    wanted = {
        f"sidebench/{name}"
        for name in tracked.stdout.splitlines()
        if (ROOT / name).is_file()
        and (name.startswith(kept) or name in ("__init__.py", "__main__.py", "py.typed"))
        and not name.startswith(outside)
    }
    assert inside == wanted


def test_no_module_is_loaded_twice() -> None:
    """Not under a second name either, by these tests or by what they call."""
    (package,) = sidebench.__path__
    rooms = tuple(
        f"{package}{os.sep}{room}{os.sep}" for room in ("benchmark", "cli", "leaderboards", "methods", "notebook")
    )
    for module in pkgutil.walk_packages([package], "sidebench."):
        if not module.name.startswith(("sidebench.tests", "sidebench.docs")) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    files = [file for module in sys.modules.values() if (file := getattr(module, "__file__", None))]
    ours = [file for file in files if file.startswith(rooms)]
    assert len(ours) > 150 and len(ours) == len(set(ours)), sorted(ours)


@pytest.mark.parametrize("arguments", [["--help"], ["list", "attacks"], ["list", "pairs"], ["run", "--help"]])
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sidebench.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'torchmetrics', 'statsmodels', 'diffusers', 'datasets', 'scipy', 'pandas', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
