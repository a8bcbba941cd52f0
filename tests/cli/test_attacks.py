"""`sidebench new`."""

from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]


def test_new_writes_a_package(here: Path, call: Call) -> None:
    code, out, _ = call("new", "defence", "veil")
    files = ("pyproject.toml", "veil.py", "test_veil.py", "README.md")
    assert code == 0 and out.splitlines() == [f"veil/{name}" for name in files]
    assert call("new", "defence", "veil")[0] == 2
