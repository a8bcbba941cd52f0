"""Measures that read a network of transformers: tiny networks with random weights, brought in from a folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import CLIP, DINO, tiny_clip, tiny_dinov2

from sidebench.benchmark import registry
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, UnsafeFile
from sidebench.benchmark.measures import fetch_weights, networks, weights
from sidebench.benchmark.measures.clip import Clip
from sidebench.benchmark.measures.dinov2 import Dinov2
from sidebench.benchmark.runs.check_measure import check_measure
from sidebench.benchmark.runs.plan import plan_run

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("networks")
    return {"dinov2": tiny_dinov2(parent / "dinov2"), "clip": tiny_clip(parent / "clip")}


@pytest.fixture
def here(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Bring both networks in, into a cache of this test's own."""
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    fetch_weights.bring_in(f"dinov2_small={made['dinov2']}")
    fetch_weights.bring_in(f"clip_vit-base-patch32={made['clip']}")
    yield tmp_path / "cache" / "measures"
    networks._load.cache_clear()


def prepared(image: torch.Tensor, size: int, mean: list[float], std: list[float]) -> torch.Tensor:
    """Return what PIL and NumPy make of an image in [0, 1]: bicubic, antialiased, normalised."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    small = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    return torch.from_numpy(((small - mean) / std).transpose(2, 0, 1)).float()[None]


def test_ids_spell_everything() -> None:
    assert Dinov2().id == "dinov2:large:bicubic224:imagenet:cls"
    assert Clip().id == "clip:vit-large-patch14:bicubic224:openai:projection"
    for name in (DINO, CLIP):
        made = registry.make_measure(name)
        assert made.id == name and made.space == name.replace(":", "-")


@pytest.mark.parametrize("kind", [Dinov2, Clip])
@pytest.mark.parametrize("text", ["large", "huge:bicubic224:imagenet:cls", "x:bicubic0:y:z", "large:squash224:a:b"])
def test_unknown_options_are_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"write it like {kind.name}:"):
        kind(text.split(":"))


@pytest.mark.parametrize("name", [DINO, CLIP])
def test_they_conform(here: Path, name: str) -> None:
    check_measure(name, (3, 16, 16))
    check_measure(name, (1, 8, 8))


def test_descriptors_are_those_of_the_network_on_the_prepared_image(here: Path, made: dict[str, Path]) -> None:
    from transformers import CLIPModel, Dinov2Model

    images = torch.rand(18, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)  # smooth, as pictures are
    found = registry.make_measure(DINO).descriptors(images)
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    theirs: Any = Dinov2Model.from_pretrained(made["dinov2"]).eval()
    with torch.no_grad():
        token = theirs(prepared(images[17], 28, *imagenet)).last_hidden_state[0, 0]
    assert float(found[17] @ token / token.norm()) == pytest.approx(1, abs=1e-4)

    found = registry.make_measure(CLIP).descriptors(images)
    openai = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    whole: Any = CLIPModel.from_pretrained(made["clip"]).eval()
    with torch.no_grad():
        embedded = whole.get_image_features(prepared(images[3], 16, *openai)).pooler_output[0]
    assert found.shape == (18, 12)
    assert float(found[3] @ embedded / embedded.norm()) == pytest.approx(1, abs=1e-4)
    assert float(found[4] @ embedded / embedded.norm()) < 0.9999


def test_another_network_of_the_same_name_is_another_run(here: Path, made: dict[str, Path], tmp_path: Path) -> None:
    before = registry.make_measure(DINO).weights()
    other = Path(shutil.copytree(made["dinov2"], tmp_path / "other"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(other / "model.safetensors")
    save_file({key: value * 2 for key, value in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    fetch_weights.bring_in(f"dinov2_small={other}")
    assert registry.make_measure(DINO).weights() != before


def test_only_the_recorded_network_is_loaded(here: Path) -> None:
    file = here / "dinov2_small" / "model.safetensors"
    measure = registry.make_measure(DINO)
    measure.descriptors(torch.rand(1, 3, 8, 8))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for use in (measure.weights, lambda: measure.descriptors(torch.rand(1, 3, 8, 8))):
        with pytest.raises(UnsafeFile, match=r"dinov2_small: SHA-256 is .* recorded was"):
            use()


def test_a_network_of_another_kind_is_refused(here: Path, made: dict[str, Path]) -> None:
    fetch_weights.bring_in(f"dinov2_small={made['clip']}")
    with pytest.raises(BadInput, match=r"dinov2_small: config.json is of a clip, wanted dinov2"):
        registry.make_measure(DINO).descriptors(torch.rand(1, 3, 8, 8))


def test_folders_that_hold_no_network_are_refused(here: Path, made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["dinov2"], tmp_path / "bad"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "mine.Mine"}}), "utf-8")
    kept = sorted((here / "dinov2_small").iterdir())
    with pytest.raises(UnsafeFile, match="asks for Python code of its own"):
        fetch_weights.bring_in(f"dinov2_small={folder}")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFile, match=r"only pickled weights \(pytorch_model.bin\)"):
        fetch_weights.bring_in(f"dinov2_small={folder}")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        fetch_weights.bring_in(f"dinov2_small={folder}")
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"no config\.json, so this is no network"):
        fetch_weights.bring_in(f"dinov2_small={folder}")
    assert sorted((here / "dinov2_small").iterdir()) == kept


def test_a_network_that_lacks_a_weight_is_refused(here: Path, made: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(made["dinov2"], tmp_path / "less"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    fetch_weights.bring_in(f"dinov2_small={folder}")
    with pytest.raises(BadInput, match=r"dinov2_small: the files lack 1 weights .*\(layernorm.weight"):
        registry.make_measure(DINO).descriptors(torch.rand(1, 3, 8, 8))


def test_sharded_weights_and_those_of_other_frameworks() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = ["config.json", *shards, "model.safetensors.index.json", "pytorch_model.bin", "README.md", "tf_model.h5"]
    assert networks.needed_files("x", names) == ["config.json", *sorted([*shards, "model.safetensors.index.json"])]
    assert networks.needed_files("x", [*names, "model.safetensors"]) == ["config.json", "model.safetensors"]


# ---- Before any work ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (DINO, "needs the network dinov2_small.*--weights dinov2_small=facebook/dinov2-small.*rms, zncc, tile_l2 need"),
        (CLIP, "needs the network clip_vit-base-patch32.*=openai/clip-vit-base-patch32"),
        ("sscd", "needs the network sscd_disc_mixup.torchscript.pt.*rms, zncc, tile_l2 need none"),
        ("tile_l2:3x3:max", "images of 8x8 cannot be cut into 3x3 tiles"),
    ],
)
def test_a_measure_that_cannot_work_is_refused_by_the_plan(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    with pytest.raises(BadInput, match=message):
        plan_run(load_pair("digits"), measures=[name], candidates=4, device="cpu", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_network_is_refused_by_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    (tmp_path / "junk.pt").write_bytes(b"<html>404</html>")
    fetch_weights.bring_in(f"sscd_disc_mixup.torchscript.pt={tmp_path / 'junk.pt'}")
    with pytest.raises(BadInput, match=r"measure sscd:.* failed: .*choose another --measure"):
        plan_run(load_pair("digits"), measures=["sscd"], candidates=4, device="cpu", out=tmp_path / "runs")
