"""side-lora: SIDE's branch for large models (arXiv 2410.02467), adapters on the model's own images."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ..benchmark.candidates import Candidates, generator
from ..benchmark.contracts import (
    Ablation,
    Access,
    AdapterPlan,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    TrainableModel,
    WhiteBoxModel,
)
from ..benchmark.errors import BadInput
from ..benchmark.sampling.prediction_types import training_target
from . import surrogate
from .averaged_training import AveragedTraining
from .classifier_check import encoded
from .features import check_weights

EMBEDDING = "condition.embedding"
"""What a state holds of the learned tokens, clusters x tokens x width; all else in it is the adapters'."""


class SideLoraSettings(surrogate.ClusterSettings):
    """How the clusters become a condition, and how adapters are trained on them."""

    clusters: int = Field(100, ge=1)
    """K; the paper's value. 1 is plain self-distillation: adapters, and nothing that tells images apart."""
    condition: Literal["auto", "token", "prompt", "class"] = "auto"
    """How a cluster enters the model, which the paper leaves open. token: learned vectors in the places of the empty
    prompt's first tokens. prompt: a fixed rare string for each cluster. class: a learned vector that is added to the
    time embedding. auto: token. Text models take token or prompt, the others class, which is their auto."""
    tokens: int = Field(1, ge=1, le=4)
    """Learned vectors of each cluster, for condition token."""
    rank: int = Field(16, ge=1)
    """r, with alpha = r. The paper's 512 is `preset`."""
    modules: Literal["auto", "attention", "attention+conv"] = "auto"
    """Layers that are adapted: projections of self- and cross-attention, and convolutions of residual blocks. auto:
    attention where the denoiser has any, otherwise the convolutions."""
    preset: Literal["none", "paper"] = "none"
    """paper: rank 512 and learning rate 1e-5, whatever rank and learning_rate say."""
    training_steps: int = Field(2000, ge=0)
    """Not in the paper."""
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    """AdamW, of the adapters."""
    embedding_rate: float = Field(1e-3, gt=0)
    """Of tokens and classes, which begin where they tell nothing apart."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the adapters."""
    warmup: int = Field(100, ge=0)
    """Steps over which the learning rates rise to their values."""
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged values that sample (0: the last ones)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of rows that are trained under the empty prompt, which classifier-free guidance needs; text models."""
    guidance_scale: float = Field(1.0, ge=0)
    """Of classifier-free guidance against the adapted model's empty prompt; 1 (none) is Algorithm 1. Text models."""


class _Condition(NamedTuple):
    """How a cluster enters the model."""

    kind: Literal["token", "prompt", "class"]
    empty: Tensor | None
    """The embedding of the empty prompt, 1 x ..., of text models."""
    prompts: Tensor | None
    """Those of the rare strings, one per cluster."""

    def of(self, clusters: Tensor, tokens: Tensor | None) -> Tensor:
        """Return the condition of rows, given their clusters (N,) and the learned tokens, clusters x n x D."""
        if self.kind == "class":
            return clusters
        if self.kind == "prompt":
            assert self.prompts is not None
            return self.prompts[clusters]
        assert self.empty is not None and tokens is not None
        count = tokens.shape[1]
        rows = self.empty.expand(len(clusters), *self.empty.shape[1:])
        return torch.cat([rows[:, :1], tokens[clusters], rows[:, 1 + count :]], 1)


