"""Loading models safely, and their noise levels against diffusers' own."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Model, ModelSpec, PredictionType, SamplerSettings
from sidebench.benchmark.data import model_files
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, UnknownName, UnsafeFile
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.sampling.sampler import sample_latents

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def pixel(location: str | Path, **more: object) -> Model:
    return load_model(ModelSpec(family="pixel", location=str(location), **more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> Model:
    return pixel("zoo:digits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_files.ZOO / "digits", tmp_path / "model"))


# ---- the digits model ----


def test_noise_levels_are_those_of_diffusers(digits: Model) -> None:
    scheduler = diffusers.DDPMScheduler.from_config(dict(digits.scheduler_config))
    t = torch.arange(digits.num_train_timesteps)
    alpha, sigma = digits.noise_level(t)
    assert alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha, scheduler.alphas_cumprod.sqrt(), rtol=2e-6, atol=0)
    torch.testing.assert_close(sigma, (1 - scheduler.alphas_cumprod.double()).sqrt().float(), rtol=2e-6, atol=0)


def test_fractional_noise_levels_lie_between(digits: Model) -> None:
    whole = torch.arange(999)
    t = (whole[:, None] + torch.linspace(0, 1, 5)[None]).double()
    alpha, sigma = digits.noise_level(t)
    assert alpha.shape == t.shape
    assert (alpha.diff(dim=1) < 0).all() and (sigma.diff(dim=1) > 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    torch.testing.assert_close(alpha[:, 0], digits.noise_level(whole)[0])
    torch.testing.assert_close(alpha[:, -1], digits.noise_level(whole + 1)[0])


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_noise_levels_keep_the_shape(digits: Model, shape: tuple[int, ...]) -> None:
    alpha, sigma = digits.noise_level(torch.full(shape, 10))
    assert alpha.shape == sigma.shape == shape


def test_noise_levels_follow_the_euler_scheduler(digits: Model) -> None:
    euler = diffusers.EulerDiscreteScheduler.from_config(dict(digits.scheduler_config), timestep_spacing="linspace")
    euler.set_timesteps(37)
    alpha, sigma = digits.noise_level(euler.timesteps)
    torch.testing.assert_close(sigma / alpha, euler.sigmas[:-1], rtol=1e-3, atol=1e-4)


def test_add_noise_is_that_of_diffusers(digits: Model) -> None:
    generator = torch.Generator().manual_seed(1)
    x_0, noise = torch.randn(2, 5, 1, 8, 8, generator=generator)
    t = torch.tensor([0, 10, 300, 700, 999])
    wanted = diffusers.DDPMScheduler.from_config(dict(digits.scheduler_config)).add_noise(x_0, noise, t)
    torch.testing.assert_close(digits.add_noise(x_0, noise, t), wanted, rtol=1e-5, atol=1e-5)


def test_the_zoo_model_says_what_it_is(digits: Model) -> None:
    assert digits.sample_shape == digits.image_shape == (1, 8, 8)
    assert (digits.conditioning, digits.prediction_type, digits.num_train_timesteps) == ("none", "epsilon", 1000)
    assert digits.flops_per_sample() > 100_000
    assert digits.flops_per_sample() == digits.flops_per_sample()


def test_encode_and_decode_are_inverse(digits: Model) -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert digits.encode(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    torch.testing.assert_close(digits.decode(digits.encode(images)), images)
    assert digits.decode(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]
    assert digits.decode(torch.tensor([torch.nan])).isnan().all()


def test_predictions_are_those_of_the_network(digits: Model) -> None:
    network = diffusers.UNet2DModel.from_pretrained(model_files.ZOO / "digits" / "unet", use_safetensors=True)
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 100, 500, 999])
    with torch.no_grad():
        torch.testing.assert_close(digits.predict(x, t), network(x, t).sample)


def test_the_network_is_frozen_but_lets_gradients_through(digits: Model) -> None:
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(digits.predict(x, torch.tensor([500])).sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for p in digits.unet.parameters())  # type: ignore[attr-defined]


def test_half_precision_answers_in_float32() -> None:
    model = pixel("zoo:digits", dtype="bfloat16")
    assert model.predict(torch.zeros(2, 1, 8, 8), torch.tensor([5, 6])).dtype == torch.float32


# ---- what is refused ----


def test_shipped_models_have_their_pinned_hashes() -> None:
    for name in ("digits", "digits-clean"):
        source = load_pair(name).model
        assert WEIGHTS in source.sha256
        assert pixel(source.location, sha256=source.sha256).sample_shape == (1, 8, 8)


@pytest.mark.parametrize("name", [WEIGHTS, "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_changed_file_is_refused_by_name(folder: Path, name: str) -> None:
    pinned = model_files.hashes(folder)
    assert pixel(folder, sha256=pinned).sample_shape == (1, 8, 8)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UnsafeFile, match=name):
        pixel(folder, sha256=pinned)


def test_a_pinned_file_that_is_missing_is_named(folder: Path) -> None:
    pinned = model_files.hashes(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadInput, match=r"diffusion_pytorch_model\.safetensors"):
        pixel(folder, sha256=pinned)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such folder of a model: .*nothing"):
        pixel(tmp_path / "nothing")
    with pytest.raises(BadInput, match="model_index"):
        pixel(tmp_path)
    with pytest.raises(BadInput, match="model_index"):
        pixel("zoo:nothing")


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS])
def test_a_missing_file_is_bad_input(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadInput):
        pixel(folder)


@pytest.mark.parametrize("content", ["{not json", "", "\ufffd\x00", "[1, 2]"])
@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"])
def test_corrupt_json_is_bad_input(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadInput):
        pixel(folder)


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_truncated_weights_are_bad_input(folder: Path, size: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    with pytest.raises(BadInput):
        pixel(folder)


@pytest.mark.parametrize("pipeline", ["StableCascadePipeline", None])
def test_unknown_pipelines_are_refused(folder: Path, pipeline: str | None) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}), encoding="utf-8")
    with pytest.raises(BadInput, match=pipeline or "names no pipeline class"):
        pixel(folder)


def test_unknown_prediction_types_are_refused(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "magic"}), encoding="utf-8")
    with pytest.raises(BadInput, match="magic"):
        pixel(folder)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_a_pickle_in_place_of_safetensors_is_unsafe(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "unet" / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFile, match=name):
        pixel(folder)


def test_safetensors_elsewhere_do_not_excuse_a_pickle(folder: Path) -> None:
    (folder / "vae").mkdir()
    shutil.move(folder / WEIGHTS, folder / "vae" / "model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput):
        pixel(folder)


def test_a_pickle_beside_safetensors_is_not_opened(folder: Path, digits: Model) -> None:
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not a pickle")
    x, t = torch.zeros(1, 1, 8, 8), torch.tensor([500])
    torch.testing.assert_close(pixel(folder).predict(x, t), digits.predict(x, t))


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", "cuda:x"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(BadInput, match="cpu"):
        pixel("zoo:digits", device=device)


def test_unknown_families_are_refused() -> None:
    with pytest.raises(UnknownName, match="pixel"):
        load_model(ModelSpec(family="pixle", location="zoo:digits"))


# ---- other models ----


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional pipeline with random weights."""
    folder = tmp_path_factory.mktemp("classes")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(
            sample_size=(4, 8),
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            num_class_embeds=5,
            add_attention=False,
        )
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=50, prediction_type="v_prediction")
        diffusers.DDPMPipeline(network, scheduler).save_pretrained(folder, safe_serialization=True)
    return folder


