"""The memorization divergence M(D; p_theta, eps), whole and by training point (definition 1)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...candidates import Candidates, generator
from ...contracts import Model
from ...errors import BadInput, TooFew
from ...models.analytic import MixtureModel
from ...stats.intervals import Interval, t_quantile
from .density import OdeSettings, closed_log_density, log_density, mixture_log_density, smallest_noise

SOLVER_CHECK = 16
"""Draws that are integrated again with half the steps."""


class Divergence(NamedTuple):
    """An estimate of M(D; p_theta, eps) in nats; `cross_entropy` - `entropy`."""

    estimate: float
    standard_error: float
    """Over draws; holds their Monte Carlo error and that of the probes."""
    interval: Interval
    """Student's t over draws. The training points are fixed: it is not about other data sets."""
    entropy: float
    """Of q_eps, Monte Carlo on the closed form of the mixture."""
    cross_entropy: float
    """- E_q log p_theta."""
    epsilon: float
    smallest_noise: float
    """sigma / alpha at the first timestep, see the module's text."""
    points: int
    draws: int
    probes: int
    steps: int
    solver_change: float
    """Mean absolute change of log p_theta when the steps are halved (first 16 draws). The solver has order
    four, so the error that is left is near a fifteenth of it; the interval does not hold it."""


class PointwiseDivergence(NamedTuple):
    """KL(N(x_i, eps^2 I) || p_theta) of every training point, in nats (first version of the paper)."""

    values: np.ndarray
    """(N,) float64."""
    standard_errors: np.ndarray
    """(N,) float64."""
    mean: float
    """At least M(D; p_theta, eps), by convexity, and at most M + log N."""
    interval: Interval
    """Of the mean; times N it is that of the sum."""
    total: float
    """The sum over points, the form that the first version prints."""
    epsilon: float
    smallest_noise: float
    draws: int
    """Per point."""
    probes: int
    steps: int


