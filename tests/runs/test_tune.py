"""Settings are chosen on a shadow victim that shares no image with the reported parts."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark import models
from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.data.pair import Overrides, Pair, TuningBlock, load_pair
from sidebench.benchmark.data.references import counts, load_references
from sidebench.benchmark.errors import BadInput, BadSetting, RunConflict, TooFew, UnknownName
from sidebench.benchmark.progress import silent
from sidebench.benchmark.reports.tables import tuning_table
from sidebench.benchmark.results import tuning_curve
from sidebench.benchmark.runs import timing
from sidebench.benchmark.runs import tune as tuning
from sidebench.benchmark.runs.plan import plan_run

SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 2, "batch": 8, "width": 8, "cohesion": -1.0}


def quick(name: str = "digits") -> Pair:
    pair = load_pair(name)
    assert pair.recipe is not None
    attacks = {key: value.model_copy(update={"settings": SMALL}) for key, value in pair.attacks.items()}
    recipe = pair.recipe.model_copy(update={"steps": 2, "batch": 4})
    # Few rows and steps: 24 synthetic images padded to the pair's own 256 rows, in 50 steps, take ten times as long.
    protocol = Overrides(micro_batch=8, sampler=SamplerSettings(steps=3))
    return pair.model_copy(update={"recipe": recipe, "attacks": attacks, "protocol": protocol})


def tune(out: Path, grid: dict[str, Any], **options: Any) -> tuning_curve.Curve:
    pair = options.pop("pair", quick())
    return tuning.tune(pair, "side", grid, candidates=8, out=out, device="cpu", progress=silent, **options)


def test_shadow_shares_no_image_with_reported_parts() -> None:
    pair = load_pair("digits")
    own = load_references(pair)
    shadow = load_references(tuning.shadow_pair(pair, Path("nowhere"), 0))
    reported = {row for part in (own.training, own.held_out, own.pool) for row in part.rows}
    assert (len(shadow.training), len(shadow.held_out)) == (256, 256)
    assert not reported & {row for part in (shadow.training, shadow.held_out) for row in part.rows}
    groups = {group for part in (own.training, own.held_out) for group in part.groups}
    assert not groups & set(shadow.training.groups)


def test_shadows_of_other_seeds_differ() -> None:
    pair = load_pair("digits")
    first, second = (load_references(tuning.shadow_pair(pair, Path("x"), seed)).training.rows for seed in (0, 1))
    assert set(first) != set(second)


def test_every_point_is_tried_and_the_best_has_the_highest_excess(tmp_path: Path) -> None:
    curve = tune(tmp_path, {"training_steps": [1, 2], "guidance_scale": [0.0, 1.0]})
    assert [point.values for point in curve.points] == [
        {"training_steps": steps, "guidance_scale": scale} for steps in (1, 2) for scale in (0.0, 1.0)
    ]
    assert curve.best().result.excess.value == max(point.result.excess.value for point in curve.points)
    # Without guidance the classifier does not matter.
    assert curve.points[0].result == curve.points[2].result
    text = tuning_table(curve)
    assert "highest excess at training_steps" in text and "unique groups" in text


def test_a_second_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(tmp_path, {"guidance_scale": [0.0]})
    tried: list[Any] = []
    original = tuning.TuningBench.tried
    monkeypatch.setattr(
        tuning.TuningBench, "tried", lambda self, points, engine: tried.extend(points) or original(self, points, engine)
    )
    curve = tune(tmp_path, {"guidance_scale": [0.0, 2.0]})
    assert tried == [{"guidance_scale": 2.0}] and len(curve.points) == 2
    stored = json.loads((tmp_path / "side.json").read_text(encoding="utf-8"))
    assert [point["values"] for point in stored["curve"]["points"]] == [
        {"guidance_scale": 0.0},
        {"guidance_scale": 2.0},
    ]


def test_another_tuning_in_the_folder_is_refused(tmp_path: Path) -> None:
    tune(tmp_path, {"guidance_scale": [0.0]})
    with pytest.raises(RunConflict, match="seed was 0, now 3"):
        tune(tmp_path, {"guidance_scale": [0.0]}, seed=3)


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        ({"guidance_scale": []}, BadSetting, "no settings to tune"),
        ({"guidance": [1]}, UnknownName, "guidance_scale"),
        ({"guidance_scale": [-1]}, BadSetting, "guidance_scale = -1"),
    ],
)
def test_a_wrong_grid_is_refused(grid: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        tune(tmp_path, grid)
    assert not list(tmp_path.iterdir())


def test_pairs_without_room_for_a_shadow_are_refused(tmp_path: Path) -> None:
    words = r"too few images for a shadow victim.* \(the split asks for 1400 images, .*data\.tuning_block"
    with pytest.raises(TooFew, match=words):
        tune(tmp_path, {"guidance_scale": [0.0]}, pair=quick("digits-clean"))
    with pytest.raises(BadInput, match="no recipe"):
        tune(tmp_path, {"guidance_scale": [0.0]}, pair=quick().model_copy(update={"recipe": None}))
    shadow = tuning.shadow_pair(quick(), tmp_path, 0)
    with pytest.raises(BadInput, match="a shadow itself"):
        tuning.shadow_pair(shadow, tmp_path, 0)


NOISE = """
from sidebench.methods.defences.output_noise import OutputNoise
"""


def test_an_attack_is_tuned_against_a_defence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NOISE, encoding="utf-8")
    behind = {"defences": [f"{tmp_path / 'mine.py'}:OutputNoise"], "settings": {"output-noise": {"scale": 0.5}}}
    plain = tune(tmp_path, {"guidance_scale": [0.0]})
    kept = list((tmp_path / "samples").iterdir())
    knows = tune(tmp_path, {"guidance_scale": [0.0]}, **behind)
    assert knows.defences == ["output-noise"] and plain.defences == []
    assert len(list((tmp_path / "samples").iterdir())) == 2 * len(kept), "prepared on samples of the defended victim"
    assert {file.name for file in tmp_path.glob("*.json")} == {"side.json", "side+output-noise.json"}
    assert "on a shadow victim behind output-noise, 8 candidates" in tuning_table(knows)
    with pytest.raises(RunConflict, match=r"defences\.output-noise\.scale was 0\.5, now 0\.1"):
        tune(tmp_path, {"guidance_scale": [0.0]}, defences=behind["defences"])
    with pytest.raises(BadSetting, match="'amg', which is not run"):
        tune(tmp_path, {"guidance_scale": [0.0]}, settings={"amg": {"strength": 1}})


# ---- A block of the pair's own images ---------------------------------------------------------------


def with_block(share: float = 0.4) -> Pair:
    """Return digits as a pair without a recipe that sets images aside."""
    pair = quick()
    block = TuningBlock(seed=3, share=share)
    return pair.model_copy(
        update={"recipe": None, "name": "blocked", "data": pair.data.model_copy(update={"tuning_block": block})}
    )


def test_the_block_leaves_both_sides_of_every_run() -> None:
    whole, pair = load_references(quick()), with_block()
    rest, block = load_references(pair), load_references(pair, tuning=True)
    for side in ("training", "held_out"):
        inside, outside = (set(getattr(part, side).rows) for part in (block, rest))
        assert not inside & outside and inside | outside == set(getattr(whole, side).rows)
        assert 60 < len(inside) < 150
    assert not set(block.training.groups) & set(rest.training.groups)
    assert counts(pair) == (len(rest.training), len(rest.held_out))


def test_a_pair_without_recipe_is_tuned_on_its_block_with_candidates_of_no_run(tmp_path: Path) -> None:
    pair = with_block()
    curve = tune(tmp_path, {"guidance_scale": [0.0, 1.0]}, pair=pair)
    assert not (tmp_path / "victim").exists() and curve.used is not None
    block = load_references(pair, tuning=True)
    assert curve.used.rows == sorted([*block.training.rows.tolist(), *block.held_out.rows.tolist()])
    assert curve.used.seed > 1000
    assert "side on the tuning block, 8 candidates" in tuning_table(curve)


def test_a_block_too_small_for_the_measure_is_refused(tmp_path: Path) -> None:
    pair = with_block(0.05).model_copy(update={"allow_dense_neighbours": False})
    with pytest.raises(BadInput, match="nl2c"):
        tune(tmp_path, {"guidance_scale": [0.0]}, pair=pair)


# ---- Settings of a curve in a run -------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the file of a curve from a shadow victim and of one from a tuning block; nobody may change them."""
    pairs = {"shadow": quick(), "block": with_block()}
    folders = {name: tmp_path_factory.mktemp(name) for name in pairs}
    for name, pair in pairs.items():
        tune(folders[name], {"guidance_scale": [0.0, 1.0]}, pair=pair)
    return {name: folder / "side.json" for name, folder in folders.items()}


