"""SIDE against known truths: a closed-form classifier on a Gaussian mixture, labels and averages by hand.

Each test names what would go unnoticed without it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, Budget, ModelSpec
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.progress import silent
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.runs.check_attack import quick_sampling
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods import surrogate
from sidebench.methods.averaged_training import AveragedTraining
from sidebench.methods.classifier_check import Labelled, by_timestep, mixture_posterior
from sidebench.methods.networks import SurrogateClassifier
from sidebench.methods.surrogate import SurrogateSettings

SAMPLING = quick_sampling(steps=10)
STD = 0.3
MEANS = torch.tensor([[-0.8, 0.1], [0.7, 0.6], [0.2, -0.9], [0.5, -0.4]]).view(4, 1, 1, 2)
CLASSES = torch.tensor([0, 1, 0, 1])


def view(model: Any) -> AuditedModel:
    return AuditedModel(model, SAMPLING.sampler, SAMPLING.micro_batch)


def budget(folder: Path) -> Budget:
    return Budget(0, 16, FolderCheckpoints(folder), silent)


class Truth(nn.Module):
    """log p(c | x_t, t) of the mixture, plus what a classifier may add to all of its logits."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = MixtureModel(MEANS, STD).noise_level(t)
        variance = ((alpha * STD) ** 2 + sigma**2)[:, None]
        away = x_t.flatten(1)[:, None] - alpha.view(-1, 1, 1) * MEANS.flatten(1)
        each = -away.square().sum(2) / (2 * variance)
        logits = torch.stack([each[:, k == CLASSES].logsumexp(1) for k in range(2)], 1)
        return logits + 3 * x_t.flatten(1).sum(1, keepdim=True)


def state() -> AttackState:
    return AttackState({}, {"classes": 2, "by_timestep": [{"t": 0, "calibration_error": 0.0}]})


def test_a_true_classifier_at_lambda_one_samples_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    # The score of p(x_t) plus grad log p(c | x_t, t) is the score of p(x_t | c). So SIDE draws, from the same noise,
    # what plain sampling draws from the mixture of class c alone: not with t = 0 told at every step, nor with logits
    # in place of log-probabilities.
    monkeypatch.setattr(surrogate, "load_classifier", lambda *_, **__: Truth())
    monkeypatch.setattr("sidebench.methods.side.gradient_flops", lambda *_, **__: 0.0)
    candidates = Candidates(0, range(24))
    made = make_attack("side", {"guidance_scale": 1.0}).generate(view(MixtureModel(MEANS, STD)), state(), candidates)
    chosen = torch.from_numpy(made.columns["cluster"])
    for k in range(2):
        alone = view(MixtureModel(MEANS[k == CLASSES], STD)).sample(candidates)
        torch.testing.assert_close(made.images[chosen == k], alone[chosen == k], atol=1e-4, rtol=0)
    assert 4 < int(chosen.sum()) < 20


def test_the_closed_form_is_the_posterior_of_its_centres() -> None:
    draw = torch.Generator().manual_seed(1)
    x_t, alpha, sigma = torch.randn(5, 2, generator=draw), 0.8, 0.6
    density = torch.exp(-torch.cdist(x_t.double(), alpha * MEANS.flatten(1).double()).square() / (2 * sigma**2))
    wanted = torch.stack([density[:, k == CLASSES].sum(1) for k in range(2)], 1)
    found = mixture_posterior(x_t, MEANS.flatten(1), CLASSES, alpha, sigma)
    torch.testing.assert_close(found.exp(), wanted / wanted.sum(1, keepdim=True))
    clean = mixture_posterior(MEANS.flatten(1), MEANS.flatten(1), CLASSES, 1.0, 0.0)
    assert torch.equal(clean.argmax(1), CLASSES)


