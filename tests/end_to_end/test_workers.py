"""Workers on one run folder: some are killed, stopped and woken up, and the run ends as if it had been alone."""

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from same_run import contents, stamps
from working import wait_until_stopped, work_until

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, CorruptRun, PlanChanged, UnknownName
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.results.leases import Desk
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.fresh_processes import fresh_processes
from sidebench.benchmark.runs.plan import RunPlan, plan_run
from sidebench.benchmark.runs.worker import planned_for_workers, work

Plan = Callable[..., RunPlan]


@pytest.fixture
def planned(make_pair_file: Callable[..., Path], tmp_path: Path) -> Plan:
    """Return a function that plans two units of 40 candidates, in shards of 16, as the command does."""
    pair = make_pair_file(tmp_path)

    def plan(out: str, attacks: tuple[str, ...] = ("side", "carlini-uncond"), **options: Any) -> RunPlan:
        options = {"candidates": 40, "measures": ["rms"], "device": "cpu", "out": tmp_path / out, **options}
        made = plan_run(load_pair(str(pair)), attacks=attacks, **options)
        return dataclasses.replace(made, batching=Batching(micro_batch=8, shard=16))

    return plan


@pytest.mark.skipif(sys.platform == "win32", reason="stops processes by signal")
def test_a_killed_and_a_stopped_worker_leave_the_run_of_one_process(planned: Plan, tmp_path: Path) -> None:
    alone = runner.execute(planned("alone"))
    plan = planned("shared")
    folder = runner.open_run(plan)
    assert not (folder.path / "images").exists() and runner.open_run(plan).path == folder.path

    context: Any = fresh_processes("cpu")
    arguments = folder.path, tmp_path / "tiny.yaml"
    killed = context.Process(target=work_until, args=(*arguments, 3, signal.SIGKILL))
    stopped = context.Process(target=work_until, args=(*arguments, 2, signal.SIGSTOP))
    try:
        for process in (killed, stopped):
            process.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        wait_until_stopped(stopped.pid)
        # A worker beside them takes over what they have begun, and makes the rest.
        assert work(folder, planned_for_workers(folder, pair=str(arguments[1]), device="cpu"), silent_for=1.0) == {}
        whole = stamps(folder)

        os.kill(stopped.pid, signal.SIGCONT)
        stopped.join(60)
        assert stopped.exitcode == 0
    finally:
        for process in (killed, stopped):
            process.kill()
            process.join()
    assert stamps(folder) == whole, "nothing was made a second time"

    result = runner.execute(plan)
    assert not result.failures and not (folder.path / "work").exists()
    assert stamps(folder) == whole
    assert contents(folder) == contents(alone.folder)


def test_a_run_makes_what_no_worker_has(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, waited = planned("shared", ("carlini-uncond",)), []
    folder = runner.open_run(plan)
    theirs = planned("theirs", ("carlini-uncond",))
    file = "images/carlini-uncond.s0/00000016-00000032.safetensors"
    runner.execute(theirs)
    with Desk(folder.path, "worker") as desk:
        lease = desk.claim("carlini-uncond.s0.00000016-00000032")
        assert lease is not None

        def sleep(self: Desk) -> None:
            waited.append(stamps(folder))
            source = theirs.folder().path / file
            lease.put(folder.path / file, lambda draft: draft.write_bytes(source.read_bytes()))

        monkeypatch.setattr(Desk, "wait", sleep)
        result = runner.execute(plan)
    (before,) = waited
    made = {f"images/carlini-uncond.s0/{name}.safetensors" for name in ("00000000-00000016", "00000032-00000040")}
    assert {name for name in before if name.startswith("images")} == made
    assert contents(result.folder) == contents(theirs.folder())


def test_a_worker_makes_what_the_last_call_asked_for_and_no_more(planned: Plan, tmp_path: Path) -> None:
    runner.execute(planned("shared", ("side",), candidates=8))
    folder = runner.open_run(planned("shared", ("carlini-uncond",), candidates=24))
    work(folder, planned_for_workers(folder, pair=str(tmp_path / "tiny.yaml"), device="cpu"))
    assert [shard.numbers.stop for shard in folder.image_shards("carlini-uncond.s0")] == [16, 24]
    assert [shard.numbers.stop for shard in folder.image_shards("side.s0")] == [8]


def test_a_run_that_is_planned_anew_ends_its_workers(planned: Plan, tmp_path: Path) -> None:
    folder = runner.open_run(planned("shared", ("carlini-uncond",)))
    old = planned_for_workers(folder, pair=str(tmp_path / "tiny.yaml"), device="cpu")
    said = []

    def progress(phase: str, done: int, total: int) -> None:
        said.append(done)
        runner.open_run(planned("shared", ("carlini-uncond",), candidates=56))

    with pytest.raises(PlanChanged, match="planned again"):
        work(folder, old, progress=progress)
    assert said == [16] and [shard.numbers.stop for shard in folder.image_shards("carlini-uncond.s0")] == [16]
    with pytest.raises(BadInput, match="give --pair FILE"):
        planned_for_workers(folder)
    with pytest.raises(UnknownName, match="attack of this run"):
        planned_for_workers(folder, pair=str(tmp_path / "tiny.yaml"), attacks=["side"])
    pair = tmp_path / "tiny.yaml"
    pair.write_text(pair.read_text(encoding="utf-8").replace("steps: 3", "steps: 2"), encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot be made here as it was planned: pair_identity|protocol"):
        planned_for_workers(folder, pair=str(pair))
    shutil.rmtree(folder.path / "work")
    with pytest.raises(PlanChanged, match="--plan-only"):
        planned_for_workers(folder, pair=str(pair))


@pytest.mark.parametrize("seed", ["x/../../../../victim", -1, 2**63, True, 0.5, None])
def test_cheat_a_plan_whose_seed_is_a_path_writes_nothing(seed: Any, planned: Plan, tmp_path: Path) -> None:
    folder = runner.open_run(planned("shared", ("carlini-uncond",), candidates=8))
    file = folder.path / "work" / "plan.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    (unit,) = content["plan"]["units"].values()
    content["plan"]["units"] = {f"carlini-uncond.s{seed}": {**unit, "seed": seed}}
    file.write_text(json.dumps(content), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptRun, match="is no unit of this run; delete work/"):
        planned_for_workers(folder, pair=str(tmp_path / "tiny.yaml"))
    assert sorted(tmp_path.rglob("*")) == before


FAILS = """
from sidebench import Attack

class Fails(Attack):
    name, title, paper, access = "fails", "fails", "none", "samples"
    def generate(self, model, state, candidates):
        raise ValueError("not today")
"""


def test_an_attack_that_fails_is_told_and_the_others_are_made(planned: Plan, tmp_path: Path, call: Any) -> None:
    (tmp_path / "fails.py").write_text(FAILS, encoding="utf-8")
    own = f"{tmp_path / 'fails.py'}:Fails"
    folder = runner.open_run(planned("shared", (own, "carlini-uncond"), candidates=8))
    arguments = ("worker", folder.path, "--pair", tmp_path / "tiny.yaml", "--device", "cpu")
    code, _, err = call(*arguments)
    assert code == 2 and "'fails'" in err, "a file that the folder names is not run"
    code, out, err = call(*arguments, "--attack", own)
    assert (code, out) == (3, "") and "fails.s0 failed: ValueError: not today" in err
    assert torch.cat(list(folder.candidate_images("carlini-uncond.s0", 8))).shape[0] == 8
