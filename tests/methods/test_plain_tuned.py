"""plain-tuned: a sampler of its own, and one call of the denoiser in the end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import sidebench.benchmark.models.zoo
from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, SamplerSettings
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.runs.plan import plan_run
from sidebench.benchmark.sampling.call_attack import Made, make_candidates

ZOO = Path(sidebench.benchmark.models.zoo.__file__).parent
CANDIDATES = Candidates(3, range(20))


def made(name: str, settings: dict[str, Any], sampler: SamplerSettings) -> Made:
    """Return candidates of a mixture of twelve images with a little spread, where the protocol has this sampler."""
    means = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(5)) * 1.8 - 0.9
    sampling = Sampling(micro_batch=8, sampler=sampler)
    return make_candidates(make_attack(name, settings), MixtureModel(means, 0.1), AttackState(), CANDIDATES, sampling)


@pytest.mark.parametrize(
    "sampler",
    [SamplerSettings(steps=7), SamplerSettings(eta=1.0, steps=9), SamplerSettings(name="dpm-solver++", steps=6)],
)
def test_its_sampler_is_its_own(sampler: SamplerSettings) -> None:
    own = {"solver": sampler.name, "steps": sampler.steps, "eta": sampler.eta}
    found = made("plain-tuned", {**own, "rounds": 0}, SamplerSettings(steps=3))
    assert torch.equal(found.images, made("carlini-uncond", {}, sampler).images)
    assert found.cost["nfe"] == {"generate": 20 * sampler.steps}


def test_the_last_call_is_one_round_of_side_walk() -> None:
    sampler = SamplerSettings(steps=7)
    found = made("plain-tuned", {"steps": 7, "noise": 0.1}, SamplerSettings(steps=3))
    assert torch.equal(found.images, made("side-walk", {"rounds": 1, "noise": 0.1}, sampler).images)
    assert found.cost["nfe"] == {"generate": 20 * (7 + 1)}


@pytest.mark.parametrize("name", ["side", "carlini-cond"])
def test_a_guided_attack_can_end_the_same_way(name: str) -> None:
    # Without guidance and with the last call it is plain-tuned under the protocol's sampler.
    sampler, checked = SamplerSettings(steps=5), {"t": 0, "calibration_error": 0.0}
    model = MixtureModel(torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(5)), 0.1)
    sampling = Sampling(micro_batch=8, sampler=sampler)
    small = {"guidance_scale": 0.0, "denoise": 0.1, "width": 4}
    attack = make_attack(name, small)
    network = attack_network(attack, model)
    state = AttackState(network, {"classes": 2, "by_timestep": [checked]})
    found = make_candidates(attack, model, state, CANDIDATES, sampling)
    plain = make_candidates(
        make_attack("plain-tuned", {"steps": 5, "noise": 0.1}), model, AttackState(), CANDIDATES, sampling
    )
    assert torch.equal(found.images, plain.images)
    assert found.cost["nfe"] == plain.cost["nfe"]


def attack_network(attack: Any, model: Any) -> dict[str, torch.Tensor]:
    from sidebench.methods import surrogate

    timed = attack.name == "side"
    network = surrogate.make_classifier(model, 2, attack.settings, time_conditioned=timed)
    return {f"classifier.{key}": value for key, value in network.state_dict().items()}


def test_a_sampler_that_the_model_cannot_take_is_refused_before_any_work(tmp_path: Path) -> None:
    victim = shutil.copytree(ZOO / "digits", tmp_path / "victim")
    file = victim / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_train_timesteps": 60}))
    with pytest.raises(BadInput, match=r"plain-tuned on pair digits: its noise schedule has 60 timesteps, .* takes 61"):
        plan_run(
            load_pair("digits"),
            attacks=["plain-tuned"],
            settings={"plain-tuned": {"steps": 61}},
            model=str(victim),
            candidates=4,
            out=tmp_path / "runs",
            device="cpu",
        )


def test_an_eta_defence_meets_the_sampler_of_the_attack(tmp_path: Path) -> None:
    settings = {"plain-tuned": {"solver": "dpm-solver++", "steps": 10}}
    with pytest.raises(BadInput, match="eta"):
        plan_run(
            load_pair("digits"),
            attacks=["plain-tuned"],
            settings=settings,
            defences=["eta"],
            candidates=4,
            out=tmp_path,
            device="cpu",
        )
