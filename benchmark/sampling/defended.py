"""Put defences around a model: what fits is checked before any work, what breaks later is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..candidates import Candidates
from ..contracts import AdapterPlan, Attended, Defence, Model, Step, TrainableModel, VictimFacts
from ..errors import BadInput, DefenceFailed, blaming
from ..registry import source_of

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = ("denoiser", "loop", "prompt", "output")
"""From the innermost to the outermost."""


class DefendedModel(Model):
    """A Model that passes everything on to the one inside; a defence overrides what it changes.

    An override that builds on the inner one (`super().steering(t) * own`) composes with every other defence.
    """

    def __init__(self, inside: Model) -> None:
        self.inside = inside
        self.spec = inside.spec
        self.sample_shape = inside.sample_shape
        self.image_shape = inside.image_shape
        self.conditioning = inside.conditioning
        self.num_train_timesteps = inside.num_train_timesteps
        self.prediction_type = inside.prediction_type
        self.scheduler_config = inside.scheduler_config
        self.device = inside.device
        self.defences = inside.defences
        self.prompts, self.planted = inside.prompts, inside.planted

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.inside.noise_level(t)

    def noise_levels(self, times: Tensor) -> list[tuple[float, float]]:
        """Return (alpha, sigma) at each of some timesteps as numbers."""
        return self.inside.noise_levels(times)

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the denoiser inside."""
        return self.inside.predict(x_t, t, condition)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise."""
        return self.inside.add_noise(x_0, noise, t)

    def adapted(self, state: Mapping[str, Tensor]) -> Model:
        """Return the same defence around the adapted model."""
        again = copy.copy(self)
        again.inside = self.inside.adapted(state)
        return again

    def trainable(self, plan: AdapterPlan, seed: int) -> TrainableModel:
        """Return adapters on the denoiser inside: whoever has the weights trains without the defence."""
        return self.inside.trainable(plan, seed)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the embedding of each prompt."""
        return self.inside.embed(prompts)

    def token_of(self) -> Tensor:
        """Return of which token each number of an embedding is a state."""
        return self.inside.token_of()

    def with_tokens(self, condition: Tensor, least: int) -> Tensor:
        """Return embeddings that count as of at least so many tokens."""
        return self.inside.with_tokens(condition, least)

    def prompt_tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return how many tokens each prompt is."""
        return self.inside.prompt_tokens(prompts)

    def attend(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Attended:
        """Call the denoiser inside and return its cross-attention: whoever has the weights reads them undefended."""
        return self.inside.attend(x_t, t, condition)

    def reweighted(self, begin: float) -> Model:
        """Return the same defence around the model with other cross-attention."""
        again = copy.copy(self)
        again.inside = self.inside.reweighted(begin)
        return again

    def timesteps(self, steps: int) -> Tensor | None:
        """Return the timesteps at which the model's own pipeline samples."""
        return self.inside.timesteps(steps)

    def guided(self, condition: Tensor, scale: float) -> Tensor | None:
        """Return the condition with the scale of guidance in it, where the denoiser takes the scale."""
        return self.inside.guided(condition, scale)

    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to x_0."""
        return self.inside.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        """Map x_0 to images in [0, 1]."""
        return self.inside.decode(x_0)

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        return self.inside.flops_per_sample()

    def prompted(self, prompts: Sequence[str], candidates: Candidates) -> Sequence[str]:
        """Return the prompts to embed."""
        return self.inside.prompted(prompts, candidates)

    def eta(self, eta: float) -> float:
        """Return the stochasticity of DDIM to sample with."""
        return self.inside.eta(eta)

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        """Return the condition that the denoiser is given."""
        return self.inside.conditioned(condition, candidates)

    def started(self, noise: Tensor, condition: Tensor | None, candidates: Candidates) -> Tensor:
        """Return the x_T to start from."""
        return self.inside.started(noise, condition, candidates)

    def guidance_scale(self, t: Tensor, asked: float) -> float:
        """Return the scale of classifier-free guidance at timestep `t`."""
        return self.inside.guidance_scale(t, asked)

    def steering(self, t: Tensor) -> float:
        """Return the factor on an attack's steering at timestep `t`."""
        return self.inside.steering(t)

    def corrected(self, step: Step, candidates: Candidates) -> Tensor:
        """Return the prediction to go on with."""
        return self.inside.corrected(step, candidates)

    def flops_per_step(self) -> float:
        """Return the operations that the hooks add to one step of one sample."""
        return self.inside.flops_per_step()

    def flops_per_start(self) -> float:
        """Return the operations that the hooks add to one sample before its first step."""
        return self.inside.flops_per_start()

    # `draw` is not passed on: exact draws of a closed-form model would go round the defence.


def in_order(defences: Sequence[Defence]) -> tuple[Defence, ...]:
    """Return the defences from the innermost to the outermost: by level, then by name.

    Raises:
        BadInput: two of them do not compose.
    """
    ordered = sorted(defences, key=lambda defence: (LEVELS.index(defence.level), defence.name))
    for position, second in enumerate(ordered):
        for first in ordered[:position]:
            if first.name == second.name:
                raise BadInput(f"defence {first.name} is named twice")
            if shared := sorted(first.replaces & second.replaces):
                raise BadInput(f"defences {first.name} and {second.name} do not compose: both set {shared[0]}")
    return tuple(ordered)


