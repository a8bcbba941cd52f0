"""A plan refuses a model whose files do not go with the pair, before a single image is read."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
from hub_repositories import change_config, picture, pixel_folder, unet

from sidebench.benchmark.data.pair import Pair, load_pair
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models.pair_from_names import pair_of
from sidebench.benchmark.runs.plan import plan_run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pixel_folder(tmp_path / "model", unet(3), diffusers.DDPMScheduler(num_train_timesteps=20))


def pair(model: Path, **more: Any) -> Pair:
    """Return a pair whose images are nowhere: reading them would fail."""
    data = {"source": "folder", "path": str(model / "none"), "size": 8, "members": {"split": "train"}}
    content: dict[str, Any] = {
        "title": "mine",
        "description": "mine",
        "revision": 1,
        "control": "none",
        "model": {"location": str(model)},
        "measures": ["rms"],
        "attacks": {"carlini-uncond": {"origin": "none"}},
        "licence": "none",
    }
    return Pair(name="mine", **{**content, **more}, data={**data, **more.pop("data", {})})


def refused(made: Pair) -> str:
    with pytest.raises(BadInput) as refusal:
        plan_run(made, candidates=8, device="cpu")
    return str(refusal.value)


def test_more_steps_than_the_schedule_has(model: Path) -> None:
    said = "pair mine: its noise schedule has 20 timesteps, sampler ddim takes 50; in a pair file, protocol: {sampler"
    assert refused(pair(model)).startswith(said)


def test_images_of_another_shape_than_the_models(tmp_path: Path) -> None:
    wide = pixel_folder(tmp_path / "wide", unet(3, size=[8, 16]), diffusers.DDPMScheduler())  # type: ignore[arg-type]
    said = refused(pair(wide))
    assert "pair mine: data.size brings the images to 8x8x3, the model makes 8x16x3; only square ones" in said


def test_the_digits_go_with_models_of_their_size_alone(model: Path) -> None:
    with pytest.raises(BadInput, match=r"digits: images are 8x8x1, the model makes 8x8x3 .height x width x channels.;"):
        plan_run(load_pair("digits"), model=str(model), candidates=8, device="cpu")


def test_a_value_that_cannot_be_used(model: Path) -> None:
    said = refused(pair(change_config(model, "scheduler", beta_end=2.0)))
    assert said == "scheduler/scheduler_config.json, beta_end: is 2.0, wanted a number above 0 and at most 1"


def test_by_name_the_steps_are_those_that_the_schedule_has(model: Path, tmp_path: Path) -> None:
    own = diffusers.CMStochasticIterativeScheduler(40)
    consistency = pixel_folder(tmp_path / "consistency", unet(3), own, "ConsistencyModelPipeline")
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "0.png").write_bytes(picture(0))
    few, usual = (pair_of(str(place), str(tmp_path / "images"), "train").protocol for place in (model, consistency))
    assert few.sampler is not None and few.sampler.steps == 20
    assert few.reason == "the model's noise schedule has 20 timesteps"
    assert usual.sampler is not None and usual.sampler.steps == 2
    many = change_config(model, "scheduler", num_train_timesteps=50)
    assert pair_of(str(many), str(tmp_path / "images"), "train").protocol.sampler is None


def test_by_name_a_value_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match=r"unet/config\.json, sample_size: is 0, wanted a whole number from 1"):
        pair_of(str(change_config(model, "unet", sample_size=0)), str(tmp_path / "images"), "train")
