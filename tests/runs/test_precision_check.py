"""A run in lower precision makes some candidates again in float32, and says whether they fall into the same bands."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.files import read_json, read_state, write_state
from sidebench.benchmark.reports.page_data import read_contents
from sidebench.benchmark.reports.tables import probe_flags
from sidebench.benchmark.reports.verdict import checks
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.runs import makers, runner, victim

Plan = Callable[..., Any]


def low_plan(make_plan: Plan, out: Path) -> Any:
    return make_plan(out, attacks=["carlini-uncond", "side"], dtype="bfloat16")


@pytest.fixture(scope="module")
def low(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner.execute(low_plan(make_plan, tmp_path_factory.mktemp("low")))


@pytest.fixture
def again(low: Any, tmp_path: Path) -> Path:
    target = tmp_path / low.folder.path.name
    shutil.copytree(low.folder.path, target)
    return target


def test_the_candidates_are_those_of_a_float32_run(low: Any, finished: Any) -> None:
    stored = read_state(low.folder.float32_file("carlini-uncond.s0")).tensors["images"]
    plain = torch.cat(list(finished.folder.candidate_images("carlini-uncond.s0", 40)))
    own = torch.cat(list(low.folder.candidate_images("carlini-uncond.s0", 40)))
    assert torch.equal(stored, plain[: len(stored)]) and len(stored) == 40
    assert not torch.equal(stored, own[: len(stored)])


def test_how_far_they_are_off_is_stored_apart_from_the_metrics(low: Any) -> None:
    units = read_json(low.folder.path / "costs.json")["units"]
    for name in ("carlini-uncond.s0", "side.s0"):
        found = units[name]["float32"]
        assert found["candidates"] == 40 and found["refused"] == ""
        assert found["largest"] > 0 and 0 <= found["share_off"] <= 1 and 0 <= found["decided_otherwise"] <= 40
    assert "float32" not in (low.folder.path / "metrics.csv").read_text(encoding="utf-8")


def test_a_run_whose_hits_stay_was_looked_at_and_goes_on(low: Any) -> None:
    found = read_json(low.folder.precision_file)
    assert found["way"] == {"dtype": "bfloat16", "compiled": False}
    assert found["candidates"] == 40 and found["moved"] == [] and low.metrics is not None


def test_a_float32_run_has_nothing_to_compare(finished: Any) -> None:
    assert not finished.folder.float32_file("side.s0").exists()
    assert read_json(finished.folder.path / "costs.json")["units"]["side.s0"]["float32"] is None


def test_candidates_that_decide_otherwise_are_flagged(again: Path, make_plan: Plan) -> None:
    folder = RunFolder(again)
    before = (again / "metrics.json").read_bytes()
    stored = read_state(folder.float32_file("side.s0"))
    copies = training_image(low_plan(make_plan, again.parent)).expand_as(stored.tensors["images"]).contiguous()
    write_state(folder.float32_file("side.s0"), AttackState({"images": copies}, stored.info))
    result = runner.execute(low_plan(make_plan, again.parent))
    found = read_json(again / "costs.json")["units"]["side.s0"]["float32"]
    assert found["decided_otherwise"] >= 37, "forty copies of a training image against what the run drew"
    (flag,) = [flag for flag in probe_flags(result.folder) if flag.startswith("side.s0: in float32")]
    assert f"{found['decided_otherwise']} of 40 candidates fall into another band" in flag
    contents = read_contents(folder)
    listed = checks(contents.metrics, contents.audit, contents.quality, contents.costs)
    (check,) = [check for check in listed if check.what == "Repeatability"]
    assert check.state == "look" and "in float32" in check.finding
    assert (again / "metrics.json").read_bytes() == before


def test_what_is_there_is_not_made_again(again: Path, make_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no model is needed")

    monkeypatch.setattr(victim, "load_victim", refuse)
    assert runner.execute(low_plan(make_plan, again.parent)).failures == {}
    RunFolder(again).float32_file("side.s0").unlink()
    with pytest.raises(AssertionError, match="no model is needed"):
        runner.execute(low_plan(make_plan, again.parent))


def test_a_float32_model_too_large_for_the_memory_is_said(
    again: Path, make_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    RunFolder(again).float32_file("side.s0").unlink()
    monkeypatch.setattr(makers, "make_candidates", too_large)
    result = runner.execute(low_plan(make_plan, again.parent))
    assert result.failures == {}
    assert "side.s0: not held against float32: it does not fit into memory" in probe_flags(result.folder)


def training_image(plan: Any) -> torch.Tensor:
    from sidebench.benchmark.data.references import load_references

    return torch.from_numpy(load_references(plan.pair).training.images[0])
