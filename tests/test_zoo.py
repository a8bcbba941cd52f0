"""Training a pair's model again from its recipe."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sidebench.benchmark import hub
from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import load_model
from sidebench.benchmark.pairs import Pair, Recipe, load_pair
from sidebench.benchmark.plan import plan_run
from sidebench.benchmark.progress import silent
from sidebench.benchmark.references import load_references
from sidebench.benchmark.zoo import recipe


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("digits").model_copy(update={"recipe": Recipe(seed=1, steps=4, batch=8, channels=(8, 8))})


@pytest.fixture(scope="module")
def trained(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe.train(pair, tmp_path_factory.mktemp("zoo") / "model", "cpu", silent)


def test_folder_holds_a_safe_pipeline(trained: Path) -> None:
    files = {file.relative_to(trained).as_posix() for file in trained.rglob("*") if file.is_file()}
    assert files >= {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    assert not [file for file in files if file.endswith(hub.PICKLES)]
    assert hub.image_size(trained) == (8, 8, 1)


def test_model_can_be_loaded_and_called(trained: Path) -> None:
    model = load_model(ModelSpec(family="pixel", location=str(trained)))
    assert model.sample_shape == (1, 8, 8) and model.num_train_timesteps == 1000
    x = torch.randn(2, 1, 8, 8)
    prediction = model.predict(x, torch.tensor([3, 900]))
    assert prediction.shape == x.shape and bool(prediction.isfinite().all())


def test_two_trainings_are_the_same(pair: Pair, trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    again = recipe.train(pair, tmp_path / "again", "cpu", silent)
    assert hub.hashes(again) == hub.hashes(trained)


def test_another_seed_is_another_model(pair: Pair, trained: Path, tmp_path: Path) -> None:
    other = recipe.train(pair, tmp_path / "other", "cpu", silent, seed=2)
    name = "unet/diffusion_pytorch_model.safetensors"
    assert hub.hashes(other)[name] != hub.hashes(trained)[name]


def test_training_sees_training_images_only(
    pair: Pair, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_references(pair)
    blank = {
        name: dataclasses.replace(getattr(found, name), images=getattr(found, name).images * 0)
        for name in ("held_out", "pool", "tuning")
    }
    monkeypatch.setattr(recipe, "load_references", lambda _: dataclasses.replace(found, **blank))
    assert hub.hashes(recipe.train(pair, tmp_path / "blind", "cpu", silent)) == hub.hashes(trained)


def test_progress_ends_at_the_last_step(pair: Pair, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    recipe.train(pair, tmp_path / "watched", "cpu", lambda *report: seen.append(report))
    assert seen[-1][1:] == (4, 4)


def test_training_leaves_the_global_generator_alone(pair: Pair, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    recipe.train(pair, tmp_path / "quiet", "cpu", silent)
    assert torch.equal(torch.get_rng_state(), before)


def test_existing_folder_is_refused(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me", encoding="utf-8")
    for name in ("", "mine"):
        with pytest.raises(BadInput, match="exists already; choose another with --out"):
            recipe.train(pair, tmp_path / name, "cpu", silent)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "keep me"


def test_pair_without_recipe_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="digits has no recipe"):
        recipe.train(pair.model_copy(update={"recipe": None}), tmp_path / "none", "cpu", silent)
    assert not (tmp_path / "none").exists()


def test_a_new_split_comes_with_its_pair_file(pair: Pair, tmp_path: Path) -> None:
    again = recipe.train(pair, tmp_path / "second", "cpu", silent, split_seed=5)
    loaded = load_pair(str(again / "pair.yaml"))
    assert loaded.data.split.seed == 5 and loaded.control == pair.control and loaded.attacks == pair.attacks
    rows = set(load_references(loaded).training.rows)
    assert rows != set(load_references(pair).training.rows) and len(rows) == len(load_references(pair).training)
    plan = plan_run(loaded, candidates=4, out=tmp_path / "runs", device="cpu")
    assert plan.model.location == str(again)
