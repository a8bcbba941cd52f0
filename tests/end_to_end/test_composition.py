"""Every defence composes with every other one and with every attack; what a defence hides, polish finds again."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark import registry
from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, SamplerSettings, Step
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.runs import runner
from sidebench.benchmark.sampling.defended import DefendedModel
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods.polish import Polish, clean_estimate

Make = Callable[..., Any]
DEFENCES = [name for name in registry.names("defence") if "none" in registry.find("defence", name).conditionings]
"""Those for text models compose in tests/methods/test_text_defences.py."""
ATTACKS = ("carlini-uncond", "carlini-cond", "side", "polish")


@pytest.mark.parametrize("pair", list(itertools.combinations(DEFENCES, 2)), ids="+".join)
def test_two_defences_and_every_attack(pair: tuple[str, str], make_plan: Make, tmp_path: Path) -> None:
    result = runner.execute(make_plan(tmp_path, defences=pair, attacks=ATTACKS, candidates=8, measures=["rms"]))
    assert not result.failures and result.metrics is not None
    assert list(result.metrics.defences) == sorted(pair)
    assert {found.attack for found in result.metrics.results} == set(ATTACKS)
    images = {name: torch.cat(list(result.folder.candidate_images(f"{name}.s0", 8))) for name in ATTACKS}
    assert not any(read.float().std(0).max() == 0 for read in images.values()), "candidates are different images"


def test_all_of_them_together(make_plan: Make, tmp_path: Path) -> None:
    result = runner.execute(make_plan(tmp_path, defences=DEFENCES, attacks=["side"], candidates=4, measures=["rms"]))
    assert not result.failures and list(result.metrics.defences) == DEFENCES


class Veil(DefendedModel):
    """A constant veil on the estimate of x_0, put on in the loop."""

    def corrected(self, step: Step, candidates: Candidates) -> torch.Tensor:
        return self.inside.corrected(step, candidates) + 0.2


class DeepVeil(DefendedModel):
    """The same in every denoiser call."""

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return self.inside.predict(x_t, t, condition) + 0.2


@pytest.mark.parametrize(("veil", "left"), [(Veil, 0.0), (DeepVeil, 0.1)])
def test_polish_takes_off_what_the_loop_put_on(veil: type[DefendedModel], left: float) -> None:
    """A model that knows four images by heart: behind the veil each sample is one of them, 0.1 brighter."""
    known = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.6
    mixture = veil(MixtureModel(known * 2 - 1, 0.0, prediction_type="sample"))
    mixture.defences = {"veil": {}}
    audited = AuditedModel(mixture, SamplerSettings(steps=10), 8)
    candidates = Candidates(0, range(24))

    def distance(images: torch.Tensor) -> torch.Tensor:
        return (images[:, None] - known).flatten(2).square().mean(2).sqrt().min(1).values

    torch.testing.assert_close(distance(audited.sample(candidates)), torch.full((24,), 0.1), atol=0.01, rtol=0)
    found = Polish().generate(audited, AttackState(), candidates).images
    torch.testing.assert_close(distance(found), torch.full((24,), left), atol=0.01, rtol=0)
    assert sum(audited.ledger.nfe.values()) == 2 * 24 * 10 + 24, "one more call a candidate"


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
