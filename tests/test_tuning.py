"""Settings are chosen on a shadow victim that shares no image with the reported parts."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark import tuning
from sidebench.benchmark.errors import BadInput, BadSetting, RunConflict, TooFew, UnknownName
from sidebench.benchmark.pairs import Pair, load_pair
from sidebench.benchmark.progress import silent
from sidebench.benchmark.references import load_references

SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 2, "batch": 8, "width": 8, "cohesion": -1.0}


def quick(name: str = "digits") -> Pair:
    pair = load_pair(name)
    assert pair.recipe is not None
    attacks = {key: value.model_copy(update={"settings": SMALL}) for key, value in pair.attacks.items()}
    recipe = pair.recipe.model_copy(update={"steps": 2, "batch": 4})
    return pair.model_copy(update={"recipe": recipe, "attacks": attacks})


def tune(out: Path, grid: dict[str, Any], **options: Any) -> tuning.Curve:
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
    text = tuning.as_text(curve)
    assert "highest excess at training_steps" in text and "unique groups" in text


def test_a_second_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(tmp_path, {"guidance_scale": [0.0]})
    tried: list[Any] = []
    original = tuning._Bench.try_out
    monkeypatch.setattr(
        tuning._Bench, "try_out", lambda self, attack, values: tried.append(values) or original(self, attack, values)
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
    with pytest.raises(TooFew, match="the split asks for 1400 images"):
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
    assert "on a shadow victim behind output-noise, 8 candidates" in tuning.as_text(knows)
    with pytest.raises(RunConflict, match=r"defences\.output-noise\.scale was 0\.5, now 0\.1"):
        tune(tmp_path, {"guidance_scale": [0.0]}, defences=behind["defences"])
    with pytest.raises(BadSetting, match="'amg', which is not run"):
        tune(tmp_path, {"guidance_scale": [0.0]}, settings={"amg": {"strength": 1}})
