"""A run that grows: more candidates, other attacks, and what its folder then answers for."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidebench.benchmark.contracts import Band, SamplerSettings
from sidebench.benchmark.data import references
from sidebench.benchmark.errors import BadSetting, RunConflict
from sidebench.benchmark.files import read_info, read_json
from sidebench.benchmark.measures.hits import in_band
from sidebench.benchmark.protocol import TIERS, batching, default_micro_batch
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.run_folder import RunFolder, stored_batching
from sidebench.benchmark.results.score_files import read_all_scores
from sidebench.benchmark.results.shards import missing
from sidebench.benchmark.results.unit_scores import UnitScores
from sidebench.benchmark.runs import runner

Plan = Callable[..., Any]
THREE_STEPS = SamplerSettings(steps=3)
QUICK = {name: {"synthetic_images": 256, "clusters": 3, "training_steps": 2} for name in ("carlini-cond", "side")}


def files_of(folder: Path) -> dict[str, int]:
    found = [file for part in ("images", "state", "scores") for file in (folder / part).rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in found}


def refuse(*_: Any) -> None:
    raise AssertionError("the model or the references were loaded")


@pytest.fixture(scope="module")
def grown(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what 20 candidates left, and the folder after it grew to the 40 of the finished run."""
    out = tmp_path_factory.mktemp("grown")
    first = runner.execute(make_plan(out, candidates=20))
    before, metrics = files_of(first.folder.path), (first.folder.path / "metrics.json").read_bytes()
    result = runner.execute(make_plan(out, candidates=40))
    assert not first.failures and not result.failures
    return {"folder": result.folder, "files": before, "metrics": metrics, "out": out}


@pytest.fixture
def copy(grown: dict[str, Any], tmp_path: Path) -> RunFolder:
    shutil.copytree(grown["out"], tmp_path / "grown")
    return RunFolder(tmp_path / "grown" / grown["folder"].path.name)


def test_more_candidates_end_in_the_bytes_of_a_run_that_had_them_at_once(grown: dict[str, Any], finished: Any) -> None:
    folder = grown["folder"]
    assert folder.path.name == finished.folder.path.name
    for name in ("metrics.json", "metrics.csv", "references.parquet", "quality.json"):
        assert (folder.path / name).read_bytes() == (finished.folder.path / name).read_bytes(), name


def test_what_was_made_stays_as_it_was(grown: dict[str, Any]) -> None:
    probes = {name for name in grown["files"] if name.endswith("probe.json")}
    after = files_of(grown["folder"].path)
    assert {name: grown["files"][name] for name in grown["files"].keys() - probes}.items() <= after.items()
    shards = [(s.numbers.start, s.numbers.stop) for s in grown["folder"].image_shards("side.s0")]
    assert shards == [(0, 16), (16, 20), (20, 32), (32, 40)]


