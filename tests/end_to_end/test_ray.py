"""A real Ray of two workers, some of which are killed: what it makes and scores has the bytes of one process."""

import dataclasses
import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from same_run import contents
from time_limit import time_limit

from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.data.pair import Overrides, Pair, load_pair
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.gate import judge
from sidebench.benchmark.gate.policy import Policy
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.runs import ray_engine, runner, tune
from sidebench.benchmark.runs.plan import plan_run

FAILS = """
import gc
from sidebench import Attack

class Fails(Attack):
    name, title, paper, access = "fails", "fails", "none", "samples"
    def generate(self, model, state, candidates):
        held = sum(type(each).__name__ in ("References", "ImageSet", "Pair") for each in gc.get_objects())
        raise ValueError(f"not today, with {held} of them at hand")
"""
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 2, "batch": 8, "width": 8, "cohesion": -1.0}


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def workers() -> list[psutil.Process]:
    """Return the actors that this process has started and that are alive."""
    found = []
    for each in children():
        try:
            if each.name().startswith("ray::Worker") and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda each: each.pid)


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}


class Killer:
    """Told of progress, it kills one worker as soon as a phase of this name is reported."""

    def __init__(self, phase: str) -> None:
        self.phase, self.seen, self.killed = phase, dict[int, psutil.Process](), list[psutil.Process]()

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.seen |= {each.pid: each for each in workers()}
        if self.phase in phase and not self.killed and (there := workers()):
            self.killed.append(there[0])
            there[0].send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray_engine.RayEngine]:
    """Yield an engine of two workers on a Ray of its own, which leaves nothing behind."""
    if sys.platform == "win32":
        pytest.skip("kills by signal")
    if "CI" not in os.environ and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        before, here = environment(), {each.pid for each in children()}
        with time_limit(300), ray_engine.ray_engine("", 2) as made:
            mine = [each for each in children() if each.pid not in here]
            yield made
            mine = list({each.pid: each for each in [*mine, *children()] if each.pid not in here}.values())
        assert not (home / ".ray").exists() and environment() == before
    # They are told to end, and take a moment.
    _, left = psutil.wait_procs(mine, timeout=60)
    assert not [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def pair(make_pair_file: Callable[..., Path], tmp_path: Path) -> Pair:
    return load_pair(str(make_pair_file(tmp_path)))


def test_a_tuning_with_a_worker_killed(engine: ray_engine.RayEngine, tmp_path: Path) -> None:
    found = load_pair("digits")
    assert found.recipe is not None
    small = {"recipe": found.recipe.model_copy(update={"steps": 2, "batch": 4})}
    small["attacks"] = {"side": found.attacks["side"].model_copy(update={"settings": SMALL})}
    small["protocol"] = Overrides(micro_batch=8, sampler=SamplerSettings(steps=3))
    grid = {"training_steps": [1, 2], "guidance_scale": [0.0, 1.0]}
    options: dict[str, Any] = {"candidates": 16, "device": "cpu"}

    def tuned(out: str, progress: Any = silent, **more: Any) -> Path:
        changed = found.model_copy(update=small)
        tune.tune(changed, "side", grid, out=tmp_path / out, progress=progress, **options, **more)
        return tmp_path / out

    alone, killer = tuned("alone"), Killer("candidates at")
    shared = tuned("shared", killer, engine=engine)
    assert len(killer.killed) == 1
    files = [sorted(file.relative_to(out) for file in out.rglob("*") if file.is_file()) for out in (alone, shared)]
    assert files[0] == files[1], "neither leases nor progress are left"
    assert all((alone / file).read_bytes() == (shared / file).read_bytes() for file in files[0])


def test_a_gate_makes_on_workers_what_it_makes_alone(
    engine: ray_engine.RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(
        schema="sidebench-policy/1",
        attacks={"carlini-uncond": {}},
        measure="nl2c:n50:a0.5",
        threshold={"calibrate": {"rate": 0.02, "candidates": 512}},
        limits={"excess": 0.06},
        budget={"candidates": 1024},
    )

    def decided(out: str, **more: Any) -> Any:
        options: dict[str, Any] = {"model": "control:heldout", "device": "cpu", "out": tmp_path / out}
        return judge.gate_pair(load_pair("digits"), policy, **options, **more)

    alone, shared = decided("alone"), decided("shared", engine=engine)
    assert alone.verdict == "pass" and (alone.findings, alone.attacks) == (shared.findings, shared.attacks)
    assert alone.checks == shared.checks
    assert contents(RunFolder(alone.folder)) == contents(RunFolder(shared.folder))


def test_a_run_with_a_worker_killed_at_its_images_and_one_at_its_scores(
    engine: ray_engine.RayEngine,
    pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "fails.py").write_text(FAILS, encoding="utf-8")
    own = f"{tmp_path / 'fails.py'}:Fails"

    def planned(out: str, *attacks: str) -> Any:
        options: dict[str, Any] = {"candidates": 56, "measures": ["rms"], "device": "cpu", "out": tmp_path / out}
        plan = plan_run(pair, attacks=("side", *attacks), **options)
        return dataclasses.replace(plan, batching=Batching(micro_batch=8, shard=8))

    alone, killer, scored, killed = runner.execute(planned("alone")), Killer("candidates"), ray_engine._scored, []
    calls = itertools.count()

    def killing(*arguments: Any) -> Any:
        if next(calls) == 0:  # one of the two that are to be asked
            killed.append(workers()[0])
            killed[0].send_signal(signal.SIGKILL)
        return scored(*arguments)

    monkeypatch.setattr(ray_engine, "_scored", killing)
    capfd.readouterr()
    result = runner.execute(planned("shared", own), killer, engine)
    mine = children()
    listening = {each.laddr.ip for child in mine for each in _connections(child) if each.status == "LISTEN"}
    assert {name.removeprefix("::ffff:") for name in listening} == {"127.0.0.1"}
    assert {child.nice() for child in mine if child.is_running()} == {os.nice(0)}
    assert len(killer.killed) == len(killed) == 1 and len(killer.seen) >= 3
    assert "scores: a Ray worker has died" in caplog.text
    said = "fails.s0 failed: ValueError: not today, with 0 of them at hand (fails.py, line 9)"
    assert said in str(result.failures["fails.s0"])
    ours, theirs = contents(result.folder), contents(alone.folder)
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert {name for name in differ if "fails.s0" not in name} == {"manifest.json"}, "one has a unit more"
    assert capfd.readouterr().out == ""


def _connections(child: psutil.Process) -> Any:
    """Return the connections of a process that may have ended."""
    try:
        return child.net_connections()
    except psutil.NoSuchProcess:
        return []


def test_another_engine_is_refused() -> None:
    assert ray_engine.address_of("ray") == "" and ray_engine.address_of("ray:10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(BadInput, match="there is ray"):
        ray_engine.address_of("dask")


def test_without_ray_the_line_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install 'ray>=2.40'"), ray_engine.ray_engine("", 1):
        pass


@pytest.mark.parametrize(
    ("device", "workers", "words"),
    [("cpu", 3, "each takes 2 CPU, and Ray has 4; fewer workers, or OMP"), ("cuda:0", 2, "takes 1 GPU, and Ray has 1")],
)
def test_workers_that_would_never_start_are_refused(device: str, workers: int, words: str) -> None:
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": 1.0})
    plan: Any = SimpleNamespace(model=SimpleNamespace(live=None, device=device))
    folder: Any = None
    with pytest.raises(BadInput, match=words):
        ray_engine.RayEngine(ray, workers, 2).make(plan, folder, silent)
