"""Runs: what they leave behind, how they resume, and what they do with broken attacks and broken files."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import run_small

from sidebench.benchmark.data import references
from sidebench.benchmark.errors import AttackFailed, BadInput, CorruptRun, RunConflict
from sidebench.benchmark.files import read_state
from sidebench.benchmark.measures.hits import nested_bands
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import Metrics
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.fresh_processes import fresh_processes

Plan = Callable[..., Any]
SHARDS = [shard_of(numbers) for numbers in (range(16), range(16, 32), range(32, 40))]
UNITS = ("carlini-uncond.s0", "carlini-cond.s0", "side.s0")


def stamps(folder: Path) -> dict[str, int]:
    """Return when each image, state and score file was written; a shard's scores count once its last file is there."""
    files = [file for part in ("images", "state", "scores") for file in (folder / part).rglob("*") if file.is_file()]
    files = [file for file in files if not file.name.endswith((".pairs.parquet", ".bins.parquet"))]
    return {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in files}


def result_bytes(folder: Path) -> bytes:
    return (folder / "metrics.json").read_bytes()


DEFENCE = """
from sidebench import Defence

class Damped(Defence):
    name, title, paper, level = "damped", "half the noise prediction", "none", "denoiser"
    def wrap(self, model, training):
        original = model.predict
        model.predict = lambda x_t, t, condition=None: 0.5 * original(x_t, t, condition)
        return model

class OnlyText(Damped):
    name, conditionings = "only-text", frozenset({"text"})
"""


def test_a_defence_stands_between_model_and_every_attack(finished: Any, tmp_path: Path, make_plan: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DEFENCE, encoding="utf-8")
    plan = make_plan(tmp_path, defences=[f"{file}:Damped"])
    result = runner.execute(plan)
    assert not result.failures and result.folder.path.name != finished.folder.path.name
    assert result.folder.manifest()["identity"]["defences"] == {"damped": {}}
    for unit in ("carlini-uncond.s0", "side.s0"):
        defended, plain = (torch.cat(list(run.candidate_images(unit, 16))) for run in (result.folder, finished.folder))
        assert not torch.equal(defended, plain)


def test_a_defence_that_does_not_fit_is_refused_before_any_work(tmp_path: Path, make_plan: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DEFENCE, encoding="utf-8")
    with pytest.raises(BadInput, match="only-text works on models with conditioning text, not none"):
        make_plan(tmp_path, defences=[f"{file}:OnlyText"])
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [file]


# ---- What a run leaves ------------------------------------------------------------------------------


def test_run_folder_is_complete(finished: Any) -> None:
    folder: Path = finished.folder.path
    for name in ("manifest.json", "references.parquet", "metrics.json", "metrics.csv", "costs.json", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    for unit in UNITS:
        assert (folder / "state" / unit / "state.safetensors").is_file()
        assert (folder / "evidence" / unit / "pairs.json").is_file()
        assert list((folder / "evidence" / unit).glob("*.png"))
        for shard in SHARDS:
            assert finished.folder.images_file(unit, shard).is_file()
            for part in ("", "pairs", "bins"):
                assert finished.folder.scores_file(unit, "pixels", shard, part).is_file()
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.rglob("checkpoint-*"))


def test_metrics_file_validates(finished: Any) -> None:
    metrics = Metrics.model_validate(json.loads(result_bytes(finished.folder.path)))
    assert metrics == finished.metrics
    assert metrics.run_id == finished.folder.path.name
    assert [cost.attack for cost in metrics.costs] == ["carlini-uncond", "carlini-cond", "side"]
    assert {result.candidates for result in metrics.results} == {40}
    # After three steps of training.
    assert [flag.partition(" on ")[0] for flag in metrics.flags] == [
        f"{attack} seed 0: the classifier that guides is no better than chance" for attack in ("carlini-cond", "side")
    ]


def test_logical_costs_are_counted(finished: Any) -> None:
    costs = {cost.attack: cost for cost in finished.metrics.costs}
    assert costs["carlini-uncond"].nfe == {"generate": 40 * 3}
    for name in ("carlini-cond", "side"):
        assert costs[name].nfe == {"prepare": (24 + 12) * 3, "generate": 40 * 3}
        assert costs[name].flops["prepare"] > 0 and costs[name].flops["generate"] > 0


