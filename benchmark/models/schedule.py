"""The noise levels of a discrete-time diffusion model, at integer and fractional timesteps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput


class DiscreteSchedule:
    """(alpha, sigma) of a variance-preserving schedule given by its cumulative alpha products."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        cumulative = alphas_cumprod.double()
        self.alphas_cumprod = cumulative
        self.num_train_timesteps = len(cumulative)
        # Interpolating sigma / alpha linearly in t is what diffusers' Euler scheduler does.
        self._ratio = ((1 - cumulative) / cumulative.clamp(min=1e-20)).sqrt()

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), shaped like `t`, float32, with alpha^2 + sigma^2 = 1."""
        ratio = self._ratio.to(t.device) if t.device.type != "mps" else self._ratio.float().to(t.device)
        position = t.to(ratio.dtype).clamp(0, self.num_train_timesteps - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=self.num_train_timesteps - 1)
        value = torch.lerp(ratio[below], ratio[above], position - below)
        alpha = (1 + value**2).rsqrt()
        return alpha.float(), (value * alpha).float()

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t and its time as the network saw them in training."""
        return x_t, t

    def as_predicted(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return what the network's output for `as_trained` says, in the model's prediction type."""
        return output


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Return the cumulative products of 1 - beta that a diffusers configuration states."""
    from diffusers import DDPMScheduler

    cumulative: Tensor = DDPMScheduler.from_config(dict(config)).alphas_cumprod
    return cumulative


def betas_of(alphas_cumprod: Tensor) -> list[float]:
    """Return the betas of cumulative products of 1 - beta."""
    before = torch.cat([torch.ones(1, dtype=alphas_cumprod.dtype), alphas_cumprod[:-1]])
    betas: list[float] = (1 - alphas_cumprod / before).tolist()
    return betas


def with_known_betas(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose betas every scheduler can make: only diffusers' DDPM knows sigmoid and laplace."""
    if config.get("trained_betas") is not None or config.get("beta_schedule") not in ("sigmoid", "laplace"):
        return dict(config)
    from diffusers import DDPMScheduler

    betas = DDPMScheduler.from_config({**config, "rescale_betas_zero_snr": False}).betas
    return {**config, "trained_betas": betas.tolist()}


class StraightPath(DiscreteSchedule):
    """The noise levels of a flow, x = (1 - s) x_0 + s n, in variance-preserving scaling.

    Timestep t of 0 .. N - 1 is the (t + 1)-th of the model's own levels s, from nearly clean to pure noise; `shift`
    moves them as its configuration says (Esser et al. 2024, arXiv 2403.03206, equation 23).
    """

    def __init__(self, config: Mapping[str, Any], owner: str, tokens: int | None = None) -> None:
        """Read a diffusers configuration of a scheduler for flows.

        Args:
            config: The configuration.
            owner: How messages name the model.
            tokens: How many tokens an image is to the denoiser, by which a dynamic shift goes.

        Raises:
            BadInput: the path is not this one, or it is shifted by a number of tokens and there are none.
        """
        for key in ("invert_sigmas", "stochastic_sampling"):
            if config.get(key):
                raise BadInput(f"{owner}: {_REFUSED[key]}, which is not supported")
        self._config = dict(config)
        self._solver = str(config.get("_class_name", "")) if config.get("use_flow_sigmas") else ""
        """The class of diffusers' scheduler, where it is one for other equations that was told of flows."""
        self._mu = _dynamic_shift(config, owner, tokens) if config.get("use_dynamic_shifting") else None
        self._shift = float(config.get("shift", config.get("flow_shift", 1.0)))
        if self._mu is not None:
            self._shift = (
                math.exp(self._mu) if config.get("time_shift_type", "exponential") == "exponential" else self._mu
            )
        steps = int(config.get("num_train_timesteps", 1000))
        self.s = self._shifted(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
        super().__init__((1 - self.s) ** 2 / ((1 - self.s) ** 2 + self.s**2))

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), shaped like `t`, float32, with alpha^2 + sigma^2 = 1."""
        s = self._level(t)
        length = ((1 - s) ** 2 + s**2).sqrt()
        return ((1 - s) / length).float(), (s / length).float()

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t on the straight path, and N s."""
        alpha, sigma = self.noise_level(t)
        return x_t / (alpha + sigma).view(-1, 1, 1, 1), self.network_time(t)

    def network_time(self, t: Tensor) -> Tensor:
        """Return what the network is given as its time, N s, at timesteps `t` (any shape), float32."""
        time = self._level(t) * self.num_train_timesteps
        # diffusers' other solvers cut a flow's times to whole numbers, beside which ours in float32 lie up to 1e-4.
        return ((time + 1e-4).floor() if self._solver else time).float()

    def own_timesteps(self, steps: int, levels: Sequence[float] | None = None) -> Tensor:
        """Return the timesteps, highest first, of the levels at which diffusers' scheduler of this configuration steps.

        Args:
            steps: How many.
            levels: Those that a pipeline hands to its scheduler, before they are shifted; None: the scheduler's own.
        """
        import diffusers

        scheduler = getattr(diffusers, self._solver or "FlowMatchEulerDiscreteScheduler").from_config(self._config)
        given = {} if self._solver else {"sigmas": levels, "mu": self._mu}
        scheduler.set_timesteps(steps, **given)
        s = scheduler.sigmas[:steps].double()
        even: Tensor = s / (self._shift - (self._shift - 1) * s)
        return (even * self.num_train_timesteps - 1).float()

    def _shifted(self, even: Tensor) -> Tensor:
        return self._shift * even / (1 + (self._shift - 1) * even)

    def _level(self, t: Tensor) -> Tensor:
        """Return s at timesteps `t`, also between them and below the first."""
        precise = torch.float64 if t.device.type != "mps" else torch.float32
        return self._shifted(((t.to(precise) + 1) / self.num_train_timesteps).clamp(0, 1))

    def scheduler_config(self) -> dict[str, Any]:
        """Return the same levels as diffusers' variance-preserving schedulers take them.

        They are given velocities (`prediction_types.as_velocity`), begin at pure noise, and clip nothing, as
        schedulers for flows do not.
        """
        alpha_bar = (1 - self.s) ** 2 / ((1 - self.s) ** 2 + self.s**2)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "trained_betas": (1 - alpha_bar / before).tolist(),
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
            "clip_sample": False,
        }


_REFUSED = {
    "invert_sigmas": "invert_sigmas turns the path round",
    "stochastic_sampling": "stochastic_sampling draws new noise at each step",
}


def _dynamic_shift(config: Mapping[str, Any], owner: str, tokens: int | None) -> float:
    """Return mu, a straight line in the number of tokens (diffusers' use_dynamic_shifting)."""
    if tokens is None:
        raise BadInput(f"{owner}: use_dynamic_shifting goes by a number of tokens, which this pipeline does not have")
    few, many = (int(config.get(f"{end}_image_seq_len", default)) for end, default in (("base", 256), ("max", 4096)))
    low, high = (float(config.get(f"{end}_shift", default)) for end, default in (("base", 0.5), ("max", 1.15)))
    slope = (high - low) / (many - few)
    return tokens * slope + (low - slope * few)
