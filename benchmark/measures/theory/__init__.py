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

from .demonstration import as_text, demonstration, divergence_of_pair, pair_as_text
from .density import LogDensity, OdeSettings, closed_log_density, log_density, mixture_log_density, smallest_noise
from .divergence import (
    Divergence,
    PointwiseDivergence,
    memorization_divergence,
    pointwise_divergence,
    reference_divergence,
)
from .theorem import Theorem, theorem_one

__all__ = [
    "Divergence",
    "LogDensity",
    "OdeSettings",
    "PointwiseDivergence",
    "Theorem",
    "as_text",
    "closed_log_density",
    "demonstration",
    "divergence_of_pair",
    "log_density",
    "memorization_divergence",
    "mixture_log_density",
    "pair_as_text",
    "pointwise_divergence",
    "reference_divergence",
    "smallest_noise",
    "theorem_one",
]
