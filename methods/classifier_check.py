"""What a surrogate's classifier knows of images that it has not seen, beside what could be known."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..benchmark.candidates import generator
from ..benchmark.contracts import WhiteBoxModel
from .networks import SurrogateClassifier

TIMESTEPS = 11
BLOCK = 256
"""Images that are noised, or compared with, at a time."""


class Labelled(NamedTuple):
    """Images in the model's own space, and their classes."""

    x_0: Tensor
    """N x C x H x W, on the CPU."""
    labels: Tensor
    """(N,) int64."""


@torch.no_grad()
def by_timestep(
    network: SurrogateClassifier, model: WhiteBoxModel, learnt: Labelled, unseen: Labelled, seed: int
) -> list[dict[str, float]]:
    """Say for timesteps from 0 to T - 1 how often the classifier is right on x_t, and how sure it is.

    `accuracy` and `confidence` (the mean largest probability) lie in 0 .. 1; `calibration_error` is the expected
    one in ten bins (Guo et al. 2017, arXiv 1706.04599, equation 3). `closed_form` is the accuracy of
    `mixture_posterior` with the learnt images as centres, which no training is needed for.

    Args:
        network: The trained classifier.
        model: For its noise schedule and its space; the work here is no part of the attack and is not charged.
        learnt: What the classifier was trained on.
        unseen: What it was not trained on (`images_to_check`); a label of -1 is one that nothing learnt has.
        seed: Of the noise.
    """
    found = []
    for t in np.linspace(0, network.num_train_timesteps - 1, TIMESTEPS).round().astype(int).tolist():
        noise = torch.randn(unseen.x_0.shape, generator=generator(seed, "classifier check", t, "noise"))
        alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(t)))
        said, known = [], []
        for clean, more in zip(unseen.x_0.split(BLOCK), noise.split(BLOCK), strict=True):
            times = torch.full((len(clean),), t, device=model.device)
            x_t = model.add_noise(clean.to(model.device), more.to(model.device), times)
            said.append(network(x_t, times).double().softmax(1).cpu())
            known.append(mixture_posterior(x_t.flatten(1), learnt.x_0.flatten(1), learnt.labels, alpha, sigma).cpu())
        found.append({"t": t, **_figures(torch.cat(said), torch.cat(known), unseen.labels)})
    return found


def mixture_posterior(x_t: Tensor, centres: Tensor, labels: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return log p(y | x_t) (B x K, float64) where x_t = alpha x_0 + sigma noise and x_0 is one of the centres.

    Every centre is as likely. It is the best that can be known of x_t if the model makes nothing but its centres; of
    other images of the model it is an estimate.

    Args:
        x_t: B x D.
        centres: N x D, on any device.
        labels: Class of each centre, (N,) int64 in 0 .. K - 1.
        alpha: Signal level.
        sigma: Noise level; 0 is taken as the smallest positive number.

    Examples:
        >>> x_t, centres = torch.tensor([[0.9], [0.0]]), torch.tensor([[-1.0], [1.0]])
        >>> mixture_posterior(x_t, centres, torch.tensor([0, 1]), 1.0, 1.0).exp().round(decimals=2)
        tensor([[0.1400, 0.8600],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    parts = []
    for block in centres.split(BLOCK):
        near = block.to(x_t.device).double()
        # Of |x_t - alpha m|^2 the part that all centres share is left out.
        parts.append(alpha * x_t.double() @ near.T - alpha**2 / 2 * near.square().sum(1))
    logits = torch.cat(parts, 1) / max(sigma**2, 1e-12)
    classes = [logits[:, labels.to(x_t.device) == k].logsumexp(1) for k in range(int(labels.max()) + 1)]
    posterior: Tensor = torch.stack(classes, 1).log_softmax(1)
    return posterior


def encoded(model: WhiteBoxModel, images: Tensor) -> Tensor:
    """Return x_0 of images, on the CPU: a large synthetic set is never whole on the model's device."""
    return torch.cat([model.encode(block).cpu() for block in images.split(BLOCK)])


def _figures(said: Tensor, known: Tensor, wanted: Tensor) -> dict[str, float]:
    """Return the figures of one timestep from probabilities (N x K) and classes (N,)."""
    confidence, choice = said.max(1)
    right = (choice == wanted).double()
    gaps = torch.zeros(10, dtype=torch.float64)
    gaps.index_add_(0, (10 * confidence).long().clamp(max=9), right - confidence)
    return {
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "calibration_error": float(gaps.abs().sum() / len(right)),
        "closed_form": float((known.argmax(1) == wanted).double().mean()),
    }
