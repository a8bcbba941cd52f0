"""The recipe behind the embedded pairs: a small DDPM (Ho et al. 2020, arXiv 2006.11239) from a seed.

It reproduces behaviour, not bytes: training adds up in thread order, so another machine ends in slightly
other weights. The shipped ones are therefore pinned by hash in the pair files.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..contracts import Progress
from ..errors import BadInput
from ..hub import pick_device
from ..pairs import ModelSource, Pair, Recipe, write_pair
from ..references import load_references
from ..streams import generator


def train(
    pair: Pair,
    out: Path,
    device: str,
    progress: Progress,
    *,
    seed: int | None = None,
    split_seed: int | None = None,
) -> Path:
    """Train the pair's victim on its training images and save it as a diffusers pipeline folder.

    `seed` replaces the recipe's, `split_seed` that of the split into training and held-out images. The folder
    also gets a `pair.yaml`, with which `sidebench run` attacks the new victim.

    Raises:
        BadInput: the pair has no recipe, or the folder exists.
    """
    if pair.recipe is None:
        raise BadInput(f"pair {pair.name} has no recipe")
    if out.exists():
        raise BadInput(f"{out} exists already; choose another with --out")
    recipe = pair.recipe if seed is None else pair.recipe.model_copy(update={"seed": seed})
    if split_seed is not None:
        split = pair.data.split.model_copy(update={"seed": split_seed})
        pair = pair.model_copy(update={"data": pair.data.model_copy(update={"split": split})})
    images = load_references(pair).training.floats()
    save(fit(images, recipe, pick_device(device), progress), recipe, out)
    victim = pair.model_copy(
        update={
            "name": f"{pair.name}-again" if split_seed is None else f"{pair.name}-split{split_seed}",
            "title": f"{pair.title}, trained again",
            "model": ModelSource(location="."),
            "recipe": recipe,
        }
    )
    write_pair(victim, out / "pair.yaml")
    return out


def fit(images: Tensor, recipe: Recipe, device: torch.device, progress: Progress) -> torch.nn.Module:
    """Train a UNet2DModel on images in [0, 1] and return it with averaged weights."""
    from diffusers import DDPMScheduler

    x_0 = images.to(device) * 2 - 1
    network = _network(images, recipe).to(device)
    averaged = {key: value.clone() for key, value in network.state_dict().items()}
    schedule = DDPMScheduler(recipe.num_train_timesteps)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    decline = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for step in range(recipe.steps):
        draw = generator(recipe.seed, "recipe", step, "batch")
        clean = x_0[torch.randint(len(x_0), (recipe.batch,), generator=draw).to(device)]
        noise = torch.randn(clean.shape, generator=draw).to(device)
        t = torch.randint(recipe.num_train_timesteps, (recipe.batch,), generator=draw).to(device)
        predicted = network(schedule.add_noise(clean, noise, t), t, return_dict=False)[0]
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
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            progress("training steps", step + 1, recipe.steps)
    network.load_state_dict(averaged)
    return network.cpu().eval()


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
