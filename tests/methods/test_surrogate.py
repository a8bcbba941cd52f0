"""The surrogate condition: labels, classifier, training and its cost; guidance that is switched off."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, Budget, ModelSpec, Step
from sidebench.benchmark.errors import BadSetting, TooFew
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.progress import silent
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.runs.check_attack import quick_sampling
from sidebench.benchmark.sampling.call_attack import make_candidates
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods import surrogate
from sidebench.methods.classifier_check import Labelled, by_timestep
from sidebench.methods.networks import gradient_flops
from sidebench.methods.surrogate import SurrogateSettings, pseudo_label

DIGITS: Any = {"family": "pixel", "location": "zoo:digits"}
SAMPLING = quick_sampling(steps=3)
MODEL: Any = None
"""Labels by pixels ask the model for nothing."""
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 3, "batch": 8, "width": 8, "cohesion": -1.0}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(ModelSpec(family="pixel", location="zoo:digits"))


def audited(model: Any, kept: FolderCheckpoints | None = None) -> AuditedModel:
    return AuditedModel(model, SAMPLING.sampler, SAMPLING.micro_batch, kept=kept)


def budget(folder: Path, seed: int = 0) -> Budget:
    return Budget(seed, 16, FolderCheckpoints(folder), silent)


# ---- Labels -----------------------------------------------------------------------------------------


def three_blobs() -> tuple[Tensor, Tensor]:
    """Return 20 dark, 20 bright and 20 middling images, the last as opposite pairs around mid-grey."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.tensor([0.4, 0.0, 0.0, 0.0])
    noise = 0.02 * torch.randn(40, 4, generator=draw)
    loose = 0.1 * (torch.rand(10, 4, generator=draw) - 0.5)
    points = torch.cat([0.5 - direction + noise[:20], 0.5 + direction + noise[20:], 0.5 + loose, 0.5 - loose])
    return points.reshape(60, 1, 2, 2), torch.arange(60) // 20


def test_members_of_dropped_clusters_get_the_nearest_label() -> None:
    images, blob = three_blobs()
    settings = SurrogateSettings(clusters=3, distance="euclidean", cohesion=0.5, synthetic_images=60)
    found = pseudo_label(MODEL, images, settings, seed=0)
    assert len(found.cohesions) == 3 and sum(value >= 0.5 for value in found.cohesions) == 2
    assert len(found.sizes) == 2 and sum(found.sizes) == 60
    assert found.labels.bincount().tolist() == found.sizes
    dark, bright = (found.labels[blob == which].unique().tolist() for which in (0, 1))
    assert len(dark) == len(bright) == 1 and dark != bright
    first_pixel = images[:, 0, 0, 0] - images[:, 0, 0, 0].mean()
    clear = (blob == 2) & (first_pixel.abs() > 0.02)
    assert clear.sum() >= 10
    wanted = torch.where(first_pixel > 0, bright[0], dark[0])
    assert torch.equal(found.labels[clear], wanted[clear])


def test_all_clusters_stay_without_the_filter() -> None:
    images, blob = three_blobs()
    found = pseudo_label(MODEL, images, SurrogateSettings(clusters=3, distance="euclidean", cohesion=-1), seed=0)
    assert found.sizes == [20, 20, 20]
    assert all(len(found.labels[blob == which].unique()) == 1 for which in range(3))


def test_labels_depend_on_images_and_seed_alone() -> None:
    images = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    settings = SurrogateSettings(clusters=6, cohesion=-1)
    torch.manual_seed(5)
    first = pseudo_label(MODEL, images, settings, seed=2)
    torch.manual_seed(6)
    second = pseudo_label(MODEL, images, settings, seed=2)
    assert torch.equal(first.labels, second.labels) and first.cohesions == second.cohesions


def test_too_few_cohesive_clusters_name_the_best() -> None:
    images, _ = three_blobs()
    with pytest.raises(TooFew, match=r"0 of 3 clusters reach cohesion = 1\.0, two are needed: the best are [\d., -]+;"):
        pseudo_label(MODEL, images, SurrogateSettings(clusters=3, cohesion=1.0), seed=0)


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(BadSetting, match=r"^side: clusters = 61 of 60 synthetic images$"):
        make_attack("side", {"clusters": 61, "synthetic_images": 60})


def test_random_labels_know_nothing_of_the_image() -> None:
    images, blob = three_blobs()
    settings = SurrogateSettings(clusters=2, distance="euclidean", cohesion=-1, labels="random")
    found = pseudo_label(MODEL, images[blob < 2], settings, seed=0)
    assert found.labels.bincount().tolist() == found.sizes and sum(found.sizes) == 40
    assert all(4 <= int(found.labels[part].sum()) <= 16 for part in (slice(20), slice(20, 40)))
    assert torch.equal(found.labels, pseudo_label(MODEL, images[blob < 2], settings, seed=0).labels)


