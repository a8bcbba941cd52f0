"""A real Ray of two workers, one of which is killed: the run ends in the bytes of a run by one process."""

import dataclasses
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from same_run import contents
from time_limit import time_limit

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.runs import ray_engine, runner
from sidebench.benchmark.runs.plan import plan_run

FAILS = """
from sidebench import Attack

class Fails(Attack):
    name, title, paper, access = "fails", "fails", "none", "samples"
    def generate(self, model, state, candidates):
        raise ValueError("not today")
"""


def workers() -> list[psutil.Process]:
    """Return the actors that this process has started."""
    return [each for each in psutil.Process().children(recursive=True) if each.name().startswith("ray::_Worker")]


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_run_on_two_workers_one_of_them_killed(
    make_pair_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if "CI" not in os.environ and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "fails.py").write_text(FAILS, encoding="utf-8")
    own, pair = f"{tmp_path / 'fails.py'}:Fails", load_pair(str(make_pair_file(tmp_path)))

    def planned(out: str, *attacks: str) -> Any:
        options: dict[str, Any] = {"candidates": 56, "measures": ["rms"], "device": "cpu", "out": tmp_path / out}
        plan = plan_run(pair, attacks=("side", *attacks), **options)
        return dataclasses.replace(plan, batching=Batching(micro_batch=8, shard=8))

    alone, killed, seen = runner.execute(planned("alone")), [], []

    def progress(phase: str, done: int, total: int) -> None:
        seen.extend(workers())
        if phase.endswith("candidates") and not killed:
            killed.append(min(workers(), key=lambda each: each.pid))
            killed[0].send_signal(signal.SIGKILL)

    before, here = dict(os.environ), {each.pid for each in psutil.Process().children(recursive=True)}
    capfd.readouterr()
    with time_limit(300), ray_engine.ray_engine("", 2) as engine:
        result = runner.execute(planned("shared", own), progress, engine)
        mine = [each for each in psutil.Process().children(recursive=True) if each.pid not in here]
        listening = {each.laddr.ip for child in mine for each in child.net_connections() if each.status == "LISTEN"}
        assert {name.removeprefix("::ffff:") for name in listening} == {"127.0.0.1"}
        assert {child.nice() for child in mine} == {os.nice(0)}
    assert len(killed) == 1 and len({each.pid for each in seen}) >= 2
    assert "fails.s0 failed: ValueError: not today (fails.py, line 7)" in str(result.failures["fails.s0"])
    ours, theirs = contents(result.folder), contents(alone.folder)
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert {name for name in differ if "fails.s0" not in name} == {"manifest.json"}, "one has a unit more"
    assert capfd.readouterr().out == ""
    assert not (tmp_path / ".ray").exists() and dict(os.environ) == before
    # They are told to end, and take a moment.
    _, left = psutil.wait_procs({each.pid: each for each in [*mine, *seen]}.values(), timeout=60)
    assert not [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


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
        ray_engine.RayEngine(ray, workers, 2)(plan, folder, silent)
