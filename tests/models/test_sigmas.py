"""Schedules that state sigma: images of diffusers' own schedulers from the same noise, and truth in closed form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hub_repositories import change_config, class_name, latent_pipeline, pixel_folder, unet
from torch import Tensor, nn

from sidebench import from_torch
from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import ModelSpec, SamplerSettings
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import inspect_files, load_model
from sidebench.benchmark.sampling.sampler import quantise, sample_latents
from sidebench.benchmark.sampling.try_sampler import try_sampler

LEVELS, STEPS = 21, 7
FOUR = Candidates(0, range(4))
EDM = {
    "karras": (diffusers.EDMEulerScheduler, {}),
    "exponential": (diffusers.EDMEulerScheduler, {"sigma_schedule": "exponential"}),
    "v": (diffusers.EDMEulerScheduler, {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 20.0}),
    "multistep": (diffusers.EDMDPMSolverMultistepScheduler, {"solver_order": 1, "rho": 5.0}),
}


def loaded(folder: Path) -> Any:
    model: Any = load_model(ModelSpec(family="pixel", location=str(folder)))
    return model


def of(scheduler: Any, tmp_path: Path, pipeline: str = "DDPMPipeline", classes: int | None = None) -> Any:
    return loaded(pixel_folder(tmp_path / "model", unet(3, classes), scheduler, pipeline))


@torch.no_grad()
def theirs(scheduler: Any, network: Callable[..., Any], x: Tensor) -> Tensor:
    """Sample as diffusers' pipelines do, from noise that has its final size."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


# ---- EDM ----


@pytest.mark.parametrize("kind", EDM)
def test_edm_images_are_those_of_its_own_scheduler(kind: str, tmp_path: Path) -> None:
    cls, options = EDM[kind]
    own = cls(num_train_timesteps=LEVELS, **options)
    model = of(own, tmp_path)
    steps = STEPS if kind == "karras" else LEVELS
    found = sample_latents(model, FOUR, SamplerSettings(steps=steps), 4)
    if kind == "karras":  # fewer steps: at the levels that the sampler chooses, as places on Karras et al.'s ramp
        own.set_timesteps(steps, sigmas=torch.linspace(0, 18, STEPS) / 20)
    else:
        own.set_timesteps(steps)
    expected = theirs(own, model.unet, FOUR.normal("noise", model.sample_shape) * own.init_noise_sigma)
    assert torch.allclose(found, expected, atol=2e-5) and float(expected.abs().max()) > 0.5
    assert torch.equal(quantise(model.decode(found)), quantise(model.decode(expected)))


@pytest.mark.parametrize("kind", EDM)
def test_edm_noise_levels_are_those_of_its_own_scheduler(kind: str, tmp_path: Path) -> None:
    cls, options = EDM[kind]
    own = cls(num_train_timesteps=LEVELS, **options)
    model = of(own, tmp_path)
    assert model.num_train_timesteps == LEVELS
    own.set_timesteps(LEVELS)
    check_add_noise(model, own)


def test_edm_latents_are_those_of_its_own_scheduler(tmp_path: Path) -> None:
    own = diffusers.EDMEulerScheduler(num_train_timesteps=STEPS)
    folder = latent_pipeline(tmp_path / "model", "vq")
    own.save_pretrained(folder / "scheduler")
    class_name(folder, "LDMPipeline", scheduler=["diffusers", "EDMEulerScheduler"])
    model: Any = load_model(ModelSpec(family="latent", location=str(folder)))
    found = sample_latents(model, FOUR, SamplerSettings(steps=STEPS), 4)
    own.set_timesteps(STEPS)
    expected = theirs(own, model.denoiser, FOUR.normal("noise", model.sample_shape) * own.init_noise_sigma)
    assert torch.allclose(found, expected, atol=2e-5) and float(expected.abs().max()) > 0.5


