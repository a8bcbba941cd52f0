"""webster-one-step and webster-edges on a text pipeline of random weights: scores, the filter, what they cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_repositories import text_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, Budget, Model, ModelSpec
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import SamplerSettings, Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.sampling.call_attack import make_candidates, prepare_attack
from sidebench.benchmark.sampling.views import AuditedModel, in_order_of, view_for
from sidebench.methods import webster_one_step
from sidebench.methods.webster_one_step import edge_consistency

pytest.importorskip("transformers")
SAMPLING = Sampling(micro_batch=4, sampler=SamplerSettings(steps=2))
PROMPTS = ["a cat", "a dog", "one house", "red", "two dogs"]
SMALL = {"seeds": 2, "kept": 0.4, "images": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = text_pipeline(tmp_path_factory.mktemp("text") / "sd")
    model = load_model(ModelSpec(family="text", location=str(folder)))
    model.prompts = PROMPTS
    return model


def prepared(name: str, model: Model, folder: Path, **settings: Any) -> Any:
    attack = make_attack(name, {**SMALL, **settings})
    return attack, prepare_attack(attack, model, SAMPLING, Budget(0, 8, FolderCheckpoints(folder), silent))


@pytest.mark.parametrize(("name", "calls"), [("webster-one-step", 2), ("webster-edges", 2)])
def test_every_caption_is_scored_in_one_step_and_the_best_are_replayed(
    name: str, calls: int, model: Model, tmp_path: Path
) -> None:
    attack, found = prepared(name, model, tmp_path)
    scores = found.state.tensors["caption_scores"]
    assert scores.shape == (5,) and found.cost["nfe"] == {"prepare": 5 * 2 * calls}
    made = make_candidates(attack, model, found.state, Candidates(0, range(5)), SAMPLING)
    best = torch.argsort(scores, descending=True, stable=True)[:2].tolist()
    assert made.columns["prompt"].tolist() == [best[0], best[0], best[1], best[1], best[0]]
    assert made.captions is not None, "bound by the harness, though the attack has the weights"
    given = in_order_of(0, PROMPTS)
    assert [PROMPTS[number] for number in made.captions.tolist()] == [given[place] for place in made.columns["prompt"]]


def test_the_score_is_the_step_that_the_denoiser_takes_from_noise(model: Model, tmp_path: Path) -> None:
    """By hand, without guidance: x_T minus the estimate of x_0, both at the scale sigma / alpha."""
    _, found = prepared("webster-one-step", model, tmp_path, seeds=1, guidance_scale=1.0)
    noise = Candidates(0, [0], "one step").normal("noise", model.sample_shape)
    t = torch.tensor([model.num_train_timesteps - 1])
    alpha, sigma = (level.item() for level in model.noise_level(t))
    with torch.no_grad():
        eps = model.predict(noise, t, model.embed(in_order_of(0, PROMPTS)[:1]))
    x_t = noise * sigma / alpha
    step = x_t - eps * sigma / alpha
    assert found.state.tensors["caption_scores"][0].item() == pytest.approx(
        (x_t - step).square().mean().item(), rel=1e-4
    )


@pytest.mark.parametrize("name", ["webster-one-step", "webster-edges"])
def test_a_killed_scoring_ends_in_the_same_scores(
    name: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webster_one_step, "BLOCK", 2)
    _, whole = prepared(name, model, tmp_path / "whole")
    save = FolderCheckpoints.save

    def killed(self: FolderCheckpoints, place: str, state: AttackState) -> None:
        save(self, place, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FolderCheckpoints, "save", killed)
        prepared(name, model, tmp_path / "killed")
    _, again = prepared(name, model, tmp_path / "killed")
    assert torch.equal(again.state.tensors["caption_scores"], whole.state.tensors["caption_scores"])


def test_edges_that_most_images_share_are_counted() -> None:
    square = torch.zeros(1, 1, 16, 16)
    square[..., 4:12, 4:12] = 1
    noise = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.05
    same, blur = square.repeat(4, 1, 1, 1), torch.full((4, 1, 16, 16), 0.5)
    moved = torch.cat([square.roll(shift, -1) for shift in (0, 4, 8, 12)])
    assert edge_consistency(same, 1.5) == pytest.approx(64 / 256)  # a ring two pixels wide
    assert edge_consistency(same + noise, 1.5) == pytest.approx(64 / 256)
    assert edge_consistency(blur + noise, 1.5) == 0 and edge_consistency(moved, 1.5) < 64 / 256
    colour = same.repeat(1, 3, 1, 1)
    assert edge_consistency(colour, 1.5) == edge_consistency(same, 1.5)


def test_large_images_are_shrunk_as_in_the_paper() -> None:
    big = torch.zeros(2, 3, 512, 512)
    big[..., 128:384, 128:384] = 1
    assert 0 < edge_consistency(big, 1.5) < 0.05
    assert webster_one_step._shrunk(big).shape == (2, 3, 256, 256)


def test_an_attack_may_ask_for_its_own_number_of_steps(model: Model) -> None:
    """One step goes from pure noise to the denoiser's first estimate, whatever spacing the schedule names."""
    audited = AuditedModel(model, SAMPLING.sampler, 4)
    view: Any = view_for("prompts", audited, PROMPTS)
    one = view.sample_prompts(Candidates(0, [0]), PROMPTS[:1], steps=1)
    assert audited.ledger.nfe == {audited.ledger.phase: 1}
    noise, t = Candidates(0, [0]).normal("noise", model.sample_shape), torch.tensor([model.num_train_timesteps - 1])
    alpha, sigma = (level.item() for level in model.noise_level(t))
    with torch.no_grad():
        clean = (noise - sigma * model.predict(noise, t, model.embed(PROMPTS[:1]))) / alpha
    # The scheduler ends at its lowest noise level and not at none (set_alpha_to_one: false).
    assert torch.allclose(one, model.decode(clean).cpu(), atol=2e-3)
    assert not torch.equal(one, view.sample_prompts(Candidates(0, [0]), PROMPTS[:1]))
    with pytest.raises(BadInput, match="an attack asks for 51 steps; this model takes 1 to 50"):
        view.sample_prompts(Candidates(0, [0]), PROMPTS[:1], steps=51)


def test_scores_of_white_box_attacks_are_of_captions_alone_if_they_say_that_they_replay(model: Model) -> None:
    made = view_for("white box", AuditedModel(model, SAMPLING.sampler, 4))
    assert list(made.prompts) == []  # type: ignore[attr-defined]
    assert np.array_equal(np.sort(in_order_of(3, PROMPTS)), PROMPTS)
