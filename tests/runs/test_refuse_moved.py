"""A run whose precision, or compiled denoiser, moves a hit is refused before anything is made; others go on."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.errors import BadSetting, RunConflict
from sidebench.benchmark.files import read_json
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.pipeline import PipelineModel
from sidebench.benchmark.runs import batching, makers, refuse_moved, runner

Plan = Callable[..., Any]

MOVING_STEPS = 20
"""Steps of the sampler after which bfloat16 decides some of 64 digits otherwise."""


def compiled_plan(make_plan: Plan, out: Path, **options: Any) -> Any:
    plan = make_plan(out, attacks=["carlini-uncond"], **options)
    return dataclasses.replace(plan, batching=plan.batching.model_copy(update={"compiled": True}))


def longer(plan: Any) -> Any:
    """Return the plan with so many steps that images of digits come out, some of them in a band."""
    sampler = plan.protocol.sampler.model_copy(update={"steps": MOVING_STEPS})
    return dataclasses.replace(plan, protocol=plan.protocol.model_copy(update={"sampler": sampler}))


def eagerly(model: PipelineModel) -> None:
    """Compile as a run does, by the backend that translates nothing."""
    (network,) = model._networks().values()
    network._compiled_call_impl = torch.compile(network._call_impl, backend="eager")  # type: ignore[operator]


def wrongly(model: PipelineModel) -> None:
    """Stand for a compiler that changes what the network computes."""
    (network,) = model._networks().values()
    for weights in network.parameters():
        weights.mul_(0.9)


def looked_at(plan: Any) -> Any:
    return read_json(plan.folder().precision_file)


def test_float32_has_nothing_to_look_at(finished: Any) -> None:
    assert not finished.folder.precision_file.exists()


def test_bfloat16_is_refused_where_hits_move(make_plan: Plan, tmp_path: Path) -> None:
    plan = longer(make_plan(tmp_path, attacks=["side"], dtype="bfloat16", candidates=64))
    with pytest.raises(
        BadSetting, match=r"^bfloat16 decides \d+ of 64 candidates otherwise than float32 .*--dtype out$"
    ):
        runner.execute(plan)
    assert looked_at(plan)["moved"]
    assert not (plan.folder().path / "images").exists() and not plan.folder().state_file("side.s0").exists()
    with pytest.raises(BadSetting, match="leave --dtype out"):
        runner.open_run(plan)


def test_what_was_refused_is_refused_without_a_model(
    make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = longer(compiled_plan(make_plan, tmp_path))
    monkeypatch.setattr(PipelineModel, "compile", wrongly)
    with pytest.raises(BadSetting, match=r"^compiling decides .* leave --compile out$"):
        runner.execute(plan)
    first = looked_at(plan)
    assert first["moved"] and first["way"] == {"dtype": "float32", "compiled": True}
    monkeypatch.setattr(refuse_moved, "_moved", None)
    with pytest.raises(BadSetting, match=f"candidate {first['moved'][0]} for one"):
        runner.execute(plan)
    # Without it the same folder is a run as any other.
    plain = dataclasses.replace(plan, batching=plan.batching.model_copy(update={"compiled": False}))
    assert plain.folder().path == plan.folder().path
    runner.open_run(plain)
    assert "compiled" not in read_json(plain.folder().manifest_file)["batching"]


def test_a_finding_serves_what_it_is_about(make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[str, str, int]] = []

    def moved(plan: Any, unit: Any) -> dict[str, Any]:
        looks.append((unit.name, plan.measures[0].id, min(64, plan.candidates)))
        return {"candidates": looks[-1][2], "moved": [], "refused": ""}

    monkeypatch.setattr(refuse_moved, "_moved", moved)
    few = make_plan(tmp_path, attacks=["carlini-uncond"], dtype="bfloat16", candidates=4)
    folder, unit = few.folder(), few.units[0]
    again = dataclasses.replace(unit, seed=1)
    for change in ({}, {}, {"candidates": 16}, {}, {"candidates": 100}, {"candidates": 200}, {"units": (again,)}):
        refuse_moved.refuse_moved(dataclasses.replace(few, **change), folder)
    measure = few.measures[0].id
    assert looks == [*((unit.name, measure, number) for number in (4, 16, 64)), (again.name, measure, 4)]
    other = dataclasses.replace(few, units=(again,), measures=few.measures[1:])
    refuse_moved.refuse_moved(other, folder)
    assert looks[-1] == (again.name, other.measures[0].id, 4) and len(looks) == 5
    # What is made is not looked at any more.
    monkeypatch.setattr(type(folder), "has_made", lambda self, unit: True)
    refuse_moved.refuse_moved(few, folder)
    assert len(looks) == 5


def test_a_compiled_run_is_recorded_and_keeps_to_it(
    make_plan: Plan, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipelineModel, "compile", eagerly)
    plan = compiled_plan(make_plan, tmp_path)
    result = runner.execute(plan)
    name = "carlini-uncond.s0"
    assert looked_at(plan)["moved"] == [] and read_json(plan.folder().manifest_file)["batching"]["compiled"] is True
    ours, theirs = (torch.cat(list(run.folder.candidate_images(name, 40))) for run in (result, finished))
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert read_json(plan.folder().path / "costs.json")["units"][name]["float32"]["decided_otherwise"] == 0
    plain = plan.batching.model_copy(update={"compiled": False})
    assert batching.in_force(plan.folder(), plain, None).compiled
    assert not batching.in_force(plan.folder(), plain, None, fresh=True).compiled


def test_a_run_made_without_compiling_does_not_begin_to(finished: Any, make_plan: Plan) -> None:
    new = compiled_plan(make_plan, finished.folder.path.parent).batching
    with pytest.raises(RunConflict, match="was made without --compile"):
        batching.in_force(finished.folder, new, None)


def test_what_torch_cannot_compile_is_said(make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: PipelineModel) -> None:
        (network,) = model._networks().values()

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError("no C++ compiler")

        network.forward = refuse

    monkeypatch.setattr(PipelineModel, "compile", fail)
    with pytest.raises(BadSetting, match=r"^--compile: .*no C\+\+ compiler.* leave it out$"):
        runner.execute(compiled_plan(make_plan, tmp_path))


def test_an_attack_that_fails_is_left_to_the_run(
    make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("mine")

    monkeypatch.setattr(makers, "make_candidates", fail)
    plan = make_plan(tmp_path, attacks=["carlini-uncond"], dtype="bfloat16")
    assert "mine" in str(runner.execute(plan).failures["carlini-uncond.s0"])
    assert "mine" in looked_at(plan)["refused"]


def test_only_pipelines_are_compiled(make_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="--compile is for pipelines of diffusers"):
        make_plan(tmp_path, model="control:copycat", compiled=True)


def test_what_a_call_costs_is_that_of_the_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    plain = ModelSpec(family="pixel", location="zoo:digits")
    model = load_model(plain.model_copy(update={"compiled": True}))
    assert isinstance(model, PipelineModel) and compiled == [*model._networks().values()]
    assert "_flops" in vars(model) and model.flops_per_sample() == load_model(plain).flops_per_sample()
    eagerly(model)
    copied = copy.deepcopy(*model._networks().values())
    assert copied._compiled_call_impl is None, "adapters change what would be compiled already"
