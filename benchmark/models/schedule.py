"""The noise levels of a discrete-time diffusion model, at integer and fractional timesteps."""

import torch
from torch import Tensor


class DiscreteSchedule:
    """(alpha, sigma) of a variance-preserving schedule given by its cumulative alpha products."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        cumulative = alphas_cumprod.double()
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
