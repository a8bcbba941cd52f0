"""SHA256SUMS: results that were changed are refused, in any reader, until the run has written them again."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import CorruptRun
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.sums import LISTED, SUMS, check_sums, is_sealed, sealed


def lines(folder: Path) -> dict[str, str]:
    text = (folder / SUMS).read_text(encoding="utf-8")
    return {name: digest for digest, name in (line.split("  ") for line in text.splitlines())}


def test_a_finished_run_lists_its_results_as_sha256sum_does(finished: Any) -> None:
    folder: Path = finished.folder.path
    found = lines(folder)
    always = {name for name in LISTED if "*" not in name} - {"copying.json"}
    assert always < found.keys() and any(name.endswith("pairs.json") for name in found)
    for name, digest in found.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "evidence/../../x/y", "images/side.s0/x", "hash.key"])
def test_a_list_that_names_other_files_is_refused(name: str, copied: Path) -> None:
    with (copied / SUMS).open("a", encoding="utf-8") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert not is_sealed(RunFolder(copied))
    with pytest.raises(CorruptRun, match="which is no result"):
        load_metrics(RunFolder(copied))


@pytest.mark.parametrize("name", ["metrics.json", "costs.json", "evidence/side.s0/pairs.json", SUMS])
def test_a_changed_digit_is_refused(name: str, copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_metrics(RunFolder(copied))
    text = (copied / name).read_text(encoding="utf-8")
    place = next(i for i, letter in enumerate(text) if letter.isdigit())
    (copied / name).write_text(f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}", encoding="utf-8")
    with pytest.raises(CorruptRun, match=r"is not what was written .*; the same `sidebench run` writes it again"):
        load_metrics(RunFolder(copied))
    assert not caplog.messages


def test_results_of_earlier_versions_are_read_and_that_is_said_once(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / SUMS).unlink()
    assert load_metrics(RunFolder(copied)) == load_metrics(copied) == load_metrics(str(copied))
    assert len(caplog.messages) == 1 and "they are not checked" in caplog.messages[0]


def test_what_somebody_removed_is_not_missed(copied: Path) -> None:
    for file in (copied / "evidence").glob("*/*.png"):
        file.unlink()
    check_sums(RunFolder(copied))


def test_results_that_are_being_written_are_not_sealed(tmp_path: Path) -> None:
    folder, file = RunFolder(tmp_path), tmp_path / "metrics.json"
    with sealed(folder):
        file.write_text("1", encoding="utf-8")
    assert lines(tmp_path).keys() == {"metrics.json"}
    with pytest.raises(ValueError, match="killed"), sealed(folder):
        file.write_text("2", encoding="utf-8")
        raise ValueError("killed")
    assert not (tmp_path / SUMS).exists()
