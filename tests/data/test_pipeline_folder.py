"""Which files of a pipeline's folder are its weights: whole or in shards, of a variant or not."""

from pathlib import Path

import pytest

from sidebench.benchmark.data.model_files import check_files, locate
from sidebench.benchmark.data.pipeline_folder import Layout, needed_files
from sidebench.benchmark.errors import BadInput

STEM = "diffusion_pytorch_model"
LAYOUT = Layout("mine", "DDPMPipeline", {"unet": ("diffusers", "UNet2DModel")})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n"


def chosen(names: list[str], variant: str | None = None) -> list[str]:
    found = needed_files(LAYOUT, [f"unet/{name}" for name in [*names, "config.json"]], variant)
    assert found[:2] == ["model_index.json", "unet/config.json"]
    return [name.removeprefix("unet/") for name in found[2:]]


def shards(pattern: str, index: str) -> list[str]:
    return sorted([*(f"{STEM}{pattern % number}" for number in (1, 2)), f"{STEM}{index}"])


@pytest.mark.parametrize(
    ("pattern", "index"),
    [
        (".fp16-%05d-of-00002.safetensors", ".safetensors.index.fp16.json"),
        ("-%05d-of-00002.fp16.safetensors", ".safetensors.index.fp16.json"),
        ("-%05d-of-00002.fp16.safetensors", ".safetensors.fp16.index.json"),
        (".fp16-%05d-of-00002.safetensors", ".fp16.safetensors.index.json"),
    ],
)
def test_shards_of_a_variant_are_found_in_every_spelling(pattern: str, index: str) -> None:
    own, plain = shards(pattern, index), shards("-%05d-of-00002.safetensors", ".safetensors.index.json")
    assert chosen([*own, *plain], "fp16") == own
    assert chosen([*own, *plain]) == plain
    assert chosen(plain, "fp16") == plain, "a component without the variant gives its plain weights"
    with pytest.raises(BadInput, match=r"no weights for unet: .*; variants: fp16 \(--variant, model.variant\)"):
        chosen(own)


def test_whole_weights_are_one_file_beside_shards_without_an_index() -> None:
    assert chosen([f"{STEM}.safetensors", f"{STEM}-00001-of-00002.safetensors"]) == [f"{STEM}.safetensors"]
    assert chosen([f"{STEM}.non_ema.safetensors", f"{STEM}.safetensors"]) == [f"{STEM}.safetensors"]


def test_a_missing_shard_or_index_is_named() -> None:
    names = shards("-%05d-of-00003.safetensors", ".safetensors.index.json")
    with pytest.raises(BadInput, match="mine/unet: shard 3 of 3 of its weights is missing"):
        chosen(names)
    with pytest.raises(BadInput, match="mine/unet: its weights are in 2 shards without their index"):
        chosen(names[:2])


@pytest.mark.parametrize("name", ["model_index.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    zoo = locate("zoo:digits")
    for file in zoo.rglob("*.*"):
        copy = tmp_path / file.relative_to(zoo)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(POINTER if file.relative_to(zoo).as_posix() == name else file.read_bytes())
    with pytest.raises(BadInput, match=rf"Git LFS pointers? ?\(?.*{name.split('/')[-1]}|{name} is a Git LFS pointer"):
        check_files(tmp_path, {})
