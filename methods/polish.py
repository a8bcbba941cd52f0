"""polish: ask the denoiser itself what a defended sample is an image of."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import Access, Attack, AttackState, Conditioning, Generated, Settings, WhiteBoxModel
from ..benchmark.sampling.prediction_types import clean_estimate


class PolishSettings(Settings):
    """How far back each sample is taken."""

    noise_time: float = Field(0.06, gt=0, lt=1)
    """t / T to which a sample is noised before the denoiser is asked for its clean image. 0.06 is the best of 0.03,
    0.06, 0.1, 0.2 and 0.3 on the pair digits with seed 7, which no reported number uses."""


class Polish(Attack):
    """The adaptive test of defences in the sampling loop: sample from the service, then go round it.

    Each sample is noised a little and estimated again by one direct call of the denoiser, which only defences of the
    level "denoiser" meet. What a defence of the loop has put onto a copy comes off; what was never learnt by heart
    does not come back. Against a model without a defence it is plain sampling with one more denoising step.
    """

    name: ClassVar[str] = "polish"
    title: ClassVar[str] = "one direct denoiser call on each sample"
    paper: ClassVar[str] = "none: an adaptive test"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none"})
    Settings = PolishSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"noise_time"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"noise_time": (0.03, 0.06, 0.1, 0.2, 0.3)}

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample, noise to one timestep, estimate x_0."""
        x_0 = model.encode(model.sample(candidates))
        noise = candidates.normal("polish", model.sample_shape).to(x_0.device)
        t = round(self.settings.noise_time * model.num_train_timesteps)
        steps = torch.full((len(x_0),), t, device=x_0.device)
        x_t = model.add_noise(x_0, noise, steps)
        alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(t)))
        with torch.no_grad():
            again = clean_estimate(model.prediction_type, x_t, model.predict(x_t, steps), alpha, sigma)
        return Generated(model.decode(again).float().cpu())
