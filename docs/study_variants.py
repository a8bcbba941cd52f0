"""Two variants of side-walk for docs/study-plan.md, which know some modes before they begin: stop repeats, and repel.

    sidebench run victims/faces16-0/pair.yaml --attack docs/study_variants.py:KnownModes --set known-modes.stop_after=5

It does not ship; docs/study_tuning.py has the configurations that were tried. With neither variant turned on it is
side-walk with DPM-Solver++, and its list of modes is paid for nothing.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import (
    Access,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    Settings,
    WhiteBoxModel,
)
from sidebench.benchmark.sampling.prediction_types import clean_estimate
from sidebench.methods.denoise import denoised

Change = Callable[[Tensor, Tensor, float, float], Tensor]
"""Of x_t, the clean estimate, alpha and sigma: another clean estimate."""


class KnownModesSettings(Settings):
    """Those of side-walk, frozen, and those of the variants. Distances are root mean squares over numbers of x_0."""

    steps: int = Field(5, ge=2)
    noise: float = Field(0.08, gt=0, lt=1)
    rounds: int = Field(16, ge=1)
    tolerance: float = Field(0.02, ge=0)
    listed: int = Field(128, ge=1)
    """Samples that are drawn and walked first; where they end are the known modes."""
    separation: float = Field(0.1, ge=0)
    """Ends that are nearer than this are one mode."""
    stop_after: int = Field(0, ge=0)
    """A sample is left after so many calls if its clean estimate is near a known mode; 0: never."""
    near: float = Field(0.2, ge=0)
    """How near that is."""
    watch: bool = False
    """Walk those samples too, and note whether they end in the mode that they were near to."""
    repel: float = Field(0.0, ge=0)
    """Weight of the gradient of log p(no known mode | x_t)."""
    interval: tuple[float, float] = (0.2, 0.8)
    """Repel at timesteps within these shares of T only."""
    bandwidth: float = Field(0.2, gt=0)
    """Standard deviation of the normals around the known modes."""


class KnownModes(Attack):
    """Plain samples, each walked to a mode; what is known already is left early, or kept away from."""

    name: ClassVar[str] = "known-modes"
    title: ClassVar[str] = "side-walk that knows some modes before"
    paper: ClassVar[str] = "a variant of side-walk"
    version: ClassVar[int] = 1
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none"})
    Settings = KnownModesSettings

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Draw samples, walk them, and keep one of those that end in one place."""
        drawn = Candidates(budget.seed, range(self.settings.listed), "known modes")
        _, estimates = self._steps(model, self._start(model, drawn), None, range(self.settings.steps), None)
        modes: list[Tensor] = []
        for end in model.encode(self._walked(model, estimates)).cpu():
            if not modes or float(distances(end[None], torch.stack(modes)).min()) >= self.settings.separation:
                modes.append(end)
        return AttackState({"modes": torch.stack(modes)}, {"modes": len(modes)})

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Draw; leave those that come near a known mode; walk the others."""
        given, modes = self.settings, state.tensors["modes"].to(model.device)
        change = self._away_from(model, modes) if given.repel else None
        asked = given.stop_after or given.steps
        x_t, ends = self._steps(model, self._start(model, candidates), None, range(asked), change)
        left = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        if given.stop_after:
            nearest = distances(ends, modes).min(1)
            model.charge(3.0 * modes.numel() * len(x_t))
            left = nearest.values >= given.near
            known = modes[nearest.indices]
            if given.watch:
                return self._watched(model, x_t, ends, known, ~left)
            ends[~left] = known[~left]
        if left.any() and asked < given.steps:
            _, ends[left] = self._steps(model, x_t[left], ends[left], range(asked, given.steps), change)
        images = model.decode(ends).float().cpu()
        if left.any():
            images[left.cpu()] = self._walked(model, ends[left])
        return Generated(images, {"left early": (~left).long().cpu().numpy()})

    def _watched(self, model: WhiteBoxModel, x_t: Tensor, estimates: Tensor, known: Tensor, near: Tensor) -> Generated:
        """Walk every sample, and note which came near a known mode and which of these ended there."""
        rest = range(self.settings.stop_after, self.settings.steps)
        ends = self._steps(model, x_t, estimates, rest, None)[1] if rest else estimates
        images = self._walked(model, ends)
        off = (model.encode(images) - known).flatten(1).square().mean(1).sqrt()
        right = near & (off < self.settings.separation)
        return Generated(images, {"near": near.long().cpu().numpy(), "right": right.long().cpu().numpy()})

    def _start(self, model: WhiteBoxModel, candidates: Candidates) -> Tensor:
        return candidates.normal("x_T", model.sample_shape).to(model.device)

    @torch.no_grad()
    def _steps(
        self, model: WhiteBoxModel, x_t: Tensor, before: Tensor | None, steps: range, change: Change | None
    ) -> tuple[Tensor, Tensor]:
        """Take some steps of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).

        Returns:
            x_t after the last of them, and its clean estimate, which is what the sampler ends with.
        """
        last = model.num_train_timesteps - 1
        times = [round(last * (1 - step / self.settings.steps)) for step in range(self.settings.steps)]
        alphas, sigmas = (level.double() for level in model.noise_level(torch.tensor(times)))
        logs = (alphas / sigmas).log()
        for step in steps:
            alpha, sigma = float(alphas[step]), float(sigmas[step])
            t = torch.full((len(x_t),), times[step], device=x_t.device)
            x_0 = clean_estimate(model.prediction_type, x_t, model.predict(x_t, t), alpha, sigma)
            if change is not None and self._repels(times[step], model):
                x_0 = change(x_t, x_0, alpha, sigma)
            if step + 1 < len(times):
                size = logs[step + 1] - logs[step]
                ahead = x_0
                if before is not None:
                    ahead = x_0 + float(size / (2 * (logs[step] - logs[step - 1]))) * (x_0 - before)
                x_t = float(sigmas[step + 1]) / sigma * x_t - float(alphas[step + 1] * (-size).expm1()) * ahead
            before = x_0
        assert before is not None
        return x_t, before

    def _repels(self, t: int, model: WhiteBoxModel) -> bool:
        low, high = (share * model.num_train_timesteps for share in self.settings.interval)
        return low <= t <= high

    def _away_from(self, model: WhiteBoxModel, modes: Tensor) -> Change:
        """Add the gradient of log p(no known mode | x_t) to the score, without a call of the denoiser.

        Known is a mixture of normals around the modes; unknown is one normal of the modes' own mean and variance.
        """
        flat = modes.flatten(1)
        mean, spread, numbers = flat.mean(0), float(flat.var(0).mean()), flat.shape[1]

        def log_normal(squares: Tensor, variance: float) -> Tensor:
            return -squares / (2 * variance) - numbers / 2 * torch.tensor(variance).log()

        @torch.enable_grad()
        def change(x_t: Tensor, x_0: Tensor, alpha: float, sigma: float) -> Tensor:
            x = x_t.flatten(1).detach().requires_grad_()
            near = (alpha * self.settings.bandwidth) ** 2 + sigma**2
            known = log_normal(torch.cdist(x, alpha * flat).square(), near).logsumexp(1)
            known = known - torch.tensor(float(len(flat))).log()
            unknown = log_normal((x - alpha * mean).square().sum(1), alpha**2 * spread + sigma**2)
            (gradient,) = torch.autograd.grad(logsigmoid(unknown - known).sum(), x)
            model.charge(12.0 * flat.numel() * len(x))
            # By Tweedie a change of the score moves the clean estimate by sigma^2 / alpha times as much.
            return x_0 + self.settings.repel * sigma**2 / alpha * gradient.view_as(x_0)

        return change

    def _walked(self, model: WhiteBoxModel, x_0: Tensor) -> Tensor:
        given = self.settings
        return denoised(model, model.decode(x_0), given.noise, given.rounds, given.tolerance)


def distances(x_0: Tensor, modes: Tensor) -> Tensor:
    """Return root mean squares between images, N x M."""
    return torch.cdist(x_0.flatten(1), modes.flatten(1)) / modes[0].numel() ** 0.5
