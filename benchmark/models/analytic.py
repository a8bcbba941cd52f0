"""Models with a closed-form denoiser: Gaussian mixtures, for controls and for checking mathematics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import environment, files
from ..candidates import Candidates
from ..contracts import AttackState, Conditioning, Model, ModelSpec, PredictionType
from ..errors import BadInput
from ..files import read_state, write_state
from .schedule import DiscreteSchedule

SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
}


class MixtureModel(Model):
    """The exact diffusion model of p(x_0) = sum_i w_i N(m_i, std^2 I), m_i in [-1, 1]^(C x H x W).

    With x_t = alpha x_0 + sigma n, component i is N(alpha m_i, (alpha^2 std^2 + sigma^2) I) at time t, so
    E[x_0 | x_t] = sum_i r_i (m_i + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha m_i)) with r the
    posterior weights. std = 0 is a model that has memorised its means exactly. With `exact`, unsteered samples
    are drawn from p(x_0) itself rather than by a sampler with its own bias.
    """

    def __init__(
        self,
        means: Tensor,
        std: float,
        weights: Tensor | None = None,
        prediction_type: PredictionType = "epsilon",
        spec: ModelSpec | None = None,
        exact: bool = False,
    ) -> None:
        if means.ndim != 4 or not len(means):
            raise BadInput(f"mixture: means must be N x C x H x W, were {tuple(means.shape)}")
        self.spec = spec or ModelSpec(family="mixture", location="memory")
        self.device = environment.pick_device(self.spec.device)
        self.means = means.float().to(self.device)
        self.std = float(std)
        self.exact = exact
        given = torch.ones(len(means)) if weights is None else weights.float()
        self.log_weights = (given / given.sum()).log().to(self.device)
        channels, height, width = means.shape[1:]
        self.sample_shape = self.image_shape = (channels, height, width)
        self.conditioning: Conditioning = "none"
        self.prediction_type = prediction_type
        # Schedulers know no flow: the sampling loop hands them the velocity that it is.
        kind = "v_prediction" if prediction_type == "flow_prediction" else prediction_type
        self.scheduler_config = {**SCHEDULE, "prediction_type": kind}
        betas = torch.linspace(SCHEDULE["beta_start"], SCHEDULE["beta_end"], SCHEDULE["num_train_timesteps"])
        self.schedule = DiscreteSchedule(torch.cumprod(1 - betas, 0))
        self.num_train_timesteps = self.schedule.num_train_timesteps

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> "MixtureModel":
        """Load what `save` wrote."""
        state = read_state(Path(spec.location))
        info, tensors = state.info, state.tensors
        return cls(tensors["means"], info["std"], tensors["weights"], info["prediction_type"], spec, info["exact"])

    def save(self, path: Path) -> ModelSpec:
        """Write the mixture as one safetensors file and return the specification that loads it."""
        tensors = {"means": self.means, "weights": self.log_weights.exp()}
        info = {"std": self.std, "prediction_type": self.prediction_type, "exact": self.exact}
        write_state(path, AttackState(tensors, info))
        return ModelSpec(family="mixture", location=str(path), sha256={path.name: files.sha256(path)})

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.schedule.noise_level(t)

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(component i | x_t), N x components."""
        alpha, sigma = self.noise_level(t)
        variance = alpha**2 * self.std**2 + sigma**2
        # ||x - alpha m|| = alpha ||x / alpha - m||, by direct differences: products lose the digits that decide.
        scaled = x_t.flatten(1) / alpha[:, None]
        gaps = torch.cdist(scaled, self.means.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        distances = (alpha[:, None] * gaps).square()
        return (self.log_weights - distances / (2 * variance[:, None])).log_softmax(1)

    def draw(self, candidates: Candidates) -> Tensor | None:
        """Return exact samples where the model was made with `exact`: a component, then its normal."""
        if not self.exact:
            return None
        coins = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in candidates.generators("component")])
        edges = self.log_weights.double().exp().cumsum(0).cpu()
        chosen = torch.searchsorted(edges, coins).clamp(max=len(self.means) - 1)
        noise = candidates.normal("noise", self.sample_shape).to(self.device)
        return self.means[chosen.to(self.device)] + self.std * noise

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the exact prediction in the model's own type."""
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in self.noise_level(t))
        posterior = self.log_posterior(x_t, t).exp()
        mean = (posterior @ self.means.flatten(1)).view_as(x_t)
        x_0 = mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x_t - alpha * mean)
        if self.prediction_type == "sample":
            return x_0
        epsilon = (x_t - alpha * x_0) / sigma
        if self.prediction_type == "epsilon":
            return epsilon
        return alpha * epsilon - sigma * x_0 if self.prediction_type == "v_prediction" else epsilon - x_0

    def encode(self, images: Tensor) -> Tensor:
        """Scale [0, 1] to [-1, 1]."""
        return images.to(self.device) * 2 - 1

    def decode(self, x_0: Tensor) -> Tensor:
        """Scale [-1, 1] to [0, 1] and clip."""
        return ((x_0 + 1) / 2).clamp(0, 1)

    def flops_per_sample(self) -> int:
        """Return the operations of the two products with the means."""
        return 4 * self.means.numel()
