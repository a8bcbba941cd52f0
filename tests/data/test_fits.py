"""What is fitted once per pair: taken from the cache only where nothing that matters has changed."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.data import fits, hub
from sidebench.benchmark.data.fits import Fits, code_beside
from sidebench.benchmark.measures.rms import Rms

IMAGES = {"fingerprint": "ab", "parts": "cd"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(fits, "cache", lambda: tmp_path)
    return tmp_path / "fits"


@pytest.fixture
def make() -> Callable[[], AttackState]:
    """Return what makes a fit, a new number with each call."""
    calls: list[int] = []

    def made() -> AttackState:
        calls.append(1)
        return AttackState({"x": torch.full((3,), float(len(calls)))}, {"list": [1, None], "call": len(calls)})

    return made


def call(make: Callable[[], AttackState], images: dict[str, str] = IMAGES, what: str = "fit", **settings: Any) -> int:
    found = Fits(images).tensors(what, make, **settings)
    assert found.tensors["x"].tolist() == [found.info["call"]] * 3
    number: int = found.info["call"]
    return number


def test_a_fit_is_made_once(folder: Path, make: Callable[[], AttackState]) -> None:
    first, second = Fits(IMAGES), Fits(IMAGES)
    made, taken = (one.tensors("fit", make, seed=1) for one in (first, second))
    assert made.info == taken.info == {"list": [1, None], "call": 1}
    assert torch.equal(made.tensors["x"], taken.tensors["x"])
    assert not first.spent["fit"].kept and second.spent["fit"].kept
    assert first.spent["fit"][:2] == second.spent["fit"][:2], "what making it took, whoever made it"


def test_whatever_differs_is_another_fit(
    folder: Path, make: Callable[[], AttackState], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [call(make), call(make, {**IMAGES, "parts": "x"}), call(make, what="other"), call(make, seed=2)] == [
        1,
        2,
        3,
        4,
    ]
    assert call(make) == 1
    monkeypatch.setattr(fits, "describe", lambda: {"versions": {"torch": "0"}})
    assert call(make) == 5
    monkeypatch.setattr(fits, "harness_code", lambda: "other code")
    assert call(make) == 6


def test_nothing_is_kept_where_it_is_switched_off_or_code_cannot_be_read(
    folder: Path, make: Callable[[], AttackState], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [call(make, code=None), call(make, code=None)] == [1, 2]
    monkeypatch.setenv("SIDEBENCH_STATES", "off")
    assert [call(make), call(make)] == [3, 4] and not folder.exists()


def test_code_of_a_class_without_a_file_cannot_be_read() -> None:
    assert code_beside([Rms]) and code_beside([Rms]) == code_beside([Rms, Rms])
    assert code_beside([Rms, type("Ghost", (), {"__module__": "no such module"})]) is None


@pytest.mark.parametrize("damage", [b"", b"no safetensors"])
def test_a_damaged_fit_is_made_again_in_one_line(
    folder: Path, make: Callable[[], AttackState], damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    call(make)
    (file,) = folder.iterdir()
    file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert call(make) == 2
    (line,) = caplog.messages
    assert "computed again" in line and "\n" not in line
    assert call(make) == 2


def test_a_fit_under_anothers_name_is_made_again(folder: Path, make: Callable[[], AttackState]) -> None:
    call(make)
    (first,) = folder.iterdir()
    content = first.read_bytes()
    first.unlink()
    call(make, seed=2)
    (second,) = folder.iterdir()
    second.write_bytes(content)
    assert call(make, seed=2) == 3


def test_a_cache_that_cannot_be_written_costs_one_line(
    folder: Path, make: Callable[[], AttackState], caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("no folder")
    found = Fits(IMAGES)
    with caplog.at_level(logging.WARNING):
        assert [found.tensors("fit", make, seed=seed).info["call"] for seed in (1, 2)] == [1, 2]
    (line,) = caplog.messages
    assert "not kept" in line and "\n" not in line


def test_the_entries_taken_longest_ago_go_first(
    folder: Path, make: Callable[[], AttackState], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        call(make, seed=seed)
        for file in folder.iterdir():
            os.utime(file, (file.stat().st_atime - 100, file.stat().st_mtime - 100))
    call(make, seed=1)  # taken now, so seed 2 has lain longest
    monkeypatch.setattr(fits, "LIMIT", 2 * next(folder.iterdir()).stat().st_size + 50)
    call(make, seed=3)
    assert len(list(folder.iterdir())) == 2
    assert [call(make, seed=1), call(make, seed=3), call(make, seed=2)] == [1, 3, 4]


def test_fits_lie_beside_the_kept_states(monkeypatch: pytest.MonkeyPatch, make: Callable[[], AttackState]) -> None:
    assert fits.cache is hub.cache
