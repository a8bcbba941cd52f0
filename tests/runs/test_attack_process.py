"""The process in which attacks from files and packages run: the same images, and nothing of the run to be found."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import AttackFailed
from sidebench.benchmark.files import read_json
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.runs import makers, runner
from sidebench.benchmark.runs.attack_process import AttackProcess, Frame
from sidebench.benchmark.runs.makers import is_apart
from sidebench.benchmark.runs.plan import Unit

Plan = Callable[..., Any]

ATTACKS = """
import gc, os, sys
import torch
from sidebench import Attack, AttackState, Generated
from sidebench.methods.side import Side


class Base(Attack):
    title, paper, access = "mine", "none", "samples"

    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates))


class Mine(Side):
    name = "mine"

    class Settings(Side.Settings):
        synthetic_images: int = 24
        clusters: int = 3
        training_steps: int = 3
        batch: int = 8
        width: int = 8
        cohesion: float = -1.0


class Prints(Base):
    name = "prints"

    def prepare(self, model, budget):
        print("a word on standard output")
        assert sys.stdin.read() == ""
        budget.progress("thinking", 1, 2)
        return AttackState({"x": torch.arange(3.0)}, {"pid": os.getpid()})

    def generate(self, model, state, candidates):
        assert state.tensors["x"].tolist() == [0, 1, 2] and state.info["pid"] == os.getpid()
        return Generated(model.sample(candidates).flip(3), {"twice": [2 * n for n in candidates.numbers]})


class Peeks(Base):
    name = "peeks"

    def generate(self, model, state, candidates):
        frame, seen = sys._getframe(), []
        while frame is not None:
            seen += [*frame.f_locals.values()]
            frame = frame.f_back
        names = {type(thing).__name__ for thing in [*gc.get_objects(), *seen]}
        found = names & {"RunPlan", "Pair", "References", "ImageSet", "RunFolder"}
        raise ValueError(f"found {sorted(found)}")


class Dies(Base):
    name = "dies"

    def generate(self, model, state, candidates):
        os._exit(7)
"""


@pytest.fixture(scope="module", autouse=True)
def apart() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makers, "is_apart", is_apart)
        yield


@pytest.fixture(scope="module")
def done(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what one run of all these attacks left, with its place and what it said of its progress."""
    folder, said = tmp_path_factory.mktemp("apart"), []
    (folder / "attacks.py").write_text(ATTACKS, encoding="utf-8")
    names = [f"{folder / 'attacks.py'}:{name}" for name in ("Mine", "Dies", "Prints", "Peeks")]
    plan = make_plan(folder, attacks=names, measures=["rms"])
    result = runner.execute(plan, lambda phase, done, total: said.append((phase, done, total)))
    return result, said


def test_images_and_costs_are_those_of_one_process(
    done: Any, make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, _ = done
    monkeypatch.setattr(makers, "is_apart", lambda plan, unit: False)
    attack = f"{apart.folder.path.parent / 'attacks.py'}:Mine"
    here = runner.execute(make_plan(tmp_path, attacks=[attack], measures=["rms"]))
    ours, theirs = (torch.cat(list(run.folder.candidate_images("mine.s0", 40))) for run in (here, apart))
    assert torch.equal(ours, theirs)
    costs = [next(cost for cost in run.metrics.costs if cost.attack == "mine") for run in (here, apart)]
    assert costs[0] == costs[1]


def test_what_it_returns_and_says_arrives(done: Any) -> None:
    result, said = done
    assert ("prints.s0: thinking", 1, 2) in said
    (first, *_) = result.folder.score_shards("prints.s0", "pixels")
    import pyarrow.parquet as pq

    columns = pq.read_table(result.folder.scores_file("prints.s0", "pixels", first))
    assert columns["attack_twice"].to_pylist() == list(range(0, 32, 2))


def test_nothing_of_the_run_is_there(done: Any) -> None:
    result, _ = done
    error = result.failures["peeks.s0"]
    assert isinstance(error, AttackFailed)
    assert str(error).startswith("peeks.s0 failed: ValueError: found [] (attacks.py, line ")
    assert "in generate" in str(error.__cause__.__cause__)


def test_an_attack_that_takes_its_process_with_it_fails_alone(done: Any) -> None:
    result, _ = done
    assert "dies.s0: the attack's process has ended (exit code 7)" in str(result.failures["dies.s0"])
    assert set(result.failures) == {"dies.s0", "peeks.s0"}


def test_the_run_says_who_was_apart(done: Any) -> None:
    result, _ = done
    assert read_json(result.folder.manifest_file)["apart"] == ["dies.s0", "mine.s0", "peeks.s0", "prints.s0"]


SLEEPER = """
import time
from sidebench import Attack

class Sleeps(Attack):
    name, title, paper, access = "sleeps", "sleeps", "none", "samples"
    def generate(self, model, state, candidates):
        import os
        from pathlib import Path
        Path("pid.new").write_text(str(os.getpid()))
        Path("pid.new").rename("pid")
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_it_ends_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
    command = ["run", "digits", "--attack", "sleeper.py:Sleeps", "--candidates", "4", "--measure", "rms"]
    command += ["--model", "control:mixture:0.2"]  # in closed form, which takes no seconds to load
    run = subprocess.Popen([sys.executable, "-m", "sidebench", *command], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "pid").exists() and run.poll() is None:
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    for _ in range(200):
        if not _runs(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the attack outlives its run")


def _runs(pid: int) -> bool:
    """Return whether a process is there and not one that has ended and waits to be asked."""
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_units_of_one_name_and_state_are_called_with_their_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    process, told = object.__new__(AttackProcess), list[Any]()
    process._stated = None

    def ask(self: AttackProcess, who: str, frame: Frame, budget: Any = None) -> Frame:
        told.append(frame.values["attack"]["settings"]["guidance_scale"] if frame.values["op"] == "state" else "made")
        return Frame({"cost": {}}, {"images": torch.zeros(1), "nan": torch.zeros(1)})

    monkeypatch.setattr(AttackProcess, "_ask", ask)
    state = AttackState({}, {})
    units = [Unit(make_attack("side", {"guidance_scale": scale}), 0) for scale in (1.0, 2.0)]
    for unit in (units[0], units[0], units[1]):
        process.generate(unit, state, Candidates(0, [0]), Sampling(micro_batch=1))
    assert told == [1.0, "made", "made", 2.0, "made"]
