"""The hooks that defences of text models need: prompt, embedding, starting noise, classifier-free guidance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import text_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.errors import DefenceFailed
from sidebench.benchmark.models import load_model
from sidebench.benchmark.registry import make_defence
from sidebench.benchmark.runs.check_attack import NotConformant, quick_sampling
from sidebench.benchmark.runs.check_defence import check_defence
from sidebench.benchmark.sampling.defended import DefendedModel, defend, in_order
from sidebench.benchmark.sampling.views import AuditedModel, view_for
from sidebench.methods.defences.late_guidance import LateGuidance, LateGuidanceSettings

pytest.importorskip("transformers")
SAMPLING = quick_sampling(micro_batch=4, steps=4)
PROMPTS = ["a cat", "two dogs", "a red house"]

HOOKS = {
    # A random word behind each prompt, the candidate's own.
    "words": """
    def prompted(self, prompts, candidates):
        words = [("cat", "dog", "house")[n] for n in candidates.integers("words", 3).tolist()]
        return [f"{p} {w}" for p, w in zip(self.inside.prompted(prompts, candidates), words, strict=True)]
""",
    # Noise on the embedding.
    "embedding": """
    def conditioned(self, condition, candidates):
        given = self.inside.conditioned(condition, candidates)
        return None if given is None else given + 0.1 * candidates.normal("embedding", given.shape[1:]).to(given.device)
""",
    # One step against the difference of the two predictions, from the starting noise on.
    "start": """
    def started(self, noise, condition, candidates):
        noise = self.inside.started(noise, condition, candidates)
        t = torch.full((len(noise),), self.num_train_timesteps - 1, device=noise.device)
        pull = self.inside.predict(noise, t, condition) - self.inside.predict(noise, t, None)
        return noise + 0.5 * pull

    def flops_per_start(self):
        return self.inside.flops_per_start() + 2 * self.flops_per_sample()
""",
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(family="text", location=str(text_pipeline(tmp_path_factory.mktemp("text") / "sd")))


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> Any:
    return load_model(spec)


def defence(folder: Path, name: str, body: str, level: str = "prompt") -> str:
    """Write a defence with these hooks and return its name for the registry."""
    file = folder / f"{name}.py"
    file.write_text(
        f"""
import torch
from sidebench import Defence, DefendedModel

class Inside(DefendedModel):
{body}
class Mine(Defence):
    name, title, paper, level = "{name}", "{name}", "none", "{level}"
    conditionings = frozenset({{"text"}})
    def wrap(self, model, training):
        return Inside(model)
""",
        encoding="utf-8",
    )
    return f"{file}:Mine"


def sample(model: Any, scale: float = 7.5) -> torch.Tensor:
    view = view_for("prompts", AuditedModel(model, SAMPLING.sampler, 4), PROMPTS)
    images: torch.Tensor = view.sample_prompts(Candidates(0, range(3)), PROMPTS, guidance_scale=scale)  # type: ignore[attr-defined]
    return images


def around(model: Any, *names: str) -> Any:
    return defend(model, in_order([make_defence(name, {}) for name in names]), "ddim", lambda: torch.empty(0))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_defence_of_this_kind_conforms_and_changes_images(
    hook: str, spec: ModelSpec, model: Any, tmp_path: Path
) -> None:
    name = defence(tmp_path, hook, HOOKS[hook])
    check_defence(name, {}, spec, SAMPLING, count=5)
    assert not torch.equal(sample(around(model, name)), sample(model))


def test_all_of_them_compose(model: Any, tmp_path: Path) -> None:
    names = [defence(tmp_path, hook, body) for hook, body in HOOKS.items()]
    together = sample(around(model, *names))
    assert torch.equal(together, sample(around(model, *names[::-1])))
    for left_out in names:
        assert not torch.equal(together, sample(around(model, *(name for name in names if name != left_out))))


def test_work_before_the_first_step_is_reported(spec: ModelSpec, tmp_path: Path) -> None:
    silent = HOOKS["start"].partition("    def flops_per_start")[0]
    with pytest.raises(NotConformant, match=r"flops_per_start\(\) for what comes before the first step"):
        check_defence(defence(tmp_path, "silent", silent), {}, spec, SAMPLING, count=5)


FAULTS = {
    "one prompt": (
        "    def prompted(self, prompts, candidates):\n        return prompts[:1]\n",
        "prompted must return one text for each of 3",
    ),
    "one row": (
        "    def conditioned(self, condition, candidates):\n        return condition[:1]\n",
        "conditioned returned 1 rows for 4 candidates",
    ),
    "other noise": (
        "    def started(self, noise, condition, candidates):\n        return noise[:, :1]\n",
        r"started returned a Tensor of shape \(4, 1, 8, 8\)",
    ),
    "no noise": (
        "    def started(self, noise, condition, candidates):\n        return noise / 0\n",
        "started returned values that are not finite",
    ),
    "no embedding": ("    def embed(self, prompts):\n        return 1 / 0\n", "failed: ZeroDivisionError"),
    "no image": ("    def decode(self, x_0):\n        return 1 / 0\n", "failed: ZeroDivisionError"),
    "no prediction": (
        "    def predict(self, x_t, t, condition=None):\n        return self.inside.predict(x_t, t, condition) / 0\n",
        "values that are not finite at t = ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hook_that_breaks_is_named(fault: str, model: Any, tmp_path: Path) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(DefenceFailed, match=f"defence broken:? ?.*{message}"):
        sample(around(model, defence(tmp_path, "broken", body)))


def test_an_overflow_of_the_denoiser_is_not_the_defences_doing(model: Any, tmp_path: Path) -> None:
    class Overflowing(DefendedModel):
        def predict(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            return torch.full_like(x_t, torch.inf)

    guarded = around(Overflowing(model), defence(tmp_path, "words", HOOKS["words"]))
    assert not guarded.predict(torch.zeros(2, *model.sample_shape), torch.zeros(2)).isfinite().any()


@pytest.mark.parametrize(("outside", "scale"), [("unconditional", 0.0), ("conditional", 1.0)])
def test_late_guidance_says_what_the_denoiser_is_asked_before_it(outside: Any, scale: float, model: Any) -> None:
    """It never starts here, so every step is one outside."""
    never = LateGuidance(LateGuidanceSettings(start=0.0, outside=outside))
    late = defend(model, [never], "ddim", lambda: torch.empty(0))
    view = view_for("samples", AuditedModel(model, SAMPLING.sampler, 4))
    candidates = Candidates(0, range(3))
    plain = view.sample(candidates, condition=model.embed(PROMPTS) if scale else None)
    last_step_is_at_zero = (sample(late) - plain).abs().max()
    assert late.guidance_scale(torch.tensor(40), 7.5) == scale and late.guidance_scale(torch.tensor(0), 7.5) == 7.5
    assert last_step_is_at_zero < (sample(model) - plain).abs().max()