def test_the_true_classifier_is_as_good_as_the_closed_form() -> None:
    model = MixtureModel(MEANS, 0.0)
    truth: Any = Truth()
    truth.num_train_timesteps = model.num_train_timesteps
    known = Labelled(MEANS.repeat(200, 1, 1, 1), CLASSES.repeat(200))
    rows = by_timestep(truth, view(MixtureModel(MEANS, STD)), Labelled(MEANS, CLASSES), known, seed=0)
    assert rows[0]["accuracy"] == rows[0]["closed_form"] == 1
    assert all(abs(row["accuracy"] - row["closed_form"]) < 0.08 for row in rows), "STD against none"
    assert rows[0]["accuracy"] > rows[3]["accuracy"] > rows[-1]["accuracy"] > 0.4


# ---- Training ---------------------------------------------------------------------------------------


class Listening(SurrogateClassifier):
    """A classifier that writes down what it is asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if t is not None and self.training:
            self.asked.append((x.detach().clone(), t))
        return super().forward(x, t)


def test_t_is_uniform_and_x_t_has_the_noise_of_its_t(tmp_path: Path) -> None:
    model = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    network = Listening(1, 2, (1,), 4, True, 1000)
    x_0 = torch.full((6, 1, 8, 8), 0.5)
    settings = SurrogateSettings(training_steps=40, batch=32, width=4, blocks=(1,))
    surrogate.train(network, view(model), Labelled(x_0, torch.arange(6) % 2), settings, budget(tmp_path))
    x_t, t = (torch.cat(parts) for parts in zip(*network.asked, strict=True))
    assert len(t) == 40 * 32
    shares = torch.histc(t.float(), 5, 0, 1000) / len(t)  # of 1,280 draws: 0.2 with a standard error of 0.011
    assert float((shares - 0.2).abs().max()) < 0.05
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in model.noise_level(t))
    noise = (x_t - alpha * 0.5) / sigma
    for half in (t < 500, t >= 500):
        assert float(noise[half].mean()) == pytest.approx(0, abs=0.02)
        assert float(noise[half].square().mean()) == pytest.approx(1, abs=0.03)


def walked(steps: int, decay: float, folder: Path) -> tuple[Tensor, list[float]]:
    """Return the average over a parameter that goes 100, 99, 98 ..., and the means of the notes."""
    value = nn.Parameter(torch.tensor([100.0]))
    optimiser = torch.optim.SGD([value], lr=1.0)
    training = AveragedTraining({"value": value.data}, optimiser, budget(folder), "walk", decay=decay)
    for step in training.steps(steps):
        training.descend(value.sum(), torch.tensor(float(step)))
    return training.averaged["value"], training.notes_mean()


def test_the_average_is_that_of_the_late_values_and_forgets_the_start(tmp_path: Path) -> None:
    average, notes = walked(20, 0.5, tmp_path / "short")
    # Weights 1/2, 1/4, 1/8 ... backwards from the last value, 80, once (n + 1) / (n + 10) exceeds 1/2: at step 9.
    assert float(average) == pytest.approx(sum((80 + k) * 0.5 ** (k + 1) for k in range(60)), abs=0.01)
    assert notes == [pytest.approx(sum(range(81, 101)) / 20), pytest.approx(9.5)]
    assert float(walked(20, 0.0, tmp_path / "last")[0]) == 80
    # A constant decay of 0.99 would leave the start, 100, a weight of 0.99 ** 30 = 0.74.
    early = float(walked(30, 0.99, tmp_path / "long")[0])
    assert 70 < early < 70 + 30 / 8


def test_averaged_weights_guide_and_know_what_the_last_ones_know(tmp_path: Path) -> None:
    model = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    labels = torch.arange(60) % 3
    x_0 = -torch.ones(60, 1, 8, 8)
    for k in range(3):
        x_0[labels == k, :, :, 2 * k : 2 * k + 2] = 1
    settings = SurrogateSettings(training_steps=100, batch=32, width=8, learning_rate=3e-3)
    network = surrogate.make_classifier(view(model), 3, settings, time_conditioned=True)
    surrogate.train(network, view(model), Labelled(x_0, labels), settings, budget(tmp_path))
    kept = FolderCheckpoints(tmp_path).load("checkpoint-classifier")
    assert kept is not None
    weights = network.state_dict()
    assert all(torch.equal(weights[key], kept.tensors[f"averaged.{key}"]) for key in weights)
    assert not torch.equal(weights["head.weight"], kept.tensors["network.head.weight"])
    right = network(x_0, torch.zeros(60, dtype=torch.long)).argmax(1) == labels
    assert bool(right.all()), "with 37 % of the random start the average knew a sixth of this"


# ---- Clusters ---------------------------------------------------------------------------------------


def circle(*degrees: float) -> Tensor:
    """Return images of two pixels, which lie on the unit circle."""
    angles = np.deg2rad(np.array(degrees))
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1)).float().view(-1, 1, 1, 2)


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the numbers of an image its features, uncentred."""
    monkeypatch.setattr(surrogate, "fitted", lambda *_, **__: lambda x: x.flatten(1).double().numpy())


