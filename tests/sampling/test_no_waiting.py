"""No step of sampling, guiding or training waits for the device: a tensor without values cannot be read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Budget, ModelSpec, SamplerSettings, Steer
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.results.checkpoints import MemoryCheckpoints
from sidebench.benchmark.sampling.sampler import sample_latents
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods import surrogate
from sidebench.methods.averaged_training import AveragedTraining
from sidebench.methods.carlini_cond import CarliniCond
from sidebench.methods.classifier_check import Labelled
from sidebench.methods.side import Side
from sidebench.methods.surrogate import SurrogateSettings

SETTINGS = {"training_steps": 3, "batch": 4, "width": 8, "clusters": 3}
SAMPLERS = [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("euler", 0.0), ("dpm-solver++", 0.0)]


@pytest.fixture(scope="module")
def model() -> Any:
    """Return digits on torch's device without memory: an operation is checked, its result holds nothing to read."""
    found: Any = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    found.unet.to("meta")
    found.device = torch.device("meta")
    return found


def sampled(model: Any, sampler: SamplerSettings, steer: Steer | None = None) -> Tensor:
    return sample_latents(model, Candidates(0, range(3)), sampler, 4, steer=steer)


@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_sampling_reads_nothing_back(model: Any, name: Any, eta: float) -> None:
    found = sampled(model, SamplerSettings(name=name, steps=4, eta=eta))
    assert found.device.type == "meta" and found.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("attack", [Side, CarliniCond])
def test_guidance_reads_nothing_back(model: Any, attack: Any, normalised: bool) -> None:
    own = attack(attack.Settings(**SETTINGS, normalised=normalised))
    network = surrogate.make_classifier(model, 3, own.settings, time_conditioned=attack is Side)
    checked = [{"t": 0.0, "calibration_error": 0.0}]
    tensors = {f"classifier.{key}": value for key, value in network.state_dict().items()}
    state: Any = SimpleNamespace(tensors=tensors, info={"classes": 3, "by_timestep": checked})
    charged: list[float] = []
    view: Any = SimpleNamespace(
        **{name: getattr(model, name) for name in ("device", "sample_shape", "image_shape", "prediction_type")},
        num_train_timesteps=model.num_train_timesteps,
        charge=charged.append,
        sample=lambda _, steer: sampled(model, SamplerSettings(steps=4), steer),
    )
    own.generate(view, state, Candidates(0, range(3)))
    assert len(charged) == 4 and len(set(charged)) == 1 and charged[0] > 0


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_a_training_step_reads_nothing_back(
    model: Any, monkeypatch: pytest.MonkeyPatch, time_conditioned: bool
) -> None:
    settings = SurrogateSettings(**SETTINGS)
    network = surrogate.make_classifier(model, 3, settings, time_conditioned=time_conditioned)
    learnt = Labelled(torch.rand(20, *model.sample_shape), torch.arange(20) % 3)
    monkeypatch.setattr(AveragedTraining, "_save", lambda self, step: None)  # now and then it may wait, to be kept
    monkeypatch.setattr(AveragedTraining, "notes_mean", lambda self: (0.0, 0.0))
    view: Any = AuditedModel(model, SamplerSettings(steps=2), 4)
    surrogate.train(network, view, learnt, settings, Budget(0, 16, MemoryCheckpoints(), silent), name="classifier")
    assert all(parameter.device.type == "meta" for parameter in network.parameters())
