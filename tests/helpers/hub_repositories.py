"""Small repositories of every kind, made on the spot: random weights, random pictures."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from text_pipelines import stable_diffusion_parts, write

from sidebench.benchmark.data.pair import Pair

SIDE = 8


def pixel_pipeline(folder: Path, classes: int | None = None, root: bool = False) -> Path:
    """Write a DDPM pipeline of 8 x 8 RGB images; `root` lays its files out as older repositories do."""
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(unet=unet(3, classes), scheduler=DDPMScheduler(50)).save_pretrained(folder)
    if root:
        for name in ("unet", "scheduler"):
            for file in (folder / name).iterdir():
                file.rename(folder / file.name)
            (folder / name).rmdir()
    return folder


def pixel_folder(folder: Path, network: Any, scheduler: Any, pipeline: str = "DDPMPipeline") -> Path:
    """Write a pipeline of one network and its scheduler."""
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"unet": ["diffusers", type(network).__name__], "scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **parts}), encoding="utf-8")
    return folder


def change_config(folder: Path, part: str, **more: Any) -> Path:
    """Change values of a component's configuration."""
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **more}), encoding="utf-8")
    return folder


def unet(channels: int, classes: int | None = None, size: int = SIDE, **more: Any) -> Any:
    """Return the smallest useful UNet, the same weights each time."""
    import torch
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            add_attention=False,
            num_class_embeds=classes,
            **{"out_channels": channels, **more},
        )


def picture(seed: int, size: int = SIDE, mode: str = "RGB") -> bytes:
    """Return a PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, len(mode)), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels if len(mode) > 1 else pixels[..., 0]).save(out, "PNG")
    return out.getvalue()


def picture_table(file: Path, seeds: range, captions: bool = False, **more: Any) -> Path:
    """Write a parquet file as data repositories hold it: image, label, caption."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    rows: dict[str, list[Any]] = {
        "img": [{"bytes": picture(seed, **more), "path": None} for seed in seeds],
        "label": [seed % 2 for seed in seeds],
    }
    types: dict[str, Any] = {"img": ImageFeature(), "label": ClassLabel(names=["even", "odd"])}
    if captions:
        rows["text"] = [f"picture number {seed}" for seed in seeds]
        types["text"] = Value("string")
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=Features(types)).to_parquet(file)
    return file


def picture_repository(folder: Path, train: int = 600, test: int = 600, **more: Any) -> Path:
    """Write a data repository with the splits train and test."""
    picture_table(folder / "data" / "train-00000-of-00001.parquet", range(train), **more)
    picture_table(folder / "data" / "test-00000-of-00001.parquet", range(10_000, 10_000 + test), **more)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Noise\n", encoding="utf-8")
    return folder


def class_name(folder: Path, name: Any, **more: Any) -> Path:
    """Change the pipeline class that model_index.json names."""
    index = folder / "model_index.json"
    content = {**json.loads(index.read_text(encoding="utf-8")), "_class_name": name, **more}
    index.write_text(json.dumps(content), encoding="utf-8")
    return folder


def score_sde_pipeline(folder: Path) -> Path:
    """Write a variance-exploding score model of 8 x 8 RGB images."""
    from diffusers import DDPMPipeline, ScoreSdeVeScheduler

    network = unet(3, time_embedding_type="fourier", center_input_sample=False)
    DDPMPipeline(unet=network, scheduler=ScoreSdeVeScheduler(60, sigma_max=50.0)).save_pretrained(folder)
    return class_name(folder, "ScoreSdeVePipeline")


def flow_pipeline(folder: Path, shift: float = 3.0) -> Path:
    """Write a pixel model that predicts the straight path's direction."""
    from diffusers import DDPMPipeline, FlowMatchEulerDiscreteScheduler

    DDPMPipeline(unet=unet(3), scheduler=FlowMatchEulerDiscreteScheduler(50, shift=shift)).save_pretrained(folder)
    return folder


