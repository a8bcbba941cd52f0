"""Noise schedules that state sigma, x = x_0 + sigma n: EDM, consistency models, and networks that are given log sigma.

With alpha = (1 + sigma^2)^(-1/2), x_t = alpha x is variance-preserving, so that such models are attacked as all others.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..contracts import PredictionType
from .schedule import DiscreteSchedule, alphas_cumprod, betas_of

RHO = 7.0
"""Curvature of Karras et al.'s spacing where a configuration states none."""


class SigmaSchedule(DiscreteSchedule):
    """A model whose network is given 0.25 log sigma as its time; timestep t of 0 .. N - 1 is the (t + 1)-th sigma.

    diffusers' Euler scheduler with `timestep_type: continuous` is this one: its network takes x_t as it is.
    """

    prediction_type: PredictionType = "v_prediction"
    """What `as_predicted` returns."""

    def __init__(self, sigmas: Tensor) -> None:
        """Take the levels, (N,) float64, rising."""
        super().__init__(1 / (1 + sigmas**2))

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma at timesteps `t` of shape (N,), as N x 1 x 1 x 1."""
        alpha, sigma = self.noise_level(t)
        return (sigma / alpha).view(-1, 1, 1, 1)

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t, and 0.25 log sigma."""
        return x_t, self.sigma(t).flatten().log() / 4

    def scheduler_config(self) -> dict[str, Any]:
        """Return the same levels as diffusers' variance-preserving schedulers take them, from pure noise down.

        Nothing is clipped, as schedulers that state sigma clip nothing.
        """
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "trained_betas": betas_of(self.alphas_cumprod),
            "prediction_type": self.prediction_type,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        }


class Preconditioned(SigmaSchedule):
    """EDM's network F inside D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), which estimates x_0.

    c_skip, c_out, c_in and c_noise are those of Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    prediction_type: PredictionType = "epsilon"

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read the configuration of diffusers' EDMEuler or EDMDPMSolverMultistep scheduler."""
        self.sigma_data = float(config.get("sigma_data", 0.5))
        # diffusers turns the sign of c_out for networks that predict v.
        self.sign = -1.0 if config.get("prediction_type") == "v_prediction" else 1.0
        steps, low, high = _range(config, 1000)
        if config.get("sigma_schedule") == "exponential":
            ends = torch.tensor([low, high], dtype=torch.float64).log()
            super().__init__(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64).exp())
        else:
            super().__init__(karras(steps, low, high, float(config.get("rho", RHO))))

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_in x and c_noise."""
        s = self.sigma(t)
        x = x_t * (1 + s**2).sqrt()
        return x / (s**2 + self.sigma_data**2).sqrt(), s.flatten().log() / 4

    def as_predicted(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return epsilon = (x - D) / sigma, written so that nothing is divided by sigma."""
        s = self.sigma(t)
        x, total = x_t * (1 + s**2).sqrt(), s**2 + self.sigma_data**2
        return s / total * x - self.sign * self.sigma_data / total.sqrt() * output


class Consistency(Preconditioned):
    """A consistency model, whose D answers with the end of the path from x (Song et al. 2023, arXiv 2303.01469).

    That is an image, not the mean of images, so its step is its own: x_0, then fresh noise (algorithm 1).
    """

    prediction_type: PredictionType = "sample"

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read the configuration of diffusers' CMStochasticIterative scheduler."""
        super().__init__({"num_train_timesteps": 40, **config})
        self.sigma_min = float(config.get("sigma_min", 0.002))
        self.clips = bool(config.get("clip_denoised", True))

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_in x, and 1000 times c_noise."""
        x, time = super().as_trained(x_t, t)
        return x, 1000 * time

    def as_predicted(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return D(x, sigma), which is x itself at the smallest sigma."""
        s = self.sigma(t)
        x, total = x_t * (1 + s**2).sqrt(), s**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / ((s - self.sigma_min) ** 2 + self.sigma_data**2)
        return c_skip * x + (s - self.sigma_min) * self.sigma_data / total.sqrt() * output

    def scheduler_config(self) -> dict[str, Any]:
        """Return the same levels as diffusers' LCM scheduler takes them, whose step is algorithm 1 for such x_t.

        The boundary condition of that scheduler is switched off, since `as_predicted` has the model's.
        """
        return {
            **super().scheduler_config(),
            "_class_name": "CMStochasticIterativeScheduler",
            "original_inference_steps": self.num_train_timesteps,
            "timestep_scaling": 1e9,
            "clip_sample": self.clips,
        }


def stated_by_sigma(config: Mapping[str, Any]) -> SigmaSchedule | None:
    """Return the schedule of a scheduler's configuration that states sigma; None for any other."""
    name = str(config.get("_class_name", ""))
    if name.startswith("EDM"):
        return Preconditioned(config)
    if name == "CMStochasticIterativeScheduler":
        return Consistency(config)
    # As diffusers has it: with any other prediction type the network is given timesteps after all.
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return SigmaSchedule(_continuous(config)) if name in ("", "EulerDiscreteScheduler") else None
    return None


def karras(steps: int, low: float, high: float, rho: float = RHO) -> Tensor:
    """Return `steps` sigmas from low to high, (steps,) float64, spaced as in Karras et al. 2022, equation 5."""
    ends = low ** (1 / rho), high ** (1 / rho)
    return torch.linspace(*ends, steps, dtype=torch.float64) ** rho


def _continuous(config: Mapping[str, Any]) -> Tensor:
    """Return the sigmas of an Euler scheduler: those of its betas, or of Karras et al.'s spacing where it says so."""
    alpha_bar = alphas_cumprod(config).double().clamp(min=2.0**-24)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    if not config.get("use_karras_sigmas"):
        return sigmas
    low, high = config.get("sigma_min") or float(sigmas[0]), config.get("sigma_max") or float(sigmas[-1])
    return karras(len(sigmas), low, high)


def _range(config: Mapping[str, Any], steps: int) -> tuple[int, float, float]:
    """Return how many sigmas there are, the smallest and the largest."""
    ends = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
    return int(config.get("num_train_timesteps", steps)), *ends
