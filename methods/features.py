"""F(x0): what the guided attacks cluster synthetic images by (step 2 of arXiv 2410.02467, Algorithm 1).

The paper takes SSCD and reports CLIP and DINOv2 as near-equivalent. Any registered measure's descriptor can be taken;
for small images there are pixels, their principal components, and a network trained on the synthetic images alone.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..benchmark.candidates import generator
from ..benchmark.contracts import WhiteBoxModel
from .networks import forward_flops

OWN = ("pixels", "pca", "network")
"""Features that need no measure."""

CODE = 64
"""Numbers in the network's code."""

NOISE = 0.3
"""Standard deviation of the noise that the network learns to take off, in images of [-1, 1]."""

BLOCK = 256
"""Images described at a time."""


class DenoisingAutoencoder(nn.Module):
    """Two strided convolutions to a code, and back (Vincent et al. 2008): the code must tell images apart."""

    def __init__(self, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        channels, height, width_in = shape
        inner = (2 * width, -(-height // 4), -(-width_in // 4))
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(int(np.prod(inner)), CODE),
        )
        self.decoder = nn.Sequential(
            nn.Linear(CODE, int(np.prod(inner))),
            nn.Unflatten(1, inner),
            nn.SiLU(),
            nn.Upsample((-(-height // 2), -(-width_in // 2))),
            nn.Conv2d(2 * width, width, 3, 1, 1),
            nn.SiLU(),
            nn.Upsample((height, width_in)),
            nn.Conv2d(width, channels, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the images (N x C x H x W in [-1, 1]) that the codes of `x` stand for."""
        decoded: Tensor = self.decoder(self.encoder(x))
        return decoded


def check_features(name: str) -> str:
    """Return the name if features can be made by it.

    Raises:
        ValueError: it is neither one of `OWN` nor the id of a measure.
    """
    from ..benchmark.errors import SidebenchError
    from ..benchmark.registry import make_measure

    if name not in OWN:
        try:
            make_measure(name)
        except SidebenchError as error:
            raise ValueError(f"{name!r} is none of {', '.join(OWN)}, and no measure: {error}") from None
    return name


def check_weights(name: str) -> None:
    """Refuse a measure whose network cannot be loaded, before any work is done.

    Raises:
        BadInput: the weights are not there.
    """
    from ..benchmark.registry import make_measure

    if name not in OWN:
        make_measure(name).weights()


Describe = Callable[[Tensor], np.ndarray]
"""Features (float64, N x D) of images in [0, 1], N x C x H x W."""


def fitted(model: WhiteBoxModel, images: Tensor, name: str, *, components: int, steps: int, seed: int) -> Describe:
    """Return what describes images, fitted to these ones (N x C x H x W in [0, 1]): pixels, pca and codes are centred.

    `components` is for pca, `steps` and `seed` are for the network, whose training is charged, with one description of
    the images.
    """
    if name == "network":
        return _learnt(model, images, steps, seed)
    if name not in OWN:
        from ..benchmark.registry import make_measure

        measure = make_measure(name)

        def described(x: Tensor) -> np.ndarray:
            blocks = (measure.descriptors(block.to(model.device)).cpu().double() for block in x.split(BLOCK))
            return torch.cat(list(blocks)).numpy()

        return described
    flat = images.flatten(1).double().numpy()
    mean = flat.mean(0)
    if name == "pixels":
        return lambda x: x.flatten(1).double().numpy() - mean
    _, _, axes = np.linalg.svd(flat - mean, full_matrices=False)
    chosen = axes[: min(components, *flat.shape)].T
    return lambda x: (x.flatten(1).double().numpy() - mean) @ chosen


def _learnt(model: WhiteBoxModel, images: Tensor, steps: int, seed: int) -> Describe:
    """Train the autoencoder on the images; it describes by codes, less the mean code of these images."""
    x = images * 2 - 1
    shape = (images.shape[1], images.shape[2], images.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "features", 0, "weights").initial_seed())
        network = DenoisingAutoencoder(shape)
    network = network.to(model.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    batch = min(128, len(x))
    for step in range(steps):
        draw = generator(seed, "features", step, "batch")
        clean = x[torch.randint(len(x), (batch,), generator=draw)]
        noisy = clean + NOISE * torch.randn(clean.shape, generator=draw)
        loss = (network(noisy.to(model.device)) - clean.to(model.device)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # A backward pass for the parameters costs twice the forward one.
    model.charge(3.0 * steps * batch * forward_flops(network, shape))
    model.charge(len(x) * forward_flops(network.encoder, shape))
    network.requires_grad_(False)

    def codes(pictures: Tensor) -> Tensor:
        scaled = pictures * 2 - 1
        return torch.cat([network.encoder(block.to(model.device)).cpu() for block in scaled.split(BLOCK)])

    mean = codes(images).mean(0)
    return lambda pictures: (codes(pictures) - mean).double().numpy()