def stored(tmp_path: Path, tuned: Path, **changes: Any) -> tuple[Path, dict[str, tuning_curve.Curve]]:
    """Copy a curve, change what it used, and read the file back."""
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "side.json"
    content = json.loads(tuned.read_text(encoding="utf-8"))
    content["curve"]["used"].update(changes)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file, tuning_curve.read_curves([file])


def run_plan(pair: Pair, out: Path, seed: int = 0) -> Any:
    return plan_run(pair, attacks=["side"], candidates=16, seeds=[seed], device="cpu", out=out)


def test_the_best_point_becomes_the_settings_and_the_users_go_over_it(tmp_path: Path, tuned: dict[str, Path]) -> None:
    _, curves = stored(tmp_path, tuned["shadow"])
    best = curves["side.json"].best().values["guidance_scale"]
    assert tuning_curve.with_tuned({}, curves)["side"] == {**SMALL, "guidance_scale": best}
    given = tuning_curve.with_tuned({"side": {"width": 4}, "amg": {"strength": 1}}, curves)
    assert given["side"]["width"] == 4 and given["side"]["guidance_scale"] == best and given["amg"] == {"strength": 1}


def test_a_run_takes_what_was_tuned_on_a_shadow_or_a_block(tmp_path: Path, tuned: dict[str, Path]) -> None:
    for name, pair in (("shadow", quick()), ("block", with_block())):
        _, curves = stored(tmp_path / name, tuned[name])
        tuning.refuse_own_numbers(run_plan(pair, tmp_path), curves, silent)


