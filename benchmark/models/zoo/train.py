"""The recipe behind the embedded pairs: a small DDPM (Ho et al. 2020, arXiv 2006.11239) from a seed.

It reproduces behaviour, not bytes: training adds up in thread order, so another machine ends in slightly
other weights. The shipped ones are therefore pinned by hash in the pair files. Four training-time defences are
options of it (see `Recipe`); the pair file of the new victim records them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...candidates import generator
from ...contracts import Progress
from ...data.duplicates import duplicate_groups
from ...data.pair import IN_TRAINING, DataSource, ModelSource, Pair, Recipe, pair_names, write_pair
from ...data.references import ImageSet, load_references
from ...environment import pick_device
from ...errors import BadInput, BadSetting
from ...registry import check_settings


def train(
    pair: Pair,
    out: Path,
    device: str,
    progress: Progress,
    *,
    split_seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Train the pair's victim on its training images and save it as a diffusers pipeline folder.

    `split_seed` replaces the seed of the split into training and held-out images, `changes` other values of the
    recipe: its seed, or a defence. The folder also gets a `pair.yaml`, with which `sidebench run` attacks the new
    victim; its training images are those of the pair, whichever of them a defence left out.

    Raises:
        BadInput: the pair has no recipe, or the folder exists.
        BadSetting: a change is impossible.
    """
    if pair.recipe is None:
        raise BadInput(f"pair {pair.name} has no recipe")
    if out.exists():
        raise BadInput(f"{out} exists already; choose another with --out")
    recipe = check_settings(Recipe, {**pair.recipe.model_dump(), **(changes or {})}, "train")
    if split_seed is not None:
        split = pair.data.rule.model_copy(update={"seed": split_seed})
        pair = pair.model_copy(update={"data": pair.data.model_copy(update={"split": split})})
    images = _kept(load_references(pair).training, recipe)
    if recipe.shift >= min(images.shape[2:]):
        raise BadSetting(f"train.shift = {recipe.shift}: the images are {images.shape[3]} x {images.shape[2]} pixels")
    save(fit(images, recipe, pick_device(device), progress), recipe, out)
    victim = pair.model_copy(
        update={
            "name": _name(pair, recipe, split_seed),
            "title": f"{pair.title}, trained again" + "".join(f", {defence}" for defence in recipe.defences()),
            "model": ModelSource(location="."),
            "recipe": recipe,
            "data": _seen_from(pair.data, out),
            "made_by": _command(pair, split_seed, changes or {}),
        }
    )
    write_pair(victim, out / "pair.yaml")
    return out


def _command(pair: Pair, split_seed: int | None, changes: Mapping[str, Any]) -> str:
    """Return the command that makes the same victim from a pair that ships; of another pair's, what its file says."""
    if pair.name not in pair_names():
        return pair.made_by
    options = {**changes, **({} if split_seed is None else {"split_seed": split_seed})}
    return " ".join(["sidebench train", pair.name, *(f"--{k.replace('_', '-')} {v}" for k, v in options.items())])


def _seen_from(data: DataSource, folder: Path) -> DataSource:
    """Return the source with its path relative to the folder, where the new pair file lies."""
    if data.path is None:
        return data
    return data.model_copy(update={"path": os.path.relpath(data.path, folder)})


def _name(pair: Pair, recipe: Recipe, split_seed: int | None) -> str:
    """Name a new victim after what is new about it."""
    defences = [name.removeprefix(IN_TRAINING) for name in recipe.defences()]
    news = [*defences, *([] if split_seed is None else [f"split{split_seed}"])] or ["again"]
    full = "-".join([pair.name, *news])
    return full if len(full) <= 64 else f"{pair.name}-defended"


def _kept(training: ImageSet, recipe: Recipe) -> Tensor:
    """Return the images to train on: all of them, or one of each group of near-duplicates."""
    if recipe.duplicate_rms is None:
        return training.floats()
    _, first = np.unique(duplicate_groups(training.images, recipe.duplicate_rms), return_index=True)
    if len(first) == len(training.images):
        raise BadSetting(
            f"train.duplicate_rms = {recipe.duplicate_rms}: no two of the {len(first)} training images are that near, "
            "so nothing would be left out"
        )
    return training.floats()[torch.from_numpy(np.sort(first))]


def fit(images: Tensor, recipe: Recipe, device: torch.device, progress: Progress) -> torch.nn.Module:
    """Train a UNet2DModel on images in [0, 1] and return it with averaged weights."""
    from diffusers import DDPMScheduler

    x_0 = images.to(device) * 2 - 1
    network = _network(images, recipe).to(device)
    averaged = {key: value.clone() for key, value in network.state_dict().items()}
    schedule = DDPMScheduler(recipe.num_train_timesteps)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    decline = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    steps = recipe.stop_after or recipe.steps
    usual_loss = torch.full((recipe.num_train_timesteps,), torch.nan, device=device)
    for step in range(steps):
        draw = generator(recipe.seed, "recipe", step, "batch")
        clean = x_0[torch.randint(len(x_0), (recipe.batch,), generator=draw).to(device)]
        if recipe.shift:
            clean = shifted(clean, recipe.shift, generator(recipe.seed, "recipe", step, "shift"))
        noise = torch.randn(clean.shape, generator=draw).to(device)
        t = torch.randint(recipe.num_train_timesteps, (recipe.batch,), generator=draw).to(device)
        predicted = network(schedule.add_noise(clean, noise, t), t, return_dict=False)[0]
        if recipe.skip_below:
            losses = (predicted - noise).detach().square().mean((1, 2, 3))
            kept = worth_learning(losses, t, usual_loss, recipe.skip_below)
            predicted, noise = predicted[kept], noise[kept]
        if len(noise):
            loss = torch.nn.functional.mse_loss(predicted, noise)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        decline.step()
        with torch.no_grad():
            decay = min(recipe.ema, (1 + step) / (10 + step))
            for key, value in network.state_dict().items():
                averaged[key].lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            progress("training steps", step + 1, steps)
    network.load_state_dict(averaged)
    return network.cpu().eval()


def shifted(images: Tensor, reach: int, draw: torch.Generator) -> Tensor:
    """Move each image by up to `reach` pixels in both directions, uniformly; border pixels are repeated."""
    count, _, height, width = images.shape
    moves = torch.randint(-reach, reach + 1, (2, count, 1), generator=draw).to(images.device)
    rows = (torch.arange(height, device=images.device) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + moves[1]).clamp(0, width - 1)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved: Tensor = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved


def worth_learning(losses: Tensor, t: Tensor, usual: Tensor, share: float) -> Tensor:
    """Return which samples have at least `share` of the usual loss at their timestep, and carry `usual` on in place.

    `usual` (T,) holds a running mean with decay 0.9, NaN where no sample has been.
    """
    known = usual[t]
    kept = ~(losses < share * known)
    usual[t] = torch.where(known.isnan(), losses, torch.lerp(known, losses, 0.1))
    return kept


def save(network: torch.nn.Module, recipe: Recipe, out: Path) -> None:
    """Write the pipeline folder: model_index.json, unet and scheduler, weights as safetensors."""
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(recipe.num_train_timesteps, clip_sample=True)
    DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(out, safe_serialization=True)


def _network(images: Tensor, recipe: Recipe) -> torch.nn.Module:
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        levels = len(recipe.channels)
        network: torch.nn.Module = UNet2DModel(
            sample_size=images.shape[-1],
            in_channels=images.shape[1],
            out_channels=images.shape[1],
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            add_attention=False,
        )
    return network
