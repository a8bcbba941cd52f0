"""Training a text-to-image pair's model again from its recipe, in small."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.candidates import generator
from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.data import model_files
from sidebench.benchmark.data.pair import Pair, Recipe, TextRecipe, load_pair
from sidebench.benchmark.data.references import References, load_references
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.zoo import text_recipe, train, training
from sidebench.benchmark.progress import silent

pytest.importorskip("transformers")

SMALL: dict[str, Any] = {"channels": (8, 8), "hidden": 8, "text_layers": 1, "batch": 4, "vocabulary": 128, "length": 64}
RECIPE = TextRecipe(
    kind="text",
    seed=3,
    steps=5,
    autoencoder={"steps": 3, "channels": (8, 8)},
    canaries="zoo:glyphs-canaries",
    **SMALL,
)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("glyphs").model_copy(update={"recipe": RECIPE})


@pytest.fixture(scope="module")
def trained(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(pair, tmp_path_factory.mktemp("zoo") / "model", "cpu", silent)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_text_family_loads_the_victim(trained: Path, pair: Pair) -> None:
    model = load_model(ModelSpec(family="text", location=str(trained)))
    assert model.image_shape == (1, 16, 16) and model.sample_shape == (4, 8, 8) and model.conditioning == "text"
    embedded = model.embed(["greek small letter alpha", ""])
    prediction = model.predict(torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), embedded)
    assert embedded.shape == (2, 64, 8) and bool(prediction.isfinite().all())
    assert model.encode(torch.rand(2, 1, 16, 16)).shape == (2, 4, 8, 8)
    assert len(list(trained.rglob("*.safetensors"))) == 3
    victim = load_pair(str(trained / "pair.yaml"))
    assert (victim.name, victim.recipe, victim.data) == ("glyphs-again", RECIPE, pair.data)
    assert [file.name for file in trained.parent.iterdir()] == ["model"], "what the training left beside it is gone"


def test_the_tokens_of_training_are_those_of_the_loaded_model(trained: Path) -> None:
    captions = ["greek small letter alpha with oxia", "k7zq0pmx3v9w1b2c", ""]
    model: Any = load_model(ModelSpec(family="text", location=str(trained)))
    tokens = text_recipe.tokenised(trained / "tokenizer", captions, 64)
    assert torch.equal(model.text_encoder(tokens)[0], model.embed(captions))
    vocabulary = json.loads((trained / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert model.text_encoder.config.vocab_size == len(vocabulary) <= 128
    assert not (tokens[:2] == vocabulary["<|endoftext|>"])[:, 1].any(), "letters and digits are known"


def test_a_killed_training_ends_in_the_same_bytes(
    pair: Pair, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVERY", 2)
    kills = iter([("autoencoder", 1), ("autoencoder", 2), ("recipe", 3), ("recipe", 4)])

    def dying(seed: int, purpose: str, number: int, stream: str) -> torch.Generator:
        if (purpose, number) == state["kill"]:
            raise KeyboardInterrupt
        state["calls"] += 1
        return generator(seed, purpose, number, stream)

    state: dict[str, Any] = {"calls": 0}
    monkeypatch.setattr(text_recipe, "generator", dying)
    torch.manual_seed(99)
    for kill in kills:
        state["kill"] = kill
        with pytest.raises(KeyboardInterrupt):
            train.train(pair, tmp_path / "again", "cpu", silent)
        assert not (tmp_path / "again").exists()
    state["kill"] = None
    assert everything(train.train(pair, tmp_path / "again", "cpu", silent)) == everything(trained)
    # Checkpoints after 2 and 3 steps of the autoencoder and after 2, 4 and 5 of the denoiser.
    assert state["calls"] == 1 + 2 + (1 + 3) + 2 + 1, "no step before the last checkpoint was done again"


def test_progress_of_another_training_is_refused(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"

    def dying(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(pair, tmp_path / "one", "cpu", dying, checkpoints=kept)
    with pytest.raises(BadInput, match="holds another training"):
        train.train(pair, tmp_path / "one", "cpu", silent, checkpoints=kept, changes={"seed": 4})
    with pytest.raises(BadInput, match="holds another training"):
        train.train(pair, tmp_path / "one", "cpu", silent, checkpoints=kept, split_seed=2)


def test_held_out_images_and_captions_are_not_seen(
    pair: Pair, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_references(pair)
    blank = {
        name: dataclasses.replace(part, images=part.images * 0, captions=["zzz"] * len(part))
        for name in ("held_out", "tuning")
        if (part := getattr(found, name))
    }
    monkeypatch.setattr(train, "load_references", lambda _: dataclasses.replace(found, **blank))
    again = train.train(pair, tmp_path / "blind", "cpu", silent)
    assert model_files.hashes(again) == model_files.hashes(trained)


@pytest.mark.parametrize("changed", ["pool", "training"])
def test_autoencoder_and_tokenizer_learn_from_the_pool_alone(
    changed: str, pair: Pair, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_references(pair)
    own = getattr(found, changed)
    other = dataclasses.replace(own, images=255 - own.images, captions=["other words"] * len(own))
    monkeypatch.setattr(train, "load_references", lambda _: dataclasses.replace(found, **{changed: other}))
    again, before = model_files.hashes(train.train(pair, tmp_path / "x", "cpu", silent)), model_files.hashes(trained)
    same = {name for name in before if again[name] == before[name] and name.endswith(("safetensors", "vocab.json"))}
    learnt = {"vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"}
    assert same == (learnt if changed == "training" else set())


def test_canaries_are_trained_on_as_often_as_they_have_copies(pair: Pair) -> None:
    found = load_references(pair).training
    shown = text_recipe.with_canaries(found, RECIPE)
    assert len(shown.images) == len(shown.captions) == 256 + 8 * (1 + 2 + 4 + 8)
    assert shown.captions[:256] == found.captions and torch.equal(shown.images[:256], found.floats())
    planted = text_recipe.canaries("zoo:glyphs-canaries", (1, 16, 16))
    assert planted.captions is not None and planted.labels is not None
    for row, (string, copies) in enumerate(zip(planted.captions, planted.labels, strict=True)):
        places = [number for number, caption in enumerate(shown.captions) if caption == string]
        assert len(places) == copies
        assert all(torch.equal(shown.images[number], planted.floats()[row]) for number in places)


def without(references: References, **parts: Any) -> References:
    return dataclasses.replace(references, **parts)


def test_what_a_text_recipe_cannot_do_is_refused(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, message in (
        ({"length": 8}, "train.length = 8: the caption '.*' has"),
        ({"stop_after": 6}, "stop_after = 6 lies beyond steps = 5"),
    ):
        with pytest.raises(BadSetting, match=message):
            train.train(pair, tmp_path / "none", "cpu", silent, changes=changes)
    with pytest.raises(BadInput, match="'shift'"):
        train.train(pair, tmp_path / "none", "cpu", silent, changes={"shift": 1})
    found = load_references(pair)
    for lacking, message in (
        ({"training": dataclasses.replace(found.training, captions=None)}, "needs captions: give the pair"),
        ({"pool": found.pool.take(torch.zeros(0, dtype=torch.int64).numpy())}, "needs pool images"),
    ):
        monkeypatch.setattr(train, "load_references", lambda _, parts=lacking: dataclasses.replace(found, **parts))
        with pytest.raises(BadInput, match=message):
            train.train(pair, tmp_path / "none", "cpu", silent)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"a text recipe needs transformers: pip install 'transformers>=4.56'"):
        train.train(pair, tmp_path / "none", "cpu", silent)
    assert not (tmp_path / "none").exists()


def test_a_recipe_makes_a_model_of_its_own_kind(pair: Pair) -> None:
    """Else the trained pair could not be run: said before the training, not after it."""
    content = pair.model_dump(mode="json", exclude_unset=True)
    del content["model"]["family"]
    with pytest.raises(ValueError, match=r"a recipe of kind text makes .* text; model\.family is pixel"):
        Pair.model_validate(content)


def test_a_recipe_without_a_kind_is_of_pixels() -> None:
    digits = load_pair("digits").model_dump()
    assert isinstance(Pair(**digits).recipe, Recipe)
    assert isinstance(load_pair("glyphs").recipe, TextRecipe)
    for recipe, message in (({"kind": "sound", "seed": 1}, "recipe.kind is pixel or text"), ({"kind": "text"}, "seed")):
        with pytest.raises(ValueError, match=message):
            Pair(**{**digits, "recipe": recipe})
