"""The memorization divergence of a diffusion model, and Theorem 1, measured (Chen et al., SIDE, arXiv 2410.02467).

M(D; p_theta, eps) = KL(q_eps || p_theta), q_eps = mean over training points of N(x_i, eps^2 I) (definition 1;
smaller: more memorised). log p_theta comes from the probability-flow ODE (Song et al. 2021, arXiv 2011.13456,
section 4.3), its divergence from the exact trace or from Hutchinson probes (Hutchinson 1990; Grathwohl et al. 2019,
arXiv 1810.01367). Everything is in nats and in the space of x_0 that the model denoises, points as `Model.encode`
returns them.

What p_theta is. A discrete-time model is defined from its first timestep on, not at t = 0. Here p_theta is
the density of x_t / alpha_t at timestep 0, i.e. of x_0 blurred by N(0, (sigma_0 / alpha_0)^2 I), with
sigma_0 / alpha_0 about 0.01 for the usual schedules. No model is narrower than that, so `epsilon` below this
level asks for detail that the model cannot hold; it is allowed, and `smallest_noise` stands in every result.

What the paper leaves open: solver, number of steps, number of draws. They are settings here and part of the results.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .contracts import Model, PredictionType, Settings
from .errors import BadInput, TooFew
from .hub import pick_device
from .models.analytic import MixtureModel
from .pairs import Pair
from .statistics import Interval
from .streams import Candidates, generator

LARGEST_NOISE = 1000.0
"""sigma / alpha where the integration ends at the latest; schedules with alpha_T = 0 would go on for ever."""

EXACT_UP_TO = 16
"""Dimensions up to which `trace: auto` takes the exact trace."""

SOLVER_CHECK = 16
"""Draws that are integrated again with half the steps."""

MEMORISED_DRAWS = 512
"""Draws, about, for a gap between memorised models."""

SAME_MODEL_DRAWS = 64
"""Draws for a gap between a model and itself: it is 0 at every point."""


class OdeSettings(Settings):
    """How log p_theta is computed."""

    steps: int = Field(default=100, ge=2)
    """Steps of the classical Runge-Kutta method, equal in log(sigma / alpha); four denoiser calls each. Points far
    from all data need the most: at 1.5 deviations from 4-D components 100 steps erred by 0.0003 on average and
    30 by 0.07."""
    trace: Literal["auto", "exact", "hutchinson"] = "auto"
    """Exact trace (one backward pass per dimension), Hutchinson probes, or exact up to 16 dimensions."""
    probes: int = Field(default=8, ge=1)
    """Rademacher probes per point, each kept along the whole path, so the estimate is free of bias."""
    prior: Literal["leftover", "standard"] = "leftover"
    """Density at the last timestep: N(alpha_T mu, (alpha_T^2 v + sigma_T^2) I) with mean mu and mean variance v of
    x_0 as the denoiser itself gives them there, or N(0, I), which is what a sampler starts from."""
    batch: int = Field(default=256, ge=1)
    """Points integrated together."""


class LogDensity(NamedTuple):
    """log p_theta of N points, in nats."""

    values: Tensor
    """(N,) float64."""
    probe_errors: Tensor
    """(N,) float64, standard errors from the probes; 0 for the exact trace, NaN with a single probe."""
    probes: int
    """Probes per point; 0 for the exact trace."""


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


class _Grid(NamedTuple):
    t: Tensor
    alpha: list[float]
    sigma: list[float]
    step: float


class _Prior(NamedTuple):
    mean: Tensor
    variance: Tensor


# ---- the density of a model ---------------------------------------------------------------------------


def smallest_noise(model: Model) -> float:
    """Return sigma / alpha at the model's first timestep."""
    alpha, sigma = model.noise_level(torch.zeros(1, device=model.device))
    return float(sigma.double() / alpha.double())


