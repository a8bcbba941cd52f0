"""What a denoiser predicts, and exact conversions between the four types.

With variance-preserving x_t = alpha x_0 + sigma n, alpha^2 + sigma^2 = 1:

    epsilon          n
    sample           x_0
    v_prediction     alpha n - sigma x_0                 (Salimans and Ho 2022, arXiv 2202.00512)
    flow_prediction  n - x_0                             (Liu et al. 2022, arXiv 2209.03003)

A flow is trained on the straight path (1 - s) x_0 + s n: x_t / (alpha + sigma), with s = sigma / (alpha + sigma).
"""

from torch import Tensor

from ..contracts import PredictionType

SINGULAR = 1e-6
"""An alpha below this is pure noise: what divides by it is left out."""


def clean_estimate(kind: PredictionType, x_t: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return x_0 as the denoiser sees it.

    Epsilon says nothing of x_0 in pure noise, where alpha is 0; the other types do.
    """
    if kind == "epsilon":
        return (x_t - sigma * prediction) / alpha
    if kind == "sample":
        return prediction
    return alpha * x_t - sigma * as_velocity(kind, x_t, prediction, alpha, sigma)


def as_velocity(kind: PredictionType, x_t: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return alpha n - sigma x_0 from a prediction of any type.

    From flow nothing is divided by a level that can vanish: alpha + sigma is at least 1.
    """
    if kind == "v_prediction":
        return prediction
    if kind == "flow_prediction":
        return ((alpha - sigma) * x_t + prediction) / (alpha + sigma)
    if kind == "epsilon":
        return (prediction - sigma * x_t) / alpha
    return (alpha * x_t - prediction) / sigma


def training_target(kind: PredictionType, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what a denoiser of this type is trained to predict of x_t = alpha x_0 + sigma noise.

    Args:
        kind: What it predicts.
        x_0: N x C x H x W.
        noise: The same shape.
        alpha: (N,).
        sigma: (N,).
    """
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return x_0
    if kind == "flow_prediction":
        return noise - x_0
    return alpha.view(-1, 1, 1, 1) * noise - sigma.view(-1, 1, 1, 1) * x_0


def score_to_prediction(kind: PredictionType, correction: Tensor, alpha: float, sigma: float) -> Tensor | None:
    """Convert a correction of the score into one of the prediction (None at a singular endpoint).

    The score is the gradient g of the log-density with respect to x_t: d_eps = -sigma g, d_x0 = (sigma^2 / alpha) g,
    d_v = -(sigma / alpha) g, and for flow d = -(alpha + sigma) (sigma / alpha) g. With respect to the straight path the
    gradient is (alpha + sigma) g, so this is the -s / (1 - s) of that path.
    """
    if kind == "epsilon":
        return -sigma * correction
    if alpha <= SINGULAR:
        return None
    if kind == "sample":
        return sigma**2 / alpha * correction
    if kind == "flow_prediction":
        return -(alpha + sigma) * sigma / alpha * correction
    return -sigma / alpha * correction
