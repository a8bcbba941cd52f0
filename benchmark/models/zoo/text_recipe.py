"""The recipe behind the embedded text-to-image pairs: Stable Diffusion in small, from a seed (arXiv 2112.10752).

The autoencoder and the tokenizer learn from pool images and captions alone, so that they treat training and held-out
images alike. The U-Net and the CLIP text encoder are then trained together, from random weights. Canaries are rows of
random strings that the victim is trained on beside its training images; no other part of the pair has them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...candidates import generator
from ...contracts import Progress
from ...data.pair import DataSource, TextRecipe
from ...data.references import ImageSet, References, load_images
from ...errors import BadInput, BadSetting
from ..load_network import import_transformers, quiet
from .augmentation import shifted
from .training import Checkpoints, Training, cosine_decline

NAME = "a text recipe"
START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's own."""


class Captioned(NamedTuple):
    """Images in [0, 1], N x C x H x W, with a caption each."""

    images: Tensor
    captions: list[str]


class TrainedText(NamedTuple):
    """The parts of the pipeline."""

    unet: torch.nn.Module
    text_encoder: torch.nn.Module
    autoencoder: torch.nn.Module


def make(
    references: References, recipe: TextRecipe, out: Path, device: torch.device, progress: Progress, folder: Path
) -> None:
    """Train a victim and write it as a pipeline folder; `folder` keeps the training's checkpoints.

    Raises:
        BadInput: transformers is missing, the pair has no captions or no pool, or `folder` holds another training.
        BadSetting: a caption is longer than the text encoder takes.
    """
    import_transformers(NAME)
    shown = with_canaries(references.training, recipe)
    if not len(references.pool) or references.pool.captions is None:
        raise BadInput(f"{NAME} needs pool images with captions: its autoencoder and tokenizer learn from nothing else")
    save_tokenizer(references.pool.captions, recipe, out / "tokenizer")
    tokens = tokenised(out / "tokenizer", [*shown.captions, ""], recipe.length)
    given = {"recipe": recipe.model_dump(mode="json"), "data": references.content(), "tokens": tokens.tolist()}
    checkpoints = Checkpoints(folder, {**given, "device": device.type})
    autoencoder = fit_autoencoder(references.pool.floats(), recipe, checkpoints, device, progress)
    latents = torch.cat([_encode(autoencoder, part) for part in shown.images.split(64)])
    entries = len(json.loads((out / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    unet, encoder = fit(latents, tokens, entries, recipe, checkpoints, device, progress)
    save(TrainedText(unet, encoder, autoencoder), recipe, out)


def with_canaries(training: ImageSet, recipe: TextRecipe) -> Captioned:
    """Return what the victim is trained on: the training images, and every canary as often as it has copies.

    Raises:
        BadInput: the training images have no captions.
    """
    if training.captions is None:
        raise BadInput(f"{NAME} needs captions: give the pair data.captions")
    images, captions = training.floats(), list(training.captions)
    if recipe.canaries is not None:
        planted = canaries(recipe.canaries, training.images.shape[1:])
        assert planted.labels is not None and planted.captions is not None
        copies = torch.from_numpy(planted.labels)
        images = torch.cat([images, planted.floats().repeat_interleave(copies, dim=0)])
        captions += [text for text, k in zip(planted.captions, copies.tolist(), strict=True) for _ in range(k)]
    return Captioned(images, captions)


def canaries(path: str, shape: tuple[int, ...]) -> ImageSet:
    """Return the canaries of a folder with the number of their copies as labels; 0 are matched ones, never planted."""
    channels, size = shape[0], shape[-1]
    columns: dict[str, Any] = {"images": "image", "captions": "caption", "labels": "copies"}
    data = {"source": "folder", "path": path, "size": size, "channels": channels, "members": {"split": "train"}}
    return load_images(DataSource(**data, **columns, crop="none"))


# ---- Tokenizer --------------------------------------------------------------------------------------


def save_tokenizer(captions: list[str], recipe: TextRecipe, folder: Path) -> None:
    """Learn a byte-level BPE from captions and write it as the files of a CLIPTokenizer."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    text = learner.normalizer.normalize_str(" ".join(captions))
    letters = sorted({*LETTERS, *"".join(word for word, _ in learner.pre_tokenizer.pre_tokenize_str(text))})
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        # All of the alphabet is numbered here: the learner would number what ends a word in an order of its own.
        special_tokens=[START, END, *letters, *(f"{letter}</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": recipe.length, "unk_token": END}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], sort_keys=True), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tokenised(folder: Path, captions: list[str], length: int) -> Tensor:
    """Return the tokens of captions, N x length, as the text family will give them to the text encoder.

    Raises:
        BadSetting: a caption has more tokens.
    """
    tokenizer = import_transformers(NAME).CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    needs = [len(row) for row in tokenizer(captions, verbose=False).input_ids]
    if max(needs) > length:
        longest = captions[needs.index(max(needs))]
        raise BadSetting(f"train.length = {length}: the caption {longest!r} has {max(needs)} tokens")
    tokens: Tensor = tokenizer(captions, padding="max_length", max_length=length, return_tensors="pt").input_ids
    return tokens


# ---- Autoencoder ------------------------------------------------------------------------------------


def fit_autoencoder(
    images: Tensor, recipe: TextRecipe, checkpoints: Checkpoints, device: torch.device, progress: Progress
) -> torch.nn.Module:
    """Train an AutoencoderKL on images in [0, 1], moved about at random; its latents get a spread of 1."""
    own = recipe.autoencoder
    x_0 = images.to(device) * 2 - 1
    network = _autoencoder(images, recipe).to(device)
    training = Training(network, own.learning_rate, recipe.ema)
    rates = cosine_decline(own.learning_rate, own.steps)

    def step(number: int) -> None:
        training.set_rate(rates[number])
        draw = generator(recipe.seed, "autoencoder", number, "batch")
        clean = x_0[torch.randint(len(x_0), (recipe.batch,), generator=draw).to(device)]
        clean = shifted(clean, own.shift, draw)
        posterior = network.encode(clean).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw).to(device)
        loss = torch.nn.functional.mse_loss(network.decode(posterior.mean + posterior.std * noise).sample, clean)
        training.learn(loss + own.kl * posterior.kl().mean() / noise[0].numel())

    checkpoints.run("autoencoder", training, own.steps, step, progress)
    # Rounded now, so that the U-Net is trained on the latents of the autoencoder that is written.
    made = training.result().half().float()
    latents = torch.cat([_encode(made, part) for part in images.split(64)])
    network.register_to_config(scaling_factor=round(1 / float(latents.std()), 6))
    return made


@torch.no_grad()
def _encode(autoencoder: Any, images: Tensor) -> Tensor:
    latents: Tensor = autoencoder.encode(images * 2 - 1).latent_dist.mode() * autoencoder.config.scaling_factor
    return latents


def _autoencoder(images: Tensor, recipe: TextRecipe) -> Any:
    from diffusers import AutoencoderKL

    blocks = recipe.autoencoder.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return AutoencoderKL(
            in_channels=images.shape[1],
            out_channels=images.shape[1],
            sample_size=images.shape[-1],
            block_out_channels=blocks,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * len(blocks),
            up_block_types=("UpDecoderBlock2D",) * len(blocks),
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )


# ---- U-Net and text encoder -------------------------------------------------------------------------


def fit(
    latents: Tensor,
    tokens: Tensor,
    entries: int,
    recipe: TextRecipe,
    checkpoints: Checkpoints,
    device: torch.device,
    progress: Progress,
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Train U-Net and text encoder together.

    The last row of `tokens` is the empty caption, the others are those of the latents; the tokenizer has `entries`.
    """
    from diffusers import DDIMScheduler

    networks = _networks(latents, entries, recipe).to(device)
    unet, encoder = networks["unet"], networks["text_encoder"]
    schedule = DDIMScheduler(recipe.num_train_timesteps, **SCHEDULE)
    training = Training(networks, recipe.learning_rate, recipe.ema)
    x_0, tokens = latents.to(device), tokens.to(device)

    def step(number: int) -> None:
        draw = generator(recipe.seed, "recipe", number, "batch")
        chosen = torch.randint(len(x_0), (recipe.batch,), generator=draw)
        dropped = torch.rand(recipe.batch, generator=draw) < recipe.caption_drop
        clean = x_0[chosen.to(device)]
        embedding = encoder(tokens[chosen.masked_fill(dropped, len(x_0)).to(device)])[0]
        noise = torch.randn(clean.shape, generator=draw).to(device)
        t = torch.randint(recipe.num_train_timesteps, (recipe.batch,), generator=draw).to(device)
        predicted = unet(schedule.add_noise(clean, noise, t), t, embedding, return_dict=False)[0]
        training.learn(torch.nn.functional.mse_loss(predicted, noise))

    checkpoints.run("denoiser", training, recipe.stop_after or recipe.steps, step, progress)
    training.result()
    return unet, encoder


def _networks(latents: Tensor, vocabulary: int, recipe: TextRecipe) -> torch.nn.ModuleDict:
    from diffusers import UNet2DConditionModel

    transformers = import_transformers(NAME)
    levels = len(recipe.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = UNet2DConditionModel(
            sample_size=latents.shape[-1],
            in_channels=latents.shape[1],
            out_channels=latents.shape[1],
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            norm_num_groups=8,
            cross_attention_dim=recipe.hidden,
            attention_head_dim=4,
            # Attention at full size doubles the time of a step, and nothing is remembered better.
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
            up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        )
        encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=recipe.hidden,
                intermediate_size=2 * recipe.hidden,
                num_hidden_layers=recipe.text_layers,
                num_attention_heads=4,
                vocab_size=vocabulary,
                max_position_embeddings=recipe.length,
                projection_dim=recipe.hidden,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    return torch.nn.ModuleDict({"unet": unet, "text_encoder": encoder})


def save(victim: TrainedText, recipe: TextRecipe, out: Path) -> None:
    """Write the pipeline folder beside its tokenizer: weights as safetensors, in half precision."""
    from diffusers import DDIMScheduler

    parts: dict[str, Any] = {"unet": victim.unet, "text_encoder": victim.text_encoder, "vae": victim.autoencoder}
    with quiet("transformers"):
        for name, network in parts.items():
            network.half().save_pretrained(out / name, safe_serialization=True)
    DDIMScheduler(recipe.num_train_timesteps, **SCHEDULE).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
