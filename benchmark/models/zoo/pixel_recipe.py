"""The recipe behind the embedded pixel pairs: a small DDPM (Ho et al. 2020, arXiv 2006.11239) from a seed."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...candidates import generator
from ...contracts import Progress
from ...data.duplicates import duplicate_groups
from ...data.pair import Recipe
from ...data.references import ImageSet, References
from ...errors import BadSetting
from .augmentation import shifted
from .training import Checkpoints, Training, cosine_decline


def make(
    references: References, recipe: Recipe, out: Path, device: torch.device, progress: Progress, folder: Path
) -> None:
    """Train a victim and write it as a pipeline folder; `folder` keeps the training's checkpoints.

    Raises:
        BadInput: `folder` holds another training.
        BadSetting: the recipe does not fit the images.
    """
    images = kept(references.training, recipe)
    if recipe.shift >= min(images.shape[2:]):
        raise BadSetting(f"train.shift = {recipe.shift}: the images are {images.shape[3]} x {images.shape[2]} pixels")
    given = {"recipe": recipe.model_dump(mode="json"), "data": references.content(), "device": device.type}
    save(fit(images, recipe, Checkpoints(folder, given), device, progress), recipe, out)


def kept(training: ImageSet, recipe: Recipe) -> Tensor:
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


def fit(
    images: Tensor, recipe: Recipe, checkpoints: Checkpoints, device: torch.device, progress: Progress
) -> torch.nn.Module:
    """Train a UNet2DModel on images in [0, 1] and return it with averaged weights."""
    from diffusers import DDPMScheduler

    x_0 = images.to(device) * 2 - 1
    network = _network(images, recipe).to(device)
    usual_loss = torch.full((recipe.num_train_timesteps,), torch.nan, device=device)
    training = Training(network, recipe.learning_rate, recipe.ema, kept={"usual_loss": usual_loss})
    schedule = DDPMScheduler(recipe.num_train_timesteps)
    rates = cosine_decline(recipe.learning_rate, recipe.steps)

    def step(number: int) -> None:
        training.set_rate(rates[number])
        draw = generator(recipe.seed, "recipe", number, "batch")
        clean = x_0[torch.randint(len(x_0), (recipe.batch,), generator=draw).to(device)]
        if recipe.shift:
            clean = shifted(clean, recipe.shift, generator(recipe.seed, "recipe", number, "shift"))
        noise = torch.randn(clean.shape, generator=draw).to(device)
        t = torch.randint(recipe.num_train_timesteps, (recipe.batch,), generator=draw).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            predicted = network(schedule.add_noise(clean, noise, t), t, return_dict=False)[0].float()
        if recipe.skip_below:
            losses = (predicted - noise).detach().square().mean((1, 2, 3))
            worth = worth_learning(losses, t, usual_loss, recipe.skip_below)
            predicted, noise = predicted[worth], noise[worth]
        if len(noise):
            training.learn(torch.nn.functional.mse_loss(predicted, noise))

    checkpoints.run("denoiser", training, recipe.stop_after or recipe.steps, step, progress)
    return training.result()


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
