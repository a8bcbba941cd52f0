"""Training a pair's model again from its recipe."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sidebench.benchmark.candidates import generator
from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.data import model_files, pipeline_folder
from sidebench.benchmark.data.pair import DataSource, Pair, Recipe, load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.zoo import augmentation, pixel_recipe, train, training
from sidebench.benchmark.progress import silent
from sidebench.benchmark.runs.plan import plan_run


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("digits").model_copy(update={"recipe": Recipe(seed=1, steps=4, batch=8, channels=(8, 8))})


@pytest.fixture(scope="module")
def trained(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(pair, tmp_path_factory.mktemp("zoo") / "model", "cpu", silent)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Read the network's weights."""
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_folder_holds_a_safe_pipeline(trained: Path) -> None:
    files = {file.relative_to(trained).as_posix() for file in trained.rglob("*") if file.is_file()}
    assert files >= {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    assert not [file for file in files if file.endswith(pipeline_folder.PICKLES)]
    assert pipeline_folder.image_size(trained) == (8, 8, 1)


def test_model_can_be_loaded_and_called(trained: Path) -> None:
    model = load_model(ModelSpec(family="pixel", location=str(trained)))
    assert model.sample_shape == (1, 8, 8) and model.num_train_timesteps == 1000
    x = torch.randn(2, 1, 8, 8)
    prediction = model.predict(x, torch.tensor([3, 900]))
    assert prediction.shape == x.shape and bool(prediction.isfinite().all())


def test_two_trainings_are_the_same(pair: Pair, trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    again = train.train(pair, tmp_path / "again", "cpu", silent)
    assert model_files.hashes(again) == model_files.hashes(trained)


def test_bfloat16_is_for_the_calls_in_training_alone(pair: Pair, trained: Path, tmp_path: Path) -> None:
    half = train.train(pair, tmp_path / "half", "cpu", silent, changes={"precision": "bfloat16"})
    given, other = (torch.cat([w.flatten() for w in weights_of(one).values()]) for one in (trained, half))
    assert other.dtype == torch.float32
    assert 0 < float((given - other).norm() / given.norm()) < 0.05, "four steps of the same training, rounded"


def test_a_killed_training_ends_in_the_same_bytes(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Skipping reads what losses were usual so far: that is a part of the progress too.
    changes, steps = {"skip_below": 0.9, "steps": 6}, []
    whole = train.train(pair, tmp_path / "whole", "cpu", silent, changes=changes)
    monkeypatch.setattr(training, "EVERY", 2)

    def dying(seed: int, purpose: str, step: int, stream: str) -> torch.Generator:
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return generator(seed, purpose, step, stream)

    monkeypatch.setattr(pixel_recipe, "generator", dying)
    with pytest.raises(KeyboardInterrupt):
        train.train(pair, tmp_path / "killed", "cpu", silent, changes=changes)
    assert not (tmp_path / "killed").exists()
    again = train.train(pair, tmp_path / "killed", "cpu", silent, changes=changes)
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5], "it goes on from the checkpoint after two steps"
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (again / weights).read_bytes() == (whole / weights).read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed", "whole"], "no checkpoint stays behind"


def test_another_seed_is_another_model(pair: Pair, trained: Path, tmp_path: Path) -> None:
    other = train.train(pair, tmp_path / "other", "cpu", silent, changes={"seed": 2})
    name = "unet/diffusion_pytorch_model.safetensors"
    assert model_files.hashes(other)[name] != model_files.hashes(trained)[name]


def test_training_sees_training_images_only(
    pair: Pair, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_references(pair)
    blank = {
        name: dataclasses.replace(getattr(found, name), images=getattr(found, name).images * 0)
        for name in ("held_out", "pool", "tuning")
    }
    monkeypatch.setattr(train, "load_references", lambda _: dataclasses.replace(found, **blank))
    assert model_files.hashes(train.train(pair, tmp_path / "blind", "cpu", silent)) == model_files.hashes(trained)


def test_progress_ends_at_the_last_step(pair: Pair, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    train.train(pair, tmp_path / "watched", "cpu", lambda *report: seen.append(report))
    assert seen[-1][1:] == (4, 4)


def test_training_leaves_the_global_generator_alone(pair: Pair, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train.train(pair, tmp_path / "quiet", "cpu", silent)
    assert torch.equal(torch.get_rng_state(), before)


def test_existing_folder_is_refused(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me", encoding="utf-8")
    for name in ("", "mine"):
        with pytest.raises(BadInput, match="exists already; choose another with --out"):
            train.train(pair, tmp_path / name, "cpu", silent)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "keep me"


def test_pair_without_recipe_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="digits has no recipe"):
        train.train(pair.model_copy(update={"recipe": None}), tmp_path / "none", "cpu", silent)
    assert not (tmp_path / "none").exists()


def test_a_new_split_comes_with_its_pair_file(pair: Pair, tmp_path: Path) -> None:
    again = train.train(pair, tmp_path / "second", "cpu", silent, split_seed=5)
    loaded = load_pair(str(again / "pair.yaml"))
    assert loaded.data.rule.seed == 5 and loaded.control == pair.control and loaded.attacks == pair.attacks
    rows = set(load_references(loaded).training.rows)
    assert rows != set(load_references(pair).training.rows) and len(rows) == len(load_references(pair).training)
    plan = plan_run(loaded, candidates=4, out=tmp_path / "runs", device="cpu")
    assert plan.model.location == str(again)


# ---- Defended in training ---------------------------------------------------------------------------

CHANGES = {
    "augmentation": {"shift": 1},
    "de-duplication": {"duplicate_rms": 0.12},
    "early-stopping": {"stop_after": 2},
    "loss-skipping": {"skip_below": 0.9},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_defended_victim_names_its_defence(name: str, pair: Pair, trained: Path, tmp_path: Path) -> None:
    longer = pair.model_copy(update={"recipe": Recipe(seed=1, steps=40, batch=8, channels=(8, 8))})
    source = longer if name == "loss-skipping" else pair
    plain = trained if source is pair else train.train(source, tmp_path / "plain", "cpu", silent)
    made = train.train(source, tmp_path / "made", "cpu", silent, changes=CHANGES[name])
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert model_files.hashes(made)[weights] != model_files.hashes(plain)[weights]
    victim = load_pair(str(made / "pair.yaml"))
    assert victim.name == f"digits-{name}" and victim.data == pair.data
    plan = plan_run(victim, attacks=["carlini-uncond"], candidates=4, out=tmp_path)
    assert plan.identity()["defences"] == {f"training:{name}": CHANGES[name]}
    other = plan_run(victim, attacks=["carlini-uncond"], candidates=4, out=tmp_path, model="zoo:digits")
    assert other.identity()["defences"] == {}, "another model was not trained by this recipe"


def test_an_impossible_recipe_is_refused(pair: Pair, tmp_path: Path) -> None:
    for changes, message in (
        ({"stop_after": 5}, "stop_after = 5 lies beyond steps = 4"),
        ({"skip_below": 1.0}, "skip_below"),
        ({"shift": -1}, "shift"),
        ({"shift": 8}, "shift = 8: the images are 8 x 8 pixels"),
        ({"duplicate_rms": 0.001}, "no two of the 256 training images are that near"),
    ):
        with pytest.raises(BadSetting, match=message):
            train.train(pair, tmp_path / "none", "cpu", silent, changes=changes)
    assert not (tmp_path / "none").exists()


def test_deduplication_keeps_one_of_each_group(pair: Pair) -> None:
    training = load_references(pair).training
    twice = dataclasses.replace(training, images=np.concatenate([training.images[:5], training.images[:5]]))
    kept = pixel_recipe.kept(twice, Recipe(seed=1, steps=1, duplicate_rms=0.0))
    assert torch.equal(kept, dataclasses.replace(training, images=training.images[:5]).floats())
    assert len(pixel_recipe.kept(training, Recipe(seed=1, steps=1, duplicate_rms=0.12))) == 238


def test_shifts_move_whole_images() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    moved = augmentation.shifted(image.expand(400, 1, 4, 4), 1, torch.Generator().manual_seed(0))
    found = {tuple(row.flatten().tolist()) for row in moved}
    wanted = set()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rows, columns = (torch.arange(4) + dy).clamp(0, 3), (torch.arange(4) + dx).clamp(0, 3)
            wanted.add(tuple(image[0, 0][rows][:, columns].flatten().tolist()))
    assert found == wanted


def test_samples_that_are_learnt_already_are_skipped() -> None:
    usual = torch.full((10,), torch.nan)
    t = torch.tensor([1, 2, 3])
    assert pixel_recipe.worth_learning(torch.tensor([1.0, 1.0, 1.0]), t, usual, 0.5).all()
    kept = pixel_recipe.worth_learning(torch.tensor([0.4, 0.6, 2.0]), t, usual, 0.5)
    assert kept.tolist() == [False, True, True]
    torch.testing.assert_close(usual[1:4], torch.tensor([0.94, 0.96, 1.1]))
    assert usual[0].isnan()


def test_the_new_pair_file_finds_the_images_of_a_users_pair(pair: Pair, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "images.npz", images=images)
    split = {"seed": 1, "duplicate_rms": 0.0, "training": 8, "held_out": 8, "pool": 0}
    data = DataSource(source="npz", path=str(tmp_path / "mine" / "images.npz"), images="images", split=split)
    mine = pair.model_copy(update={"name": "mine", "data": data})
    folder = train.train(mine, tmp_path / "victims" / "one", "cpu", silent)
    assert "../../mine/images.npz" in (folder / "pair.yaml").read_text(encoding="utf-8")
    again = load_references(load_pair(str(folder / "pair.yaml")))
    assert np.array_equal(again.training.images, load_references(mine).training.images)