@pytest.mark.parametrize("features", ["pixels", "pca"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_blobs_are_found_in_every_feature_space(features: Any, distance: Any) -> None:
    images, blob = three_blobs()
    settings = SurrogateSettings(clusters=2, features=features, distance=distance, pca_components=2, cohesion=-1)
    labels = pseudo_label(MODEL, images[blob < 2], settings, seed=0).labels
    assert labels[:20].unique().numel() == labels[20:].unique().numel() == 1 and labels[0] != labels[-1]


@pytest.mark.parametrize("features", ["pixels", "pca", "network", "rms"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_other_images_are_labelled_by_the_same_rule_and_change_nothing(features: Any, distance: Any) -> None:
    images = three_blobs()[0][:40].repeat(1, 1, 2, 2)
    more = {"features": features, "distance": distance, "feature_steps": 2, "pca_components": 2, "cohesion": -1}
    settings, view = SurrogateSettings(clusters=2, **more), audited(load_model(ModelSpec(**DIGITS)))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:13]
    alone = pseudo_label(view, images, settings, seed=0)
    found = pseudo_label(view, images, settings, seed=0, others=images[order])
    assert torch.equal(found.labels, alone.labels) and found.cohesions == alone.cohesions and not len(alone.of_others)
    assert torch.equal(found.of_others, found.labels[order])


def test_a_true_label_that_no_synthetic_image_has_is_never_right() -> None:
    training = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    found = surrogate.true_labels(training[:2], training, torch.tensor([7, 5, 3]), training)
    assert found.labels.tolist() == [1, 0] and found.of_others.tolist() == [1, 0, -1]


def test_the_check_of_the_classifier_has_images_of_its_own_and_does_not_move_it(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = make_attack("side", SMALL)
    view = audited(model)
    synthetic = surrogate.synthetic_images(view, attack.settings, budget(tmp_path / "0"))
    others = surrogate.images_to_check(view, attack.settings, budget(tmp_path / "0"))
    assert len(others) == 12 and not any(torch.equal(one, other) for one in synthetic for other in others)
    states = []
    for least in (12, 4):
        monkeypatch.setattr(surrogate, "LEAST_CHECKED", least)
        states.append(attack.prepare(audited(model), budget(tmp_path / str(least))))
    assert [state.info["checked_on"]["images"] for state in states] == [12, 4]
    assert all(torch.equal(states[1].tensors[key], tensor) for key, tensor in states[0].tensors.items())


@pytest.mark.parametrize(("synthetic", "count"), [(2, 1), (24, 12), (64, 32), (512, 32), (2048, 128), (50_000, 256)])
def test_a_few_images_more_are_drawn_for_the_check(synthetic: int, count: int, tmp_path: Path) -> None:
    class Counting:
        def sample(self, candidates: Candidates) -> int:
            return len(candidates)

    settings = SurrogateSettings(synthetic_images=synthetic, clusters=2)
    assert surrogate.images_to_check(Counting(), settings, budget(tmp_path)) == count  # type: ignore[arg-type]


def test_synthetic_images_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    class Broken:
        def sample(self, candidates: Candidates) -> Tensor:
            return torch.zeros(len(candidates), 1, 8, 8)  # what NaN is in 8 bits

    with pytest.raises(TooFew, match="24 synthetic images are all the same, as where it makes only NaN"):
        surrogate.synthetic_images(Broken(), SurrogateSettings(**SMALL), budget(tmp_path))  # type: ignore[arg-type]


# ---- Training ---------------------------------------------------------------------------------------


def two_classes() -> tuple[Tensor, Tensor]:
    """Return images with ink left or right, and which."""
    labels = torch.arange(40) % 2
    images = 0.1 * torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, :, :4] += 0.8
    images[labels == 1, :, :, 4:] += 0.8
    return images, labels


def fitted(model: Any, folder: Path, labels: Tensor | None = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    images, own = two_classes()
    steps, timed = options.pop("steps", 60), options.pop("timed", True)
    settings = SurrogateSettings(training_steps=steps, batch=16, width=8, learning_rate=3e-3, ema=0.9)
    network = surrogate.make_classifier(model, 2, settings, time_conditioned=timed)
    learnt = Labelled(model.encode(images), own if labels is None else labels)
    info = surrogate.train(network, audited(model), learnt, settings, budget(folder), **options)
    return network, info


def says(network: Any, model: Any) -> Tensor:
    """Return the classes that a network gives to clean images."""
    images, _ = two_classes()
    labels: Tensor = network(model.encode(images), torch.zeros(len(images), dtype=torch.long)).argmax(1)
    return labels


@pytest.mark.parametrize("timed", [True, False])
def test_training_lowers_the_loss(timed: bool, model: Any, tmp_path: Path) -> None:
    _, early = fitted(model, tmp_path / "early", steps=1, timed=timed)
    network, late = fitted(model, tmp_path / "late", steps=60, timed=timed)
    assert late["loss"] < 0.8 * early["loss"]
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert torch.equal(says(network, model), two_classes()[1])


def test_student_learns_from_the_teacher_not_from_labels(model: Any, tmp_path: Path) -> None:
    _, labels = two_classes()
    teacher, _ = fitted(model, tmp_path / "teacher", timed=False, name="teacher")
    student, info = fitted(model, tmp_path / "student", labels=1 - labels, teacher=teacher)
    assert torch.equal(says(student, model), labels)
    assert info["accuracy"] < 0.5


def test_distillation_trains_a_teacher_and_pays_for_it(model: Any, tmp_path: Path) -> None:
    work, states = {}, {}
    for objective in ("cross_entropy", "distillation"):
        view = audited(model)
        attack = make_attack("side", {**SMALL, "objective": objective})
        states[objective] = attack.prepare(view, budget(tmp_path / objective))
        work[objective] = view.ledger.flops["prepare"]
    saved = {file.stem for file in (tmp_path / "distillation").iterdir()}
    assert {name.rpartition("-")[2] for name in saved} >= {"teacher", "classifier"}
    teacher = surrogate.make_classifier(model, 3, attack.settings, time_conditioned=False)
    extra = 3 * 8 * gradient_flops(teacher, model.sample_shape, of="parameters")
    assert work["distillation"] >= work["cross_entropy"] + extra > work["cross_entropy"] > 0
    pairs = zip(states["cross_entropy"].tensors.values(), states["distillation"].tensors.values(), strict=True)
    assert not all(torch.equal(first, second) for first, second in pairs)


def test_classifier_is_right_on_clean_images_and_guesses_on_noise(model: Any, tmp_path: Path) -> None:
    network, _ = fitted(model, tmp_path, steps=120)
    view, (images, labels) = audited(model), two_classes()
    known = Labelled(model.encode(images), labels)
    found = by_timestep(network, view, known, known, seed=0)
    assert [row["t"] for row in found] == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert found[0]["accuracy"] == 1 and found[0]["confidence"] > 0.8
    assert found[-1]["accuracy"] < 0.8
    assert all(0.5 <= row["confidence"] <= 1 and 0 <= row["calibration_error"] <= 1 for row in found)
    assert found == by_timestep(network, view, known, known, seed=0)
    assert not any(view.ledger.nfe.values()) and not any(view.ledger.flops.values())


def test_calibration_error_is_the_gap_between_sure_and_right(model: Any) -> None:
    class Sure(nn.Module):
        num_train_timesteps = 1000

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tensor([0.8, 0.2]).log().expand(len(x), -1)

    images, labels = two_classes()  # half of them class 0, which the network says with probability 0.8
    known = Labelled(model.encode(images), labels)
    for row in by_timestep(Sure(), audited(model), known, known, seed=0):  # type: ignore[arg-type]
        assert row["accuracy"] == 0.5 and row["confidence"] == pytest.approx(0.8)
        assert row["calibration_error"] == pytest.approx(0.3)


class Stopped(Exception):
    pass


class StopAfter(FolderCheckpoints):
    """Checkpoints that break off after a number of them."""

    def __init__(self, folder: Path, left: int) -> None:
        super().__init__(folder)
        self.left = left

    def save(self, name: str, state: AttackState) -> None:
        super().save(name, state)
        self.left -= 1
        if not self.left:
            raise Stopped


@pytest.mark.parametrize("objective", ["cross_entropy", "distillation"])
def test_training_is_charged_once_also_after_resume(objective: str, model: Any, tmp_path: Path) -> None:
    attack = make_attack("side", {**SMALL, "training_steps": 110, "objective": objective})

    def prepare(folder: Path, left: int) -> tuple[AttackState, dict[str, Any]]:
        view = audited(model, FolderCheckpoints(folder / "shared"))
        state = attack.prepare(view, Budget(0, 16, StopAfter(folder / "own", left), silent))
        return state, view.ledger.as_dict()

    state, cost = prepare(tmp_path / "whole", 99)
    for _ in range(4 if objective == "distillation" else 2):
        with pytest.raises(Stopped):
            prepare(tmp_path / "parts", 1)
    again, paid = prepare(tmp_path / "parts", 1)
    assert paid == cost and paid["nfe"] == {"prepare": (24 + 12) * 3}
    assert dict(again.info) == dict(state.info)
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in state.tensors.items())


# ---- Guidance ---------------------------------------------------------------------------------------


def images_of(name: str, model: Any, folder: Path, **settings: Any) -> Tensor:
    attack = make_attack(name, {**SMALL, **settings} if name != "carlini-uncond" else {})
    state = attack.prepare(audited(model), budget(folder / name))
    made: Tensor = make_candidates(attack, model, state, Candidates(0, range(11)), SAMPLING)[0]
    return made


@pytest.mark.parametrize("name", ["side", "carlini-cond"])
def test_no_guidance_is_plain_sampling(name: str, model: Any, tmp_path: Path) -> None:
    plain = images_of("carlini-uncond", model, tmp_path)
    assert torch.equal(images_of(name, model, tmp_path / "off", guidance_scale=0.0), plain)
    assert not torch.equal(images_of(name, model, tmp_path / "on", guidance_scale=30.0), plain)


def test_guidance_moves_images_towards_their_cluster(model: Any, tmp_path: Path) -> None:
    small = {**SMALL, "training_steps": 60, "learning_rate": 3e-3, "synthetic_images": 48, "ema": 0.9}
    shares = []
    for scale in (0.0, 20.0):
        attack = make_attack("side", {**small, "guidance_scale": scale})
        state = attack.prepare(audited(model), budget(tmp_path))
        made = attack.generate(audited(model), state, Candidates(0, range(48)))
        network = surrogate.load_classifier(audited(model), state, attack.settings, time_conditioned=True)
        log_p = network(model.encode(made.images), torch.zeros(48, dtype=torch.long)).log_softmax(1)
        shares.append(float(log_p.gather(1, torch.from_numpy(made.columns["cluster"])[:, None]).mean()))
    assert shares[1] > shares[0]


ERRORS = AttackState({}, {"by_timestep": [{"t": t, "calibration_error": t / 1000} for t in (0, 300, 600)]})
"""Of a classifier that knows less the more noise there is."""


def at(t: int, **settings: Any) -> bool:
    return surrogate.guides(SurrogateSettings(**settings), ERRORS, t, 1000)


def test_guidance_keeps_to_its_interval(model: Any, tmp_path: Path) -> None:
    assert [at(t, interval=(0.2, 0.7)) for t in (100, 200, 500, 700, 701)] == [False, True, True, True, False]
    plain = images_of("carlini-uncond", model, tmp_path)
    for name in ("side", "carlini-cond"):
        nowhere = {"guidance_scale": 30.0, "interval": (0.999, 1.0)}
        assert torch.equal(images_of(name, model, tmp_path / name, **nowhere), plain)


@pytest.mark.parametrize("interval", [[0.5, 0.2], [-0.1, 1.0], [0.0, 1.5]])
def test_an_impossible_interval_is_refused(interval: list[float]) -> None:
    for name in ("side", "side-modes"):
        with pytest.raises(BadSetting, match=r"is not two shares of 0 \.\. 1 in order"):
            make_attack(name, {"interval": interval})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_normalised_guidance_has_lambda_times_the_norm_of_the_score(kind: Any) -> None:
    draw = torch.Generator().manual_seed(3)
    means = torch.rand(4, 1, 3, 3, generator=draw) * 2 - 1
    mixture = MixtureModel(means, 0.2, prediction_type=kind)
    x_t, t = torch.randn(5, 1, 3, 3, generator=draw), torch.tensor(400)
    alpha, sigma = (float(level) for level in mixture.noise_level(t))
    step = Step(x_t, t, alpha, sigma, mixture.predict(x_t, t.expand(5)), torch.arange(5), 400.0, 5)
    gradient = torch.randn(x_t.shape, generator=draw)
    settings = SurrogateSettings(normalised=True, guidance_scale=0.25)
    guided = surrogate.weighted(settings, gradient, step, kind).flatten(1)
    epsilon = MixtureModel(means, 0.2).predict(x_t, t.expand(5))
    score = (-epsilon / sigma).flatten(1)
    assert torch.allclose(guided.norm(dim=1), 0.25 * score.norm(dim=1), rtol=1e-3)
    assert torch.allclose(nn.functional.cosine_similarity(guided, gradient.flatten(1)), torch.ones(5))


def test_temperature_flattens_the_classifier(model: Any, tmp_path: Path) -> None:
    hot = {"guidance_scale": 30.0, "temperature": 1e9}
    assert torch.equal(images_of("side", model, tmp_path, **hot), images_of("carlini-uncond", model, tmp_path))
