"""Every registered attack keeps its contract, and the suite catches attacks that do not."""

from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.runs.check_attack import NotConformant, check_attack

DIGITS = ModelSpec(family="pixel", location="zoo:digits")
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 3, "batch": 8, "width": 8, "cohesion": -1.0}
SMALL |= {"modes": 4, "background": 16, "walk_rounds": 1, "walk_draws": 1}


PLAIN = [name for name in registry.names("attack") if "none" in registry.find("attack", name).conditionings]
"""Attacks on models without a condition; prompt-replay has its own tests (test_text.py)."""


@pytest.mark.parametrize("name", PLAIN)
def test_registered_attacks_conform(name: str) -> None:
    _check(name, {})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("carlini-cond", {"reads": "x0_hat"}),
        ("side", {"objective": "distillation", "features": "pca", "distance": "euclidean"}),
    ],
)
def test_variants_conform(name: str, settings: dict[str, Any]) -> None:
    _check(name, settings)


def _check(name: str, settings: dict[str, Any]) -> None:
    known = registry.find("attack", name).Settings.model_fields
    check_attack(name, {key: value for key, value in SMALL.items() if key in known} | settings, DIGITS)


HEAD = """
import torch
from sidebench import Attack, AttackState, Generated
class Mine(Attack):
    name, title, paper, access = "mine", "mine", "none", "white box"
"""

BAD = {
    "global generator": (
        "    def generate(self, model, state, candidates):\n"
        "        return Generated(torch.rand(len(candidates), *model.image_shape))\n",
        "differ from those of one call",
    ),
    "depends on its group": (
        "    def generate(self, model, state, candidates):\n"
        "        images = model.sample(candidates)\n"
        "        return Generated((images - images.mean(0)).abs().clamp(0, 1))\n",
        "differ from those of one call",
    ),
    "hides its gradients": (
        "    def generate(self, model, state, candidates):\n"
        "        weight = torch.randn(64, 40000, generator=torch.Generator().manual_seed(0))\n"
        "        def steer(step):\n"
        "            (step.x_t.flatten(1) @ weight).sum()\n"
        "            return torch.zeros_like(step.x_t)\n"
        "        return Generated(model.sample(candidates, steer=steer))\n",
        "report work outside the denoiser",
    ),
    "wrong shape": (
        "    def generate(self, model, state, candidates):\n"
        "        return Generated(model.sample(candidates)[:, :, :4])\n",
        "wanted float of shape",
    ),
    "out of range": (
        "    def generate(self, model, state, candidates):\n        return Generated(model.sample(candidates) * 255)\n",
        r"wanted \[0, 1\]",
    ),
    "resumes into another state": (
        "    def prepare(self, model, budget):\n"
        "        found = budget.checkpoints.load('half')\n"
        "        state = AttackState({'a': torch.zeros(1)}, {'resumed': found is not None})\n"
        "        budget.checkpoints.save('half', state)\n"
        "        return state\n"
        "    def generate(self, model, state, candidates):\n"
        "        return Generated(model.sample(candidates))\n",
        "prepare resumed after checkpoint 1",
    ),
    "keeps something in its process": (
        "    brightness = 0.0\n"
        "    def prepare(self, model, budget):\n"
        "        Mine.brightness = 0.5\n"
        "        return AttackState()\n"
        "    def generate(self, model, state, candidates):\n"
        "        return Generated(model.sample(candidates) * 0 + Mine.brightness)\n",
        "two workers make other images than one process",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_faulty_attacks_are_caught(fault: str, tmp_path: Path) -> None:
    body, message = BAD[fault]
    file = tmp_path / "mine.py"
    file.write_text(HEAD + body, encoding="utf-8")
    with pytest.raises(Exception, match=message) as caught:
        check_attack(f"{file}:Mine", {}, DIGITS)
    assert isinstance(caught.value, NotConformant) or "mine" in str(caught.value)


def test_a_third_party_attack_conforms(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD
        + "    def generate(self, model, state, candidates):\n        return Generated(model.sample(candidates))\n",
        encoding="utf-8",
    )
    check_attack(f"{file}:Mine", {}, DIGITS)
