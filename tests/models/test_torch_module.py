"""A module of somebody's own makes the images of the same network in a pipeline's folder; what does not fit is said."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_repositories import flow_pipeline, pixel_pipeline, unet
from tiny_networks import tiny_denoiser
from torch import Tensor, nn

from sidebench import Candidates, ModelSpec, from_torch, load_model
from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models.own_model import live_spec
from sidebench.benchmark.models.try_model import try_model
from sidebench.benchmark.sampling.sampler import sample_latents

LINEAR = ("linear", 1000, 1e-4, 0.02)
IMAGE = (1, 8, 8)


def sample(model: Any, sampler: str = "ddim") -> Tensor:
    settings = SamplerSettings(name=sampler, steps=4)
    return model.decode(sample_latents(model, Candidates(0, range(5)), settings, 4))


def made(**options: Any) -> Any:
    return from_torch(options.pop("module", tiny_denoiser()), **{"schedule": LINEAR, "image_shape": IMAGE, **options})


# ---- The same images as a folder's ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "classes", "flow"])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_images_are_those_of_the_same_network_in_a_folder(kind: str, sampler: str, tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    options: dict[str, Any] = {"schedule": ("linear", 50, 1e-4, 0.02), "prediction": "epsilon"}
    if kind == "flow":
        folder = flow_pipeline(tmp_path / "folder")
        options = {"schedule": FlowMatchEulerDiscreteScheduler(50, shift=3.0)}
    else:
        folder = pixel_pipeline(tmp_path / "folder", classes=7 if kind == "classes" else None)
    network = unet(3, 7 if kind == "classes" else None)
    if kind == "classes":
        options |= {"conditioning": "class", "num_classes": 7}
    mine = from_torch(network, image_shape=(3, 8, 8), **options)
    theirs = load_model(ModelSpec(family="pixel", location=str(folder)))
    assert torch.equal(sample(mine, sampler), sample(theirs, sampler))
    assert (mine.prediction_type, mine.conditioning) == (theirs.prediction_type, theirs.conditioning)
    assert mine.flops_per_sample() == theirs.flops_per_sample() > 1000


def test_a_schedule_may_be_said_in_four_ways() -> None:
    from diffusers import DDIMScheduler

    betas = torch.linspace(1e-4, 0.02, 1000)
    said = [
        LINEAR,
        betas,
        (1 - betas.double()).cumprod(0),
        DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02),
        dict(DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02).config),
    ]
    steps = torch.arange(1000)
    levels = [made(schedule=schedule).noise_level(steps)[0] for schedule in said]
    assert abs(float(levels[0][0]) ** 2 - 0.9999) < 1e-6 and float(levels[0][-1]) ** 2 == pytest.approx(
        4.036e-5, rel=1e-3
    )
    for other in levels[1:]:
        assert torch.allclose(other, levels[0], rtol=1e-4)


# ---- How the module is called -----------------------------------------------------------------------


class Recorder(nn.Module):
    """Keeps what it is called with, and answers with `answer(x_t)`."""

    def __init__(self, answer: Callable[[Tensor], Any] = lambda x_t: x_t) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *given: Tensor) -> Any:
        Recorder.given = given
        return self.answer(given[0])

    given: tuple[Tensor, ...] = ()


def asked(model: Any, condition: Tensor | None = None) -> tuple[Tensor, ...]:
    model.predict(torch.ones(2, *IMAGE), torch.tensor([3, 999]), condition)
    return Recorder.given


def test_the_module_is_given_whole_timesteps_or_what_time_makes_of_them() -> None:
    x_t, t = asked(made(module=Recorder()))
    assert torch.equal(x_t, torch.ones(2, *IMAGE)) and t.dtype == torch.int64 and t.tolist() == [3, 999]
    _, t = asked(made(module=Recorder(), time=lambda t: (t + 1) / 1000))
    assert t.tolist() == pytest.approx([0.004, 1.0])


def test_classes_are_handed_on_and_none_is_the_null_class() -> None:
    model = made(module=Recorder(), conditioning="class", num_classes=10, null_class=10)
    assert asked(model, torch.tensor([4, 7]))[2].tolist() == [4, 7]
    assert asked(model)[2].tolist() == [10, 10]
    drawn = model.conditioned(None, Candidates(0, range(40)))
    assert drawn is not None and set(drawn.tolist()) <= set(range(10)) and len(set(drawn.tolist())) > 5
    with pytest.raises(BadInput, match="no unconditional branch"):
        asked(made(module=Recorder(), conditioning="class", num_classes=10))


def test_answers_of_three_forms_are_taken() -> None:
    whole = made(module=Recorder(lambda x: 2 * x))
    wrapped = made(module=Recorder(lambda x: SimpleNamespace(sample=2 * x)))
    with_variance = made(module=Recorder(lambda x: torch.cat([2 * x, 9 + x], 1)))
    x_t, t = torch.ones(2, *IMAGE), torch.tensor([3, 4])
    for model in (whole, wrapped, with_variance):
        assert torch.equal(model.predict(x_t, t), 2 * x_t)


def test_images_are_scaled_to_the_range_of_training() -> None:
    model = made(image_range=(0.0, 3.0))
    images = torch.tensor([0.0, 0.5, 1.0]).expand(1, 1, 8, 3)
    assert torch.equal(model.encode(images), images * 3) and torch.equal(model.decode(images * 3), images)
    assert model.scheduler_config["clip_sample_range"] == 3
    assert made().scheduler_config["clip_sample_range"] == 1


def test_the_users_module_is_left_as_it_is() -> None:
    module = tiny_denoiser(dropout=0.5).train()
    model = made(module=module)
    assert module.training and next(module.parameters()).requires_grad
    try_model(model, "mine")  # evaluation mode, or two answers would differ
    with torch.no_grad():
        module.last.weight.zero_()
    assert model.module.last.weight.abs().sum() > 0


def test_precision_is_the_runs_not_the_modules() -> None:
    module = tiny_denoiser()
    first = load_model(live_spec(made(module=module))).predict(torch.ones(2, *IMAGE), torch.tensor([3, 4]))
    spec = live_spec(made(module=module.double()))
    again = load_model(spec).predict(torch.ones(2, *IMAGE), torch.tensor([3, 4]))
    assert again.dtype == torch.float32 and torch.equal(first, again)
    half = load_model(spec.model_copy(update={"dtype": "bfloat16"}))
    assert half.module.last.weight.dtype == torch.bfloat16 and spec.live.module.last.weight.dtype == torch.float32


# ---- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": tiny_denoiser}, "takes a torch.nn.Module, was given a function"),
        (
            {"schedule": ("cosine", 1000)},
            "write it as .'linear', T, first beta, last beta.; give any other as a tensor",
        ),
        ({"schedule": ("linear", 1000, 1e-4, 2)}, "a beta lies between 0 and 1"),
        ({"schedule": ("linear", "50", 1e-4, 0.02)}, "T of 2 or more"),
        ({"schedule": torch.linspace(0, 0.02, 10)}, "value 0 is 0, a beta lies between 0 and 1"),
        ({"schedule": torch.rand(3, 3)}, r"betas are a tensor of shape \(T,\)"),
        ({"schedule": "linear"}, "schedule is a diffusers scheduler .* was a str"),
        ({"schedule": {"beta_end": 2.0}}, "is a beta not in 0 .. 1"),
        ({"schedule": {"beta_schedule": "unheard"}}, "diffusers cannot make it: NotImplementedError: unheard"),
        ({"prediction": "noise"}, "'noise' is not one of epsilon, v_prediction, sample, flow_prediction"),
        ({"prediction": "flow_prediction"}, "needs the schedule of a flow"),
        ({"schedule": {"prediction_type": "sample"}, "prediction": "epsilon"}, "contradicts .* which says 'sample'"),
        ({"image_shape": (8, 8)}, "image_shape is .channels, height, width."),
        ({"image_shape": (1, 8, 0)}, "image_shape is .channels, height, width."),
        ({"image_range": (1, 1)}, "image_range is .black, white."),
        ({"conditioning": "text"}, "none and class; else subclass sidebench.Model"),
        ({"conditioning": "class"}, "needs num_classes"),
        ({"num_classes": 3}, "go with conditioning='class'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        made(**options)


class Noisy(nn.Module):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t + torch.rand_like(x_t)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"module": Recorder(lambda x: x[:, :, :4])},
            r"returned shape \(2, 1, 4, 8\) .* is image_shape=\(1, 8, 8\) right\? it is",
        ),
        ({"module": Recorder(lambda x: (x, x))}, "returned a tuple, wanted a tensor or an object with .sample"),
        ({"module": Recorder(lambda x: x / 0)}, "not finite at t = 0; check its weights"),
        ({"module": Noisy()}, "two answers to one question"),
    ],
)
def test_modules_that_answer_wrongly_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        try_model(made(**options), "mine")
