"""Asking the denoiser itself what samples are images of: the end of several attacks."""

import torch
from torch import Tensor

from ..benchmark.contracts import WhiteBoxModel
from ..benchmark.sampling.prediction_types import clean_estimate


@torch.no_grad()
def denoised(model: WhiteBoxModel, images: Tensor, noise: float, rounds: int, tolerance: float = 0) -> Tensor:
    """Replace each image by the denoiser's answer to it, up to `rounds` times over.

    The answer to x is E[x_0 | x_t = alpha x], which is x + (sigma / alpha)^2 times the score of the model's density
    under noise of sigma / alpha (Tweedie): mean shift (Fukunaga and Hostetler 1975, IEEE Trans. Inf. Theory 21:32),
    which climbs to a mode of that density. No noise is added, so the result is a function of the images.

    Args:
        model: Called at most `rounds` times for each image.
        images: N x C x H x W in [0, 1].
        noise: The level at which the denoiser is asked, as a share of the T timesteps.
        rounds: 0 returns the images.
        tolerance: An image that a round moves by less than this has arrived, and is not asked about again:
            root-mean-square over the numbers of x_0, in its own units. 0: all rounds.

    Returns:
        N x C x H x W in [0, 1], on the CPU.
    """
    if not rounds:
        return images
    t = round(noise * model.num_train_timesteps)
    alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(t)))
    x_0 = model.encode(images).clone()
    moving = torch.arange(len(x_0), device=x_0.device)
    for _ in range(rounds):
        before = x_0[moving]
        x_t, times = alpha * before, torch.full((len(moving),), t, device=x_0.device)
        x_0[moving] = clean_estimate(model.prediction_type, x_t, model.predict(x_t, times), alpha, sigma)
        if tolerance:
            # An image's own way decides, so that no candidate depends on those beside it.
            moving = moving[(x_0[moving] - before).flatten(1).square().mean(1).sqrt() >= tolerance]
            if not len(moving):
                break
    return model.decode(x_0).float().cpu()
