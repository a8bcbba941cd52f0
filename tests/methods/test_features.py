"""What synthetic images are clustered by."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidebench.benchmark.contracts import Budget, ModelSpec
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.measures.sscd import Sscd
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.registry import make_attack, make_measure
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.runs.check_attack import quick_sampling
from sidebench.benchmark.runs.plan import plan_run
from sidebench.benchmark.sampling.call_attack import prepare_attack
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods.features import fitted

SAMPLING = quick_sampling(steps=2)
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 2, "batch": 8, "width": 8, "cohesion": -1.0}


def audited() -> AuditedModel:
    model = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    return AuditedModel(model, SAMPLING.sampler, SAMPLING.micro_batch)


def two_kinds() -> torch.Tensor:
    """Return 30 images of a horizontal and 30 of a vertical bar at three places each, with noise."""
    draw = torch.Generator().manual_seed(0)
    images = 0.05 * torch.rand(60, 1, 8, 8, generator=draw)
    for number in range(60):
        place = 2 + number % 3
        if number < 30:
            images[number, 0, place] = 0.9
        else:
            images[number, 0, :, place] = 0.9
    return images


def made(name: str, images: torch.Tensor, seed: int = 0) -> np.ndarray:
    return fitted(audited(), images, name, components=4, steps=150, seed=seed)(images)


def test_the_network_tells_kinds_of_images_apart_and_repeats_itself() -> None:
    images = two_kinds()
    torch.manual_seed(1)
    codes = made("network", images)
    torch.manual_seed(2)
    assert np.array_equal(codes, made("network", images))
    assert codes.shape == (60, 64) and np.abs(codes.mean(0)).max() < 1e-4
    # Ten images of each bar: the nearest other image is of the same bar nearly always.
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=2) + np.diag(np.full(60, np.inf))
    bar = np.arange(60) // 30 * 3 + np.arange(60) % 3
    assert (bar[distances.argmin(1)] == bar).mean() > 0.9


def test_the_training_of_the_network_is_charged() -> None:
    model = audited()
    fitted(model, two_kinds(), "network", components=4, steps=1, seed=0)
    one = sum(model.ledger.flops.values())
    fitted(model, two_kinds(), "network", components=4, steps=3, seed=0)
    three = sum(model.ledger.flops.values()) - one
    assert 0 < one < three


def test_a_measure_gives_its_descriptors() -> None:
    images = two_kinds()
    found = made("zncc", images)
    assert np.allclose(found, make_measure("zncc").descriptors(images).numpy())


@pytest.mark.parametrize("name", ["network", "rms"])
def test_side_prepares_by_other_features(name: str, tmp_path: Path) -> None:
    attack = make_attack("side", {**SMALL, "features": name, "feature_steps": 2})
    model = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    state = prepare_attack(attack, model, SAMPLING, Budget(0, 8, FolderCheckpoints(tmp_path), silent)).state
    assert int(state.info["classes"]) >= 2


def test_unknown_features_are_refused_with_what_there_is() -> None:
    with pytest.raises(BadSetting, match=r"side\.features = 'pixel'.*'pixel' is none of pixels, pca, network"):
        make_attack("side", {"features": "pixel"})


def test_missing_weights_are_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Sscd) -> dict[str, str]:
        raise BadInput("its weights are not here")

    monkeypatch.setattr(Sscd, "weights", missing)
    features = {"features": "sscd:disc_mixup:squash320:imagenet"}
    for name in ("side", "carlini-cond"):
        with pytest.raises(BadInput, match="its weights are not here"):
            plan_run(load_pair("digits"), attacks=[name], settings={name: features}, device="cpu", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_features_are_named_in_the_settings() -> None:
    settings: Any = make_attack("side", {"features": "zncc"}).settings
    assert settings.model_dump(mode="json")["features"] == "zncc"