def memorization_divergence(
    model: Model,
    points: Tensor,
    epsilon: float,
    settings: OdeSettings | None = None,
    *,
    draws: int = 256,
    seed: int = 0,
    condition: Tensor | None = None,
    confidence: float = 0.95,
) -> Divergence:
    """Estimate M(D; p_theta, eps) = KL(q_eps || p_theta) in nats (Chen et al., definition 1).

    Draws are independent: a training point at random and normal noise of deviation `epsilon` around it, each
    from its own named stream. Entropy and cross-entropy use the same draws, so much of their noise cancels.

    Args:
        model: any model of the contract.
        points: training points in the space of x_0 (`model.encode(images)`), N x C x H x W.
        epsilon: > 0, in the units of x_0; compare models at the same value only.
        settings: how log p_theta is computed.
        draws: at least 2.
        seed: of points, noise and probes.
        condition: one row, for a conditional model.
        confidence: of the interval, in (0, 1).

    Raises:
        TooFew: no points, or fewer than two draws.
        BadInput: `epsilon` is not positive, or the points do not have the model's shape.
    """
    settings = settings or OdeSettings()
    _check(points, epsilon, draws)
    candidates = Candidates(seed, range(draws), "theory")
    chosen = points.cpu()[candidates.integers("point", len(points))]
    x = chosen + epsilon * candidates.normal("noise", tuple(points.shape[1:]))
    found = log_density(model, x, settings, seed=seed, condition=condition)
    log_q = mixture_log_density(x, points.cpu(), epsilon)
    value, error = mean_error(log_q - found.values)
    few = x[:SOLVER_CHECK]
    halved = settings.model_copy(update={"steps": max(2, settings.steps // 2)})
    coarse = log_density(model, few, halved, seed=seed, condition=condition).values
    return Divergence(
        value,
        error,
        t_interval(value, error, draws - 1, confidence),
        entropy=-float(log_q.mean()),
        cross_entropy=-float(found.values.mean()),
        epsilon=epsilon,
        smallest_noise=smallest_noise(model),
        points=len(points),
        draws=draws,
        probes=found.probes,
        steps=settings.steps,
        solver_change=float((coarse - found.values[: len(few)]).abs().mean()),
    )


def pointwise_divergence(
    model: Model,
    points: Tensor,
    epsilon: float,
    settings: OdeSettings | None = None,
    *,
    draws: int = 8,
    seed: int = 0,
    condition: Tensor | None = None,
    confidence: float = 0.95,
) -> PointwiseDivergence:
    """Estimate KL(N(x_i, eps^2 I) || p_theta) for every training point, in nats (Chen et al., first version).

    Arguments and errors as for `memorization_divergence`; `draws` counts per point.
    """
    settings = settings or OdeSettings()
    _check(points, epsilon, draws)
    candidates = Candidates(seed, range(len(points) * draws), "pointwise")
    noise = candidates.normal("noise", tuple(points.shape[1:]))
    x = points.cpu().repeat_interleave(draws, 0) + epsilon * noise
    found = log_density(model, x, settings, seed=seed, condition=condition)
    log_normal = mixture_log_density(epsilon * noise, torch.zeros_like(noise[:1]), epsilon)
    terms = (log_normal - found.values).view(len(points), draws)
    values, errors = terms.mean(1), terms.std(1, correction=1) / draws**0.5
    mean, error = float(values.mean()), float(errors.square().sum().sqrt()) / len(points)
    return PointwiseDivergence(
        values.numpy(),
        errors.numpy(),
        mean,
        t_interval(mean, error, len(points) * (draws - 1), confidence),
        total=float(values.sum()),
        epsilon=epsilon,
        smallest_noise=smallest_noise(model),
        draws=draws,
        probes=found.probes,
        steps=settings.steps,
    )


def reference_divergence(
    mixture: MixtureModel, points: Tensor, epsilon: float, *, draws: int = 200_000, seed: int = 0
) -> tuple[float, float]:
    """Return M(D; mixture, eps) and its standard error from closed-form densities and many draws."""
    x = _draws(points, epsilon, draws, seed)
    return mean_error(mixture_log_density(x, points, epsilon) - closed_log_density(mixture, x))


def mixture_divergence(first: MixtureModel, second: MixtureModel, draws: int, seed: int) -> tuple[float, float]:
    """Return KL(first || second) and its standard error, both blurred by the smallest noise."""
    std = float(np.hypot(first.std, smallest_noise(first)))
    x = _draws(first.means.cpu(), std, draws, seed, first.log_weights.exp().cpu())
    return mean_error(closed_log_density(first, x) - closed_log_density(second, x))


def _check(points: Tensor, epsilon: float, draws: int) -> None:
    if not len(points):
        raise TooFew("no training points were given")
    if draws < 2:
        raise TooFew(f"a standard error needs at least 2 draws, not {draws}")
    if not 0 < epsilon < float("inf"):
        raise BadInput(f"epsilon must be a positive number, was {epsilon}")


def _draws(points: Tensor, std: float, draws: int, seed: int, weights: Tensor | None = None) -> Tensor:
    """Draw many points of a mixture from one stream."""
    rng = generator(seed, "theory", 0, "reference")
    given = torch.ones(len(points)) if weights is None else weights
    chosen = torch.multinomial(given, draws, replacement=True, generator=rng)
    noise = torch.randn((draws, *points.shape[1:]), generator=rng, dtype=torch.float64)
    return points[chosen] + std * noise


def mean_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of independent values and its standard error."""
    return float(values.mean()), float(values.std(correction=1)) / len(values) ** 0.5


def t_interval(value: float, error: float, degrees: int, confidence: float) -> Interval:
    """Return the Student t interval of a mean with this standard error."""
    reach = t_quantile(confidence, degrees) * error
    return Interval(value - reach, value + reach)
