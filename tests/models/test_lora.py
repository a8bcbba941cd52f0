"""LoRA on top of a model: the sum that it is, against peft and diffusers, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import latent_pipeline, lora_file, text_pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidebench.benchmark import files
from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import LoraSpec, ModelSpec, SamplerSettings
from sidebench.benchmark.data import pipeline_folder
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, UnsafeFile
from sidebench.benchmark.models import load_model, lora
from sidebench.benchmark.models.find_model import find_model
from sidebench.benchmark.results.checkpoints import MemoryCheckpoints
from sidebench.benchmark.sampling.views import AuditedModel

pytest.importorskip("transformers")
X_T, T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 40])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_pipeline(tmp_path_factory.mktemp("lora") / "sd")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    return load_model(ModelSpec(family="text", location=str(folder)))


@pytest.fixture
def file(plain: Any, tmp_path: Path) -> Path:
    return lora_file(tmp_path / "lora.safetensors", {"unet": plain.denoiser, "text_encoder": plain.text_encoder})


def adapted(folder: Path, file: Path, scale: float = 1.0, family: str = "text") -> Any:
    found = LoraSpec(location=str(file), sha256=files.sha256(file), scale=scale)
    return load_model(ModelSpec(family=family, location=str(folder), lora=found))


def said(model: Any) -> Tensor:
    prediction: Tensor = model.predict(X_T, T, model.embed(["a cat", "two dogs"]))
    return prediction


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_it_is_what_diffusers_and_peft_make_of_the_file(folder: Path, plain: Any, file: Path, scale: float) -> None:
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.load_lora_weights(file)
    theirs.fuse_lora(lora_scale=scale)
    model = adapted(folder, file, scale)
    tokens = model.tokenizers["text_encoder"](
        ["a cat", "two dogs"], padding="max_length", max_length=24, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        embedding = theirs.text_encoder(tokens)[0]
        expected = theirs.unet(X_T, T, encoder_hidden_states=embedding).sample
    assert torch.allclose(said(model), expected, atol=1e-4)
    assert not torch.allclose(said(plain), expected, atol=1e-2)


def test_the_sum_by_hand(folder: Path, plain: Any, file: Path) -> None:
    state = load_file(file)
    name = next(key for key in state if key.startswith("unet.")).removesuffix(".lora_A.weight")
    before = plain.denoiser.get_submodule(name.removeprefix("unet.")).weight
    after = adapted(folder, file, 0.5).denoiser.get_submodule(name.removeprefix("unet.")).weight
    change = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    assert torch.allclose(after - before, 0.5 * change, atol=1e-5)
    state[f"{name}.alpha"] = torch.tensor(6.0)  # rank 2
    again = plain.adapted(state).denoiser.get_submodule(name.removeprefix("unet.")).weight
    assert torch.allclose(again - before, 3 * change, atol=1e-4)


def test_kernels_of_convolutions(plain: Any) -> None:
    layer = plain.denoiser.conv_in
    draw = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 4, 3, 3, generator=draw), torch.randn(8, 2, 1, 1, generator=draw)
    state = {"unet.conv_in.lora_A.weight": down, "unet.conv_in.lora_B.weight": up}
    x = torch.randn(1, 4, 8, 8, generator=draw)
    with torch.no_grad():
        added = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
        assert torch.allclose(plain.adapted(state).denoiser.conv_in(x), layer(x) + added, atol=1e-4)


def test_spellings_of_other_tools_are_the_same_lora(folder: Path, file: Path, tmp_path: Path) -> None:
    state, expected = load_file(file), said(adapted(folder, file))
    older = {
        key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): value for key, value in state.items()
    }
    save_file(older, tmp_path / "older.safetensors")
    assert torch.allclose(said(adapted(folder, tmp_path / "older.safetensors")), expected, atol=1e-5)
    kohya = {}
    for key, value in state.items():
        component, _, rest = key.partition(".")
        layer, _, part = rest.partition(".lora_")
        layer = layer if component == "unet" or layer.startswith("text_model.") else f"text_model.{layer}"
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
        stem = f"{prefix}_{layer.replace('.', '_')}"
        kohya[f"{stem}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = value * (2 if part[0] == "A" else 1)
        kohya[f"{stem}.alpha"] = torch.tensor(1.0)  # half of the rank
    save_file(kohya, tmp_path / "kohya.safetensors")
    assert torch.allclose(said(adapted(folder, tmp_path / "kohya.safetensors")), expected, atol=1e-4)


def test_settings_of_training_in_the_header_count(plain: Any, tmp_path: Path) -> None:
    networks = {"unet": plain.denoiser}
    bare = lora.read_state(lora_file(tmp_path / "bare.safetensors", networks), "x")
    trained = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"to_v": 1}, "unet.use_rslora": True}
    header = {lora.METADATA: json.dumps(trained)}
    told = lora.read_state(lora_file(tmp_path / "told.safetensors", networks, **header), "x")
    layers = [key.removesuffix(".lora_A.weight") for key in bare if key.endswith("lora_A.weight")]
    assert {key for key in told if key.endswith(".alpha")} == {f"{layer}.alpha" for layer in layers}
    for layer in layers:
        alpha = 1 if layer.endswith("to_v") else 4
        assert float(told[f"{layer}.alpha"]) / 2 == pytest.approx(alpha / 2**0.5)


def test_an_adapted_model_is_another_and_leaves_the_first_as_it_was(folder: Path, plain: Any, file: Path) -> None:
    before = said(plain)
    made = plain.adapted(lora.read_state(file, "x"))
    assert torch.equal(said(plain), before)
    assert torch.allclose(said(made), said(adapted(folder, file)), atol=1e-5)
    assert made.spec.content() != plain.spec.content() != adapted(folder, file).spec.content()
    assert plain.adapted({k: v * 2 for k, v in load_file(file).items()}).spec.content() != made.spec.content()


def test_kept_samples_of_an_adapted_model_are_its_own(tmp_path: Path) -> None:
    folder = latent_pipeline(tmp_path / "dit", "dit")
    model = load_model(ModelSpec(family="latent", location=str(folder)))
    state = load_file(lora_file(tmp_path / "lora.safetensors", {"transformer": model.denoiser}))  # type: ignore[attr-defined]
    audited = AuditedModel(model, SamplerSettings(steps=2), 4, kept=MemoryCheckpoints())
    asked = Candidates(0, range(4), "synthetic")
    first, view = audited.sample(asked), audited.adapted(state)
    assert not torch.equal(view.sample(asked), first)
    assert torch.equal(audited.sample(asked), first)
    assert audited.ledger.nfe["prepare"] == 3 * 4 * 2  # both views count into one ledger


def test_what_is_no_lora_of_this_model_is_refused(folder: Path, plain: Any, file: Path, tmp_path: Path) -> None:
    state = load_file(file)
    name = next(key for key in state if "lora_A" in key)
    nowhere = {f"unet.nowhere.lora_{part}.weight": state[name] for part in "AB"}
    norm = {f"unet.conv_norm_out.lora_{part}.weight": state[name] for part in "AB"}
    cases = {
        "elsewhere": (nowhere, "no layer unet.nowhere"),
        "norm": (norm, "no layer unet.conv_norm_out"),
        "half": ({name: state[name]}, "lora_B.weight is missing"),
        "shape": ({**state, name: torch.zeros(2, 999)}, "the LoRA is of another model"),
        "bias": ({**state, name.replace("A.weight", "B.bias"): torch.zeros(1)}, "is no part of a LoRA"),
        "dora": ({**state, name.replace("lora_A.weight", "dora_scale"): torch.zeros(1)}, "is a DoRA adapter"),
        "empty": ({"unet.step": torch.zeros(1)}, "is no part of a LoRA"),
    }
    for kind, (tensors, message) in cases.items():
        save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / f"{kind}.safetensors")
        with pytest.raises(BadInput, match=message):
            adapted(folder, tmp_path / f"{kind}.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(BadInput, match=r"junk\.safetensors cannot be read"):
        adapted(folder, tmp_path / "junk.safetensors")
    other = ModelSpec(family="text", location=str(folder), lora=LoraSpec(location=str(file), sha256="0" * 64))
    with pytest.raises(UnsafeFile, match=r"LoRA lora\.safetensors: SHA-256 is .*, pinned is 0000"):
        load_model(other)
    with pytest.raises(NotImplementedError, match="takes no adapters"):
        from sidebench.benchmark.models.analytic import MixtureModel

        MixtureModel(torch.zeros(1, 1, 2, 2), 0.1).adapted(state)


def test_which_file_of_a_repository_is_the_lora() -> None:
    one, two = "pytorch_lora_weights.safetensors", "other/second.safetensors"
    assert pipeline_folder.lora_file("x", ["README.md", one, "weights.bin"]) == one
    assert pipeline_folder.lora_file("x", [one, two], two) == two
    with pytest.raises(BadInput, match=r"say which is the LoRA by model\.lora\.file: other/second"):
        pipeline_folder.lora_file("x", [one, two])
    with pytest.raises(BadInput, match="x has no LoRA file 'third'"):
        pipeline_folder.lora_file("x", [one, two], "third")
    with pytest.raises(UnsafeFile, match=r"x: the LoRA is pickled \(weights\.bin\)"):
        pipeline_folder.lora_file("x", ["README.md", "weights.bin"])
    with pytest.raises(BadInput, match="x holds no LoRA"):
        pipeline_folder.lora_file("x", ["README.md"])


def test_a_pair_file_names_a_lora_beside_it(tmp_path: Path, make_pair_file: Any) -> None:
    (tmp_path / "adapter").mkdir()
    file = tmp_path / "adapter" / "mine.safetensors"
    file.write_bytes(b"0")

    def found(**more: str) -> Any:
        own = {"location": "zoo:digits", "lora": {"location": "adapter", "scale": 0.5, **more}}
        pair = load_pair(str(make_pair_file(tmp_path, model=own)))
        return find_model(pair, None, tmp_path).spec, pair

    spec, pair = found()
    assert spec.lora.location == str(file) and spec.content()["sha256"]["lora:0.5"] == files.sha256(file)
    moved = pair.model.lora.model_copy(update={"location": "/elsewhere"})
    model = pair.model.model_copy(update={"lora": moved})
    assert pair.model_copy(update={"model": model}).identity() == pair.identity()
    assert found(sha256=files.sha256(file))[0] == spec
    with pytest.raises(UnsafeFile, match=r"LoRA mine\.safetensors: SHA-256 is .*, pinned is 0000"):
        found(sha256="0" * 64)
    with pytest.raises(BadInput, match=r"no LoRA at none\.safetensors"):
        found(location="none.safetensors")