def test_attacks_stand_beside_each_other_at_equal_effort(finished: Any) -> None:
    efforts, costs = finished.metrics.efforts, {cost.attack: cost for cost in finished.metrics.costs}
    nested = [band.name for band in nested_bands(make_measure(finished.metrics.results[0].measure))]
    assert list(dict.fromkeys(each.band for each in efforts)) == [nested[0], nested[-1]]
    found = [each for each in efforts if each.band == nested[0]]
    plain, guided = 40 * 3, (24 + 12 + 40) * 3
    calls = {(each.budget, each.attack): each for each in found if each.currency == "denoiser calls"}
    assert list(calls) == [(budget, attack) for budget in (plain, guided) for attack in costs]
    assert calls[plain, "side"].candidates == 4 and calls[plain, "side"].kind == "rarefied"
    assert calls[guided, "carlini-uncond"].candidates == 76
    assert calls[guided, "side"].budget_of == "carlini-cond and side"
    for each in found:
        cost = costs[each.attack]
        if each.currency == "denoiser calls":
            assert each.synthetic_images == 0
        elif each.budget == cost.denoiser_equivalents:
            # Its own total buys all that it made, synthetic images too.
            assert (each.candidates, each.synthetic_images, each.kind) == (40, cost.synthetic_images, "observed")
            assert each.hits.value == pytest.approx(cost.hits + cost.synthetic_hits)
        assert each.hits.low <= each.hits.value <= each.hits.high
        assert (each.groups is None) == bool(each.refused)
    # The widest band holds whatever the closest does: the same images for the same money, and no fewer hits.
    wide = [each for each in efforts if each.band == nested[-1]]
    assert [(each.attack, each.budget, each.candidates) for each in wide] == [
        (each.attack, each.budget, each.candidates) for each in found
    ]
    gains = [far.hits.value - near.hits.value for near, far in zip(found, wide, strict=True)]
    assert min(gains) >= 0 and max(gains) > 0


