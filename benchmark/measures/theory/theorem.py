"""Theorem 1: what conditioning on a label does to the divergence, on Gaussian mixtures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...candidates import Candidates, generator
from ...errors import BadInput, TooFew
from ...models.analytic import MixtureModel
from ...stats.intervals import Interval
from .density import OdeSettings, log_density, smallest_noise
from .divergence import mean_error, mixture_divergence, t_interval

MEMORISED_DRAWS = 512
"""Draws, about, for a gap between memorised models."""

SAME_MODEL_DRAWS = 64
"""Draws for a gap between a model and itself: it is 0 at every point."""


class Theorem(NamedTuple):
    """M(D_i; p_theta_i, eps) - M(D_i; p_theta, eps) for one value of one label, in nats."""

    label: str
    models: str
    """"exact densities": infinitely many training data. "memorised": models equal to the blurred training points."""
    subset: int
    """Points of D_i."""
    gap: float
    standard_error: float
    interval: Interval
    limit: float
    """- KL(p_i || p) from the closed forms."""
    limit_error: float
    """Standard error of `limit`."""


def theorem_one(
    density: MixtureModel,
    clusters: Sequence[int],
    *,
    points: int = 2000,
    memorised: int = 24,
    epsilon: float = 0.03,
    seed: int = 0,
    settings: OdeSettings | None = None,
    confidence: float = 0.95,
) -> list[Theorem]:
    """Measure M(D_i; p_theta_i, eps) - M(D_i; p_theta, eps) for three labels (Chen et al., theorem 1).

    Labels: the component's cluster (informative), a fair coin per training point, and a constant; i is the
    first value. The entropy of q_eps cancels, so the gap is the mean of log p_theta - log p_theta_i over draws of
    q_eps. For exact densities there is one draw per training point, so the interval also holds the sampling of D_i;
    the limit is that of epsilon -> 0. The terms are bounded on one side and far-reaching on the other (skewness 6
    to 12 in trials), so few points give too narrow an interval: a nominal 95 % covered 64 to 84 % with 45 points
    in D_i, and 91 to 95 % with 600. For memorised models D_i is fixed, every point is drawn equally often, and the
    limit is exact at this epsilon; where points of other subsets lie within a few epsilon, rare draws carry much of
    the gap and the interval is too narrow, so keep epsilon well below their distances.

    Two kinds of model. "exact densities" are the limit that the theorem speaks of: there a coin splits the data but
    not the density, and its gap is 0 although definition 2 calls it informative. "memorised" models are q_eps of
    their own training points, and there the coin lowers M as much as any split in halves: about -log(N / N_i).

    Args:
        density: the data density.
        clusters: a cluster number for each component of `density`; values 0 and at least one other.
        points: training points drawn for the exact densities.
        memorised: training points drawn for the memorised models; 0 leaves these out.
        epsilon: above the smallest noise.
        seed: of data, coins and noise.
        settings: how log p_theta is computed.
        confidence: of the intervals.

    Raises:
        BadInput: `clusters` does not fit the density, or `epsilon` lies below the smallest noise.
        TooFew: a subset has fewer than two points.
    """
    number = torch.tensor(clusters)
    if len(number) != len(density.means) or not (number == 0).any() or (number == 0).all():
        raise BadInput("clusters: one number per component is needed, 0 and at least one other")
    if epsilon <= smallest_noise(density):
        raise BadInput(f"epsilon {epsilon} must lie above the smallest noise, {smallest_noise(density):.4g}")
    inside = (number == 0).nonzero().flatten()
    part = MixtureModel(density.means[inside], density.std, density.log_weights[inside].exp(), density.prediction_type)
    rows = []
    kinds = {"exact densities": points, **({"memorised": memorised} if memorised else {})}
    for kind, count in kinds.items():
        x, component = draw_training(density, count, seed, kind)
        coin = torch.randint(2, (count,), generator=generator(seed, "theory", 0, f"coins {kind}"))
        labels = {"clusters": number[component], "random": coin, "constant": torch.zeros_like(coin)}
        for label, values in labels.items():
            subset = x[values == 0]
            if kind == "memorised":
                own, whole = (memorised_model(data, epsilon, density) for data in (subset, x))
            else:
                own, whole = (part if label == "clusters" else density), density
            rows.append(_gap((label, kind), own, whole, subset, epsilon, seed, settings, confidence))
    return rows


def draw_training(density: MixtureModel, count: int, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Draw training points of a density and the component that each came from."""
    rng = generator(seed, "theory", 0, f"data {kind}")
    component = torch.multinomial(density.log_weights.exp().cpu(), count, replacement=True, generator=rng)
    noise = torch.randn((count, *density.sample_shape), generator=rng)
    return density.means.cpu()[component] + density.std * noise, component


def memorised_model(points: Tensor, epsilon: float, like: MixtureModel) -> MixtureModel:
    """Return the model whose density at the first timestep is q_eps of these points."""
    if not len(points):
        raise TooFew("a label value has no training points; draw more")
    std = float(np.sqrt(epsilon**2 - smallest_noise(like) ** 2))
    return MixtureModel(points, std, prediction_type=like.prediction_type)


def _gap(
    names: tuple[str, str],
    own: MixtureModel,
    whole: MixtureModel,
    subset: Tensor,
    epsilon: float,
    seed: int,
    settings: OdeSettings | None,
    confidence: float,
) -> Theorem:
    if len(subset) < 2:
        raise TooFew(f"label {names[0]}: {len(subset)} points in the subset; draw more")
    if own is whole:
        data = subset[:SAME_MODEL_DRAWS]
    else:
        data = subset.repeat(max(1, MEMORISED_DRAWS // len(subset)) if names[1] == "memorised" else 1, 1, 1, 1)
    x = data + epsilon * Candidates(seed, range(len(data)), "theorem").normal("noise", tuple(data.shape[1:]))
    own_log, whole_log = (log_density(model, x, settings, seed=seed).values for model in (own, whole))
    value, error = mean_error(whole_log - own_log)
    limit, limit_error = mixture_divergence(own, whole, 100_000, seed)
    interval = t_interval(value, error, len(x) - 1, confidence)
    return Theorem(*names, len(subset), value, error, interval, -limit, limit_error)