@pytest.mark.usefixtures("as_they_are")
def test_cohesion_is_the_mean_cosine_to_the_centroid() -> None:
    # Of members at +-a around it: cos a. With a centroid that keeps its length it would be cos a squared.
    settings = SurrogateSettings(clusters=2, synthetic_images=8, cohesion=-1)
    found = surrogate.pseudo_label(None, circle(-50, 50, -50, 50, 179, 181, 179, 181), settings, seed=0)  # type: ignore[arg-type]
    assert sorted(found.cohesions) == [pytest.approx(math.cos(math.radians(a)), abs=1e-6) for a in (50, 1)]


@pytest.mark.usefixtures("as_they_are")
def test_an_image_has_the_label_of_the_nearest_direction() -> None:
    # At 55 degrees from the tight cluster and 60 from the loose one, whose mean is only 0.6 long: nearer in the plane.
    images = circle(*[0.0] * 8, *[62.0, 168.0] * 4)
    settings = SurrogateSettings(clusters=2, synthetic_images=16, cohesion=0.5)
    found = surrogate.pseudo_label(None, images, settings, seed=0, others=circle(0, 115, 55))  # type: ignore[arg-type]
    tight, loose, between = found.of_others.tolist()
    assert len(found.sizes) == 2 and found.labels[:8].unique().tolist() == [tight]
    assert tight != loose and between == tight


@pytest.mark.usefixtures("as_they_are")
def test_rejected_images_are_trained_on_or_not() -> None:
    # Two tight clusters, and one as loose as can be.
    tight, loose = [0.0] * 4 + [120.0] * 4, [205.0, 275.0] * 2
    for rejected, images in (("relabel", 12), ("drop", 8)):
        settings = SurrogateSettings(clusters=3, synthetic_images=12, cohesion=0.9, rejected=rejected)  # type: ignore[arg-type]
        found = surrogate.pseudo_label(None, circle(*tight, *loose), settings, seed=0, others=circle(200))  # type: ignore[arg-type]
        assert len(found.sizes) == 2 and len(found.images) == len(found.labels) == sum(found.sizes) == images
        assert torch.equal(found.images[:8], circle(*tight)) and len(found.of_others) == 1
    assert make_attack("side--drop-rejected", {}).settings.rejected == "drop"


# ---- Guidance where the classifier knows something --------------------------------------------------


def test_guidance_keeps_to_where_the_classifier_is_calibrated() -> None:
    rows = [
        {"t": 0, "calibration_error": 0.1},
        {"t": 500, "calibration_error": 0.2},
        {"t": 999, "calibration_error": 0.4},
    ]
    checked = AttackState({}, {"by_timestep": rows})
    settings = SurrogateSettings(miscalibration=0.2)
    guided = [surrogate.guides(settings, checked, t, 1000) for t in (0, 240, 260, 740, 760, 999)]
    assert guided == [True, True, True, True, False, False]
    assert surrogate.guides(SurrogateSettings(), checked, 999, 1000)
