"""side-lora on a model that draws black and white images: untrained it is plain sampling, trained it draws as asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hub_repositories import text_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, Budget, Model, ModelSpec, SamplerSettings
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.sampling.call_attack import Made, make_candidates, prepare_attack
from sidebench.benchmark.sampling.sampler import quantise
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods import averaged_training, surrogate
from sidebench.methods.side_lora import EMBEDDING

SAMPLING = Sampling(micro_batch=32, sampler=SamplerSettings(steps=20))
SMALL = {
    "synthetic_images": 64,
    "clusters": 2,
    "rank": 4,
    "batch": 32,
    "training_steps": 60,
    "warmup": 10,
    "learning_rate": 5e-3,
    "embedding_rate": 0.1,
}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A denoiser of 4 x 4 images that was trained on one dark and one bright image, and predicts x_0.

    What predicts noise learns late what to do where all is noise, and there a cluster is chosen.
    """
    folder = tmp_path_factory.mktemp("victim") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8,),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            add_attention=False,
        )
        schedule = DDPMScheduler(prediction_type="sample")
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            clean = torch.randint(2, (32, 1, 1, 1)).float().expand(32, 1, 4, 4) * 1.6 - 0.8
            t = torch.randint(1000, (32,))
            noisy = schedule.add_noise(clean, torch.randn(clean.shape), t)
            optimiser.zero_grad()
            (network(noisy, t).sample - clean).square().mean().backward()
            optimiser.step()
    DDPMPipeline(network, schedule).save_pretrained(folder)
    return load_model(ModelSpec(family="pixel", location=str(folder)))


def prepared(model: Model, folder: Path, **settings: Any) -> Any:
    attack = make_attack("side-lora", {**SMALL, **settings})
    return attack, prepare_attack(attack, model, SAMPLING, Budget(0, 32, FolderCheckpoints(folder), silent))


def made(attack: Any, model: Model, state: AttackState, count: int = 32) -> Made:
    return make_candidates(attack, model, state, Candidates(0, range(count)), SAMPLING)


def test_untrained_it_is_plain_sampling_image_for_image(victim: Model, tmp_path: Path) -> None:
    attack, found = prepared(victim, tmp_path, training_steps=0)
    plain = made(make_attack("carlini-uncond", {}), victim, AttackState())
    assert torch.equal(made(attack, victim, found.state).images, plain.images)


def test_trained_it_draws_the_cluster_that_was_asked_for(victim: Model, tmp_path: Path) -> None:
    attack, found = prepared(victim, tmp_path)
    images = made(attack, victim, found.state)
    bright = (images.images.float().mean((1, 2, 3)) > 127).int()
    asked = images.columns["cluster"].int()
    agree = float((bright == asked).float().mean())
    assert max(agree, 1 - agree) > 0.9, "which cluster is the bright one is the clustering's choice"
    assert 0.2 < float(asked.float().mean()) < 0.8


def test_the_denoiser_stays_as_it_is_and_every_call_is_counted(victim: Model, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in victim.unet.state_dict().items()}  # type: ignore[attr-defined]
    _, found = prepared(victim, tmp_path, training_steps=3)
    after = victim.unet.state_dict()  # type: ignore[attr-defined]
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # 64 synthetic images of 20 steps, then 3 batches of 32; backward is two more calls a row.
    assert found.cost["nfe"] == {"prepare": 64 * 20 + 3 * 32}
    assert found.cost["flops"]["prepare"] == pytest.approx(2 * 3 * 32 * victim.flops_per_sample())


def test_a_killed_training_ends_in_the_same_values(
    victim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaged_training, "CHECKPOINT_EVERY", 2)
    _, whole = prepared(victim, tmp_path / "whole", training_steps=7)
    save, kept = FolderCheckpoints.save, FolderCheckpoints(tmp_path / "killed")

    def killed(self: FolderCheckpoints, name: str, state: AttackState) -> None:
        save(self, name, state)
        if state.info.get("step") == 4:
            raise KeyboardInterrupt

    attack = make_attack("side-lora", {**SMALL, "training_steps": 7})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FolderCheckpoints, "save", killed)
        prepare_attack(attack, victim, SAMPLING, Budget(0, 32, kept, silent))
    again = prepare_attack(attack, victim, SAMPLING, Budget(0, 32, kept, silent))
    assert again.state.info == whole.state.info
    for name, value in whole.state.tensors.items():
        assert torch.equal(value, again.state.tensors[name]), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 9}, r"rank = 9 exceeds .*/unet's layer .*: the largest rank that fits is 8"),
        ({"preset": "paper"}, "rank = 512 exceeds"),
        ({"modules": "attention"}, "has no layers of the kind attention to adapt"),
        ({"condition": "token"}, "condition = token does not fit this model; class does"),
    ],
)
def test_what_does_not_fit_is_said_before_an_image_is_drawn(
    settings: dict[str, Any], said: str, victim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogate, "synthetic_images", None)
    with pytest.raises(BadInput, match=said):
        prepared(victim, tmp_path, **settings)


def test_one_cluster_is_plain_self_distillation(victim: Model, tmp_path: Path) -> None:
    attack, found = prepared(victim, tmp_path, clusters=1, training_steps=1)
    assert found.state.info["sizes"] == [64]
    assert set(made(attack, victim, found.state).columns["cluster"].tolist()) == {0}


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = text_pipeline(tmp_path_factory.mktemp("text") / "sd")
    return load_model(ModelSpec(family="text", location=str(folder)))


def test_untrained_tokens_are_the_empty_prompt(text_model: Model, tmp_path: Path) -> None:
    small = {"synthetic_images": 8, "training_steps": 0, "cohesion": -1.0}
    attack, found = prepared(text_model, tmp_path, **small)
    plain = AuditedModel(text_model, SAMPLING.sampler, SAMPLING.micro_batch).sample(Candidates(0, range(4)))
    assert torch.equal(made(attack, text_model, found.state, 4).images, quantise(plain))
    assert found.state.tensors[EMBEDDING].shape[:2] == (found.state.info["classes"], 1)


def test_tokens_and_prompts_are_trained_and_differ(text_model: Model, tmp_path: Path) -> None:
    small = {"synthetic_images": 8, "training_steps": 2, "batch": 4, "cohesion": -1.0}
    attack, token = prepared(text_model, tmp_path / "token", **small, tokens=2, guidance_scale=2.0)
    learnt = token.state.tensors[EMBEDDING]
    assert learnt.shape[1] == 2 and not torch.equal(learnt[0], learnt[1])
    assert made(attack, text_model, token.state, 4).cost["nfe"] == {"generate": 4 * 20 * 2}, "guidance costs a call"
    _, prompt = prepared(text_model, tmp_path / "prompt", **small, condition="prompt")
    assert EMBEDDING not in prompt.state.tensors
    with pytest.raises(BadInput, match="condition = class does not fit this model; token or prompt does"):
        prepared(text_model, tmp_path / "class", **small, condition="class")