def check_fit(defences: Sequence[Defence], victim: VictimFacts) -> None:
    """Say before any work which defence does not fit.

    Raises:
        BadInput: the first one that does not, and why.
        DefenceFailed: a defence's own check breaks.
    """
    for defence in defences:
        if victim.conditioning not in defence.conditionings:
            kinds = ", ".join(sorted(defence.conditionings))
            raise BadInput(f"{defence.name} works on models with conditioning {kinds}, not {victim.conditioning}")
        with blaming(f"defence {defence.name}", DefenceFailed, source_of(type(defence))):
            defence.check(victim)


def defend(model: Model, defences: Sequence[Defence], sampler: str, training: Callable[[], Tensor]) -> Model:
    """Wrap a model into the defences, in this order; `training` loads the training images where one needs them.

    Raises:
        BadInput: a defence does not fit the model or the sampler.
        DefenceFailed: a defence cannot be built.
    """
    images = training() if any(defence.uses_training for defence in defences) else None
    counted = None if images is None else len(images)
    check_fit(defences, VictimFacts(model.spec.family, model.conditioning, model.image_shape, sampler, counted))
    for defence in defences:
        with blaming(f"defence {defence.name}", DefenceFailed, source_of(type(defence))):
            wrapped = defence.wrap(model, images if defence.uses_training else None)
        if not isinstance(wrapped, Model):
            raise DefenceFailed(f"defence {defence.name}: wrap returned a {type(wrapped).__name__}, not a Model")
        model = _Guarded(wrapped, defence)
    return model


class _Guarded(DefendedModel):
    """One defence with its name on it: whatever it raises or returns wrongly is reported as its doing."""

    def __init__(self, inside: Model, defence: Defence) -> None:
        super().__init__(inside)
        self.name, self._source = defence.name, source_of(type(defence))
        self.defences = {**inside.defences, defence.name: defence.settings.model_dump(mode="json")}

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        with self._blaming():
            output = self.inside.predict(x_t, t, condition)
        self._shaped(output, x_t, "predict")
        # An overflow in the denoiser itself is not the defence's doing, so look, but only where something is wrong.
        without = getattr(self.inside, "inside", self.inside)
        if not output.isfinite().all() and without.predict(x_t, t, condition).isfinite().all():
            raise DefenceFailed(f"defence {self.name}: values that are not finite at t = {float(t[0]):g}")
        return output

    def embed(self, prompts: Sequence[str]) -> Tensor:
        with self._blaming():
            return self.inside.embed(prompts)

    def encode(self, images: Tensor) -> Tensor:
        with self._blaming():
            return self.inside.encode(images)

    def decode(self, x_0: Tensor) -> Tensor:
        with self._blaming():
            return self.inside.decode(x_0)

    def prompted(self, prompts: Sequence[str], candidates: Candidates) -> Sequence[str]:
        with self._blaming():
            changed = list(self.inside.prompted(prompts, candidates))
        if len(changed) != len(prompts) or not all(isinstance(prompt, str) for prompt in changed):
            raise DefenceFailed(f"defence {self.name}: prompted must return one text for each of {len(prompts)}")
        return changed

    def eta(self, eta: float) -> float:
        with self._blaming():
            return float(self.inside.eta(eta))

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        with self._blaming():
            changed = self.inside.conditioned(condition, candidates)
        if changed is not None and len(changed) != len(candidates):
            raise DefenceFailed(
                f"defence {self.name}: conditioned returned {len(changed)} rows for {len(candidates)} candidates"
            )
        return changed

    def started(self, noise: Tensor, condition: Tensor | None, candidates: Candidates) -> Tensor:
        with self._blaming():
            output = self._shaped(self.inside.started(noise, condition, candidates), noise, "started")
        if not output.isfinite().all():
            raise DefenceFailed(f"defence {self.name}: started returned values that are not finite")
        return output

    def guidance_scale(self, t: Tensor, asked: float) -> float:
        with self._blaming():
            return float(self.inside.guidance_scale(t, asked))

    def steering(self, t: Tensor) -> float:
        with self._blaming():
            return float(self.inside.steering(t))

    def corrected(self, step: Step, candidates: Candidates) -> Tensor:
        with self._blaming():
            output = self.inside.corrected(step, candidates)
        self._shaped(output, step.x_t, "corrected")
        if not output.isfinite().all() and step.prediction.isfinite().all():
            raise DefenceFailed(f"defence {self.name}: values that are not finite at t = {step.time:g}")
        return output

    def _blaming(self) -> AbstractContextManager[None]:
        return blaming(f"defence {self.name}", DefenceFailed, self._source)

    def _shaped(self, output: Any, x_t: Tensor, hook: str) -> Tensor:
        shape = tuple(getattr(output, "shape", ()))
        if not isinstance(output, type(x_t)) or shape != tuple(x_t.shape):
            raise DefenceFailed(
                f"defence {self.name}: {hook} returned a {type(output).__name__} of shape {shape}, "
                f"wanted shape {tuple(x_t.shape)}"
            )
        return output
