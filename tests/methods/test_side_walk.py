"""side-walk against models whose denoiser is known in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, SamplerSettings
from sidebench.benchmark.errors import SidebenchError
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.sampling.call_attack import make_candidates
from sidebench.benchmark.sampling.views import AuditedModel

SAMPLING = Sampling(micro_batch=16, sampler=SamplerSettings(steps=20))
KINDS = ["epsilon", "v_prediction", "sample"]


def normal(kind: Any, std: float) -> MixtureModel:
    """Return a model of one normal, whose denoiser is affine."""
    return MixtureModel(torch.full((1, 1, 4, 4), 0.3), std, torch.ones(1), kind)


def memorised(kind: Any) -> MixtureModel:
    """Return a model of twelve images with a little spread."""
    means = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(5)) * 1.8 - 0.9
    return MixtureModel(means, 0.1, torch.ones(12), kind)


def walked(model: MixtureModel, count: int = 40, start: int = 0, **settings: Any) -> Tensor:
    """Return the candidates in the model's own space."""
    attack = make_attack("side-walk", settings)
    audited = AuditedModel(model, SAMPLING.sampler, SAMPLING.micro_batch)
    return attack.generate(audited, AttackState(), Candidates(0, range(start, start + count))).images * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_round_draws_a_normal_together_by_the_known_factor(kind: Any, rounds: int) -> None:
    # E[x_0 | x + tau n] = mean + std^2 / (std^2 + tau^2) (x - mean), with tau = sigma / alpha.
    model, noise, std = normal(kind, 0.1), 0.1, 0.1
    alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(round(noise * model.num_train_timesteps))))
    factor = (std**2 / (std**2 + (sigma / alpha) ** 2)) ** rounds
    assert 0 < factor < 0.9
    before = walked(model, rounds=0)
    after = walked(model, rounds=rounds, noise=noise)
    torch.testing.assert_close(after - 0.3, factor * (before - 0.3), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_end_on_the_image_that_they_are_next_to(kind: Any) -> None:
    model = memorised(kind)
    means = model.means.flatten(1)
    before = torch.cdist(walked(model, rounds=0).flatten(1), means).min(1)
    after = torch.cdist(walked(model, rounds=40).flatten(1), means).min(1)
    assert torch.equal(before.indices, after.indices), "no sample changes its image"
    assert float(after.values.max()) < 0.02 * float(before.values.median())


def test_without_rounds_it_is_plain_sampling() -> None:
    model, state = memorised("epsilon"), AttackState()
    attacks = [make_attack("side-walk", {"rounds": 0}), make_attack("carlini-uncond", {})]
    images = [make_candidates(attack, model, state, Candidates(3, range(20)), SAMPLING)[0] for attack in attacks]
    assert torch.equal(*images)


def test_each_round_costs_one_call_a_candidate() -> None:
    for rounds in (0, 5):
        attack = make_attack("side-walk", {"rounds": rounds})
        cost = make_candidates(attack, memorised("epsilon"), AttackState(), Candidates(0, range(20)), SAMPLING)[3]
        assert cost["nfe"] == {"generate": 20 * (20 + rounds)}


def cost(settings: dict[str, Any], count: int = 20) -> int:
    """Return the denoiser calls of so many candidates of the twelve images."""
    attack = make_attack("side-walk", settings)
    made = make_candidates(attack, memorised("epsilon"), AttackState(), Candidates(0, range(count)), SAMPLING)
    return int(made[3]["nfe"]["generate"])


@pytest.mark.parametrize("solver", ["ddim", "dpm-solver++"])
def test_its_own_steps_are_a_plain_sampler_of_as_many(solver: Any) -> None:
    few = walked(memorised("epsilon"), rounds=0, steps=4, solver=solver)
    plain = make_attack("carlini-uncond", {})
    shorter = SAMPLING.model_copy(update={"sampler": SamplerSettings(name=solver, steps=4)})
    images = make_candidates(plain, memorised("epsilon"), AttackState(), Candidates(0, range(40)), shorter)[0]
    torch.testing.assert_close((few + 1) / 2, images / 255, atol=0.5 / 255 + 1e-6, rtol=0)
    assert cost({"steps": 4, "solver": solver, "rounds": 3}) == 20 * (4 + 3)


@pytest.mark.parametrize("tolerance", [0.01, 0.001])
def test_a_sample_stops_after_the_first_round_that_moves_it_less_than_the_tolerance(tolerance: float) -> None:
    # The known answer: a normal is drawn together by one factor a round, so the moves are a geometric series.
    std, noise, count = 0.1, 0.02, 40
    model = normal("epsilon", std)
    alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(round(noise * model.num_train_timesteps))))
    factor = std**2 / (std**2 + (sigma / alpha) ** 2)
    away = (walked(model, count, rounds=0) - 0.3).flatten(1).square().mean(1).sqrt()
    moves = torch.stack([away * factor**turn * (1 - factor) for turn in range(50)])
    rounds = (moves >= tolerance).sum(0) + 1
    assert len(set(rounds.tolist())) > 1, "samples stop at different rounds"
    after = walked(model, count, rounds=50, noise=noise, tolerance=tolerance)
    left = (after - 0.3).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(left, away * factor**rounds, atol=1e-5, rtol=1e-3)


def test_rounds_that_are_not_made_cost_nothing() -> None:
    assert cost({"rounds": 50, "tolerance": 10.0}) == 20 * (20 + 1), "every sample has arrived after one round"
    assert 20 * (20 + 1) < cost({"rounds": 50, "tolerance": 0.001}) < 20 * (20 + 50)
    assert cost({"rounds": 2, "tolerance": 1e-9}) == 20 * (20 + 2), "`rounds` is the most"


@pytest.mark.parametrize("settings", [{}, {"steps": 5, "tolerance": 0.01}])
def test_a_candidate_does_not_depend_on_its_neighbours(settings: dict[str, Any]) -> None:
    together = walked(memorised("epsilon"), 30, **settings)
    alone = walked(memorised("epsilon"), 7, start=11, **settings)
    torch.testing.assert_close(alone, together[11:18], atol=0, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 0.0},
        {"noise": 1.0},
        {"rounds": -1},
        {"modes": 3},
        {"steps": 0},
        {"tolerance": -1},
        {"solver": "euler"},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SidebenchError, match=next(iter(settings))):
        make_attack("side-walk", settings)