def test_no_path_or_host_in_the_stored_json(finished: Any) -> None:
    folder: Path = finished.folder.path
    for name in ("manifest.json", "metrics.json", "costs.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert str(folder.parent) not in text and os.uname().nodename not in json.loads(text).values()


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where the run itself imports what shows it."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.startswith("sidebench.benchmark.reports")]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    yield
    assert not loaded()


@pytest.mark.usefixtures("no_page")
def test_same_plan_makes_nothing_again(
    finished: Any, copied: Path, make_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model or the references were loaded")

    monkeypatch.setattr("sidebench.benchmark.models.load_model", refuse)
    monkeypatch.setattr(references, "load_references", refuse)
    before, metrics = stamps(copied), result_bytes(copied)
    again = runner.execute(make_plan(copied.parent))
    assert again.folder.path == copied and not again.failures
    assert result_bytes(copied) == metrics
    assert stamps(copied) == before
    assert again.metrics == finished.metrics and again.folder.report_file.exists()


@pytest.mark.usefixtures("no_page")
def test_references_are_loaded_after_generation(
    make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path, attacks=["carlini-uncond"], seeds=(0, 1))
    load, calls = references.load_references, []

    def checked(pair: Any, progress: Any) -> Any:
        files = [plan.folder().images_file(unit.name, shard) for unit in plan.units for shard in SHARDS]
        assert len(files) == 6 and all(file.is_file() for file in files)
        calls.append(pair.name)
        return load(pair, progress)

    monkeypatch.setattr(references, "load_references", checked)
    result = runner.execute(plan)
    assert result.metrics is not None and not result.folder.report_file.exists()
    assert calls == ["digits"]


# ---- Adding, changing, starting over ----------------------------------------------------------------


def test_attacks_added_later_give_the_same_bytes(finished: Any, make_plan: Plan, tmp_path: Path) -> None:
    first = runner.execute(make_plan(tmp_path, attacks=["side"]))
    before = stamps(first.folder.path)
    both = runner.execute(make_plan(tmp_path, attacks=["carlini-uncond", "carlini-cond"]))
    assert both.folder.path == first.folder.path
    assert before.items() <= stamps(first.folder.path).items()
    assert result_bytes(first.folder.path) == result_bytes(finished.folder.path)


def test_seeds_added_later_give_the_same_bytes(finished: Any, make_plan: Plan, tmp_path: Path) -> None:
    options = {"attacks": ["carlini-uncond"]}
    whole = runner.execute(make_plan(tmp_path / "whole", seeds=(0, 1), **options))
    runner.execute(make_plan(tmp_path / "parts", seeds=(1,), **options))
    parts = runner.execute(make_plan(tmp_path / "parts", seeds=(0,), **options))
    assert result_bytes(parts.folder.path) == result_bytes(whole.folder.path)
    assert {result.seed for result in parts.metrics.results} == {0, 1}
    old = [result for result in finished.metrics.results if result.attack == "carlini-uncond"]
    assert [result for result in parts.metrics.results if result.seed == 0] == old


def test_seeds_make_other_images(make_plan: Plan, tmp_path: Path) -> None:
    folder = runner.execute(make_plan(tmp_path, attacks=["carlini-uncond"], seeds=(0, 1))).folder
    first, second = (torch.cat(list(folder.candidate_images(f"carlini-uncond.s{s}", 40))) for s in (0, 1))
    assert not (first == second).flatten(1).all(1).any()


def test_changed_settings_are_refused(copied: Path, make_plan: Plan) -> None:
    metrics = result_bytes(copied)
    with pytest.raises(RunConflict, match=r"training_steps was 3, now 4") as caught:
        runner.execute(make_plan(copied.parent, attacks=["side"], small={"training_steps": 4}))
    assert "side.s0" in str(caught.value) and "--fresh" in str(caught.value)
    assert result_bytes(copied) == metrics


def test_fresh_starts_over(copied: Path, make_plan: Plan) -> None:
    result = runner.execute(make_plan(copied.parent, attacks=["carlini-uncond"], fresh=True))
    assert result.folder.path == copied
    assert {found.attack for found in result.metrics.results} == {"carlini-uncond"}
    assert [path.name for path in (copied / "images").iterdir()] == ["carlini-uncond.s0"]
    assert not (copied / "state" / "side.s0").exists()


def test_fresh_takes_changed_settings(copied: Path, make_plan: Plan) -> None:
    result = runner.execute(make_plan(copied.parent, attacks=["carlini-cond"], small={"training_steps": 2}, fresh=True))
    stored = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    assert stored["units"]["carlini-cond.s0"]["settings"]["training_steps"] == 2
    assert result.metrics is not None and not result.failures


def test_second_writer_is_refused(copied: Path, make_plan: Plan) -> None:
    before = stamps(copied)
    with RunFolder(copied).locked():
        with pytest.raises(RunConflict, match="another process"):
            runner.execute(make_plan(copied.parent))
        with pytest.raises(RunConflict, match="another process"):
            runner.execute(make_plan(copied.parent, fresh=True))
    assert stamps(copied) == before
    assert runner.execute(make_plan(copied.parent)).metrics is not None


# ---- Attacks that break -----------------------------------------------------------------------------

FAULTY = '''
import torch
from sidebench import Attack, AttackState, Generated


class Base(Attack):
    title, paper, access = "faulty", "none", "samples"


class Raises(Base):
    name = "raises"

    def generate(self, model, state, candidates):
        raise ValueError("no luck\\ntoday")


class Shape(Base):
    name = "shape"

    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates)[:, :, :4])


class Prepares(Base):
    name = "prepares"

    def prepare(self, model, budget):
        return {}

    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates))


class Nan(Base):
    """Every second candidate has one value that is not finite."""

    name = "nan"

    def generate(self, model, state, candidates):
        images = model.sample(candidates)
        for row, number in enumerate(candidates.numbers):
            if number % 2 == 0:
                images[row, 0, 0, 0] = float("nan") if number % 4 else float("inf")
        return Generated(images)


class OnlyNan(Base):
    name = "only-nan"

    def generate(self, model, state, candidates):
        return Generated(torch.full((len(candidates), *model.image_shape), float("nan")))


class Constant(Base):
    name = "constant"

    def generate(self, model, state, candidates):
        return Generated(torch.full((len(candidates), *model.image_shape), 0.25))
'''
CLASSES = ("Raises", "Shape", "Prepares", "Nan", "OnlyNan", "Constant")


@pytest.fixture(scope="module")
def faulty(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("faulty")
    file = folder / "faulty.py"
    file.write_text(FAULTY, encoding="utf-8")
    return runner.execute(make_plan(folder, attacks=[f"{file}:Raises", "carlini-uncond", *_names(file)]))


def _names(file: Path) -> list[str]:
    return [f"{file}:{name}" for name in CLASSES[1:]]


def test_failing_attacks_are_named(faulty: Any) -> None:
    assert set(faulty.failures) == {"raises.s0", "shape.s0", "prepares.s0", "only-nan.s0"}
    for name, reason in {"raises.s0": "no luck", "shape.s0": "wanted float of shape", "prepares.s0": "dict"}.items():
        error = faulty.failures[name]
        assert isinstance(error, AttackFailed) and error.exit_code == 3
        assert name.removesuffix(".s0") in str(error) and reason in str(error)


def test_a_unit_of_nothing_but_nan_has_no_results(faulty: Any, make_plan: Plan) -> None:
    error = faulty.failures["only-nan.s0"]
    assert isinstance(error, BadInput) and error.exit_code == 2
    assert str(error) == (
        "only-nan.s0: model zoo:digits makes only NaN: none of 40 images is whole, so no rate means anything; "
        "check the weights"
    )
    assert "only-nan.s0" in faulty.folder.scored_units(faulty.folder.manifest(), "pixels"), "for the gate"
    file = faulty.folder.path.parent / "faulty.py"
    before = result_bytes(faulty.folder.path)
    again = runner.execute(make_plan(file.parent, attacks=[f"{file}:OnlyNan"]))
    assert set(again.failures) == {"only-nan.s0"} and result_bytes(faulty.folder.path) == before


def test_results_of_the_others_stay(faulty: Any, finished: Any) -> None:
    assert {result.attack for result in faulty.metrics.results} == {"carlini-uncond", "nan", "constant"}
    kept = [result for result in faulty.metrics.results if result.attack == "carlini-uncond"]
    assert kept == [result for result in finished.metrics.results if result.attack == "carlini-uncond"]


def test_broken_images_are_counted_and_flagged(faulty: Any) -> None:
    counts = {(r.attack, r.nan, r.constant) for r in faulty.metrics.results}
    assert counts == {("carlini-uncond", 0, 0), ("nan", 20, 0), ("constant", 0, 40)}
    unlike = [flag.partition(":")[0] for flag in faulty.metrics.flags if "not of the pair's kind" in flag]
    assert unlike == ["constant seed 0", "nan seed 0"]
    assert [flag for flag in faulty.metrics.flags if "not of the pair's kind" not in flag] == [
        "constant seed 0: 40 constant images of 40",
        "nan seed 0: 20 nan images of 40",
    ]


def test_broken_images_are_never_a_match(faulty: Any) -> None:
    for result in faulty.metrics.results:
        valid = 40 - result.nan - result.constant
        for band in result.bands:
            for side in (band.training, band.held_out):
                assert side.ams.count <= valid
                if not valid:
                    assert (side.ums.count, side.ums_best.count, side.groups) == (0, 0, 0)
        if not valid:
            assert result.percentile_95.training is None
    widest = [r.bands[-1].training.ams.count for r in faulty.metrics.results if r.attack == "nan" and r.bands]
    assert 0 < max(widest) <= 20


def test_failed_attack_is_tried_again(make_plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "mended.py"
    file.write_text(FAULTY, encoding="utf-8")
    first = runner.execute(make_plan(tmp_path, attacks=[f"{file}:Raises"]))
    assert first.metrics is None and set(first.failures) == {"raises.s0"}
    file.write_text(
        FAULTY.replace('raise ValueError("no luck\\ntoday")', "return Generated(model.sample(candidates))"),
        encoding="utf-8",
    )
    again = runner.execute(make_plan(tmp_path, attacks=[f"{file}:Raises"]))
    assert not again.failures and {r.attack for r in again.metrics.results} == {"raises"}


# ---- Files that break -------------------------------------------------------------------------------

MENDED = [
    "images/side.s0/00000016-00000032.safetensors",
    "scores/side.s0.pixels.00000016-00000032.parquet",
    "scores/side.s0.pixels.00000016-00000032.pairs.parquet",
    "state/carlini-cond.s0/state.safetensors",
    "state/side.s0/probe.json",
    "references.parquet",
]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """Return other numbers: a bit among a table's values, or near the end, where tensors and JSON's last value are."""
    place = len(content) // 4 if content.startswith(b"PAR1") else len(content) - 60
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_damaged_files_are_named_and_made_again(
    damage: Callable[[bytes], bytes], copied: Path, make_plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = result_bytes(copied)
    for name in MENDED:
        (copied / name).write_bytes(damage((copied / name).read_bytes()))
    assert not runner.execute(make_plan(copied.parent)).failures
    assert result_bytes(copied) == metrics
    assert sorted(caplog.messages) == sorted(f"{name} was changed or cut; it is rebuilt" for name in MENDED)
    caplog.clear()
    runner.execute(make_plan(copied.parent))
    assert result_bytes(copied) == metrics and not caplog.messages


def test_samples_are_made_again_with_what_was_made_of_them(
    copied: Path, make_plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, before = result_bytes(copied), stamps(copied)
    sample = min((copied / "state" / "shared").iterdir())
    sample.write_bytes(flipped(sample.read_bytes()))
    runner.execute(make_plan(copied.parent))
    assert result_bytes(copied) == metrics
    again = {name for name, stamp in stamps(copied).items() if stamp != before[name]}
    scores = {f"scores/{sample.stem}.{space}.00000.parquet" for space in ("pixels",)}
    states = {f"state/{unit}.s0/state.safetensors" for unit in ("carlini-cond", "side")}
    assert again == {f"state/shared/{sample.name}", *states, *scores}
    assert sorted(line.partition(":")[0].partition(" ")[0] for line in caplog.messages) == sorted(
        {f"state/shared/{sample.name}", *states}
    )


@pytest.mark.parametrize("kind", ["images/side.s0/00000000-00000016", "state/side.s0/state"])
def test_what_this_call_cannot_make_again_is_refused(kind: str, copied: Path, make_plan: Plan) -> None:
    file = copied / f"{kind}.safetensors"
    damaged = flipped(file.read_bytes())
    file.write_bytes(damaged)
    with pytest.raises(CorruptRun, match=f"{kind}.*does not make it: add --attack side --seed 0"):
        runner.execute(make_plan(copied.parent, attacks=["carlini-uncond"]))
    assert file.read_bytes() == damaged


@pytest.mark.parametrize("text", ['{"schema": ', None])
def test_a_damaged_manifest_is_refused(text: str | None, copied: Path, make_plan: Plan) -> None:
    file = copied / "manifest.json"
    file.write_text(text or file.read_text(encoding="utf-8").replace('"torch": "', '"torch": "9'), encoding="utf-8")
    with pytest.raises(CorruptRun, match=r"manifest\.json"):
        runner.execute(make_plan(copied.parent))


def test_unit_without_its_probe_does_not_stop_the_others(copied: Path, make_plan: Plan) -> None:
    """A run killed between the last image and the probe, gone on with for another attack only."""
    (copied / "state" / "side.s0" / "probe.json").unlink()
    result = runner.execute(make_plan(copied.parent, attacks=["carlini-uncond"]))
    assert {found.attack for found in result.metrics.results} >= {"carlini-uncond", "carlini-cond"}


# ---- Runs that are killed ---------------------------------------------------------------------------

STEPS = 250
MOMENTS = [
    "state/shared/samples-*.safetensors",
    "state/side.s0/**/checkpoint-classifier.safetensors",
    "images/side.s0/00000000-00000016.safetensors",
    "scores/carlini-uncond.s0.pixels.00000000-00000016.parquet",
]


def killed_at(moment: str, small: dict[str, Any], folder: Path) -> int | None:
    """Start the run in another process and kill it as soon as a file matches; return how it ended."""
    process = fresh_processes("cpu").Process(target=run_small, args=(small, folder.parent))  # type: ignore[attr-defined]
    process.start()
    try:
        while process.is_alive() and not any(folder.glob(moment)):
            time.sleep(0.001)
    finally:
        process.kill()
        process.join()
    code: int | None = process.exitcode
    return code


def test_killed_runs_end_with_the_same_bytes(make_plan: Plan, tmp_path: Path) -> None:
    options: dict[str, Any] = {"attacks": ["carlini-uncond", "side"], "small": {"training_steps": STEPS}}
    whole = runner.execute(make_plan(tmp_path / "whole", **options))
    plan = make_plan(tmp_path / "killed", **options)
    folder = plan.folder().path
    (small,) = (unit.settings() for unit in plan.units if unit.attack.name == "side")
    folder.parent.mkdir()
    kept: dict[str, int] = {}
    for moment in MOMENTS:
        assert killed_at(moment, small, folder) == -signal.SIGKILL, moment
        assert any(folder.glob(moment)) and not (folder / "metrics.json").exists(), moment
        found = {k: v for k, v in stamps(folder).items() if "checkpoint" not in k and not k.endswith(".tmp")}
        assert kept.items() <= found.items(), moment
        kept = found
    result = runner.execute(plan)
    assert not result.failures and kept.items() <= stamps(folder).items()
    assert result_bytes(folder) == result_bytes(whole.folder.path)
    assert (
        read_state(folder / "state/side.s0/state.safetensors").info["cost"]["flops"]
        == (read_state(whole.folder.path / "state/side.s0/state.safetensors").info["cost"]["flops"])
    )