def test_the_smaller_number_is_answered_again_without_work(
    grown: dict[str, Any], copy: RunFolder, make_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidebench.benchmark.models.load_model", refuse)
    monkeypatch.setattr(references, "load_references", refuse)
    more = (copy.path / "metrics.json").read_bytes()
    result = runner.execute(make_plan(copy.path.parent, candidates=20))
    assert (copy.path / "metrics.json").read_bytes() == grown["metrics"]
    assert {found.candidates for found in result.metrics.results} == {20}
    assert (copy.path / "results" / "40" / "metrics.json").read_bytes() == more
    again = runner.execute(make_plan(copy.path.parent, candidates=40))
    assert (copy.path / "metrics.json").read_bytes() == more and not list((copy.path / "results" / "40").iterdir())
    assert {found.candidates for found in again.metrics.results} == {40}


def test_a_number_that_was_never_asked_for_is_cut_from_what_is_there(
    grown: dict[str, Any], copied: Path, make_plan: Plan
) -> None:
    """The last shard that counts holds later candidates too, and so do its costs."""
    before = files_of(copied)
    runner.execute(make_plan(copied.parent, candidates=20))
    assert (copied / "metrics.json").read_bytes() == grown["metrics"]
    assert files_of(copied) == before


def test_damaged_results_are_computed_again(copy: RunFolder, make_plan: Plan) -> None:
    wanted = (copy.path / "metrics.json").read_bytes()
    (copy.path / "metrics.json").write_bytes(wanted.replace(b'"ams"', b'"amz"', 1))
    (copy.path / "quality.json").unlink()
    runner.execute(make_plan(copy.path.parent))
    assert (copy.path / "metrics.json").read_bytes() == wanted and (copy.path / "quality.json").is_file()


def test_images_under_another_name_are_made_again(copy: RunFolder, make_plan: Plan, caplog: Any) -> None:
    wanted = (copy.path / "metrics.json").read_bytes()
    old, new = (f"images/side.s0/000000{numbers}.safetensors" for numbers in ("20-00000032", "20-00000030"))
    (copy.path / old).rename(copy.path / new)
    runner.execute(make_plan(copy.path.parent))
    assert (copy.path / "metrics.json").read_bytes() == wanted and (copy.path / old).exists()
    assert caplog.messages == [f"{new} was changed or cut; it is rebuilt"]


def test_the_gate_reads_the_candidates_that_were_asked_for(copied: Path, make_plan: Plan) -> None:
    from sidebench.benchmark.data.references import load_references
    from sidebench.benchmark.gate.source import FinishedRun

    plan = make_plan(copied.parent, candidates=20)
    folder = runner.execute(plan).folder
    units = [unit for unit in plan.units if unit.name == "side.s0"]
    source = FinishedRun(folder, plan.pair, load_references(plan.pair), units, "nl2c:n50:a0.5")
    assert [len(source.scores("side.s0", shard).candidates) for shard in range(2)] == [16, 4]
    assert [len(source.images("side.s0", shard)) for shard in range(2)] == [16, 4]


# ---- Plug-ins ---------------------------------------------------------------------------------------

MINE = """
from sidebench import Attack, AttackState, Defence, Generated

class Mine(Attack):
    name, title, paper, access = "mine", "mine", "none", "samples"
    def prepare(self, model, budget):
        return AttackState({}, {"half": budget.candidates // 2})
    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates).flip(3))

class Same(Defence):
    name, title, paper, level = "same", "changes nothing", "none", "loop"
    def wrap(self, model, training):
        return model
"""


def edited(file: Path) -> None:
    file.write_text(MINE.replace(".flip(3)", ".flip(2)"), encoding="utf-8")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    return file


def test_an_edited_attack_is_another_attack(mine: Path, make_plan: Plan, tmp_path: Path) -> None:
    options = {"attacks": (f"{mine}:Mine", "carlini-uncond"), "measures": ["rms"], "candidates": 16}
    folder = runner.execute(make_plan(tmp_path, **options)).folder
    before = files_of(folder.path)
    edited(mine)
    said = (folder.path / "metrics.json").read_bytes()
    for number in (16, 24):
        with pytest.raises(RunConflict, match=r"mine.s0 was made by other settings: its code has changed; "):
            runner.execute(make_plan(tmp_path, **{**options, "candidates": number}))
    with pytest.raises(RunConflict, match=r"mine.s0 was made by other settings"):
        runner.execute(make_plan(tmp_path, **options, fresh_attacks=["carlini-uncond"]))
    assert (folder.path / "metrics.json").read_bytes() == said, "a refused call changes nothing"
    assert files_of(folder.path) == before
    result = runner.execute(make_plan(tmp_path, **options, fresh_attacks=[f"{mine}:Mine"]))
    after = files_of(result.folder.path)
    other = {name for name in before if "mine.s0" in name}
    assert result.folder.path == folder.path and not result.failures
    assert all(after[name] != before[name] for name in other)
    assert all(after[name] == before[name] for name in before.keys() - other)


def test_an_edited_defence_is_another_run(mine: Path, make_plan: Plan, tmp_path: Path) -> None:
    options = {"attacks": ("carlini-uncond",), "defences": [f"{mine}:Same"]}
    first = make_plan(tmp_path, **options)
    edited(mine)
    second = make_plan(tmp_path, **options)
    assert first.folder().path != second.folder().path
    assert first.identity()["code"]["same"]["file"] == "mine.py"


def test_a_state_that_depends_on_the_number_is_made_for_each(mine: Path, make_plan: Plan, tmp_path: Path) -> None:
    options = {"attacks": (f"{mine}:Mine", "carlini-uncond"), "measures": ["rms"]}
    folder = runner.execute(make_plan(tmp_path, **options, candidates=16)).folder
    before = files_of(folder.path)
    runner.execute(make_plan(tmp_path, **options, candidates=32))
    state = read_info(folder.state_file("mine.s0"))
    assert state["state"]["half"] == 16 and state["candidates"] == 32
    after, first = files_of(folder.path), "images/{}/00000000-00000016.safetensors"
    assert after[first.format("mine.s0")] != before[first.format("mine.s0")]
    assert after[first.format("carlini-uncond.s0")] == before[first.format("carlini-uncond.s0")]
    assert read_info(folder.state_file("carlini-uncond.s0"))["candidates"] is None
    fewer = runner.execute(make_plan(tmp_path, **{**options, "attacks": ("carlini-uncond",)}, candidates=16))
    assert {found.attack for found in fewer.metrics.results} == {"carlini-uncond"}, "the other one's state is of 32"


# ---- How the work is cut ----------------------------------------------------------------------------


def test_the_micro_batch_is_no_part_of_what_a_run_is(make_plan: Plan, tmp_path: Path) -> None:
    from sidebench import load_pair, plan_run

    sizes = (1, 5, 256)
    plans = [plan_run(load_pair("digits"), candidates=64, out=tmp_path, micro_batch=n) for n in sizes]
    assert len({plan.folder().path for plan in plans}) == 1
    assert [plan.batching.micro_batch for plan in plans] == [*sizes]
    assert plan_run(load_pair("digits"), candidates=64, out=tmp_path).batching.micro_batch == 64
    assert plan_run(load_pair("digits"), candidates=100, out=tmp_path).batching.micro_batch == 64
    assert plan_run(load_pair("digits"), candidates=1024, out=tmp_path).batching.micro_batch == 256
    for wrong in (0, -1, 5000):
        with pytest.raises(BadSetting, match="--micro-batch must be between 1 and 4,096 rows"):
            plan_run(load_pair("digits"), out=tmp_path, micro_batch=wrong)


def test_the_micro_batch_of_a_folder_holds(make_plan: Plan, tmp_path: Path, make_pair_file: Any) -> None:
    from sidebench import load_pair, plan_run

    pair = load_pair(str(make_pair_file(tmp_path)))

    def plan(**options: Any) -> Any:
        return plan_run(pair, attacks=["carlini-uncond"], measures=["rms"], out=tmp_path, **options)

    folder = runner.execute(plan(candidates=8, micro_batch=2)).folder
    assert stored_batching(folder) == batching(2) and read_json(folder.manifest_file)["candidates"] == 8
    assert plan(candidates=300).batching == batching(2)
    with pytest.raises(RunConflict, match="was made with micro-batch 2, which it keeps"):
        plan(candidates=300, micro_batch=16)
    assert plan(candidates=300, micro_batch=16, fresh=True).batching == batching(16)


def test_hits_do_not_depend_on_the_micro_batch(finished: Any, make_plan: Plan, tmp_path: Path) -> None:
    """At most 1 in 1,000 decisions may differ (docs/runs.md), which of these is none."""
    plan = make_plan(tmp_path, attacks=("carlini-uncond", "side"))
    other = runner.execute(dataclasses.replace(plan, batching=batching(5)))
    assert stored_batching(other.folder) == batching(5)
    measure = make_measure("nl2c:n50:a0.5")
    for unit in ("carlini-uncond.s0", "side.s0"):
        best, images = [], []
        for run in (finished, other):
            scores = UnitScores(read_all_scores(run.folder, unit, "pixels", 40), [measure])
            best.append(scores.best_scores[measure.id, "training"])
            images.append(torch.cat(list(run.folder.candidate_images(unit, 40))).int())
        assert (images[0] - images[1]).abs().max() <= 1
        ranked = np.sort(best[0])
        for place in (10, 20, 30):
            band = Band("nearest", 0.0, float(ranked[place - 1 : place + 1].mean()))
            first, second = (in_band(own, band, measure) for own in best)
            assert first.sum() == place and np.array_equal(first, second)


@pytest.mark.parametrize("tier", ["smoke", "quick", "standard"])
@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 128, 256])
def test_few_rows_are_computed_for_nothing(tier: str, side: int) -> None:
    cut = batching(min(default_micro_batch("pixel", side * side), 1 << (TIERS[tier].bit_length() - 1)))
    assert cut.shard % cut.micro_batch == 0
    shards = missing([], TIERS[tier], cut.shard)
    computed = sum(-(-len(shard.numbers) // cut.micro_batch) * cut.micro_batch for shard in shards)
    assert computed <= 1.05 * TIERS[tier]


def test_rows_computed_are_rows_booked(make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidebench import load_pair, plan_run
    from sidebench.benchmark.models.pixel import PixelModel

    rows, before = [], PixelModel.predict

    def counted(self: Any, x_t: Any, t: Any, condition: Any = None) -> Any:
        rows.append(len(x_t))
        return before(self, x_t, t, condition)

    pair = load_pair("digits")
    pair = pair.model_copy(update={"protocol": pair.protocol.model_copy(update={"sampler": THREE_STEPS})})
    plan = plan_run(pair, tier="smoke", measures=["rms"], device="cpu", out=tmp_path, settings=QUICK)
    monkeypatch.setattr(PixelModel, "predict", counted)
    result = runner.execute(plan)
    assert not result.failures
    units = read_json(result.folder.path / "costs.json")["units"]
    probed = sum(sum(unit["probe"]["cost"]["nfe"].values()) for unit in units.values())
    attacked = sum(sum(cost.nfe.values()) for cost in result.metrics.costs)
    # The synthetic images of both guided attacks are the same, made once and booked twice; the counted calls that are
    # left are those by which a model says how much a call of it is.
    shared = result.metrics.costs[1].nfe["prepare"]
    booked, padding = attacked + probed - shared, 3 * (256 - 32)  # 32 images for the check of the classifiers
    assert booked <= sum(rows) <= 1.05 * booked + padding
    assert probed <= 0.03 * attacked
