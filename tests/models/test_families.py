"""Every family of pipelines behind the one contract, against diffusers' own pipelines and schedulers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_repositories import flow_pipeline, latent_pipeline, pixel_pipeline, score_sde_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Budget, ModelSpec, SamplerSettings
from sidebench.benchmark.data import pipeline_folder
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import inspect_files, load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import MemoryCheckpoints
from sidebench.benchmark.runs.check_attack import check_attack
from sidebench.benchmark.sampling.sampler import sample_latents
from sidebench.benchmark.sampling.views import AuditedModel

MAKERS: dict[str, Any] = {
    "pixel": lambda folder: pixel_pipeline(folder),
    "pixel in the root": lambda folder: pixel_pipeline(folder, root=True),
    "pixel with classes": lambda folder: pixel_pipeline(folder, classes=7),
    "score-sde": score_sde_pipeline,
    "flow": flow_pipeline,
    "vq": lambda folder: latent_pipeline(folder, "vq"),
    "kl": lambda folder: latent_pipeline(folder, "kl"),
    "dit": lambda folder: latent_pipeline(folder, "dit"),
}
SAMPLER = SamplerSettings(steps=4)
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 3, "batch": 8, "width": 8, "cohesion": -1.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("families")
    return {kind: make(parent / kind.replace(" ", "-")) for kind, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return load_model(spec(folders[request.param]))


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(family=pipeline_folder.read_folder(folder)[0].family, location=str(folder))


def sample(model: Any, numbers: range, micro_batch: int = 8) -> torch.Tensor:
    return model.decode(sample_latents(model, Candidates(0, numbers), SAMPLER, micro_batch))


def test_what_the_files_say_is_what_the_model_is(model: Any) -> None:
    files = inspect_files(model.spec)
    channels, height, width = model.image_shape
    assert files.image_size == (height, width, channels) == (8, 8, 3)
    assert files.conditioning == model.conditioning
    assert files.sha256 and not [name for name in files.sha256 if name.endswith(".bin")]
    assert model.flops_per_sample() > 0


def test_samples_are_images_and_belong_to_their_number(model: Any) -> None:
    images = sample(model, range(5))
    assert images.shape == (5, 3, 8, 8) and images.min() >= 0 and images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 5
    other = sample(model, range(3, 5))
    assert torch.equal((images[3:] * 255).round(), (other * 255).round())


def test_hits_do_not_depend_on_the_micro_batch(model: Any) -> None:
    """A shard of four at once, one by one, by two, and by three, which does not divide it."""
    whole, *others = ((sample(model, range(4), rows) * 255).round() for rows in (4, 1, 2, 3))
    distances = [torch.cdist(images.flatten(1), whole[:1].flatten(1))[1:, 0] for images in (whole, *others)]
    edge = distances[0].sort().values[:2].mean()  # one of the other three is near enough to the first
    for images, own in zip(others, distances[1:], strict=True):
        assert (images - whole).abs().max() <= 1
        assert torch.equal(own <= edge, distances[0] <= edge) and int((own <= edge).sum()) == 1


def test_encoding_has_the_shape_of_x_0_and_nan_stays_nan(model: Any) -> None:
    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x_0 = model.encode(images)
    assert x_0.shape == (9, *model.sample_shape)
    assert torch.equal(model.encode(images[8:]), x_0[8:])
    x_0[2] = float("nan")
    decoded = model.decode(x_0)
    assert decoded[2].isnan().all() and decoded[[0, 1, 3]].isfinite().all()


def test_plain_and_guided_attacks_run(model: Any) -> None:
    audited = AuditedModel(model, SAMPLER, 8, kept=MemoryCheckpoints())
    plain = make_attack("carlini-uncond", {}).generate(audited, None, Candidates(0, range(3)))
    assert plain.images.shape == (3, 3, 8, 8)
    side = make_attack("side", {**SMALL, "guidance_scale": 3.0})
    state = side.prepare(audited, Budget(0, 3, MemoryCheckpoints(), silent))
    steered = side.generate(audited, state, Candidates(0, range(3)))
    assert steered.images.shape == (3, 3, 8, 8) and not torch.equal(steered.images, plain.images)


@pytest.mark.parametrize("kind", ["vq", "dit"])
def test_decoding_is_counted_whether_samples_are_kept_or_made(folders: dict[str, Path], kind: str) -> None:
    model, kept = load_model(spec(folders[kind])), MemoryCheckpoints()
    ledgers = []
    for _ in range(2):
        audited = AuditedModel(model, SAMPLER, 8, kept=kept)
        audited.sample(Candidates(0, range(11), "synthetic"))
        ledgers.append(audited.ledger.as_dict())
    assert ledgers[0] == ledgers[1] and ledgers[0]["flops"]["prepare"] > 0
    check_attack("carlini-uncond", {}, spec(folders[kind]))


def test_vq_and_kl_decode_as_diffusers_does(folders: dict[str, Path]) -> None:
    from diffusers import AutoencoderKL, VQModel

    x_0 = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    for kind, cls, name in (("vq", VQModel, "vqvae"), ("kl", AutoencoderKL, "vae")):
        theirs = cls.from_pretrained(folders[kind] / name)
        with torch.no_grad():
            expected = (theirs.decode(x_0 / theirs.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(load_model(spec(folders[kind])).decode(x_0), expected, atol=1e-6)


def test_dit_has_classes_and_an_unconditional_branch(folders: dict[str, Path]) -> None:
    from diffusers import DiTTransformer2DModel

    model = load_model(spec(folders["dit"]))
    theirs = DiTTransformer2DModel.from_pretrained(folders["dit"] / "transformer")
    x_t = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 30])
    for given, labels in ((torch.tensor([1, 9]), torch.tensor([1, 9])), (None, torch.tensor([10, 10]))):
        with torch.no_grad():
            expected = theirs(x_t, timestep=t, class_labels=labels).sample[:, :4]
        assert torch.allclose(model.predict(x_t, t, given), expected, atol=1e-6)
    drawn = model.conditioned(None, Candidates(0, range(200)))
    assert drawn is not None and set(drawn.tolist()) == set(range(10))
    assert torch.equal(model.conditioned(torch.tensor([4]), Candidates(0, range(1))), torch.tensor([4]))


@pytest.mark.parametrize("name", ["FlowMatchLCMScheduler", "CMStochasticIterativeScheduler", "ScoreSdeVeScheduler"])
def test_other_noise_schedules_are_refused_by_name(name: str) -> None:
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", name]}
    with pytest.raises(BadInput, match=f"someone/else: {name} is not a noise schedule"):
        pipeline_folder.read_layout(index, "someone/else")


def test_class_conditional_unet_needs_a_class(folders: dict[str, Path]) -> None:
    model = load_model(spec(folders["pixel with classes"]))
    with pytest.raises(BadInput, match="no unconditional branch"):
        model.predict(torch.zeros(1, 3, 8, 8), torch.tensor([0]))


def test_score_model_is_its_own_in_variance_preserving_scaling(folders: dict[str, Path]) -> None:
    from diffusers import ScoreSdeVeScheduler, UNet2DModel

    model = load_model(spec(folders["score-sde"]))
    theirs = ScoreSdeVeScheduler.from_pretrained(folders["score-sde"] / "scheduler")
    network = UNet2DModel.from_pretrained(folders["score-sde"] / "unet")
    theirs.set_sigmas(60)
    t = torch.arange(0, 60, 7)
    alpha, sigma = model.noise_level(t)
    s = theirs.discrete_sigmas[t]
    assert np.allclose(sigma / alpha, s, rtol=2e-3)
    clean = torch.rand(len(t), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    x = clean + s.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        score = network(x, s).sample
    expected = -s.view(-1, 1, 1, 1) * score
    assert torch.allclose(model.predict(model.add_noise(clean, noise, t), t), expected, rtol=1e-2, atol=1e-2)


def test_a_score_model_in_bfloat16_is_told_its_noise_level_in_float32(folders: dict[str, Path]) -> None:
    """Two neighbouring levels of 60 are one number in bfloat16 where s is large."""
    model = load_model(spec(folders["score-sde"]).model_copy(update={"dtype": "bfloat16"}))
    told: list[torch.Tensor] = []
    model.unet.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    t = torch.arange(50, 60)
    with torch.no_grad():
        found = model.predict(torch.zeros(len(t), 3, 8, 8), t)
    alpha, sigma = model.noise_level(t)
    assert torch.equal(told[0], sigma / alpha) and found.dtype == torch.float32


# ---- Flows ----


@pytest.mark.parametrize("steps", [50, 10])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_sampled_as_its_own_scheduler_does(tmp_path: Path, shift: float, steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel

    folder = flow_pipeline(tmp_path / "flow", shift)
    model, candidates = load_model(spec(folder)), Candidates(0, range(3))
    assert model.prediction_type == "flow_prediction" and model.num_train_timesteps == 50
    found = sample_latents(model, candidates, SamplerSettings(steps=steps), 3)

    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    network = UNet2DModel.from_pretrained(folder / "unet")
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    x = candidates.normal("noise", model.sample_shape)
    for t in theirs.timesteps:
        with torch.no_grad():
            x = theirs.step(network(x, t).sample, t, x).prev_sample
    assert torch.allclose(found, x, atol=2e-4)


def test_noise_levels_of_a_flow_are_its_own(folders: dict[str, Path]) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = load_model(spec(folders["flow"]))
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(folders["flow"] / "scheduler")
    alpha, sigma = model.noise_level(torch.arange(50))
    assert torch.allclose(sigma / (alpha + sigma), theirs.sigmas.flip(0), atol=1e-6)
    assert torch.allclose(model.schedule.network_time(torch.arange(50)), theirs.timesteps.flip(0), atol=1e-4)
    assert float(alpha[-1]) == pytest.approx(0, abs=1e-6)
    clean, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 20, 40, 49])
    s = theirs.sigmas.flip(0)[t].view(-1, 1, 1, 1)
    straight, _ = model.as_trained(model.add_noise(clean, noise, t), t)
    assert torch.allclose(straight, (1 - s) * clean + s * noise, atol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "euler", "dpm-solver++"])
def test_other_samplers_take_flows_and_learned_variances(folders: dict[str, Path], name: Any) -> None:
    for kind in ("flow", "dit"):
        model = load_model(spec(folders[kind]))
        if kind == "dit":
            model.scheduler_config = {**model.scheduler_config, "variance_type": "learned_range"}
        made = sample_latents(model, Candidates(0, range(2)), SamplerSettings(name=name, steps=5), 2)
        assert made.isfinite().all() and float(made.std()) > 0.01


def test_a_flow_that_runs_the_other_way_is_refused(tmp_path: Path) -> None:
    folder = flow_pipeline(tmp_path / "flow")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "invert_sigmas": True}), "utf-8")
    with pytest.raises(BadInput, match="invert_sigmas turns the path round"):
        load_model(spec(folder))


# ---- Latents ----


def test_latents_are_not_clipped_unless_the_schedule_says_so(tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler, PNDMScheduler

    for scheduler in (PNDMScheduler(50), EulerDiscreteScheduler(50)):
        folder = latent_pipeline(tmp_path / type(scheduler).__name__, "kl")
        scheduler.save_pretrained(folder / "scheduler")
        model = load_model(spec(folder))
        assert model.scheduler_config["clip_sample"] is False
        x_0 = sample_latents(model, Candidates(0, range(8)), SAMPLER, 8)
        assert float(x_0.abs().max()) > 1
