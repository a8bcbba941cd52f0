"""Pixel networks of other kinds: variances beside the mean, classes as numbers, no text to attend to, odd schedules."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hub_repositories import change_config, pixel_folder, unet
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import ModelSpec, SamplerSettings
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import inspect_files, load_model
from sidebench.benchmark.sampling.sampler import sample_latents
from sidebench.benchmark.sampling.try_sampler import try_sampler

FOUR = Candidates(0, range(4))
CLASSES = torch.tensor([0, 2, 4, 4])
BLOCKS = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2


def loaded(folder: Path) -> Any:
    model: Any = load_model(ModelSpec(family="pixel", location=str(folder)))
    return model


def conditional(classes: int | None = None, **more: Any) -> Any:
    """Return a UNet2DConditionModel that has nothing to attend to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            num_class_embeds=classes,
            **{
                "down_block_types": BLOCKS[0],
                "up_block_types": BLOCKS[1],
                "mid_block_type": "UNetMidBlock2D",
                "cross_attention_dim": 16,
                "attention_head_dim": 4,
                **more,
            },
        )


@torch.no_grad()
def theirs(scheduler: Any, network: Any, noise: Tensor, **given: Any) -> Tensor:
    """Sample by diffusers' DDIM on this schedule, from the mean of what the network says."""
    own = diffusers.DDIMScheduler.from_config(scheduler.config)
    own.set_timesteps(5)
    x = noise
    for t in own.timesteps:
        x = own.step(network(x, t, **given).sample[:, :3], t, x).prev_sample
    return x


NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "variances": (lambda: unet(3, out_channels=6), {}),
    "classes and variances": (lambda: unet(3, 5, out_channels=6), {"class_labels": CLASSES}),
    "classes as numbers": (lambda: unet(3, 5, class_embed_type="timestep"), {"class_labels": CLASSES}),
    "no text": (conditional, {"encoder_hidden_states": None}),
    "no text, classes": (lambda: conditional(5), {"encoder_hidden_states": None, "class_labels": CLASSES}),
    "no text, attention": (
        lambda: conditional(cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")),
        {"encoder_hidden_states": None},
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_images_are_those_of_the_network_under_diffusers_scheduler(kind: str, tmp_path: Path) -> None:
    make, given = NETWORKS[kind]
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=50, variance_type="learned_range" if "variances" in kind else "fixed_small"
    )
    model = loaded(pixel_folder(tmp_path / "model", make(), scheduler))
    classes = given.get("class_labels")
    assert (model.conditioning, model.sample_shape) == ("none" if classes is None else "class", (3, 8, 8))
    found = sample_latents(model, FOUR, SamplerSettings(steps=5), 4, condition=classes)
    expected = theirs(scheduler, model.unet, FOUR.normal("noise", model.sample_shape), **given)
    assert torch.allclose(found, expected, atol=1e-5) and model.flops_per_sample() > 1000


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "dpm-solver++"])
@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
def test_betas_that_only_ddpm_knows_reach_every_sampler(schedule: str, sampler: Any, tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50, beta_schedule=schedule)
    model = loaded(pixel_folder(tmp_path / "model", unet(3), scheduler))
    clean, noise = torch.randn(2, 50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.arange(50)
    assert torch.allclose(model.add_noise(clean, noise, t), scheduler.add_noise(clean, noise, t), atol=1e-5)
    found = sample_latents(model, FOUR, SamplerSettings(name=sampler, steps=5), 4)
    assert found.isfinite().all()
    if sampler == "ddim":
        betas = diffusers.DDIMScheduler(num_train_timesteps=50, trained_betas=scheduler.betas.tolist())
        assert torch.allclose(found, theirs(betas, model.unet, FOUR.normal("noise", model.sample_shape)), atol=1e-5)


def test_zero_snr_is_kept_with_betas_that_only_ddpm_knows(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=50, beta_schedule="sigmoid", rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    model = loaded(pixel_folder(tmp_path / "model", unet(3), scheduler))
    alpha, _ = model.noise_level(torch.arange(50))
    assert torch.allclose(alpha, scheduler.alphas_cumprod.sqrt(), atol=1e-5) and float(alpha[-1]) < 1e-6
    assert model.scheduler_config["rescale_betas_zero_snr"]
    try_sampler(model, SamplerSettings(steps=5), "mine")


# ---- What is refused before any work ----


def refused(folder: Path, sampler: SamplerSettings | None = None) -> str:
    """Return what is said of a folder before a run."""
    with pytest.raises(BadInput) as refusal:
        files = inspect_files(ModelSpec(family="pixel", location=str(folder)))
        try_sampler(files.outline, sampler or SamplerSettings(steps=5), "mine")  # type: ignore[arg-type]
    return str(refusal.value)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("scheduler", {"num_train_timesteps": "50"}, 'num_train_timesteps: is "50", wanted a whole number from 2'),
        ("scheduler", {"num_train_timesteps": 3}, "mine: its noise schedule has 3 timesteps, sampler ddim takes 5"),
        ("scheduler", {"beta_schedule": "foo"}, 'beta_schedule: is "foo", wanted one of linear, scaled_linear'),
        ("scheduler", {"beta_end": 2.0}, "beta_end: is 2.0, wanted a number above 0 and at most 1"),
        ("scheduler", {"beta_start": 0}, "beta_start: is 0, wanted a number above 0"),
        ("scheduler", {"clip_sample_range": True}, "clip_sample_range: is true, wanted a number above 0"),
        ("scheduler", {"trained_betas": [0.1, 0.2]}, "trained_betas: holds 2 values, wanted num_train_timesteps, 50"),
        ("scheduler", {"trained_betas": [0.1, "x"]}, 'trained_betas: is [0.1, "x"], wanted a list'),
        ("scheduler", {"steps_offset": 12}, "sampler ddim in 5 steps does not go with its noise schedule"),
        (
            "scheduler",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "draws no finite image on its noise schedule (epsilon says nothing of the image in pure noise)",
        ),
        ("unet", {"sample_size": 0}, "unet/config.json, sample_size: is 0, wanted a whole number from 1"),
        (
            "unet",
            {"sample_size": "8"},
            'sample_size: is "8", wanted a whole number from 1 to 8,192, or',
        ),
        ("unet", {"sample_size": 9}, "unet/config.json, sample_size: is 9, wanted a multiple of 2"),
        ("unet", {"out_channels": 5}, "out_channels: is 5, wanted in_channels, 3, or 6 where it says variances too"),
        ("unet", {"class_embed_type": "identity"}, 'class_embed_type: is "identity", wanted null or timestep'),
        ("unet", {"class_embed_type": "timestep"}, "num_class_embeds: is missing"),
        (
            "unet",
            {"norm_num_groups": 3},
            "norm_num_groups: is 3, wanted a divisor of block_out_channels, [8, 8]",
        ),
        ("unet", {"act_fn": "swush"}, 'unet/config.json, act_fn: is "swush": diffusers makes no UNet2DModel of it'),
        ("unet", {"down_block_types": [8, 8]}, "down_block_types: is [8, 8], wanted a list of names"),
        ("unet", {"down_block_types": ["DownBlock2D"]}, "unet/config.json: diffusers makes no UNet2DModel of it"),
        ("unet", {"time_embedding_type": "fourier"}, 'time_embedding_type: is "fourier", which takes the logarithm'),
        ("unet", {"time_embedding_type": "learned"}, "num_train_timesteps: is null, wanted 50 or more"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_before_any_work(
    part: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = pixel_folder(tmp_path / "model", unet(3), diffusers.DDPMScheduler(num_train_timesteps=50))
    said = refused(change_config(folder, part, **change))
    assert words in said and "\n" not in said


def test_a_network_that_does_not_say_its_size_is_refused(tmp_path: Path) -> None:
    folder = pixel_folder(tmp_path / "model", unet(3), diffusers.DDPMScheduler(num_train_timesteps=50))
    config = json.loads((folder / "unet" / "config.json").read_text("utf-8"))
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": None}), "utf-8")
    assert "unet/config.json, sample_size: is null, wanted a whole number" in refused(folder)
    del config["sample_size"]
    (folder / "unet" / "config.json").write_text(json.dumps(config), "utf-8")
    assert "unet/config.json, sample_size: is missing, wanted a whole number" in refused(folder)


def test_a_network_that_attends_to_what_nobody_gives_it_is_refused(tmp_path: Path) -> None:
    network = conditional(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    said = refused(pixel_folder(tmp_path / "model", network, diffusers.DDPMScheduler(num_train_timesteps=50)))
    assert "unet/config.json, cross_attention_dim: is 16, but there is no text to attend to" in said


def test_a_network_of_another_class_is_refused(tmp_path: Path) -> None:
    folder = pixel_folder(tmp_path / "model", unet(3), diffusers.DDPMScheduler(num_train_timesteps=50))
    index = (folder / "model_index.json").read_text("utf-8")
    (folder / "model_index.json").write_text(index.replace("UNet2DModel", "UNet1DModel"), "utf-8")
    with pytest.raises(BadInput, match="the unet of a DDPMPipeline is a UNet2DModel or UNet2DConditionModel, this one"):
        loaded(folder)