def check_add_noise(model: Any, own: Any) -> None:
    """Compare alpha (x_0 + sigma n) with x_0 + sigma n of a scheduler whose timesteps fall from the largest sigma."""
    t = torch.arange(0, model.num_train_timesteps, 4)
    clean, noise = torch.randn(2, len(t), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha, sigma = model.noise_level(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha))
    expected = own.add_noise(clean, noise, own.timesteps.flip(0)[t])
    assert torch.allclose(model.add_noise(clean, noise, t) / alpha.view(-1, 1, 1, 1), expected, rtol=1e-4, atol=1e-5)


class Truth(nn.Module):
    """The network of EDM or of a consistency model for pixels of mean 0.3 and deviation 0.2, normal and independent."""

    MEAN, DEVIATION = 0.3, 0.2

    def __init__(self, schedule: Any, floor: float | None) -> None:
        super().__init__()
        self.data, self.floor = schedule.sigma_data, floor

    def forward(self, x: Tensor, time: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        s = (time * 4 if self.floor is None else time * 0.004).exp().view(-1, 1, 1, 1)
        x = x * (s**2 + self.data**2).sqrt()
        shrunk = self.DEVIATION**2 / (self.DEVIATION**2 + s**2)
        from_data = s - (self.floor or 0)  # what makes a consistency model answer with x itself at the smallest sigma
        answer = self.MEAN + (shrunk if self.floor is None else shrunk.sqrt()) * (x - self.MEAN)
        c_skip = self.data**2 / (from_data**2 + self.data**2)
        return ((answer - c_skip * x) * (s**2 + self.data**2).sqrt() / (from_data * self.data),)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 200), ("euler", 200), ("dpm-solver++", 50), ("ddpm", 200)])
def test_samplers_draw_a_known_distribution_from_an_edm_network(sampler: Any, steps: int, tmp_path: Path) -> None:
    model = of(diffusers.EDMEulerScheduler(num_train_timesteps=400), tmp_path)
    model.unet = Truth(model.schedule, None)
    drawn = sample_latents(model, Candidates(0, range(24)), SamplerSettings(name=sampler, steps=steps), 24)
    assert float(drawn.mean()) == pytest.approx(Truth.MEAN, abs=0.012)
    assert float(drawn.std()) == pytest.approx(Truth.DEVIATION, rel=0.06)


def test_edm_knows_the_score_of_a_known_distribution(tmp_path: Path) -> None:
    model = of(diffusers.EDMEulerScheduler(num_train_timesteps=400), tmp_path)
    model.unet = Truth(model.schedule, None)
    t = torch.tensor([0, 100, 250, 399])
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in model.noise_level(t))
    x_t = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    score = -(x_t - alpha * Truth.MEAN) / (alpha**2 * Truth.DEVIATION**2 + sigma**2)
    assert torch.allclose(model.predict(x_t, t), -sigma * score, rtol=1e-3, atol=1e-4)


# ---- Consistency models ----


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistency_images_are_those_of_their_own_pipeline(steps: int, tmp_path: Path) -> None:
    own = diffusers.CMStochasticIterativeScheduler(40, clip_denoised=steps != 2)
    network = unet(3, 5)
    model = loaded(pixel_folder(tmp_path / "model", network, own, "ConsistencyModelPipeline"))
    classes = torch.tensor([0, 4, 1, 1])
    found = sample_latents(model, FOUR, SamplerSettings(steps=steps), 4, condition=classes)
    pipeline = diffusers.ConsistencyModelPipeline(network, own)
    pipeline.set_progress_bar_config(disable=True)
    noise, draws = FOUR.normal("noise", model.sample_shape), FOUR.generators("sampler")
    given = {"class_labels": classes, "latents": noise, "generator": draws, "num_inference_steps": steps}
    expected = pipeline(batch_size=4, output_type="pt", **given).images
    assert torch.allclose(model.decode(found), expected, atol=1e-4) and float(expected.std()) > 0.05