def test_a_run_refuses_what_was_tuned_on_its_own_images(tmp_path: Path, tuned: dict[str, Path]) -> None:
    _, curves = stored(tmp_path, tuned["block"])
    with pytest.raises(BadInput, match=r"^side\.json was tuned on \d+ of the 512 images that this run would report"):
        tuning.refuse_own_numbers(run_plan(quick(), tmp_path), curves, silent)
    _, curves = stored(tmp_path / "other data", tuned["block"], data="of another data set")
    tuning.refuse_own_numbers(run_plan(quick(), tmp_path), curves, silent)


def test_a_run_refuses_what_was_tuned_on_its_own_candidates(tmp_path: Path, tuned: dict[str, Path]) -> None:
    _, curves = stored(tmp_path, tuned["block"], seed=5)
    tuning.refuse_own_numbers(run_plan(with_block(), tmp_path, seed=4), curves, silent)
    with pytest.raises(BadInput, match="candidates of this model under seed 5: take another --seed"):
        tuning.refuse_own_numbers(run_plan(with_block(), tmp_path, seed=5), curves, silent)


def test_what_is_no_curve_is_refused(tmp_path: Path, tuned: dict[str, Path]) -> None:
    file, _ = stored(tmp_path, tuned["shadow"])
    with pytest.raises(BadInput, match="second curve of side"):
        tuning_curve.read_curves([file, shutil.copy(file, tmp_path / "again.json")])
    content = json.loads(file.read_text(encoding="utf-8"))
    for broken, words in (
        ({"schema": "other"}, "not a curve"),
        ({"schema": tuning_curve.SCHEMA}, "no complete curve"),
        ({**content, "curve": {**content["curve"], "used": None}}, "does not say which images"),
    ):
        file.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(BadInput, match=words):
            tuning_curve.read_curves([file])
    with pytest.raises(BadInput, match="no complete curve"):
        tuning_curve.read_curves([tmp_path / "missing.json"])


def test_the_command_runs_with_a_curve_and_keeps_it(
    make_pair_file: Any,
    tuned: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    file, curves = stored(tmp_path, tuned["shadow"])
    monkeypatch.chdir(tmp_path)
    pair = str(make_pair_file(tmp_path))
    more = ["--attack", "side", "--candidates", "16", "--device", "cpu"]
    code, printed, _ = call("run", pair, *more, "--tuned", file, "--json")
    assert code == 0
    folder = Path(json.loads(printed)[0]["folder"])
    best = curves["side.json"].best().values["guidance_scale"]
    assert json.loads((folder / "manifest.json").read_text())["units"]["side.s0"]["settings"]["guidance_scale"] == best
    assert json.loads((folder / "tuning" / "side.json").read_text())["curve"]["attack"] == "side"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Where the settings come from" in page and "side on a shadow victim, 8 candidates a point" in page
    (folder / "tuning" / "side.json").write_text("{}", encoding="utf-8")
    code, _, complaint = call("report", folder)
    assert code == 2 and "tuning/side.json holds no curve" in complaint
    own = {"rows": load_references(load_pair(pair)).training.rows.tolist()}
    content = json.loads(file.read_text(encoding="utf-8"))
    content["curve"]["used"].update(own)
    file.write_text(json.dumps(content), encoding="utf-8")
    code, _, complaint = call("run", pair, *more, "--tuned", file)
    assert code == 2 and "was tuned on 256 of the 512 images" in complaint


def test_how_long_a_tuning_may_take_is_said_and_its_victim_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    loaded: list[str] = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda spec: loaded.append(spec.location) or load(spec))
    tune(tmp_path, {"guidance_scale": [0.0, 1.0]}, announce=said.append)
    assert loaded == [str(tmp_path / "victim")]
    assert said[0] == "2 settings, 8 candidates each; a shadow victim is trained first"
    assert re.match(r"16 plain samples take about [\d.]+ (s|min|h) here, guided", said[1])
    said.clear()
    tune(tmp_path, {"guidance_scale": [0.0, 1.0, 2.0]}, announce=said.append)
    assert said[0] == "1 settings, 8 candidates each" and said[1].startswith("8 plain samples take about ")
    said.clear()
    tune(tmp_path, {"guidance_scale": [0.0, 1.0, 2.0]}, announce=said.append)
    assert said == []
    tune(tmp_path, {"guidance_scale": [0.0]}, defences=["output-noise"], announce=said.append)
    assert said[1].endswith("; what output-noise costs comes on top")


def test_why_no_time_can_be_told_is_said() -> None:
    def broken() -> Any:
        raise RuntimeError("no kernel image\nand more")

    said = timing.sampling_time(load_pair("digits"), broken, 100)
    assert said == "how long they take cannot be told: no kernel image"
