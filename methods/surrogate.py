"""What carlini-cond and side share: labels for synthetic images, and training a classifier on them.

Follows side.md steps 1 to 5 of arXiv 2410.02467, Algorithm 1. Every choice that the paper leaves open
is a setting.
"""

from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from ..benchmark.candidates import Candidates, generator, stream_seed
from ..benchmark.contracts import (
    Ablation,
    AttackState,
    Budget,
    OracleModel,
    PredictionType,
    Settings,
    Step,
    WhiteBoxModel,
)
from ..benchmark.errors import BadInput, TooFew
from ..benchmark.sampling.prediction_types import clean_estimate
from .averaged_training import AveragedTraining
from .classifier_check import Labelled, encoded
from .features import Describe, check_features, fitted
from .networks import SurrogateClassifier, gradient_flops, has_strided_stem, scaled_blocks

CHECKED_SHARE = 1 / 16
LEAST_CHECKED, MOST_CHECKED = 32, 256
"""Images that the trained classifier is asked about: a share of N_syn, but where N_syn is small up to half of it."""

TUNING_GRID = {"training_steps": (100, 300, 1000), "guidance_scale": (0.1, 0.3, 1.0, 3.0)}
"""The same tuning budget for every attack that is compared; guidance_scale needs no new classifier."""


ABLATIONS = {
    "random-labels": Ablation({"labels": "random"}),
    "true-labels": Ablation({"labels": "true"}, access="oracle"),
    "no-filter": Ablation({"cohesion": -1.0}),
    "drop-rejected": Ablation({"rejected": "drop"}),
    "no-guidance": Ablation({"guidance_scale": 0.0}),
}
"""Of both guided attacks. Without guidance they are carlini-uncond image for image."""


class ClusterSettings(Settings):
    """How synthetic images are made and labelled; the defaults are the paper's where it gives a value."""

    synthetic_images: int = Field(2048, ge=2)
    """N_syn; not in the paper."""
    features: Annotated[str, AfterValidator(check_features)] = "pixels"
    """F(x0) for clustering: pixels, pca, network (trained on the synthetic images), or a measure's id for its
    descriptor. Paper: SSCD (`sscd:disc_mixup:squash320:imagenet`, for images of 64 px and more)."""
    pca_components: int = Field(32, ge=1)
    feature_steps: int = Field(1000, ge=1)
    """Training steps of the features `network`."""
    labels: Literal["clusters", "random", "true"] = "clusters"
    """random: drawn evenly and without regard to the image. true: the class of the nearest training image, which only
    an oracle knows. Both are ablations."""
    clusters: int = Field(100, ge=2)
    """K; the paper's value."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Of k-means and of re-assignment; cosine normalises the features first. Not in the paper."""
    cohesion: float = Field(0.5, ge=-1, le=1)
    """tau: clusters whose members' mean cosine to the centroid is lower are dropped; the paper's value."""

    rejected: Literal["relabel", "drop"] = "relabel"
    """Members of the clusters that are not cohesive enough. relabel: they get the nearest surviving cluster, as
    Algorithm 1 has it. drop: nothing is trained on them, as others read it; an ablation."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.clusters > self.synthetic_images:
            raise ValueError(f"clusters = {self.clusters} of {self.synthetic_images} synthetic images")
        return self


class ClassifierSettings(ClusterSettings):
    """How a classifier is trained on the clusters; the defaults are the paper's where it gives a value."""

    blocks: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, min_length=1)
    """Residual blocks per stage. Paper: (3, 4, 6, 3), ResNet-34, with width 64. None: scaled to the image, one block
    per stage down to 4 x 4."""
    width: int = Field(32, ge=1)
    training_steps: int = Field(1000, ge=1)
    """Not in the paper."""
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(1e-4, gt=0)
    """AdamW; the paper's value."""
    weight_decay: float = Field(0.01, ge=0)
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged weights that guide (0: the last weights)."""


class SurrogateSettings(ClassifierSettings):
    """How strongly the classifier steers; the defaults are the paper's where it gives a value."""

    guidance_scale: float = Field(1.0, ge=0)
    """lambda: weight of the classifier's gradient in the score. 1 samples p(x | c) if the classifier is right; the
    paper sweeps 0 .. 50 and does not say which it used."""
    temperature: float = Field(1.0, gt=0)
    """The classifier's logits are divided by this: above 1 it is less sure."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Guide at timesteps within these shares of T only (arXiv 2404.07724); the paper guides at all of them."""
    miscalibration: float = Field(1.0, ge=0, le=1)
    """Guide only where the classifier's expected calibration error is at most this, on synthetic images that it was not
    trained on and at the nearest timestep that it was asked about. 1: everywhere."""
    normalised: bool = False
    """Scale each gradient to the norm of the model's score, so that lambda is their ratio whatever the image size."""
    denoise: float = Field(0.0, ge=0, lt=1)
    """Ask the denoiser once what each finished sample is an image of, at this share of the T timesteps; 0: not. Not in
    the paper; `plain-tuned` is the same without guidance."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(f"interval = {list(self.interval)} is not two shares of 0 .. 1 in order")
        return self


GENERATION_SETTINGS = frozenset(
    {"guidance_scale", "temperature", "interval", "miscalibration", "normalised", "denoise"}
)
"""What the guidance reads and the classifier does not."""


LATER_SETTINGS = frozenset({"rejected", "miscalibration", "denoise"})
"""Of version 2; their defaults are what version 1 did."""


class PseudoLabels(NamedTuple):
    """Clusters of the synthetic images."""

    images: Tensor
    """Those to train on, N x C x H x W in [0, 1]: all of them, or where `rejected` is drop the surviving clusters'."""
    labels: Tensor
    """(N,) int64 in 0 .. K' - 1, of these images."""
    sizes: list[int]
    """Members of each surviving cluster after re-assignment."""
    cohesions: list[float]
    """Of all K clusters, before the filter."""
    others: Tensor
    """M x C x H x W in [0, 1], of which no clusters are made and on which nothing is trained."""
    of_others: Tensor
    """(M,) int64 of the others, by the nearest surviving cluster; -1 of a class that no synthetic image has."""

    def encoded(self, model: WhiteBoxModel) -> tuple[Labelled, Labelled]:
        """Return what to train on and the others, in the model's own space."""
        return Labelled(encoded(model, self.images), self.labels), Labelled(encoded(model, self.others), self.of_others)


