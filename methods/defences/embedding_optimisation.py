"""embedding-optimisation: change the prompt's embedding until it moves the denoiser less (Wen et al. 2024)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import NO_STATE, Conditioning, Defence, Model, Settings
from ...benchmark.sampling.defended import DefendedModel


class EmbeddingOptimisationSettings(Settings):
    """How far the embedding is changed."""

    target: float = Field(0.012, ge=0)
    """Root mean square, over the values of x_T, of the difference between the predictions with and without the prompt
    at which a candidate's embedding is left alone. The authors stop at 3, a norm over four images of 4 x 64 x 64: 3 /
    sqrt(4 * 16,384) = 0.012. Here each image has its own, so that the strength does not depend on how many are made."""
    steps: int = Field(10, ge=1)
    """The most steps of AdamW; the authors' number."""
    learning_rate: float = Field(0.05, gt=0)
    """AdamW's; the authors'."""


class EmbeddingOptimisation(Defence):
    """At the first step, lower what the prompt does to the prediction by changing the prompt's embedding.

    A memorised prompt moves the prediction in pure noise far more than others. The loss is the size of eps(x_T, c) -
    eps(x_T, empty), x_T being the candidate's own, in the model's prediction type; the token that
    begins a prompt is not changed. A candidate pays for all steps, since a batch is one computation.
    """

    name: ClassVar[str] = "embedding-optimisation"
    title: ClassVar[str] = "prompt embeddings that move the denoiser less"
    paper: ClassVar[str] = "Wen et al., Detecting, Explaining, and Mitigating Memorization, ICLR 2024"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "prompt"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = EmbeddingOptimisationSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model whose embeddings are optimised before the first step."""
        return _Optimised(model, self.settings)


class _Optimised(DefendedModel):
    def __init__(self, inside: Model, settings: EmbeddingOptimisationSettings) -> None:
        super().__init__(inside)
        self.settings = settings

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        given = self.inside.conditioned(condition, candidates)
        if given is None:
            return None
        noise = candidates.normal("noise", self.sample_shape).to(given.device)
        t = torch.full((len(noise),), self.num_train_timesteps - 1, device=noise.device)
        with torch.no_grad():
            without = self.inside.predict(noise, t, None)
        found = given.detach().clone().requires_grad_()
        optimiser = torch.optim.AdamW([found], lr=self.settings.learning_rate)
        # The first token stays, as with the authors, and so does what is no state of the text.
        token = self.inside.token_of()
        fixed = (token == 0) | (token == NO_STATE)
        done = torch.zeros(len(found), dtype=torch.bool, device=found.device)
        for _ in range(self.settings.steps):
            with torch.enable_grad():
                difference = self.inside.predict(noise, t, found) - without
                moved = difference.flatten(1).pow(2).mean(1).sqrt()
                # Each row's loss is its own, so the sum leaves rows independent of those beside them.
                (gradient,) = torch.autograd.grad(moved.sum(), found)
            done = done | (moved.detach() <= self.settings.target)
            before = found.detach().clone()
            found.grad = gradient
            optimiser.step()
            with torch.no_grad():
                rows = done.view(-1, *[1] * fixed.ndim)
                found.copy_(torch.where(rows | fixed, before, found))
        return found.detach()

    def flops_per_start(self) -> float:
        # Backward, to the embedding and not to the weights, costs another call.
        own = (2 * self.settings.steps + 1) * self.inside.flops_per_sample()
        return self.inside.flops_per_start() + own