def test_class_conditional_models_take_classes(classes: Path) -> None:
    model = pixel(classes)
    assert (model.conditioning, model.prediction_type, model.num_train_timesteps) == ("class", "v_prediction", 50)
    assert model.sample_shape == (3, 4, 8)
    x, t = torch.zeros(2, 3, 4, 8), torch.tensor([3, 3])
    first, second = model.predict(x, t, torch.tensor([0, 4]))
    assert not torch.allclose(first, second)
    assert model.flops_per_sample() > 0


def test_class_conditional_samples_follow_their_class(classes: Path) -> None:
    model, settings = pixel(classes), SamplerSettings(steps=3)
    numbers, given = [4, 9, 2, 7], torch.tensor([0, 3, 3, 1])
    whole = sample_latents(model, Candidates(1, numbers), settings, 3, condition=given)
    alone: list[Tensor] = [
        sample_latents(model, Candidates(1, [number]), settings, 3, condition=given[i : i + 1])
        for i, number in enumerate(numbers)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))
    other = sample_latents(model, Candidates(1, numbers), settings, 3, condition=torch.zeros(4, dtype=torch.long))
    assert torch.allclose(other[0], whole[0]) and not torch.allclose(other[1:], whole[1:])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_mixtures_come_back_as_saved(tmp_path: Path, kind: PredictionType) -> None:
    means = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    model = MixtureModel(means, 0.15, torch.tensor([1.0, 2.0, 5.0]), kind)
    found = load_model(model.save(tmp_path / "mixture.safetensors"))
    assert isinstance(found, MixtureModel)
    assert torch.equal(found.means, means) and found.std == 0.15 and found.prediction_type == kind
    torch.testing.assert_close(found.log_weights.exp(), torch.tensor([0.125, 0.25, 0.625]))
    x, t = torch.randn(4, 1, 4, 5, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 100, 500, 999])
    torch.testing.assert_close(found.predict(x, t), model.predict(x, t))
    assert found.sample_shape == (1, 4, 5)
    assert found.scheduler_config["prediction_type"] == ("v_prediction" if kind == "flow_prediction" else kind)


def test_a_mixture_file_that_is_missing_or_cut_is_bad_input(tmp_path: Path) -> None:
    spec = MixtureModel(torch.zeros(2, 1, 2, 2), 0.1).save(tmp_path / "mixture.safetensors")
    file = Path(spec.location)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(BadInput, match=r"mixture\.safetensors"):
        load_model(spec)
    file.unlink()
    with pytest.raises(BadInput, match=r"mixture\.safetensors"):
        load_model(spec)


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3, 2, 2)])
def test_mixtures_need_images_as_means(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="means"):
        MixtureModel(torch.zeros(shape), 0.1)


def test_mixture_schedule_is_that_of_diffusers() -> None:
    model = MixtureModel(torch.zeros(1, 1, 1, 1), 0.1)
    wanted = diffusers.DDPMScheduler.from_config(dict(model.scheduler_config)).alphas_cumprod.sqrt()
    torch.testing.assert_close(model.noise_level(torch.arange(1000))[0], wanted, rtol=1e-5, atol=0)
