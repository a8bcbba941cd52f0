"""Exit codes, and what leaves with them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints

from sidebench import __version__
from sidebench.benchmark.runs import carry_out, makers

Call = Callable[..., tuple[int, str, str]]


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"{__version__}\n", "")


def test_version_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidebench", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_console_cannot_show_is_spelt_by_number(here: Path, encoding: str) -> None:
    pair = (here / "tiny.yaml").read_text(encoding="utf-8")
    (here / "tiny.yaml").write_text(f"{pair}\nnotes: Größe → 数据\n", encoding="utf-8")
    known = dict(os.environ, PYTHONIOENCODING=encoding)
    shown, refused = (
        subprocess.run([sys.executable, "-m", "sidebench", "show", name], cwd=here, capture_output=True, env=known)
        for name in ("tiny.yaml", "→.yaml")
    )
    umlauts = "Gr\\xf6\\xdfe" if encoding == "ascii" else "Größe"
    assert shown.returncode == 0 and umlauts + r" \u2192 \u6570\u636e" in shown.stdout.decode(encoding)
    assert refused.returncode == 2 and r"no such pair file: \u2192.yaml" in refused.stderr.decode(encoding)


def test_no_arguments_print_the_help(call: Call) -> None:
    _, out, err = call()
    assert "Usage:" in out + err and "\n" in (out + err).strip()
    assert "sidebench: Usage" not in err


def test_failing_attack_leaves_with_3(here: Path, call: Call) -> None:
    arguments = ["--candidates", 4, "--attack", "attacks.py:Mine", "--attack", "carlini-uncond"]
    code, out, err = call("run", "tiny.yaml", *arguments)
    assert code == 3
    (line,) = complaints(err)
    assert "mine.s0" in line and "out of luck" in line
    assert "1 attack, 4 images each, seed 0" in out


def test_interrupted_run_leaves_with_130_and_goes_on(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = makers.make_candidates, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        raise KeyboardInterrupt

    arguments = ("run", "tiny.yaml", "--candidates", 4, "--attack", "carlini-uncond")
    monkeypatch.setattr(makers, "make_candidates", interrupted)
    code, out, err = call(*arguments)
    assert (code, out, len(calls)) == (130, "", 1)
    (line,) = complaints(err)
    assert line.startswith("sidebench: interrupted")
    monkeypatch.setattr(makers, "make_candidates", make)
    assert call(*arguments)[0] == 0


def test_unexpected_error_leaves_with_70(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the roof\nis leaking")

    monkeypatch.setattr(carry_out, "execute", broken)
    code, out, err = call("run", "tiny.yaml", "--candidates", 4)
    assert (code, out) == (70, "")
    assert "Traceback" in err
    last = err.splitlines()[-1]
    assert last.startswith("sidebench: unexpected RuntimeError: the roof is leaking") and "bug" in last


def test_a_name_that_the_system_cannot_spell_is_one_line(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unnamed(*_: Any) -> None:
        raise UnicodeEncodeError("ascii", "daten-数据", 6, 8, "ordinal not in range")

    monkeypatch.setattr(carry_out, "execute", unnamed)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    code, out, err = call("run", "tiny.yaml", "--candidates", 4)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert complaints(err)[-1].endswith(r"without 'daten-\u6570\u636e': set PYTHONUTF8=1 or LC_ALL=C.UTF-8")
