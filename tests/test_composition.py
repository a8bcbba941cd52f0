"""Every defence composes with every other one and with every attack; what a defence hides, polish finds again."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark import registry, runner
from sidebench.benchmark.contracts import AttackState, ModelSpec
from sidebench.benchmark.defending import defend
from sidebench.benchmark.models import load_model
from sidebench.benchmark.protocol import SamplerSettings
from sidebench.benchmark.sampling import AuditedModel
from sidebench.benchmark.streams import Candidates
from sidebench.methods.defences.output_noise import OutputNoise, OutputNoiseSettings
from sidebench.methods.polish import Polish, clean_estimate

Make = Callable[..., Any]
DEFENCES = registry.names("defence")
ATTACKS = ("carlini-uncond", "carlini-cond", "side", "polish")


@pytest.mark.parametrize("pair", itertools.combinations(DEFENCES, 2), ids="+".join)
def test_two_defences_and_every_attack(pair: tuple[str, str], make_plan: Make, tmp_path: Path) -> None:
    result = runner.execute(make_plan(tmp_path, defences=pair, attacks=ATTACKS, candidates=8))
    assert not result.failures and result.metrics is not None
    assert list(result.metrics.defences) == sorted(pair)
    assert {found.attack for found in result.metrics.results} == set(ATTACKS)
    images = {name: runner.read_state(result.folder.images_file(f"{name}.s0", 0)).tensors["images"] for name in ATTACKS}
    assert not any(read.float().std(0).max() == 0 for read in images.values()), "candidates are different images"


def test_all_of_them_together(make_plan: Make, tmp_path: Path) -> None:
    result = runner.execute(make_plan(tmp_path, defences=DEFENCES, attacks=["side"], candidates=4))
    assert not result.failures and list(result.metrics.defences) == DEFENCES


def test_polish_takes_off_what_the_loop_put_on() -> None:
    digits = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    noisy = defend(digits, [OutputNoise(OutputNoiseSettings(scale=0.3))], "ddim", lambda: torch.empty(0))
    candidates, sampler = Candidates(0, range(24)), SamplerSettings(steps=10)
    audited = AuditedModel(noisy, sampler, 8)
    plain = AuditedModel(digits, sampler, 8).sample(candidates)
    hidden, found = audited.sample(candidates), Polish().generate(audited, AttackState(), candidates).images
    distance = {
        name: (images - plain).square().mean((1, 2, 3)).sqrt()
        for name, images in {"hidden": hidden, "found": found}.items()
    }
    assert distance["found"].mean() < 0.8 * distance["hidden"].mean()
    assert audited.ledger.nfe["prepare"] == 24 * 10 * 2 + 32, "one more call, on a padded batch"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_the_clean_estimate_is_exact_for_an_exact_prediction(kind: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=draw)
    alpha = torch.tensor([0.9, 0.5, 0.1]).view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    exact = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x_0,
        "sample": x_0,
        "flow_prediction": noise - x_0,
    }
    estimate = clean_estimate(kind, alpha * x_0 + sigma * noise, exact[kind], alpha, sigma)
    assert torch.allclose(estimate, x_0, atol=1e-4)
