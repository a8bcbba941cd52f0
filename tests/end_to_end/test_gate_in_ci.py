"""The gate inside other people's tests and jobs: the pytest fixture and the GitHub Action."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "sidebench.benchmark.gate.pytest_plugin"
HEAVY = "{'torch', 'torchmetrics', 'statsmodels', 'diffusers', 'datasets', 'scipy', 'pandas', 'sklearn', 'numpy'}"

SUITE = """
def test_clean(sidebench_gate):
    assert sidebench_gate("digits", "policy.yaml", model="control:heldout", device="cpu").verdict == "pass"

def test_leaky(sidebench_gate):
    sidebench_gate("digits", "policy.yaml", model="control:mixture:0.2", device="cpu")

def test_other():
    pass
"""
POLICY = """
schema: sidebench-policy/1
attacks: {carlini-uncond: {}}
measure: nl2c:n50:a0.5
threshold: {fixed: 0.5}
limits: {excess: 0.02}
budget: {candidates: 512}
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder with the plugin and no other."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"sidebench": PLUGIN}
    assert importlib.import_module(PLUGIN).sidebench_gate


def test_nothing_heavy_is_imported_when_pytest_starts(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        f"import sys\n\ndef test_light():\n    assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)\n"
    )
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_fixture_fails_the_test_of_a_leaking_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where torch and diffusers are loaded already: loading them takes ten times the gate itself."""

    def pytest_here(*arguments: str) -> tuple[int, str]:
        code = pytest.main(["-p", PLUGIN, "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *arguments])
        return int(code), capsys.readouterr().out

    (tmp_path / "test_release.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    code, said = pytest_here("--strict-markers", "--junit-xml=report.xml")
    assert code == 1 and "1 failed, 2 passed" in said, said
    assert "FAIL: digits leaks more than the policy allows" in said
    assert '<property name="sidebench_gate" value="fail"' in (tmp_path / "report.xml").read_text(encoding="utf-8")
    code, said = pytest_here("-m", "not sidebench_gate")
    assert code == 0 and "1 passed, 2 deselected" in said


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    """Return the action, parsed."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return content


def test_the_action_uploads_no_folder_of_images(action: dict[str, Any]) -> None:
    (upload,) = [step for step in action["runs"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["with"]["path"].split("\n")[:2] == ["sidebench-gate.*", "${{ inputs.subject }}/report.html"]
    assert upload["if"] == "always()"
    (cache,) = [step for step in action["runs"]["steps"] if "actions/cache" in step.get("uses", "")]
    assert cache["if"] == "inputs.cache == 'true'" and action["inputs"]["cache"]["default"] == "false"


def test_inputs_reach_the_shell_as_variables_only(action: dict[str, Any]) -> None:
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    text = str(action["runs"])
    assert all(f"inputs.{name}" in text for name in action["inputs"])


@pytest.mark.parametrize(("asked", "installed"), [("action", "/the/action"), ("sidebench==1", "sidebench==1")])
def test_the_action_installs_what_stands_beside_it(
    action: dict[str, Any], tmp_path: Path, asked: str, installed: str
) -> None:
    """Nothing needs to be on a package index."""
    (step,) = [step for step in action["runs"]["steps"] if "REQUIREMENT" in step.get("env", {})]
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n')
    fake.chmod(0o755)
    values = {"REQUIREMENT": asked, "GITHUB_ACTION_PATH": "/the/action", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=values, check=True, timeout=60)
    assert (tmp_path / "arguments").read_text().splitlines() == ["-m", "pip", "install", installed]
    assert action["inputs"]["requirement"]["default"] == "action"


@pytest.mark.parametrize(("code", "verdict"), [(0, "pass"), (1, "fail"), (4, "cannot tell"), (2, "error")])
def test_the_action_leaves_with_the_gates_code(action: dict[str, Any], tmp_path: Path, code: int, verdict: str) -> None:
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "gate"]
    fake = tmp_path / "sidebench"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > arguments\necho "# page" > sidebench-gate.md\nexit {code}\n')
    fake.chmod(0o755)
    values = {"SUBJECT": "a pair.yaml", "POLICY": "p.yaml", "MODEL": "", "BASELINE": "last run", "DEVICE": "cpu"}
    places = {"GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "page", "OUT": "runs"}
    environment = {**values, **places, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == code
    assert (tmp_path / "output").read_text() == f"verdict={verdict}\n"
    assert (tmp_path / "page").read_text() == "# page\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:2] == ["gate", "a pair.yaml"] and "--model" not in arguments
    assert arguments[arguments.index("--baseline") + 1] == "last run"
    assert arguments[arguments.index("--report") + 1] == "sidebench-gate.html"
