"""A disk that changes what was kept, or is full: a line says so, and the next call ends in the same metrics.json."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints

from sidebench.benchmark.runs import state_cache, write_results

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(make_pair_file: Callable[..., Path], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a tiny pair as the command does; what only describes a run is left out."""
    monkeypatch.setattr(write_results, "audit_of_pair", lambda *arguments: {})
    monkeypatch.setattr(write_results.image_quality, "assess", lambda *arguments: {})
    monkeypatch.setattr(write_results, "control_check", lambda *arguments: None)
    monkeypatch.setattr("sidebench.benchmark.runs.carry_out.write_report", lambda folder, **_: None)
    pair = make_pair_file(tmp_path)
    options = ("--attack", "side", "--candidates", 8, "--measure", "rms", "--device", "cpu")

    def command(out: Path) -> tuple[int, list[str]]:
        code, _, err = call("run", pair, *options, "--out", out)
        return code, complaints(err)

    return command


def result_of(out: Path) -> bytes:
    (file,) = out.glob("*/metrics.json")
    return file.read_bytes()


# ---- Changed files ----

KEPT = [
    "state/side.s0/state.safetensors",
    "state/side.s0/probe.json",
    "state/shared/samples-*.safetensors",
    "images/side.s0/00000000-00000008.safetensors",
    "scores/side.s0.*.00000000-00000008.parquet",
    "scores/side.s0.*.pairs.parquet",
    "scores/samples-*.00000.parquet",
    "references.parquet",
]


def invert(file: Path) -> None:
    """Change the second quarter of a file."""
    content = file.read_bytes()
    start, stop = len(content) // 4, len(content) // 2
    file.write_bytes(content[:start] + bytes(255 - byte for byte in content[start:stop]) + content[stop:])


def test_each_kind_of_kept_file_is_made_again_in_a_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(state_cache, "_root", lambda: tmp_path / "states")
    assert run(tmp_path / "runs") == (0, [])
    whole, (folder,) = result_of(tmp_path / "runs"), (tmp_path / "runs").iterdir()
    for kind in KEPT:
        file = min(folder.glob(kind))
        invert(file)
        caplog.clear()
        assert run(tmp_path / "runs") == (0, []), kind
        assert result_of(tmp_path / "runs") == whole, kind
        assert [m for m in caplog.messages if m.startswith(file.relative_to(folder).as_posix())], caplog.messages
    invert(min((tmp_path / "states").glob("*/state.safetensors")))
    shutil.rmtree(folder)
    caplog.clear()
    assert run(tmp_path / "runs") == (0, [])
    assert result_of(tmp_path / "runs") == whole
    assert caplog.messages == ["the kept state of side.s0 was changed or cut; it is rebuilt"]


def test_a_changed_manifest_is_refused(run: Any, tmp_path: Path) -> None:
    """Nothing else says by which settings the images were made."""
    run(tmp_path / "runs")
    (file,) = (tmp_path / "runs").glob("*/manifest.json")
    file.write_text(file.read_text(encoding="utf-8").replace('"clusters": 3', '"clusters": 4'), encoding="utf-8")
    code, (said,) = run(tmp_path / "runs")
    assert code == 2 and "manifest.json is not what was written (its SHA-256 differs)" in said


# ---- Full disks ----


class Disk:
    """Is full once for each kind of file, at the moment that it is flushed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: list[str] = []
        self._writing = ""
        self._mkstemp, self._fsync = tempfile.mkstemp, os.fsync
        monkeypatch.setattr(tempfile, "mkstemp", self.mkstemp)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def mkstemp(self, *, dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
        self._writing = re.sub(r"[0-9a-f]{16,}|\d+", "N", f"{Path(dir).name}/{prefix[1:-1]}".partition("-candidate")[0])
        return self._mkstemp(dir=dir, prefix=prefix, suffix=suffix)

    def fsync(self, handle: int) -> None:
        if self._writing not in self.refused:
            self.refused.append(self._writing)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(handle)


def test_a_disk_that_is_full_at_any_write_stops_a_run_in_a_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "whole") == (0, [])
    disk = Disk(monkeypatch)
    for calls in range(40):
        code, said = run(tmp_path / "full")
        assert not list((tmp_path / "full").rglob("*.tmp"))
        if len(disk.refused) == calls:
            break
        assert code == 3 and len(said) == 1, said
        assert re.fullmatch(r"sidebench: cannot write \S+: No space left on device", said[0])
    assert (code, said) == (0, []) and calls >= 15
    assert result_of(tmp_path / "full") == result_of(tmp_path / "whole")
