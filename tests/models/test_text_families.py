"""Text-to-image families of today, against diffusers' own pipelines: the same images from the same noise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hub_repositories import lora_state, picture_repository
from safetensors.torch import save_file
from text_pipelines import clip_tokenizer, flux, latent_consistency, pixart, sana, sd3, sdxl

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import ModelSpec, SamplerSettings
from sidebench.benchmark.data import pipeline_folder
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models import inspect_files, load_model, text
from sidebench.benchmark.models.flux import packed_squares, unpacked_squares
from sidebench.benchmark.models.lora import read_state
from sidebench.benchmark.models.pair_from_names import pair_of
from sidebench.benchmark.models.schedule import StraightPath
from sidebench.benchmark.models.text import packed, unpacked
from sidebench.benchmark.sampling.views import AuditedModel, view_for

pytest.importorskip("transformers")
PROMPTS = ["a cat", "two dogs 3"]
SQUARE = {"use_resolution_binning": False}


class Family(NamedTuple):
    """How a family is made, and drawn as its own pipeline draws it."""

    make: Callable[[Path], Path]
    sampler: Any
    guidance: float
    asked: dict[str, Any] = {}
    guided: dict[str, Any] | None = None
    """What its own pipeline is asked for guidance, where that is no `guidance_scale`."""
    calls: int = 2
    """Of the denoiser for a guided step."""
    side: int = 16


def sana_by_euler(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return sana(folder, FlowMatchEulerDiscreteScheduler(shift=3.0))


FAMILIES = {
    "sdxl": Family(sdxl, "euler", 7.5),
    "sd3": Family(sd3, "ddim", 5.0),
    "sd3 without T5": Family(lambda folder: sd3(folder, t5_too=False), "ddim", 5.0),
    "sd3 with a dynamic shift": Family(lambda folder: sd3(folder, use_dynamic_shifting=True), "ddim", 5.0),
    "flux dev": Family(flux, "ddim", 3.5, {"height": 16, "width": 16}, calls=1),
    "flux schnell": Family(
        lambda folder: flux(folder, guidance=False, shift=1.0),
        "ddim",
        3.0,
        {"height": 16, "width": 16},
        {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]},
    ),
    "pixart sigma": Family(pixart, "dpm-solver++", 4.5, SQUARE),
    "pixart alpha": Family(lambda folder: pixart(folder, "Alpha"), "dpm-solver++", 4.5, SQUARE, side=128),
    "sana": Family(sana, "dpm-solver++", 4.5, {**SQUARE, "height": 32, "width": 32}, side=32),
    "sana by Euler": Family(sana_by_euler, "ddim", 4.5, {**SQUARE, "height": 32, "width": 32}, side=32),
    "lcm": Family(latent_consistency, "ddim", 8.5, calls=1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("families")
    return {name: family.make(parent / name.replace(" ", "-")) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load(folder) for name, folder in folders.items()}


def load(folder: Path, **more: Any) -> Any:
    return load_model(ModelSpec(family="text", location=str(folder), **more))


def draw(model: Any, family: Family, guidance: float, numbers: range = range(2)) -> torch.Tensor:
    view = view_for("prompts", AuditedModel(model, SamplerSettings(name=family.sampler, steps=4), 2), PROMPTS)
    prompts = [PROMPTS[number] for number in numbers]
    images: torch.Tensor = view.sample_prompts(Candidates(0, numbers), prompts, guidance_scale=guidance)  # type: ignore[attr-defined]
    return images


def own_pipeline(folder: Path) -> Any:
    import diffusers

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    absent = {name: None for name, part in index.items() if part == [None, None]}
    pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_those_of_diffusers_own_pipeline(
    folders: dict[str, Path], models: dict[str, Any], name: str
) -> None:
    family, model, theirs = FAMILIES[name], models[name], own_pipeline(folders[name])
    candidates = Candidates(0, range(2))
    noise = candidates.normal("noise", model.sample_shape)
    asked = {**family.asked, "num_inference_steps": 4, "output_type": "pt"}
    asked["latents"] = packed_squares(noise) if name.startswith("flux") else noise
    for guidance in (1.0, family.guidance):
        again = candidates.generators("sampler")
        scale = {"guidance_scale": guidance} if guidance == 1 or family.guided is None else family.guided
        expected = theirs(PROMPTS, **asked, **scale, generator=again).images
        found = draw(model, family, guidance)
        assert float(found.std()) > 0.1
        assert torch.allclose(found, expected, atol=2e-6), (guidance, float((found - expected).abs().max()))


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux dev", "pixart sigma", "sana", "lcm"])
def test_a_guided_image_is_its_own_in_any_group(models: dict[str, Any], name: str) -> None:
    family, model = FAMILIES[name], models[name]
    together = draw(model, family, family.guidance)
    assert torch.equal((together[1:] * 255).round(), (draw(model, family, family.guidance, range(1, 2)) * 255).round())
    assert not torch.allclose(together, draw(model, family, 1.0), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_small_files_say_is_what_the_model_is(
    folders: dict[str, Path], models: dict[str, Any], name: str, tmp_path: Path
) -> None:
    side, model, small = FAMILIES[name].side, models[name], tmp_path / "small"
    shutil.copytree(folders[name], small, ignore=shutil.ignore_patterns("*.safetensors"))
    assert pipeline_folder.image_size(small) == (side, side, 3) and model.image_shape == (3, side, side)
    height, width, channels = pipeline_folder.sample_size(small)
    assert model.sample_shape == (channels, height, width)
    assert pipeline_folder.conditioning(small) == model.conditioning == "text"
    with pytest.raises(BadInput, match="no weights for"):
        inspect_files(ModelSpec(family="text", location=str(small)))
    found = inspect_files(ModelSpec(family="text", location=str(folders[name])))
    assert found.left_out == () and found.image_size == (side, side, 3)


def test_guidance_costs_what_the_denoiser_needs(models: dict[str, Any]) -> None:
    for name, family in FAMILIES.items():
        audited = AuditedModel(models[name], SamplerSettings(name=family.sampler, steps=2), 1)
        view = view_for("prompts", audited, PROMPTS)
        with audited.ledger.during("generate"):
            view.sample_prompts(Candidates(0, [0]), PROMPTS[:1], guidance_scale=family.guidance)  # type: ignore[attr-defined]
        assert audited.ledger.nfe["generate"] == 2 * family.calls, name


def test_operations_are_the_denoisers_alone(models: dict[str, Any]) -> None:
    """A model that has embedded the empty prompt before counts the same as one that has not."""
    for name in ("sd3", "lcm"):
        again = models[name].adapted(lora_state({"text_encoder": models[name].text_encoder}))
        assert again.flops_per_sample() == models[name].flops_per_sample() > 0


def test_a_condition_is_one_row_of_numbers_that_is_taken_apart_again(models: dict[str, Any]) -> None:
    draws = torch.Generator().manual_seed(0)
    parts = {"prompt": torch.randn(3, 4, 2, generator=draws), "mask": torch.ones(3, 4), "scale": torch.zeros(3, 1)}
    rows = packed(parts)
    assert rows.shape == (3, 4 * 2 + 4 + 1)
    again = unpacked(rows[1:], {"prompt": (4, 2), "mask": (4,), "scale": (1,)})
    assert all(torch.equal(again[name], part[1:]) for name, part in parts.items())
    assert packed({"prompt": parts["prompt"]}).shape == (3, 4, 2)
    x = torch.randn(2, 4, 6, 8, generator=draws)
    assert torch.equal(unpacked_squares(packed_squares(x), 3, 4), x)
    for name, model in models.items():
        embedding = model.embed(["a cat", "b " * 2000])
        assert embedding.shape[0] == 2 and embedding.dtype == torch.float32 and embedding[0].ndim == 1, name


def test_latents_are_scaled_as_the_autoencoder_says(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = changed(folders["sdxl"], tmp_path)
    file = Path(spec.location) / "vae" / "config.json"
    moments = {"latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [2.0, 2.0, 4.0, 4.0], "scaling_factor": 0.5}
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **moments}), encoding="utf-8")
    z = torch.ones(1, 4, 1, 1)
    assert load_model(spec).scaled(z).flatten().tolist() == [0.0, -0.25, -0.25, -0.375]
    flow = load(folders["flux dev"])  # shift 0.1
    for model in (load_model(spec), flow, load(folders["sana"])):
        assert torch.allclose(model.unscaled(model.scaled(z)), z)
    assert torch.allclose(flow.scaled(z), (z - 0.1) * flow.autoencoder.config.scaling_factor)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert flow.encode(images).shape == (2, *flow.sample_shape) and flow.decode(flow.encode(images)).shape == (
        2,
        3,
        16,
        16,
    )


def test_no_prompt_is_what_each_family_takes_for_none(models: dict[str, Any]) -> None:
    t = torch.tensor([20])
    for name, model in models.items():
        x_t = torch.randn(1, *model.sample_shape, generator=torch.Generator().manual_seed(0))
        empty = model.predict(x_t, t, model.embed([""]))
        # SDXL's pipeline has zeros for none, and Sana's leaves out the instruction that goes before every prompt.
        assert torch.equal(empty, model.predict(x_t, t)) == (not name.startswith(("sdxl", "sana"))), name


def test_a_consistency_model_is_drawn_in_a_few_steps(folders: dict[str, Path], tmp_path: Path) -> None:
    most = {name: pipeline_folder.most_steps(folder) for name, folder in folders.items()}
    assert {name for name, steps in most.items() if steps is not None} == {"lcm"} and most["lcm"] == 20
    data = str(picture_repository(tmp_path / "noise", train=4, test=4, captions=True, size=16))
    for name, steps in (("lcm", 4), ("pixart sigma", None)):
        sampler = pair_of(str(folders[name]), data, "train", "test").protocol.sampler
        assert (sampler and sampler.steps) == steps


# ---- Flows ----


@pytest.mark.parametrize(
    "options",
    [
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 2.0, "max_shift": 3.0},
        {"shift": 2.0, "shift_terminal": 0.1},
        {"use_karras_sigmas": True},
    ],
)
def test_a_flow_steps_at_the_levels_of_its_own_scheduler(options: dict[str, Any]) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(**options)
    path = StraightPath(dict(theirs.config), "someone", tokens=1024)
    slope = (theirs.config.max_shift - theirs.config.base_shift) / (4096 - 256)
    mu = theirs.config.base_shift + slope * (1024 - 256)
    for levels in (None, [1.0, 0.7, 0.4, 0.1]):
        theirs.set_timesteps(4, sigmas=levels, **({"mu": mu} if options.get("use_dynamic_shifting") else {}))
        t = path.own_timesteps(4, levels)
        assert torch.allclose(path.network_time(t), theirs.timesteps, atol=2e-3)
        alpha, sigma = path.noise_level(t)
        assert torch.allclose(sigma / (alpha + sigma), theirs.sigmas[:-1], atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "euler", "dpm-solver++"])
def test_other_samplers_take_the_levels_of_a_flow(models: dict[str, Any], name: Any) -> None:
    for steps in (1, 3):
        view = AuditedModel(models["sd3"], SamplerSettings(name=name, steps=steps), 2)
        images = view.sample_prompts(Candidates(0, range(2)), PROMPTS, guidance_scale=1.0)
        assert images.isfinite().all() and float(images.std()) > 0.05


def test_paths_that_are_not_run_are_refused_in_a_line() -> None:
    for options, message in (
        ({"stochastic_sampling": True}, "stochastic_sampling draws new noise"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting goes by a number of tokens"),
    ):
        with pytest.raises(BadInput, match=f"someone: {message}"):
            StraightPath(options, "someone")


# ---- LoRA, precision, variants ----


def test_a_lora_changes_every_network_that_it_names(models: dict[str, Any]) -> None:
    for name, component in (("sd3", "transformer"), ("sdxl", "text_encoder_2"), ("flux dev", "text_encoder_2")):
        model = models[name]
        assert {"transformer", "unet"} & model.adaptable.keys() and component in model.adaptable
        changed = model.adapted(lora_state({component: getattr(model, model.adaptable[component])}))
        before, after = (draw(each, FAMILIES[name], 1.0) for each in (model, changed))
        assert not torch.equal(before, after), name


def test_kohyas_name_of_the_second_encoder_is_known(tmp_path: Path) -> None:
    layer = "text_model_encoder_layers_0_self_attn_q_proj"
    save_file(
        {f"lora_te{n}_{layer}.lora_down.weight": torch.ones(1, 3) for n in (1, 2)}, tmp_path / "kohya.safetensors"
    )
    state = read_state(tmp_path / "kohya.safetensors", "it")
    assert state.keys() == {f"text_encoder{n}.{layer}.lora_A.weight" for n in ("", "_2")}


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux dev", "pixart sigma", "sana", "lcm"])
def test_half_precision_is_close_to_the_whole(folders: dict[str, Path], models: dict[str, Any], name: str) -> None:
    half = draw(load(folders[name], dtype="bfloat16"), FAMILIES[name], 1.0)
    assert half.dtype == torch.float32 and float((half - draw(models[name], FAMILIES[name], 1.0)).abs().mean()) < 0.02


def test_a_variant_holds_for_the_encoders_too(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["flux dev"], tmp_path / "flux"))
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    spec = ModelSpec(family="text", location=str(folder), variant="fp16")
    assert "text_encoder_2/model.fp16.safetensors" in inspect_files(spec).sha256
    assert load_model(spec).embed(["a"]).isfinite().all()


# ---- What cannot be run ----


def changed(folder: Path, to: Path, **parts: Any) -> ModelSpec:
    """Copy a folder with other entries in its model_index.json."""
    copy = Path(shutil.copytree(folder, to / "broken"))
    index = copy / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text(encoding="utf-8")), **parts}), encoding="utf-8")
    return ModelSpec(family="text", location=str(copy))


NOTHING = [None, None]


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("sdxl", {"text_encoder_2": NOTHING}, r"needs its text_encoder_2 \(CLIPTextModelWithProjection\)"),
        ("sdxl", {"text_encoder": NOTHING}, "has a tokenizer and no text_encoder"),
        ("sd3", {"text_encoder": NOTHING, "tokenizer": NOTHING}, "StableDiffusion3Pipeline needs its text_encoder"),
        ("sd3", {"tokenizer_3": NOTHING}, "has a text_encoder_3 and no tokenizer_3"),
        ("flux dev", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is a CLIPTextModel"),
        ("flux dev", {"scheduler": ["diffusers", "DDIMScheduler"]}, "DDIMScheduler is not a noise schedule"),
        ("lcm", {"scheduler": ["diffusers", "DDIMScheduler"]}, "DDIMScheduler is not a noise schedule"),
        ("pixart sigma", {"transformer": ["diffusers", "SD3Transformer2DModel"]}, "is run with a PixArtTransformer"),
        ("sana", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL"),
        (
            "sana",
            {"_class_name": "KandinskyV22Pipeline"},
            "since it is a prior and a decoder in two or more stages, for later",
        ),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        inspect_files(changed(folders[name], tmp_path, **parts))
    assert "\n" not in str(refused.value) and str(refused.value).startswith("broken: ")


def test_missing_files_and_schedules_of_another_kind_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = changed(folders["sd3"], tmp_path)
    shutil.rmtree(Path(spec.location) / "tokenizer_2")
    with pytest.raises(BadInput, match="broken: no files for tokenizer_2"):
        inspect_files(spec)
    clip_tokenizer(Path(spec.location) / "tokenizer_2")
    (Path(spec.location) / "tokenizer_2" / "vocab.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadInput, match="broken/tokenizer_2 cannot be loaded"):
        load_model(spec)


def test_a_tokenizer_that_needs_another_package_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = changed(folders["pixart sigma"], tmp_path)
    place = Path(spec.location) / "tokenizer"
    (place / "tokenizer.json").rename(place / "spiece.model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "find_spec", lambda name: None)
        with pytest.raises(
            BadInput, match=r"broken/tokenizer has no tokenizer\.json.*pip install sentencepiece protobuf"
        ):
            load_model(spec)


def test_the_older_name_of_pixarts_transformer_is_known(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = changed(folders["pixart sigma"], tmp_path, transformer=["diffusers", "Transformer2DModel"])
    file = Path(spec.location) / "transformer" / "config.json"
    old = {**json.loads(file.read_text(encoding="utf-8")), "_class_name": "Transformer2DModel"}
    file.write_text(json.dumps(old), encoding="utf-8")
    assert type(load_model(spec).denoiser).__name__ == "PixArtTransformer2DModel"


def test_a_sana_that_is_no_flow_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    spec = changed(folders["sana"], tmp_path)
    DPMSolverMultistepScheduler(100).save_pretrained(Path(spec.location) / "scheduler")
    with pytest.raises(BadInput, match="a SanaPipeline is a flow, not epsilon"):
        load_model(spec)
