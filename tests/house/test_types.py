"""The types hold, strictly, in the wheel: what `tox -e types` says, where all that mypy reads is installed already."""

import subprocess
import sys
from pathlib import Path

import pytest

import sidebench

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = "site-packages" in Path(sidebench.__file__).parts


@pytest.mark.skipif(not INSTALLED, reason="a checkout: tox -e types reads the wheel")
def test_mypy_finds_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy", "-p", "sidebench"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Success: no issues found in "), done.stdout + done.stderr
