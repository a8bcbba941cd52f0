"""What a run folder calls things, and its lock: one writer, none left by a killed one, and no file that it empties."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidebench.benchmark import environment
from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import BadInput, RunConflict
from sidebench.benchmark.results.run_folder import RunFolder, is_unit_name, read_run, unit_name

HOLDER = """
import os, sys, time
from pathlib import Path
from sidebench.benchmark.results.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_it_shows_its_path() -> None:
    folder = RunFolder(Path("runs") / "digits-0a1b2c3d")
    assert f"{folder}" == repr(folder) == f"RunFolder({str(folder.path)!r})"


def test_what_is_no_run_is_told_of_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"^runs/x is no run folder: it is not there$"):
        read_run("runs/x")
    names = [f"pair{number}-{number:08x}" for number in range(5)]
    for age, name in enumerate(names):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").touch()
        os.utime(tmp_path / "runs" / name / "manifest.json", (1000 - age, 1000 - age))
    newest = f"runs/ holds {', '.join(names[:3])} and 2 more$"
    for path, why in (("runs/x", "it is not there"), ("x", "it is not there"), ("runs", "it has no manifest.json")):
        with pytest.raises(BadInput, match=f"^{path} is no run folder: {why}; {newest}"):
            read_run(path)
    with pytest.raises(BadInput, match=r"it is not there; runs/ holds pair4-00000004,"):
        read_run("pair4-00000044")


def test_a_writer_keeps_another_process_out_until_it_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(RunConflict, match=f"^another process is writing to {tmp_path}$"),
            RunFolder(tmp_path).locked(),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path).locked():
        pass


def test_the_same_process_holds_it_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    with folder.locked():
        with pytest.raises(RunConflict), RunFolder(folder.path).locked():
            pass
        folder.clear()
        with pytest.raises(RunConflict), folder.locked():
            pass
    with folder.locked():
        pass


def test_an_error_of_the_work_is_not_the_locks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the work"), RunFolder(tmp_path).locked():
        raise OSError("of the work")
    with RunFolder(tmp_path).locked():
        pass


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(tmp_path: Path) -> None:
    target = tmp_path / "thesis.tex"
    target.write_text("four years", encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(target)
    refused = pytest.raises(BadInput, match=r"run: \.lock is a link that leads out of the folder; remove it")
    with refused, RunFolder(folder).locked():
        pass
    assert target.read_text(encoding="utf-8") == "four years"


def test_what_killed_holders_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = [
        ".metrics.json.x.tmp",
        "images/side.s0/.00000.safetensors.x.tmp",
        "state/side.s0/checkpoints-0/.a.safetensors.x.tmp",
        "evidence/side.s0/.01.png.x.tmp",
        "scores/.a.parquet.x.tmp",
    ]
    # A page, a replayed candidate and another folder's run may be written at this moment, by somebody else.
    kept = [
        ".report.html.x.tmp",
        "replay/.a.png.x.tmp",
        "reference/.metrics.json.x.tmp",
        "images/side.s0/00000.safetensors",
        "label/mine.tmp",
    ]
    for name in (*dead, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with RunFolder(tmp_path).locked():
        assert not [name for name in dead if (tmp_path / name).exists()]
        assert all((tmp_path / name).exists() for name in kept)
        (tmp_path / dead[0]).touch()
        with pytest.raises(RunConflict), RunFolder(tmp_path).locked():
            pass
        assert (tmp_path / dead[0]).exists()
    for name in kept[:2]:
        os.utime(tmp_path / name, times=(1e9, 1e9))
    with RunFolder(tmp_path).locked():
        assert [name for name in kept if not (tmp_path / name).exists()] == kept[:2]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "run"):
        with (
            pytest.raises(
                BadInput, match=r"^cannot write to .*(; choose another with --out|: \.lock in it is no lock .*)$"
            ),
            RunFolder(path).locked(),
        ):
            pass

    fresh = RunFolder(tmp_path / "fresh")

    def refused(*arguments: object, **options: object) -> int:
        raise OSError(kind, os.strerror(kind))

    for kind in (28, 30):  # the disk is full; the file system is read-only
        monkeypatch.setattr(os, "open", refused)
        with pytest.raises(BadInput, match=f"^cannot write to .*: {os.strerror(kind)}; choose"), fresh.locked():
            pass
        monkeypatch.undo()


def test_peak_memory_is_known_without_the_module_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil  # noqa: F401  its part for Linux reads `resource`, its part for Windows does not

    whole = environment.peak_memory()
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 10e6 < environment.peak_memory() <= whole * 1.05


@pytest.mark.parametrize("attack", ["side", "my_attack", "side--random-labels", "2nd"])
def test_an_attack_and_seed_have_one_name(attack: str) -> None:
    assert unit_name(attack, 12) == f"{attack}.s12" and is_unit_name(unit_name(attack, 12))


@pytest.mark.parametrize("name", ["side", "side.s", "side.s-1", "../side.s0", "a/b.s0", ".s0", "Side.s0", "side.s0\n"])
def test_what_is_no_unit_is_no_part_of_a_path(name: str) -> None:
    assert not is_unit_name(name)


def test_a_folder_that_cannot_be_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    for place in (tmp_path / ("a" * 300) / "run", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match="choose another with --out"), RunFolder(place).locked():
            pass


def test_progress_of_other_settings_lies_elsewhere(tmp_path: Path) -> None:
    folder, made_by = RunFolder(tmp_path), [{"settings": {"steps": 3}}, 8]
    progress = AttackState({"weights": torch.ones(2)}, {"step": 1})
    folder.checkpoints("side.s0", made_by).save("classifier", progress)
    assert folder.checkpoints("side.s0", made_by).load("classifier") is not None
    for other in ([{"settings": {"steps": 4}}, 8], [{"settings": {"steps": 3}}, 9]):
        assert folder.checkpoints("side.s0", other).load("classifier") is None
    folder.checkpoints("side.s0", None).save("classifier", progress)
    folder.forget_checkpoints("side.s0")
    assert folder.checkpoints("side.s0", made_by).load("classifier") is None
    assert not list((tmp_path / "state" / "side.s0").iterdir())