def test_consistency_noise_levels_are_those_of_their_own_scheduler(tmp_path: Path) -> None:
    own = diffusers.CMStochasticIterativeScheduler(40)
    model = of(own, tmp_path, "ConsistencyModelPipeline")
    own.set_timesteps(40)
    check_add_noise(model, own)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_consistency_model_of_a_known_distribution_draws_it(steps: int, tmp_path: Path) -> None:
    model = of(diffusers.CMStochasticIterativeScheduler(40, clip_denoised=False), tmp_path, "ConsistencyModelPipeline")
    model.unet = Truth(model.schedule, model.schedule.sigma_min)
    drawn = sample_latents(model, Candidates(0, range(24)), SamplerSettings(steps=steps), 24)
    assert float(drawn.mean()) == pytest.approx(Truth.MEAN, abs=0.012)
    assert float(drawn.std()) == pytest.approx(Truth.DEVIATION, rel=0.06)


def test_a_consistency_model_is_drawn_by_its_own_step_alone(tmp_path: Path) -> None:
    model = of(diffusers.CMStochasticIterativeScheduler(40), tmp_path, "ConsistencyModelPipeline")
    with pytest.raises(BadInput, match="mine: sampler euler does not go with a consistency model; use ddim"):
        try_sampler(model, SamplerSettings(name="euler", steps=4), "mine")
    with pytest.raises(BadInput, match=r"has 40 timesteps, sampler ddim takes 50.*steps: 40"):
        try_sampler(model, SamplerSettings(), "mine")
    try_sampler(model, SamplerSettings(steps=2), "mine")


# ---- Networks that are given log sigma ----


@pytest.mark.parametrize("karras", [False, True])
def test_continuous_times_are_a_quarter_of_log_sigma(karras: bool, tmp_path: Path) -> None:
    options = {"use_karras_sigmas": True, "sigma_min": 0.02, "sigma_max": 60.0} if karras else {}
    own = diffusers.EulerDiscreteScheduler(
        20,
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="trailing",
        beta_end=0.2,
        **options,
    )
    model = of(own, tmp_path)
    steps = 20 if karras else 5
    found = sample_latents(model, FOUR, SamplerSettings(steps=steps), 4)
    own.set_timesteps(steps)
    start = (1 + own.sigmas[0] ** 2).sqrt()
    expected = theirs(own, model.unet, FOUR.normal("noise", model.sample_shape) * start)
    assert torch.allclose(found, expected, atol=2e-4) and float(expected.abs().max()) > 0.5
    given = model.as_trained(torch.zeros(20, 3, 8, 8), torch.arange(20))[1]
    own.set_timesteps(20)
    assert np.allclose(given.flip(0), own.timesteps, atol=1e-3)


def test_a_module_with_continuous_times_makes_the_images_of_its_folder(tmp_path: Path) -> None:
    own = diffusers.EulerDiscreteScheduler(
        num_train_timesteps=20, prediction_type="v_prediction", timestep_type="continuous"
    )
    model = of(own, tmp_path)
    mine = from_torch(model.unet, schedule=own, image_shape=(3, 8, 8))
    drawn = [sample_latents(each, FOUR, SamplerSettings(steps=5), 4) for each in (mine, model)]
    assert torch.equal(*drawn)


def test_with_another_prediction_type_the_network_is_given_timesteps_as_diffusers_does(tmp_path: Path) -> None:
    own = diffusers.EulerDiscreteScheduler(50, timestep_type="continuous")
    model = of(own, tmp_path)
    own.set_timesteps(50)
    assert own.timesteps[0] == 49
    t = torch.tensor([3, 40])
    assert torch.equal(model.as_trained(torch.zeros(2, 3, 8, 8), t)[1], t)


def test_a_logarithm_of_a_logarithm_is_refused(tmp_path: Path) -> None:
    network = unet(3, time_embedding_type="fourier")
    folder = pixel_folder(tmp_path / "model", network, diffusers.EDMEulerScheduler(num_train_timesteps=50))
    with pytest.raises(BadInput, match=r'unet/config\.json, time_embedding_type: is "fourier"'):
        inspect_files(ModelSpec(family="pixel", location=str(folder)))


def test_schedules_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = pixel_folder(tmp_path / "model", unet(3), diffusers.DDPMScheduler(50))
    change_config(folder, "scheduler", _class_name="EDMEulerScheduler")
    with pytest.raises(BadInput, match=r'_class_name: is "EDMEulerScheduler", but model_index\.json says DDPM'):
        loaded(folder)