def log_density(
    model: Model,
    x: Tensor,
    settings: OdeSettings | None = None,
    *,
    seed: int = 0,
    condition: Tensor | None = None,
) -> LogDensity:
    """Return log p_theta(x) in nats by the probability-flow ODE (Song et al. 2021, equation 39).

    In u = log(sigma / alpha), half the negative log-SNR, the flow is dx/du = alpha sigma v(x, u) with
    v = alpha n_hat - sigma x0_hat, which stays bounded at both ends and for every prediction type, and
    log p falls at the rate div(alpha sigma v). The denoiser is asked at fractional timesteps; sampler
    settings such as clipping play no part.

    Args:
        model: any model of the contract whose `predict` can be differentiated.
        x: points in the space of x_0, N x C x H x W.
        settings: solver, trace and prior.
        seed: of the probes; row i has its own named stream.
        condition: for conditional models, one row for all points or one for each.

    Raises:
        BadInput: `x` does not have the model's shape, or the density is not finite.
    """
    settings = settings or OdeSettings()
    if x.shape[1:] != torch.Size(model.sample_shape):
        raise BadInput(f"points must be N x {' x '.join(map(str, model.sample_shape))}, were {tuple(x.shape)}")
    if condition is not None and len(condition) not in (1, len(x)):
        raise BadInput(f"{len(condition)} conditions for {len(x)} points: give one, or one per point")
    exact = settings.trace == "exact" or (settings.trace == "auto" and x[:1].numel() <= EXACT_UP_TO)
    grid = _time_grid(model, settings.steps)
    totals = [torch.empty(0, 1 if exact else settings.probes, dtype=torch.float64)]
    for start in range(0, len(x), settings.batch):
        rows = range(start, min(start + settings.batch, len(x)))
        totals.append(_log_densities(model, x, rows, grid, settings, exact, seed, condition))
    found = torch.cat(totals)
    if not found.isfinite().all():
        raise BadInput("the model's log density is not finite; more steps, or float32, may help")
    if exact:
        return LogDensity(found[:, 0], torch.zeros(len(found), dtype=torch.float64), 0)
    errors = found.std(1, correction=1) / found.shape[1] ** 0.5 if settings.probes > 1 else found[:, 0] * torch.nan
    return LogDensity(found.mean(1), errors, settings.probes)


def _log_densities(
    model: Model,
    x: Tensor,
    rows: range,
    grid: _Grid,
    settings: OdeSettings,
    exact: bool,
    seed: int,
    condition: Tensor | None,
) -> Tensor:
    """Return one column of log densities per probe, or one for the exact trace."""
    part = x[rows.start : rows.stop].cpu()
    own, common = (
        (_basis(part), _basis(part))
        if exact
        else (_probes(part, numbers, settings.probes, seed) for numbers in (rows, range(-1, 0)))
    )
    given = condition if condition is None or len(condition) == 1 else condition[rows.start : rows.stop]
    end, trace = _integrate(model, part, own, given, grid)
    prior = _prior(model, grid, common, given, exact) if settings.prior == "leftover" else _standard(part)
    trace = trace.sum(1, keepdim=True) if exact else trace
    # x / alpha_0 is the point, so the density carries the factor alpha_0^d.
    return _log_normal(end, prior)[:, None] + trace + part[0].numel() * float(np.log(grid.alpha[0]))


def _time_grid(model: Model, steps: int) -> _Grid:
    """Return 2 steps + 1 nodes, equal in u = log(sigma / alpha), with the timesteps at which the model has them."""
    last = torch.tensor([model.num_train_timesteps - 1.0], device=model.device)
    alpha, sigma = (level.double().cpu() for level in model.noise_level(last))
    top = min(float(sigma / alpha.clamp(min=1e-12)), LARGEST_NOISE)
    u = torch.linspace(float(np.log(smallest_noise(model))), float(np.log(top)), 2 * steps + 1, dtype=torch.float64)
    low, high = torch.zeros_like(u), torch.full_like(u, model.num_train_timesteps - 1.0)
    for _ in range(48):
        middle = (low + high) / 2
        alpha, sigma = (level.double().cpu() for level in model.noise_level(middle.float().to(model.device)))
        below = sigma < u.exp() * alpha
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    exact_alpha = (1 + (2 * u).exp()).rsqrt()
    exact_sigma = u.exp() * exact_alpha
    t = ((low + high) / 2).float().to(model.device)
    return _Grid(t, exact_alpha.tolist(), exact_sigma.tolist(), float(u[2] - u[0]))


