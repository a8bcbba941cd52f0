"""side: Surrogate condItional Data Extraction (arXiv 2410.02467), the classifier branch."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import (
    Ablation,
    Access,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    Step,
    WhiteBoxModel,
)
from . import surrogate
from .classifier_check import by_timestep
from .denoise import denoised
from .features import check_weights
from .networks import gradient_flops


class SideSettings(surrogate.SurrogateSettings):
    """The surrogate's settings, and those of SIDE's objective and guidance."""

    objective: Literal["cross_entropy", "distillation"] = "cross_entropy"
    """cross_entropy: the published version. distillation: earlier versions, a time-independent teacher
    (trained on the same synthetic images) on x_0 teaches the classifier on x_t."""


class Side(Attack):
    """Cluster the model's own samples, train a time-dependent classifier on the clusters, steer by it.

    Algorithm 1 of the paper, for small models. lambda = 0 is carlini-uncond image for image.
    """

    name: ClassVar[str] = "side"
    title: ClassVar[str] = "surrogate conditional data extraction"
    paper: ClassVar[str] = "arXiv 2410.02467"
    version: ClassVar[int] = 2
    access: ClassVar[Access] = "white box"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "class"})
    Settings = SideSettings
    later_settings: ClassVar[frozenset[str]] = surrogate.LATER_SETTINGS
    generation_settings: ClassVar[frozenset[str]] = surrogate.GENERATION_SETTINGS
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = surrogate.TUNING_GRID
    ablations: ClassVar[Mapping[str, Ablation]] = {
        **surrogate.ABLATIONS,
        "cross-entropy": Ablation({"objective": "cross_entropy"}),
        "distillation": Ablation({"objective": "distillation"}),
    }
    # carlini-cond is side without time in its classifier.
    ablated_against: ClassVar[Sequence[str]] = ("carlini-uncond", "carlini-cond")

    def check(self) -> None:
        """Refuse features whose network cannot be loaded."""
        check_weights(self.settings.features)

    def prepare(self, model: WhiteBoxModel, budget: Budget) -> AttackState:
        """Steps 1 to 5: synthetic set, clusters, cohesion, labels, time-dependent classifier."""
        # 1. Draw N_syn images from the target without condition: the attack has no image of the training set.
        images = surrogate.synthetic_images(model, self.settings, budget)

        # 2 - 4. Cluster them, drop loose clusters, label every image by its nearest surviving centroid.
        others = surrogate.images_to_check(model, self.settings, budget)
        labels = surrogate.pseudo_label(model, images, self.settings, budget.seed, others)

        # 5. Train p(y | x_t, t) on forward-noised synthetic images: what it will be asked about is noisy. An ordinary
        # classifier in its place is carlini-cond.
        (learnt, unseen), teacher = labels.encoded(model), None
        if self.settings.objective == "distillation":
            teacher = surrogate.make_classifier(model, len(labels.sizes), self.settings, time_conditioned=False)
            surrogate.train(teacher, model, learnt, self.settings, budget, name="teacher")
        network = surrogate.make_classifier(model, len(labels.sizes), self.settings, time_conditioned=True)
        info = surrogate.train(network, model, learnt, self.settings, budget, teacher=teacher)
        # For the report: at which noise levels the classifier knows anything of images that it has not seen.
        checked = by_timestep(network, model, learnt, unseen, budget.seed)
        return surrogate.save_classifier(network, labels, info, checked)

    def generate(self, model: WhiteBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Step 6: draw c uniformly, add lambda grad log p(c | x_t, t) to the score at every step."""
        network = surrogate.load_classifier(model, state, self.settings, time_conditioned=True)
        # c ~ U{1 .. K'}, one per candidate from its own stream: the same cluster in whatever batch it is made.
        clusters = candidates.integers("cluster", int(state.info["classes"]))
        target = clusters.to(model.device)
        work = gradient_flops(network, model.sample_shape, of="inputs")

        def steer(step: Step) -> Tensor:
            # Outside the interval nothing is computed, and nothing is charged.
            if not surrogate.guides(self.settings, state, step.time, model.num_train_timesteps):
                return torch.zeros_like(step.x_t)
            x_t = step.x_t.detach().requires_grad_()
            log_p = (network(x_t, step.t.expand(len(x_t))) / self.settings.temperature).log_softmax(1)
            chosen = log_p.gather(1, target[step.rows, None])
            # In evaluation mode no row sees another one, so the gradient of the sum is each row's own.
            (gradient,) = torch.autograd.grad(chosen.sum(), x_t)
            # Rows that fill up the batch repeat a candidate and are not charged.
            model.charge(work * step.real)
            return surrogate.weighted(self.settings, gradient, step, model.prediction_type)

        # lambda = 0 takes the very path of carlini-uncond, not one that adds a correction of zero.
        images = model.sample(candidates, steer=steer if self.settings.guidance_scale else None)
        images = denoised(model, images, self.settings.denoise, 1 if self.settings.denoise else 0)
        return Generated(images, {"cluster": clusters.numpy()})
