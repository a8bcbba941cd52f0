"""dori on a text pipeline of random weights: what is learned, from what, and what it is told of the images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import text_pipeline
from text_pipelines import pixart, sdxl

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Budget, Model, ModelSpec, OracleModel, TargetedModel
from sidebench.benchmark.errors import BadSetting, TooFew
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import SamplerSettings, Sampling
from sidebench.benchmark.registry import make_attack, make_defence
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.runs.check_attack import check_attack
from sidebench.benchmark.sampling.call_attack import make_candidates, prepare_attack, view_of
from sidebench.benchmark.sampling.defended import defend
from sidebench.benchmark.sampling.views import AuditedModel, in_order_of, order_of

pytest.importorskip("transformers")
SAMPLING = Sampling(micro_batch=4, sampler=SamplerSettings(steps=2))
PROMPTS = ["a cat", "a dog", "one house", "red", "two dogs"]
SMALL = {"steps": 3, "vectors": 1, "batch": 2, "images": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(family="text", location=str(text_pipeline(tmp_path_factory.mktemp("text") / "sd")))


@pytest.fixture
def model(spec: ModelSpec) -> Model:
    model = load_model(spec)
    model.prompts = PROMPTS
    draw = torch.Generator().manual_seed(0)
    model.shown = torch.randint(256, (5, *model.image_shape), generator=draw).to(torch.uint8)
    return model


def learned(model: Model, folder: Path, **settings: Any) -> Any:
    attack = make_attack("dori", {**SMALL, **settings})
    return attack, prepare_attack(attack, model, SAMPLING, Budget(0, 8, FolderCheckpoints(folder), silent))


def test_it_conforms(spec: ModelSpec) -> None:
    check_attack("dori", SMALL, spec, SAMPLING, count=5)


def loss_of(model: Model, embeddings: torch.Tensor) -> torch.Tensor:
    """The denoiser's error on the shown images, in the attack's order, over 64 noises and timesteps, (5,)."""
    assert model.shown is not None
    x_0 = model.encode(model.shown[order_of(0, 5)].float() / 255)
    drawn = Candidates(9, range(64))
    noise, t = drawn.normal("noise", model.sample_shape), drawn.integers("t", model.num_train_timesteps)
    rows = [
        (model.predict(model.add_noise(x.expand(64, -1, -1, -1), noise, t), t, given.expand(64, -1, -1)) - noise)
        for x, given in zip(x_0, embeddings, strict=True)
    ]
    return torch.stack([row.square().mean() for row in rows])


def test_the_second_token_on_is_learned_and_the_image_is_denoised_better(model: Model, tmp_path: Path) -> None:
    given = in_order_of(0, PROMPTS)
    _, found = learned(model, tmp_path, steps=40, batch=8)
    embeddings, captions = found.state.tensors["embeddings"], model.embed(given)
    assert embeddings.shape == captions.shape
    assert torch.equal(embeddings[:, 0], captions[:, 0]) and torch.equal(embeddings[:, 2:], captions[:, 2:])
    with torch.no_grad():
        assert (loss_of(model, embeddings) < loss_of(model, captions)).all()


def test_where_it_starts(model: Model, tmp_path: Path) -> None:
    asked = {
        start: learned(model, tmp_path / start, start=start, steps=0)[1].state.tensors["embeddings"]
        for start in ("caption", "none", "random")
    }
    empty = model.embed([""])
    assert torch.equal(asked["caption"], model.embed(in_order_of(0, PROMPTS)))
    assert torch.equal(asked["none"], empty.expand(5, -1, -1))
    assert torch.equal(asked["random"][:, 2:], empty.expand(5, -1, -1)[:, 2:])
    assert 0.5 < asked["random"][:, 1].std() < 2 and not torch.equal(asked["random"][0], asked["random"][1])


def test_a_target_knows_nothing_of_the_others(model: Model, tmp_path: Path) -> None:
    every = learned(model, tmp_path / "5")[1].state.tensors["embeddings"]
    two = learned(model, tmp_path / "2", targets=2)[1].state.tensors["embeddings"]
    assert two.shape[0] == 2 and torch.allclose(two, every[:2], atol=1e-5)


def test_each_candidate_is_bound_to_the_caption_of_its_target_and_paid_for(model: Model, tmp_path: Path) -> None:
    attack, found = learned(model, tmp_path)
    assert found.cost["nfe"] == {"prepare": 5 * 2 * 3}
    backward = found.cost["flops"]["prepare"] / model.flops_per_sample()
    assert 5 * 2 * 3 <= backward < 1.5 * 5 * 2 * 3, "the way back, and the encoders"
    made = make_candidates(attack, model, found.state, Candidates(0, range(11)), SAMPLING)
    assert made.columns["target"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0]
    given = in_order_of(0, PROMPTS)
    assert made.captions is not None
    assert [PROMPTS[number] for number in made.captions.tolist()] == [given[place] for place in made.columns["target"]]


@pytest.mark.parametrize(
    "defence", ["attention-reweighting", "embedding-noise", "embedding-optimisation", "random-tokens"]
)
def test_it_learns_and_samples_under_a_defence(defence: str, model: Model, tmp_path: Path) -> None:
    settings = {"steps": 1} if defence == "embedding-optimisation" else {}
    defended = defend(model, [make_defence(defence, settings)], "ddim", lambda: torch.empty(0))
    defended.prompts, defended.shown = model.prompts, model.shown
    attack, found = learned(defended, tmp_path)
    made = make_candidates(attack, defended, found.state, Candidates(0, range(4)), SAMPLING)
    plain = make_candidates(
        attack, model, learned(model, tmp_path / "plain")[1].state, Candidates(0, range(4)), SAMPLING
    )
    # It does not send the words that random-tokens would lengthen: it has the embedding.
    assert torch.equal(made.images, plain.images) == (defence == "random-tokens")


def test_only_an_oracle_that_replays_captions_is_shown_images(model: Model) -> None:
    """Others of the same run, canaries and oracles that replay nothing, are given what is theirs."""
    model.planted = ["x", "y", "z", "u", "v", "w", "q"]
    model.labelled = (torch.zeros(2, *model.image_shape), torch.zeros(2, dtype=torch.int64))
    for name, settings in (("canary-replay", {}), ("prompt-replay", {}), ("side-lora", {}), ("carlini-uncond", {})):
        attack = make_attack(name, settings)
        view = view_of(attack, AuditedModel(model, SAMPLING.sampler, 4), model, 0)
        assert not isinstance(view, TargetedModel), name
    oracle = make_attack("side--true-labels", {})
    assert isinstance(view_of(oracle, AuditedModel(model, SAMPLING.sampler, 4), model, 0), OracleModel)
    shown = view_of(make_attack("dori", {}), AuditedModel(model, SAMPLING.sampler, 4), model, 0)
    assert isinstance(shown, TargetedModel) and model.shown is not None
    place = list(shown.prompts).index("red")
    assert torch.equal(shown.images_of([place])[0], model.shown[PROMPTS.index("red")].float() / 255)


@pytest.mark.parametrize("start", ["none", "random"])
def test_what_is_learned_is_read_where_attention_is_reweighted(start: str, model: Model, tmp_path: Path) -> None:
    """The empty prompt counts as of two tokens; those that are learned behind the first would be hidden."""
    changed = model.reweighted(1.25)
    changed.prompts, changed.shown = model.prompts, model.shown
    settings = {"start": start, "vectors": 3, "batch": 4}
    moved = [
        learned(victim, tmp_path / str(steps), steps=steps, **settings)[1].state.tensors["embeddings"]
        for victim, steps in ((changed, 0), (changed, 2))
    ]
    by_token = (moved[1] - moved[0]).abs().sum((0, 2))
    assert (by_token[1:4] > 0.1).all() and by_token[0] == 0 and (by_token[4:] == 0).all()
    assert (moved[1][:, -1] == 5).all()


def test_numbers_that_could_hold_any_image_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="could hold an image of 256 values, whatever the model has learnt"):
        learned(model, tmp_path, vectors=16)


def test_nothing_to_learn_is_refused(model: Model, tmp_path: Path) -> None:
    model.prompts, model.shown = [], None
    with pytest.raises(TooFew, match="dori needs captions"):
        learned(model, tmp_path)


@pytest.mark.parametrize("write", [sdxl, pixart])
def test_of_other_embeddings_it_changes_the_tokens_alone(write: Any, tmp_path: Path) -> None:
    model = load_model(ModelSpec(family="text", location=str(write(tmp_path / "model"))))
    model.prompts = PROMPTS
    model.shown = torch.zeros(5, *model.image_shape, dtype=torch.uint8)
    begin, found = (
        learned(model, tmp_path / str(steps), steps=steps)[1].state.tensors["embeddings"] for steps in (0, 2)
    )
    assert ((found != begin).any(0) == (model.token_of() == 1)).all()