def _integrate(
    model: Model, x: Tensor, vectors: Tensor, condition: Tensor | None, grid: _Grid
) -> tuple[Tensor, Tensor]:
    """Carry x_0 to the last node; return x_T and the integral of z^T J z for each vector z, N x V."""
    y = x.double() * grid.alpha[0]
    total = torch.zeros(len(x), vectors.shape[1], dtype=torch.float64)
    h = grid.step
    for node in range(0, len(grid.alpha) - 2, 2):
        f1, d1 = _slope(model, y, node, vectors, condition, grid)
        f2, d2 = _slope(model, y + h / 2 * f1, node + 1, vectors, condition, grid)
        f3, d3 = _slope(model, y + h / 2 * f2, node + 1, vectors, condition, grid)
        f4, d4 = _slope(model, y + h * f3, node + 2, vectors, condition, grid)
        y = y + h / 6 * (f1 + 2 * f2 + 2 * f3 + f4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return y, total


def _slope(
    model: Model, y: Tensor, node: int, vectors: Tensor, condition: Tensor | None, grid: _Grid
) -> tuple[Tensor, Tensor]:
    """Return alpha sigma v (N x C x H x W) and z^T J z of it for each vector z (N x V), float64 on the CPU."""
    alpha, sigma = grid.alpha[node], grid.sigma[node]
    given = None if condition is None else condition.to(model.device).expand(len(y), *condition.shape[1:])
    with torch.enable_grad():
        x = y.float().to(model.device).requires_grad_(True)
        output = model.predict(x, grid.t[node].expand(len(x)), given)
        flow = _drift(model.prediction_type, output, x, alpha, sigma)
        forms = [_form(flow, x, vectors[:, i].to(x)) for i in range(vectors.shape[1])]
    return flow.detach().cpu().double(), torch.stack(forms, 1)


def _drift(kind: PredictionType, output: Tensor, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return alpha sigma v from a prediction of any type; no division by a level that can vanish."""
    if kind == "epsilon":
        return sigma * (output - sigma * x)
    if kind == "sample":
        return alpha * (alpha * x - output)
    if kind == "v_prediction":
        return alpha * sigma * output
    # n - x0 of the straight path, from variance-preserving x: v = ((alpha - sigma) x + output) / (alpha + sigma).
    return alpha * sigma / (alpha + sigma) * ((alpha - sigma) * x + output)


def _form(flow: Tensor, x: Tensor, vectors: Tensor) -> Tensor:
    (product,) = torch.autograd.grad(flow, x, vectors.expand_as(flow), retain_graph=True)
    return (product * vectors).flatten(1).cpu().double().sum(1)


def _basis(x: Tensor) -> Tensor:
    size = x[0].numel()
    return torch.eye(size).view(1, size, *x.shape[1:])


def _probes(x: Tensor, rows: range, probes: int, seed: int) -> Tensor:
    """Return Rademacher probes, rows x probes x C x H x W, one named stream per row (row -1: the prior's)."""
    shape = (probes, *x.shape[1:])
    drawn = [torch.randint(2, shape, generator=generator(seed, "theory", row, "probes")) for row in rows]
    return torch.stack(drawn).float() * 2 - 1


def _prior(model: Model, grid: _Grid, vectors: Tensor, condition: Tensor | None, exact: bool) -> _Prior:
    """Return mean and variance of x_T, one row for each condition.

    At x_T = 0 the denoiser's x0_hat is the mean of x_0 (but for terms of order alpha_T^2), and for a normal
    x_0 of variance v its slope is s = alpha v / (alpha^2 v + sigma^2), so v = s sigma^2 / (alpha (1 - alpha s)).
    """
    origin = torch.zeros(1 if condition is None else len(condition), *vectors.shape[2:])
    alpha, sigma = grid.alpha[-1], grid.sigma[-1]
    flow, forms = _slope(model, origin, len(grid.alpha) - 1, vectors, condition, grid)
    # alpha sigma v is alpha (alpha x - x0_hat): - alpha x0_hat at x = 0, its slope alpha (alpha - s).
    trace = forms.sum(1) if exact else forms.mean(1)
    slope = alpha - trace / (origin[0].numel() * alpha)
    variance = (slope * sigma**2 / (alpha * (1 - alpha * slope))).clamp(min=0)
    return _Prior(-flow, alpha**2 * variance + sigma**2)


def _standard(x: Tensor) -> _Prior:
    return _Prior(torch.zeros_like(x[:1]).double(), torch.ones(1, dtype=torch.float64))


def _log_normal(x: Tensor, prior: _Prior) -> Tensor:
    gap = (x - prior.mean).flatten(1)
    return -(gap.square().sum(1) / prior.variance + gap.shape[1] * (2 * np.pi * prior.variance).log()) / 2


# ---- closed forms -------------------------------------------------------------------------------------


def mixture_log_density(x: Tensor, means: Tensor, std: float, log_weights: Tensor | None = None) -> Tensor:
    """Return log sum_i w_i N(x; m_i, std^2 I) in nats, (N,) float64; equal weights unless given.

    Args:
        x: N x ..., any shape per point.
        means: M x ..., the same shape per point.
        std: > 0, in the units of x.
        log_weights: (M,), natural logarithms that add up to one.
    """
    queries, centres = x.flatten(1).double(), means.flatten(1).double()
    size, variance = queries.shape[1], std**2
    weights = torch.full((len(centres),), -float(np.log(len(centres))), dtype=torch.float64)
    weights = weights if log_weights is None else log_weights.double()
    weights = weights.to(queries.device)
    block = max(1, 8_388_608 // max(1, len(centres)))
    parts = [
        (weights - torch.cdist(part, centres).square() / (2 * variance)).logsumexp(1) for part in queries.split(block)
    ]
    return torch.cat(parts) - size / 2 * float(np.log(2 * np.pi * variance))


def closed_log_density(mixture: MixtureModel, x: Tensor) -> Tensor:
    """Return what `log_density` should find for a mixture, (N,) float64: N(m_i, (std^2 + smallest_noise^2) I)."""
    std = float(np.hypot(mixture.std, smallest_noise(mixture)))
    return mixture_log_density(x.to(mixture.device), mixture.means, std, mixture.log_weights).cpu()


def reference_divergence(
    mixture: MixtureModel, points: Tensor, epsilon: float, *, draws: int = 200_000, seed: int = 0
) -> tuple[float, float]:
    """Return M(D; mixture, eps) and its standard error from closed-form densities and many draws."""
    x = _draws(points, epsilon, draws, seed)
    return _mean_error(mixture_log_density(x, points, epsilon) - closed_log_density(mixture, x))


def _mixture_divergence(first: MixtureModel, second: MixtureModel, draws: int, seed: int) -> tuple[float, float]:
    """Return KL(first || second) and its standard error, both blurred by the smallest noise."""
    std = float(np.hypot(first.std, smallest_noise(first)))
    x = _draws(first.means.cpu(), std, draws, seed, first.log_weights.exp().cpu())
    return _mean_error(closed_log_density(first, x) - closed_log_density(second, x))


def _draws(points: Tensor, std: float, draws: int, seed: int, weights: Tensor | None = None) -> Tensor:
    """Draw many points of a mixture from one stream."""
    rng = generator(seed, "theory", 0, "reference")
    given = torch.ones(len(points)) if weights is None else weights
    chosen = torch.multinomial(given, draws, replacement=True, generator=rng)
    noise = torch.randn((draws, *points.shape[1:]), generator=rng, dtype=torch.float64)
    return points[chosen] + std * noise


def _mean_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std(correction=1)) / len(values) ** 0.5


def _interval(value: float, error: float, degrees: int, confidence: float) -> Interval:
    from scipy.stats import t

    reach = float(t.ppf((1 + confidence) / 2, degrees)) * error
    return Interval(value - reach, value + reach)


# ---- the memorization divergence ----------------------------------------------------------------------


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
    value, error = _mean_error(log_q - found.values)
    few = x[:SOLVER_CHECK]
    halved = settings.model_copy(update={"steps": max(2, settings.steps // 2)})
    coarse = log_density(model, few, halved, seed=seed, condition=condition).values
    return Divergence(
        value,
        error,
        _interval(value, error, draws - 1, confidence),
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
        _interval(mean, error, len(points) * (draws - 1), confidence),
        total=float(values.sum()),
        epsilon=epsilon,
        smallest_noise=smallest_noise(model),
        draws=draws,
        probes=found.probes,
        steps=settings.steps,
    )


def _check(points: Tensor, epsilon: float, draws: int) -> None:
    if not len(points):
        raise TooFew("no training points were given")
    if draws < 2:
        raise TooFew(f"a standard error needs at least 2 draws, not {draws}")
    if not 0 < epsilon < float("inf"):
        raise BadInput(f"epsilon must be a positive number, was {epsilon}")


# ---- Theorem 1 ----------------------------------------------------------------------------------------


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
        x, component = _training(density, count, seed, kind)
        coin = torch.randint(2, (count,), generator=generator(seed, "theory", 0, f"coins {kind}"))
        labels = {"clusters": number[component], "random": coin, "constant": torch.zeros_like(coin)}
        for label, values in labels.items():
            subset = x[values == 0]
            if kind == "memorised":
                own, whole = (_memorised(data, epsilon, density) for data in (subset, x))
            else:
                own, whole = (part if label == "clusters" else density), density
            rows.append(_gap((label, kind), own, whole, subset, epsilon, seed, settings, confidence))
    return rows


def _training(density: MixtureModel, count: int, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    rng = generator(seed, "theory", 0, f"data {kind}")
    component = torch.multinomial(density.log_weights.exp().cpu(), count, replacement=True, generator=rng)
    noise = torch.randn((count, *density.sample_shape), generator=rng)
    return density.means.cpu()[component] + density.std * noise, component


def _memorised(points: Tensor, epsilon: float, like: MixtureModel) -> MixtureModel:
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
    value, error = _mean_error(whole_log - own_log)
    limit, limit_error = _mixture_divergence(own, whole, 100_000, seed)
    interval = _interval(value, error, len(x) - 1, confidence)
    return Theorem(*names, len(subset), value, error, interval, -limit, limit_error)


# ---- demonstration ------------------------------------------------------------------------------------

TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")


def demonstration(
    seed: int = 0, *, steps: int = 100, points: int = 64, draws: int = 256, epsilon: float = 0.05
) -> dict[str, Any]:
    """Check the estimators on Gaussian mixtures, where every answer has a closed form, and Theorem 1.

    Plain values, ready for JSON: "log_density" (ODE against closed form), "divergence" (M against closed-form
    densities with many draws), "theorem" (gaps against their limits), "smallest_noise" and the settings.

    Raises:
        TooFew: fewer than two points or draws.
        BadInput: `epsilon` does not lie above the smallest noise.
    """
    exact = OdeSettings(steps=steps, trace="exact", batch=1024)
    probed = OdeSettings(steps=steps, trace="hutchinson", probes=16)
    cases = [(shape, kind, exact) for shape in ((1, 1, 1), (1, 2, 2)) for kind in TYPES]
    cases += [(shape, "epsilon", probed) for shape in ((1, 2, 2), (1, 4, 4))]
    data = _example((1, 2, 2), "epsilon")
    return {
        "seed": seed,
        "steps": steps,
        "points": points,
        "draws": draws,
        "epsilon": epsilon,
        "smallest_noise": smallest_noise(data),
        "log_density": [_density_row(shape, kind, settings, draws, seed) for shape, kind, settings in cases],
        "divergence": _divergence_rows(data, points, draws, epsilon, exact, seed),
        "theorem": [_plain(row) for row in theorem_one(data, [0, 0, 1, 1], seed=seed, settings=exact)],
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Return what `demonstration` found as three tables."""
    from tabulate import tabulate

    density = [
        [
            row["dimensions"],
            row["prediction_type"],
            f"{row['probes']} probes" if row["probes"] else "exact",
            f"{row['mean_absolute_error']:.1e}",
            f"{row['largest_error']:.1e}",
            _number(row["mean_error"], 4),
            _number(row["probe_error"], 4) if row["probes"] else "-",
        ]
        for row in found["log_density"]
    ]
    divergence = [
        [
            row["model"],
            row["points"],
            row["draws"],
            _number(row["estimate"]),
            _span(row["interval"]),
            _number(row["reference"]),
            _number(row["reference_error"]),
            f"{row['solver_change']:.1e}",
        ]
        for row in found["divergence"]
    ]
    theorem = [[row["label"], row["models"], row["subset"], *_figures(row)] for row in found["theorem"]]
    heads = (
        ["dimensions", "prediction", "trace", "mean |error|", "largest", "mean error", "its probe error"],
        ["model", "points", "draws", "M", "95 % interval", "closed form", "+-", "steps halved"],
        ["label", "models", "|D_i|", "gap", "95 % interval", "-KL(p_i || p)", "+-"],
    )
    titles = (
        f"log density in nats: ODE, {found['steps']} steps, against the closed form of Gaussian mixtures",
        f"memorization divergence M(D; p, eps) in nats, eps = {found['epsilon']:g}; smaller: more memorised",
        "Theorem 1: M(D_i; p_i, eps) - M(D_i; p, eps) in nats; negative: conditioning memorises more",
    )
    note = f"densities are those at the first timestep, x_0 blurred by noise of deviation {found['smallest_noise']:.4f}"
    tables = [
        f"{title}\n{tabulate(rows, headers=head, tablefmt='plain', disable_numparse=True)}"
        for title, head, rows in zip(titles, heads, (density, divergence, theorem), strict=True)
    ]
    return "\n\n".join([*tables, note])


def _example(shape: tuple[int, int, int], kind: PredictionType) -> MixtureModel:
    """Return four components of different weight in two pairs that overlap."""
    size = int(np.prod(shape))
    sides = torch.tensor([-0.6, -0.25, 0.3, 0.7]).view(-1, 1).expand(-1, size).clone()
    sides[1::2, : size // 2] *= -1
    return MixtureModel(sides.view(-1, *shape), 0.25, torch.tensor([0.15, 0.2, 0.25, 0.4]), kind)


def _density_row(
    shape: tuple[int, int, int], kind: PredictionType, settings: OdeSettings, draws: int, seed: int
) -> dict[str, Any]:
    model = _example(shape, kind)
    x, _ = _training(model, draws, seed, "density")
    found = log_density(model, x, settings, seed=seed)
    errors = found.values - closed_log_density(model, x)
    return {
        "dimensions": int(np.prod(shape)),
        "prediction_type": kind,
        "probes": found.probes,
        "mean_absolute_error": float(errors.abs().mean()),
        "largest_error": float(errors.abs().max()),
        "mean_error": float(errors.mean()),
        "probe_error": float(found.probe_errors.square().sum().sqrt()) / len(x),
    }


def _divergence_rows(
    data: MixtureModel, points: int, draws: int, epsilon: float, settings: OdeSettings, seed: int
) -> list[dict[str, Any]]:
    if epsilon <= smallest_noise(data):
        raise BadInput(f"epsilon {epsilon} must lie above the smallest noise, {smallest_noise(data):.4g}")
    training, _ = _training(data, points, seed, "divergence")
    models = {
        "memorised": _memorised(training, epsilon, data),
        "half memorised": _memorised(training[: points // 2], 3 * epsilon, data),
        "data density": data,
    }
    rows = []
    for name, model in models.items():
        found = memorization_divergence(model, training, epsilon, settings, draws=draws, seed=seed)
        value, error = reference_divergence(model, training, epsilon, seed=seed)
        rows.append({"model": name, **_plain(found), "reference": value, "reference_error": error})
    return rows


def divergence_of_pair(
    pair: Pair, epsilon: float, *, draws: int = 64, seed: int = 0, device: str = "auto", steps: int = 50
) -> dict[str, Any]:
    """Estimate M of a pair's model on its training images and, as a control, on its held-out ones.

    `epsilon` is in the model's own space, [-1, 1] for pixels. One Hutchinson probe a draw; as many images
    of each side as the smaller side has.
    """
    from .models import load_model
    from .references import load_references
    from .runner import model_spec

    model = load_model(model_spec(pair, None, Path()).model_copy(update={"device": str(pick_device(device))}))
    references = load_references(pair)
    count = min(len(references.training), len(references.held_out))
    settings = OdeSettings(steps=steps, trace="hutchinson", probes=1)
    found: dict[str, Any] = {"pair": pair.name, "epsilon": epsilon, "images": count}
    for name, part in (("training", references.training), ("held_out", references.held_out)):
        points = model.encode(part.floats()[:count])
        found[name] = _plain(memorization_divergence(model, points, epsilon, settings, draws=draws, seed=seed))
    return found


def pair_as_text(found: Mapping[str, Any]) -> str:
    """Return what `divergence_of_pair` found as a table."""
    from tabulate import tabulate

    rows = [
        [name.replace("_", "-"), _number(row["estimate"], 1), _span(row["interval"]), f"{row['solver_change']:.2g}"]
        for name, row in ((name, found[name]) for name in ("training", "held_out"))
    ]
    head = (
        f"memorization divergence of {found['pair']} in nats, eps = {found['epsilon']:g}, "
        f"{found['images']} images a side; smaller on training than on held-out images: memorised"
    )
    names = ["images", "M", "95 % interval", "steps halved"]
    return head + "\n" + tabulate(rows, headers=names, tablefmt="simple", disable_numparse=True)


def _plain(row: Divergence | Theorem) -> dict[str, Any]:
    return {**row._asdict(), "interval": list(row.interval)}


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [_number(row["gap"]), _span(row["interval"]), _number(row["limit"]), _number(row["limit_error"])]


def _span(interval: Sequence[float]) -> str:
    return f"{_number(interval[0])} .. {_number(interval[1])}"


def _number(value: float, digits: int = 3) -> str:
    """Return a rounded number, never a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