def synthetic_images(model: WhiteBoxModel, settings: ClusterSettings, budget: Budget) -> Tensor:
    """Step 1: draw N_syn images from the target without condition.

    Raises:
        BadInput: the true labels are not there; said before anything is drawn.
        TooFew: some of the images are not whole.
    """
    if settings.labels == "true" and not isinstance(model, OracleModel):
        raise BadInput("true labels need an oracle (`--attack side--true-labels`) and a pair that has labels")
    # A purpose of their own: no synthetic image is one of the candidates that are scored.
    images = model.sample(Candidates(budget.seed, range(settings.synthetic_images), "synthetic"))
    if (images == images[:1]).all():
        raise TooFew(f"the model's {len(images)} synthetic images are all the same, as where it makes only NaN")
    return images


def images_to_check(model: WhiteBoxModel, settings: ClusterSettings, budget: Budget) -> Tensor:
    """Draw images for `by_timestep` that no classifier is trained on: a few more than N_syn, paid for like those.

    Held back from the synthetic set they would cost nothing, and train another classifier.
    """
    synthetic = settings.synthetic_images
    count = min(MOST_CHECKED, max(round(CHECKED_SHARE * synthetic), min(LEAST_CHECKED, synthetic // 2)))
    return model.sample(Candidates(budget.seed, range(count), "classifier check"))


def pseudo_label(
    model: WhiteBoxModel, images: Tensor, settings: ClusterSettings, seed: int, others: Tensor | None = None
) -> PseudoLabels:
    """Steps 2 to 4: features, k-means, cohesion filter, labels by the nearest surviving centroid.

    The `others` are labelled by what was found among the images, and have no part in it.

    One cluster is all of them, and nothing is filtered.

    Raises:
        TooFew: fewer than two clusters are cohesive enough, or all true labels are one.
    """
    others = images[:0] if others is None else others
    if settings.labels == "true":
        assert isinstance(model, OracleModel)
        return true_labels(images, model.training, model.labels, others)
    if settings.clusters == 1:
        nothing = torch.zeros(len(images), dtype=torch.int64), torch.zeros(len(others), dtype=torch.int64)
        return PseudoLabels(images, nothing[0], [len(images)], [], others, nothing[1])
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    describe = features_of(model, images, settings, seed)
    features = describe(images)
    # One thread: k-means adds partial sums in thread order, so its centroids depend on the count.
    with threadpool_limits(1):
        random_state = stream_seed(seed, "k-means", 0, "start") % 2**32
        means = KMeans(settings.clusters, n_init=4, random_state=random_state).fit(features)
    members, centroids = means.labels_, means.cluster_centers_
    cosines = (_normalised(features) * _normalised(centroids)[members]).sum(1)
    sizes = np.bincount(members, minlength=settings.clusters)
    cohesions = np.bincount(members, weights=cosines, minlength=settings.clusters) / np.maximum(sizes, 1)

    # An empty cluster has cohesion 0, which a threshold below 0 (the ablation without a filter) would let pass.
    kept = np.flatnonzero((cohesions >= settings.cohesion) & (sizes > 0))
    if len(kept) < 2:
        best = ", ".join(f"{value:.2f}" for value in np.sort(cohesions)[::-1][:5])
        raise TooFew(
            f"{len(kept)} of {settings.clusters} clusters reach cohesion = {settings.cohesion}, two are needed: "
            f"the best are {best}; lower the setting cohesion, or change clusters"
        )
    # Every image is labelled by its nearest surviving centroid, those of dropped clusters too: Algorithm 1 drops
    # clusters, not images (`rejected` is the other reading). The paper does not say which distance; it is a setting.
    survivors = centroids[kept]
    if settings.distance == "cosine":
        survivors = _normalised(survivors)
    trained = torch.from_numpy(np.isin(members, kept) | (settings.rejected == "relabel"))
    with threadpool_limits(1):
        labels = pairwise_distances_argmin(features, survivors)
        theirs = pairwise_distances_argmin(describe(others), survivors) if len(others) else labels[:0]
    if settings.labels == "random":
        labels, theirs = (
            torch.randint(len(kept), (len(part),), generator=generator(seed, "labels", number, "random")).numpy()
            for number, part in enumerate((images, others))
        )
    own = torch.from_numpy(labels)[trained].long()
    return PseudoLabels(
        images[trained],
        own,
        own.bincount(minlength=len(kept)).tolist(),
        [float(value) for value in cohesions],
        others,
        torch.from_numpy(theirs),
    )


def true_labels(images: Tensor, training: Tensor, classes: Tensor, others: Tensor) -> PseudoLabels:
    """Label each image (N x C x H x W) by the class of the training image nearest to it in pixels.

    Raises:
        TooFew: they all have one class.
    """
    nearest, theirs = (torch.cdist(part.flatten(1), training.flatten(1)).argmin(1) for part in (images, others))
    known, labels = classes[nearest].unique(return_inverse=True)
    if len(known) < 2:
        raise TooFew("the true labels of the synthetic images are all one class, two are needed")
    same = classes[theirs][:, None] == known
    of_others = torch.where(same.any(1), same.int().argmax(1), -1)
    return PseudoLabels(images, labels, labels.bincount().tolist(), [], others, of_others)


def make_classifier(
    model: WhiteBoxModel, classes: int, settings: ClassifierSettings, *, time_conditioned: bool
) -> SurrogateClassifier:
    """Build a classifier on x_t (time-conditioned) or on x; its weights are drawn by `train`."""
    network = SurrogateClassifier(
        model.sample_shape[0],
        classes,
        settings.blocks or scaled_blocks(model.sample_shape),
        settings.width,
        time_conditioned,
        model.num_train_timesteps,
        strided_stem=has_strided_stem(model.sample_shape),
    )
    return network.to(model.device)


def train(
    network: SurrogateClassifier,
    model: WhiteBoxModel,
    learnt: Labelled,
    settings: ClassifierSettings,
    budget: Budget,
    *,
    name: str = "classifier",
    teacher: SurrogateClassifier | None = None,
) -> dict[str, Any]:
    """Step 5: train by AdamW and leave the averaged weights in `network`, in evaluation mode.

    A time-conditioned network sees forward-noised images, t uniform; without time it sees x_0. With a
    teacher the loss is KL(teacher on x_0 || network on x_t), otherwise cross-entropy on the labels.
    Progress is left in `budget.checkpoints`; each step draws from its own stream, so a resumed training
    ends in the same weights. Returns the mean loss and accuracy of the last hundred steps.
    """
    _initialise(network, budget.seed, name)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    training = AveragedTraining(network.state_dict(), optimiser, budget, name, decay=settings.ema)
    network.train()
    for step in training.steps(settings.training_steps):
        # A stream per step, not one for the training: resumed at step n, it goes on with the batches it would have had.
        draw = generator(budget.seed, name, step, "batch")
        index = torch.randint(len(learnt.labels), (settings.batch,), generator=draw)
        clean, wanted = (part[index].to(model.device) for part in learnt)
        if network.time_conditioned:
            # t uniform over all timesteps, as the guidance asks at all of them by default.
            t = torch.randint(network.num_train_timesteps, (settings.batch,), generator=draw)
            noise = torch.randn(clean.shape, generator=draw).to(clean.device)
            t = t.to(clean.device)
            logits = network(model.add_noise(clean, noise, t), t)
        else:
            logits = network(clean)
        accuracy = (logits.argmax(1) == wanted).float().mean()
        training.descend(_loss(logits, wanted, clean, teacher), accuracy)
    network.load_state_dict(training.averaged)
    network.eval().requires_grad_(False)
    samples = settings.training_steps * settings.batch
    # The backward pass is counted with respect to what requires a gradient; the guidance needs the weights frozen.
    network.requires_grad_(True)
    model.charge(samples * gradient_flops(network, model.sample_shape, of="parameters"))
    network.requires_grad_(False)
    loss_mean, accuracy_mean = training.notes_mean()
    return {"loss": loss_mean, "accuracy": accuracy_mean}


def save_classifier(
    network: SurrogateClassifier, labels: PseudoLabels, info: dict[str, Any], checked: list[dict[str, float]]
) -> AttackState:
    """Pack what `generate` needs (the weights, and how many classes they have), and what a report shows.

    `chance` is how often one is right who always names the most frequent label of the images of `by_timestep`.
    """
    known = labels.of_others[labels.of_others >= 0]
    most = int(known.bincount().max()) if len(known) else 0
    tensors = {f"classifier.{key}": value for key, value in network.state_dict().items()}
    return AttackState(
        tensors,
        {
            "classes": len(labels.sizes),
            "sizes": labels.sizes,
            "cohesions": labels.cohesions,
            "training": info,
            "by_timestep": checked,
            "checked_on": {"images": len(labels.of_others), "chance": most / max(1, len(labels.of_others))},
        },
    )


def load_classifier(
    model: WhiteBoxModel, state: AttackState, settings: ClassifierSettings, *, time_conditioned: bool
) -> SurrogateClassifier:
    """Unpack the classifier of a state, frozen and in evaluation mode."""
    network = make_classifier(model, int(state.info["classes"]), settings, time_conditioned=time_conditioned)
    prefix = "classifier."
    network.load_state_dict(
        {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}
    )
    return network.eval().requires_grad_(False)


def guides(settings: SurrogateSettings, state: AttackState, t: float, num_train_timesteps: int) -> bool:
    """Return whether the settings' interval holds timestep `t`, and the classifier is calibrated near it."""
    first, last = settings.interval
    if not first * num_train_timesteps <= t <= last * num_train_timesteps:
        return False
    nearest = min(state.info["by_timestep"], key=lambda row: abs(row["t"] - t))
    return bool(nearest["calibration_error"] <= settings.miscalibration)


def weighted(settings: SurrogateSettings, gradient: Tensor, step: Step, prediction_type: PredictionType) -> Tensor:
    """Return lambda times the gradient (B x C x H x W), or its direction with lambda times the score's norm."""
    if settings.normalised:
        # The model's own score, from its estimate of x_0 (Tweedie): (alpha x_0 - x_t) / sigma^2.
        x_0 = clean_estimate(prediction_type, step.x_t, step.prediction, step.alpha, step.sigma)
        score = (step.alpha * x_0 - step.x_t) / step.sigma**2
        lengths = [value.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for value in (score, gradient)]
        gradient = gradient * lengths[0] / lengths[1].clamp_min(1e-12)
    guided: Tensor = settings.guidance_scale * gradient
    return guided


def features_of(model: WhiteBoxModel, images: Tensor, settings: ClusterSettings, seed: int) -> Describe:
    """Return what describes images for the clusters, fitted to these ones; of unit length where cosines decide."""
    found = fitted(
        model,
        images,
        settings.features,
        components=settings.pca_components,
        steps=settings.feature_steps,
        seed=seed,
    )
    # Of unit vectors the squared Euclidean distance is 2 - 2 cos: k-means then clusters by the cosine that cohesion
    # measures.
    return (lambda x: _normalised(found(x))) if settings.distance == "cosine" else found


def _normalised(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return unit


def _initialise(network: SurrogateClassifier, seed: int, name: str) -> None:
    """Draw the weights from a named stream: He normal for convolutions, small normal for the head."""
    # The library's initialisers draw from the global generator, which anything may have moved before.
    draw = generator(seed, name, 0, "weights")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                deviation = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * deviation)
        network.head.weight.copy_(torch.randn(network.head.weight.shape, generator=draw) * 0.01)
        network.head.bias.zero_()


def _loss(logits: Tensor, wanted: Tensor, clean: Tensor, teacher: SurrogateClassifier | None) -> Tensor:
    if teacher is None:
        return nn.functional.cross_entropy(logits, wanted)
    with torch.no_grad():
        target = teacher(clean).log_softmax(1)
    return nn.functional.kl_div(logits.log_softmax(1), target, log_target=True, reduction="batchmean")