class SideLora(Attack):
    """Cluster the model's own samples, train adapters to draw each cluster, sample each cluster.

    Algorithm 1 of the paper, for large models: the denoiser is frozen, low-rank adapters learn
    min E || eps - eps_adapted(x_t, t, y) ||^2 (equation 3) on synthetic images under their pseudo-label y, then y is
    drawn uniformly for each candidate. Untrained, the adapted model is the model. Costs: every row of a training step
    is one NFE, its backward pass two more calls' operations.
    """

    name: ClassVar[str] = "side-lora"
    title: ClassVar[str] = "surrogate conditional data extraction, adapters"
    paper: ClassVar[str] = "arXiv 2410.02467"
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "text"})
    Settings = SideLoraSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset({"guidance_scale"})
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "rank": (1, 4, 16),
        "training_steps": (300, 1000, 2000),
        "guidance_scale": (1.0, 2.0, 4.0, 7.5),
    }
    ablations: ClassVar[Mapping[str, Ablation]] = {
        "random-labels": Ablation({"labels": "random"}),
        "one-cluster": Ablation({"clusters": 1}),
        "no-filter": Ablation({"cohesion": -1.0}),
        "no-training": Ablation({"training_steps": 0}),
    }
    ablated_against: ClassVar[Sequence[str]] = ("side",)

    def check(self) -> None:
        """Refuse what cannot be done on any model: features without their network, training without peft."""
        check_weights(self.settings.features)
        if importlib.util.find_spec("peft") is None:
            raise BadInput(f"{self.name} trains adapters with peft: pip install 'peft>=0.17'")

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Make and label a synthetic set, then train adapters and conditions on it.

        Raises:
            BadInput: the rank exceeds a layer, or the condition does not fit the model; said before any work.
            TooFew: fewer than two clusters are cohesive enough.
        """
        # The adapters come first, for what does not fit is said before an image is drawn; of how many classes there
        # are, the clusters say more later.
        kind = self._kind(model)
        trainable = model.trainable(self._plan(kind), budget.seed)
        condition = self._condition(model, kind)
        images = surrogate.synthetic_images(model, self.settings, budget)
        labels = surrogate.pseudo_label(model, images, self.settings, budget.seed)
        tokens = None
        if kind == "token":
            assert condition.empty is not None
            start = condition.empty[:, 1 : 1 + self.settings.tokens].expand(len(labels.sizes), -1, -1)
            tokens = torch.nn.Parameter(start.clone())
        found, loss = self._train(model, trainable, condition, tokens, labels.images, labels.labels, budget)
        info = {
            "classes": len(labels.sizes),
            "sizes": labels.sizes,
            "cohesions": labels.cohesions,
            "training": {"loss": loss},
        }
        return AttackState({name: value.contiguous() for name, value in found.items()}, info)

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Draw y uniformly for each candidate and sample the adapted model under it."""
        kind = self._kind(model)
        condition = self._condition(model, kind)
        clusters = candidates.integers("cluster", int(state.info["classes"]))
        tokens = state.tensors.get(EMBEDDING)
        adapters = {name: value for name, value in state.tensors.items() if name != EMBEDDING}
        given = condition.of(clusters.to(model.device), None if tokens is None else tokens.to(model.device))
        scale = self.settings.guidance_scale if kind != "class" else 1.0
        images = model.adapted(adapters).sample(candidates, condition=given, guidance_scale=scale)
        return Generated(images, {"cluster": clusters.numpy()})

    def _kind(self, model: WhiteBoxModel) -> Literal["token", "prompt", "class"]:
        text, asked = model.conditioning == "text", self.settings.condition
        if asked == "auto":
            return "token" if text else "class"
        if text != (asked != "class"):
            fits = "token or prompt" if text else "class"
            raise BadInput(f"{self.name}: condition = {asked} does not fit this model; {fits} does")
        kind: Literal["token", "prompt", "class"] = asked
        return kind

    def _plan(self, kind: str) -> AdapterPlan:
        rank = 512 if self.settings.preset == "paper" else self.settings.rank
        return AdapterPlan(rank, self.settings.modules, self.settings.clusters if kind == "class" else 0)

    def _condition(self, model: WhiteBoxModel, kind: Literal["token", "prompt", "class"]) -> _Condition:
        if kind == "class":
            return _Condition(kind, None, None)
        empty = model.embed([""])
        if kind == "prompt":
            # One at a time in the text encoder, so that no embedding depends on the others.
            return _Condition(kind, empty, model.embed([rare(number) for number in range(self.settings.clusters)]))
        if empty.ndim != 3 or empty.shape[1] <= self.settings.tokens:
            raise BadInput(f"{self.name}: condition = token does not fit this model's embedding; take prompt")
        return _Condition(kind, empty, None)

    def _train(
        self,
        model: WhiteBoxModel,
        trainable: TrainableModel,
        condition: _Condition,
        tokens: torch.nn.Parameter | None,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
    ) -> tuple[dict[str, Tensor], float]:
        """Train and return the averaged values by name, and the mean loss of the last steps."""
        settings = self.settings
        values: dict[str, Tensor] = dict(trainable.parameters)
        if tokens is not None:
            values[EMBEDDING] = tokens
        rates = (1e-5 if settings.preset == "paper" else settings.learning_rate, settings.embedding_rate)
        optimiser = torch.optim.AdamW(_groups(values, rates, settings.weight_decay))
        training = AveragedTraining(values, optimiser, budget, "adapters", decay=settings.ema)
        x_0 = encoded(model, images)
        for step in training.steps(settings.training_steps):
            draw = generator(budget.seed, "adapters", step, "batch")
            index = torch.randint(len(images), (settings.batch,), generator=draw)
            clean, y = x_0[index].to(model.device), labels[index].to(model.device)
            t = torch.randint(model.num_train_timesteps, (settings.batch,), generator=draw).to(model.device)
            noise = torch.randn(clean.shape, generator=draw).to(model.device)
            given = condition.of(y, tokens)
            if condition.empty is not None:
                dropped = torch.rand(settings.batch, generator=draw).to(model.device) < settings.dropout
                given = torch.where(dropped.view(-1, *[1] * (given.ndim - 1)), condition.empty, given)
            predicted = trainable.predict(model.add_noise(clean, noise, t), t, given)
            target = training_target(model.prediction_type, clean, noise, *model.noise_level(t))
            for group, rate in zip(optimiser.param_groups, rates, strict=False):
                group["lr"] = rate * min(1.0, (step + 1) / max(1, settings.warmup))
            training.descend((predicted - target).square().mean())
        return training.averaged, training.notes_mean()[0]


def rare(cluster: int) -> str:
    """Return the fixed string that stands for a cluster, which no caption holds.

    Examples:
        >>> rare(17)
        'sks0017'
    """
    return f"sks{cluster:04}"


def _groups(values: Mapping[str, Tensor], rates: tuple[float, float], decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: adapters, and what is learned of each cluster, which nothing pulls to zero."""
    adapters = [value for name, value in values.items() if ".lora_" in name]
    conditions = [value for name, value in values.items() if ".lora_" not in name]
    groups = [
        {"params": adapters, "lr": rates[0], "weight_decay": decay},
        {"params": conditions, "lr": rates[1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
