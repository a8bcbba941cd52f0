"""A tiny folder of each text-to-image family, as its repository lays it out: random weights, tokenizers of letters."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz0123"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
T5_SIZES = {"vocab_size": 64, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same weights each time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def clip_tokenizer(folder: Path, length: int = 24) -> None:
    """Write a tokenizer of letters in CLIP's form."""
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def t5_tokenizer(folder: Path) -> None:
    """Write a tokenizer of letters in T5's form."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *((letter, -2.0) for letter in LETTERS)]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512).save_pretrained(folder)


def gemma_tokenizer(folder: Path) -> None:
    """Write a tokenizer of letters in Gemma's form."""
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *LETTERS]
    GemmaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[]).save_pretrained(folder)


def clip(projected: bool = False, width: int = 16) -> Any:
    """Return a CLIP text encoder; `projected` gives it the projection of the pooled state."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {**SIZES, "hidden_size": width, "projection_dim": 12, "eos_token_id": 61, "bos_token_id": 60}
    config = CLIPTextConfig(**sizes, vocab_size=64, max_position_embeddings=24)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5() -> Any:
    """Return a T5 encoder."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**T5_SIZES))


def autoencoder(channels: int = 4, blocks: int = 2, **more: Any) -> Any:
    """Return a KL autoencoder whose images are 2 ** (blocks - 1) times as large as its latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **more,
    )


def unet(width: int, **more: Any) -> Any:
    """Return a UNet with cross-attention to states of this width, for 8 x 8 latents."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **more,
    )


def write(folder: Path, pipeline: str, parts: dict[str, Any], **index: Any) -> Path:
    """Write components by name, a function for a tokenizer, and a model_index.json that lists them."""
    content: dict[str, Any] = {"_class_name": pipeline, **index}
    for name, part in parts.items():
        if part is None:
            content[name] = [None, None]
        elif name.startswith("tokenizer"):
            part(folder / name)
            known = {clip_tokenizer: "CLIPTokenizer", t5_tokenizer: "T5TokenizerFast"}
            content[name] = ["transformers", known.get(part, "GemmaTokenizerFast")]
        else:
            part.save_pretrained(folder / name)
            library = "transformers" if name.startswith("text_encoder") else "diffusers"
            content[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


# ---- Families ---------------------------------------------------------------------------------------


def stable_diffusion_parts(**more: Any) -> dict[str, Any]:
    """Return the components of a Stable Diffusion pipeline of 16 x 16 images, without its scheduler."""
    with seeded():
        networks = {"unet": unet(16, **more), "vae": autoencoder(), "text_encoder": clip()}
    return {**networks, "tokenizer": clip_tokenizer}


def sdxl(folder: Path, scheduler: Any = None, **index: Any) -> Path:
    """Write a Stable Diffusion XL pipeline of 16 x 16 images."""
    from diffusers import EulerDiscreteScheduler

    scheduler = scheduler or EulerDiscreteScheduler(
        50, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.12, steps_offset=1, timestep_spacing="leading"
    )
    with seeded():
        parts = {
            "unet": unet(
                28,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=12 + 6 * 8,
            ),
            "vae": autoencoder(),
            "text_encoder": clip(),
            "text_encoder_2": clip(projected=True, width=12),
        }
    parts |= {"tokenizer": clip_tokenizer, "tokenizer_2": clip_tokenizer, "scheduler": scheduler}
    return write(folder, "StableDiffusionXLPipeline", parts, force_zeros_for_empty_prompt=True, **index)


def sd3(folder: Path, t5_too: bool = True, **schedule: Any) -> Path:
    """Write a Stable Diffusion 3 pipeline of 16 x 16 images."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    with seeded():
        network = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=8,
        )
        parts = {
            "transformer": network,
            "vae": autoencoder(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            "text_encoder": clip(projected=True),
            "text_encoder_2": clip(projected=True, width=12),
            "text_encoder_3": None,
        }
        if t5_too:
            from transformers import T5Config, T5EncoderModel

            parts["text_encoder_3"] = T5EncoderModel(T5Config(**{**T5_SIZES, "d_model": 32}))
    parts |= {"tokenizer": clip_tokenizer, "tokenizer_2": clip_tokenizer}
    parts["tokenizer_3"] = t5_tokenizer if t5_too else None
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **schedule})
    return write(folder, "StableDiffusion3Pipeline", parts)


def flux(folder: Path, guidance: bool = True, **schedule: Any) -> Path:
    """Write a FLUX pipeline of 16 x 16 images; `guidance` gives its transformer the scale as an input."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    with seeded():
        network = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=16,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        )
        parts = {
            "transformer": network,
            "vae": autoencoder(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            "text_encoder": clip(),
            "text_encoder_2": t5(),
        }
    parts |= {"tokenizer": clip_tokenizer, "tokenizer_2": t5_tokenizer}
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": guidance, **schedule})
    write(folder, "FluxPipeline", parts)
    file = folder / "transformer" / "config.json"  # 128 otherwise, whose images are large
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "sample_size": 8}), encoding="utf-8")
    return folder


def pixart(folder: Path, kind: str = "Sigma") -> Path:
    """Write a PixArt pipeline: `Sigma` of 16 x 16 images, or `Alpha` of 128 x 128, whose size is a condition."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    with seeded():
        network = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            cross_attention_dim=24,
            caption_channels=24,
            sample_size=128 if kind == "Alpha" else 8,
            patch_size=16 if kind == "Alpha" else 2,
        )
        decoder = autoencoder(blocks=1, mid_block_add_attention=False) if kind == "Alpha" else autoencoder()
        parts = {"transformer": network, "vae": decoder, "text_encoder": t5()}
    parts |= {"tokenizer": t5_tokenizer, "scheduler": DPMSolverMultistepScheduler(100)}
    return write(folder, f"PixArt{kind}Pipeline", parts)


def sana(folder: Path, scheduler: Any = None) -> Path:
    """Write a Sana pipeline of 32 x 32 images, the smallest that diffusers' own makes."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    scheduler = scheduler or DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    with seeded():
        network = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=16,
        )
        decoder = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            decoder_norm_types="rms_norm",
            scaling_factor=0.41,
        )
        sizes = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64}
        encoder = Gemma2Model(Gemma2Config(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=2))
    parts = {"transformer": network, "vae": decoder, "text_encoder": encoder, "tokenizer": gemma_tokenizer}
    return write(folder, "SanaPipeline", {**parts, "scheduler": scheduler})


def latent_consistency(folder: Path) -> Path:
    """Write a latent consistency pipeline of 16 x 16 images."""
    from diffusers import LCMScheduler

    parts = stable_diffusion_parts(time_cond_proj_dim=8)
    scheduler = LCMScheduler(100, original_inference_steps=20)
    return write(folder, "LatentConsistencyModelPipeline", {**parts, "scheduler": scheduler})