def lora_state(networks: dict[str, Any], rank: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return a LoRA in the spelling of diffusers for the attention layers of networks, by component name."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for component, network in networks.items():
        for name, layer in network.named_modules():
            if name.endswith((".to_q", ".to_v", ".q_proj", ".v_proj", ".SelfAttention.q")):
                rows, columns = layer.weight.shape
                tensors[f"{component}.{name}.lora_A.weight"] = torch.randn(rank, columns, generator=draw)
                tensors[f"{component}.{name}.lora_B.weight"] = torch.randn(rows, rank, generator=draw)
    return tensors


def lora_file(file: Path, networks: dict[str, Any], rank: int = 2, seed: int = 0, **metadata: str) -> Path:
    """Write a LoRA in the spelling of diffusers for the attention layers of networks, by component name."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_state(networks, rank, seed), file, {"format": "pt", **metadata})
    return file


def latent_pipeline(folder: Path, kind: str) -> Path:
    """Write a pipeline of 8 x 8 RGB images on 4 x 4 latents: `vq`, `kl`, or `dit` (10 classes, KL)."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, VQModel

    shape = {"in_channels": 3, "out_channels": 3, "block_out_channels": (8, 8), "latent_channels": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scheduler = DDIMScheduler(50, clip_sample=False)
        scheduler.save_pretrained(folder / "scheduler")
        if kind == "vq":
            decoder = VQModel(**shape, **blocks, norm_num_groups=4, num_vq_embeddings=16)
        else:
            decoder = AutoencoderKL(**shape, **blocks, norm_num_groups=4)
        if kind == "dit":
            size = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 4}
            classes = {"num_embeds_ada_norm": 10, "norm_num_groups": 4}
            network = DiTTransformer2DModel(in_channels=4, out_channels=8, patch_size=2, **size, **classes)
        else:
            network = unet(4, size=4)
    name, part = {"dit": ("DiTPipeline", "transformer")}.get(kind, ("LDMPipeline", "unet"))
    autoencoder = "vqvae" if kind == "vq" else "vae"
    network.save_pretrained(folder / part)
    decoder.save_pretrained(folder / autoencoder)
    content = {"_class_name": name, "scheduler": ["diffusers", "DDIMScheduler"]}
    content |= {part: ["diffusers", type(network).__name__], autoencoder: ["diffusers", type(decoder).__name__]}
    (folder / "model_index.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def text_pipeline(folder: Path, scheduler: Any = None) -> Path:
    """Write a Stable Diffusion pipeline of 16 x 16 images on 8 x 8 latents, with a tokenizer of letters."""
    from diffusers import PNDMScheduler

    parts = {
        **stable_diffusion_parts(),
        "scheduler": scheduler or PNDMScheduler(50, skip_prk_steps=True, steps_offset=1),
    }
    write(folder, "StableDiffusionPipeline", parts)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    return class_name(folder, "StableDiffusionPipeline", safety_checker=checker, feature_extractor=[None, None])


def captioned_pair(folder: Path, train: int, test: int, model: Path, **other: Any) -> Pair:
    """Return a pair of a text pipeline and noise with captions, which is written into the folder."""
    place = picture_repository(folder / "noise", train=train, test=test, captions=True, size=16)
    given: dict[str, Any] = {
        "measures": ["rms"],
        "protocol": {"micro_batch": 8, "sampler": {"steps": 2}},
        "attacks": {"prompt-replay": {"settings": {"guidance_scale": 2.0}, "origin": "untuned"}},
    }
    return Pair(
        name="own",
        title="own",
        description="own",
        revision=1,
        control="surrogate",
        model={"family": "text", "location": str(model)},
        data={
            "source": "folder",
            "path": str(place),
            "size": 16,
            "captions": "text",
            "members": {"split": "train"},
            "held_out": {"split": "test"},
        },
        licence="none",
        **(given | other),
    )
