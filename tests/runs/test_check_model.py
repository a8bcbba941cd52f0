"""The conformance suite of models: what ships passes, and each broken contract is noticed and named."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny_networks import own_model, tiny_denoiser
from torch import Tensor, nn

from sidebench import Model, ModelSpec, check_model, from_torch, load_model, load_pair, load_references
from sidebench.benchmark.contracts import PredictionType
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.runs import check_model as conformance
from sidebench.benchmark.runs.check_attack import NotConformant
from sidebench.benchmark.runs.check_model import check_prediction

KINDS = get_args(PredictionType)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_references(load_pair("digits")).training.floats()


def made(module: nn.Module, **options: Any) -> Model:
    return from_torch(module, **{"schedule": ("linear", 1000, 1e-4, 0.02), "image_shape": (1, 8, 8), **options})


def zoo(name: str) -> Any:
    return load_model(ModelSpec(family="pixel", location=f"zoo:{name}")).unet  # type: ignore[attr-defined]


# ---- The prediction type ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_exact_model_of_any_type_is_known_by_its_samples(kind: Any, digits: Tensor) -> None:
    model = MixtureModel(digits * 2 - 1, 0.3, prediction_type=kind)
    check_prediction(model, "mixture")
    check_prediction(model, "mixture", digits[:8])
    for other in KINDS:
        if other != kind:
            with pytest.raises(NotConformant, match=f"mixture: predicts {kind}, not {other}: read so it explains"):
                check_prediction(Said(model, other), "mixture")
            with pytest.raises(NotConformant, match=f"predicts {kind}, not {other}: .* of these images"):
                check_prediction(Said(model, other), "mixture", digits[:8])


class Said(MixtureModel):
    """A model with another word for what it predicts."""

    def __init__(self, model: MixtureModel, word: Any) -> None:
        super().__init__(model.means, model.std, prediction_type=word)
        self.inside = model

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.inside.predict(x_t, t)


READINGS = {
    "epsilon, 40 steps": {"epsilon": (-0.09, -0.21), "flow_prediction": (0.32, 0.40)},
    "epsilon, 80 steps": {"epsilon": (0.44, 0.06), "flow_prediction": (0.51, 0.36)},
    "epsilon, 160 steps": {"epsilon": (0.58, 0.19), "flow_prediction": (0.56, 0.28)},
    "epsilon, 800 steps": {"epsilon": (0.71, 0.26), "flow_prediction": (0.63, 0.26)},
    "flow, 10 steps": {"epsilon": (-4.38, -3.30), "flow_prediction": (0.42, 0.17)},
    "flow, 80 steps": {"epsilon": (-2.43, -1.99), "flow_prediction": (0.62, 0.28)},
}
"""What the network of `digits`, hardly trained, explains of its own samples by reading, and its lead there."""


@pytest.mark.parametrize("trained", READINGS)
def test_a_model_that_was_hardly_trained_is_not_taken_for_another_type(
    trained: str, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> None:
    def read(model: Model, kind: PredictionType) -> dict[PredictionType, float]:
        explained, lead = READINGS[trained][kind]
        return {**dict.fromkeys(KINDS, explained - lead), kind: explained}

    monkeypatch.setattr(conformance, "_on_own_samples", read)
    monkeypatch.setattr(conformance, "_follows_noise", lambda model: True)
    true, steps = trained.partition(", ")[0], int(trained.split()[1])
    for said in ("epsilon", "flow_prediction"):
        model = Said(MixtureModel(digits[:2] * 2 - 1, 0.3), said)
        if said.startswith(true) or steps < (160 if true == "epsilon" else 80):
            check_prediction(model, "young")  # right, or too little is explained to name another type
        else:
            with pytest.raises(NotConformant, match=f"young: predicts {true}.*, not {said}"):
                check_prediction(model, "young")


@pytest.mark.parametrize("name", ["digits", "digits-clean"])
def test_trained_networks_are_epsilon_and_nothing_else(name: str, digits: Tensor) -> None:
    check_model(made(zoo(name)))
    check_model(made(zoo(name)), images=digits[:8])
    with pytest.raises(NotConformant, match="UNet2DModel: predicts epsilon, not v_prediction"):
        check_model(made(zoo(name), prediction="v_prediction"))


@pytest.mark.parametrize(
    "options", [{"time": lambda t: t / 1000}, {"schedule": ("linear", 1000, 1e-6, 1e-4)}, {"image_range": (-9.0, 9.0)}]
)
def test_with_images_other_training_than_was_said_is_noticed(options: dict[str, Any], digits: Tensor) -> None:
    with pytest.raises(NotConformant, match="does not denoise these images, whatever it predicts"):
        check_model(made(zoo("digits"), **options), images=digits[:8])


def test_images_may_be_an_array_and_what_they_are_not_is_said(digits: Tensor) -> None:
    model, eight = made(zoo("digits")), digits[:8]
    check_model(model, images=eight.double().numpy())
    wrong: list[tuple[Any, str]] = [
        ("photos", r"images are a tensor or an array, N x C x H x W in \[0, 1\], was a str"),
        (eight[:, 0], r"wanted N x C x H x W with \(C, H, W\) = \(1, 8, 8\), was \(8, 8, 8\)$"),
        (eight[:0], r"was \(0, 1, 8, 8\)$"),
        (eight.permute(0, 2, 3, 1).numpy(), r"was \(8, 8, 8, 1\); move the channel axis: numpy.moveaxis"),
        ((eight * 255).byte(), r"wanted floats in \[0, 1\], was torch.uint8; divide uint8 by 255"),
        (eight * 2 - 1, r"wanted values in \[0, 1\], 0 is black, was -1 to 1; scale them"),
        (eight * float("nan"), r"wanted values in \[0, 1\]"),
    ]
    for images, message in wrong:
        with pytest.raises(BadInput, match=message):
            check_model(model, images=images)


def test_an_untrained_model_passes_without_images(tmp_path: Path) -> None:
    check_model(own_model(tmp_path))
    check_model(made(tiny_denoiser(classes=11), conditioning="class", num_classes=10, null_class=10))


# ---- The rest ---------------------------------------------------------------------------------------


class OverBatch(nn.Module):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - x_t.mean(0)


class FirstTime(nn.Module):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t * t[0] / 1000


@pytest.mark.parametrize("module", [OverBatch(), FirstTime()])
def test_rows_that_see_each_other_are_noticed(module: nn.Module) -> None:
    with pytest.raises(NotConformant, match="off where the other rows change"):
        check_model(made(module))


class Turned(MixtureModel):
    """The exact model with faults of its own."""

    fault = ""

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.fault == "levels":
            return super().noise_level(t * 0.5)
        return super().noise_level(t)

    def flops_per_sample(self) -> int:
        return super().flops_per_sample() * (3 if self.fault == "cost" else 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("levels", r"noise_level has alpha .* scheduler_config .*: attacks and sampler would see two schedules"),
        ("cost", r"flops_per_sample is .*, torch counts"),
    ],
)
def test_levels_and_cost_that_are_not_those_stated_are_noticed(fault: str, message: str, digits: Tensor) -> None:
    model = Turned(digits * 2 - 1, 0.1)
    model.fault = fault
    with pytest.raises(NotConformant, match=message):
        check_model(model)
