"""Defences of text models, and the hooks that they need: prompt, embedding, starting noise, guidance, attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hub_repositories import text_pipeline
from text_pipelines import flux, latent_consistency, pixart, sana, sd3, sdxl

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import NO_STATE, ModelSpec
from sidebench.benchmark.errors import BadInput, DefenceFailed
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.attention import recorded, reweighted
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


# ---- The built-in ones ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["attention-reweighting", "embedding-noise", "embedding-optimisation", "random-tokens"]
)
def test_the_built_in_ones_conform_and_change_images(name: str, spec: ModelSpec, model: Any) -> None:
    settings = {"steps": 2} if name == "embedding-optimisation" else {}
    check_defence(name, settings, spec, SAMPLING, count=5)
    assert not torch.equal(sample(around(model, name)), sample(model))


def test_all_of_the_built_in_ones_compose_with_late_guidance(model: Any) -> None:
    names = ["attention-reweighting", "embedding-noise", "embedding-optimisation", "random-tokens", "late-guidance"]
    defended = around(model, *names)
    assert set(defended.defences) == set(names)
    assert sample(defended).isfinite().all()


def lengthened(model: Any, numbers: Any = range(3), **settings: Any) -> list[list[str]]:
    defended = defend(model, [make_defence("random-tokens", settings)], "ddim", lambda: torch.empty(0))
    prompts = [PROMPTS[number % 3] for number in numbers]
    return [prompt.split() for prompt in defended.prompted(prompts, Candidates(0, numbers))]


def test_random_tokens_puts_words_between_those_of_the_prompt(model: Any) -> None:
    for found, prompt in zip(lengthened(model), PROMPTS, strict=True):
        own = iter(found)
        assert len(found) == len(prompt.split()) + 4 and all(word in own for word in prompt.split())
    assert lengthened(model)[2:] == lengthened(model, numbers=[2])
    assert lengthened(model, numbers=[0, 3])[0] != lengthened(model, numbers=[0, 3])[1]


def test_random_tokens_of_each_kind(model: Any) -> None:
    numbers = [word for found in lengthened(model, what="numbers") for word in found if word.isdigit()]
    assert len(numbers) == 12 and len(set(numbers)) > 6
    for found, prompt in zip(lengthened(model, what="repeats", insertions=9), PROMPTS, strict=True):
        assert set(found) == set(prompt.split()) and len(found) == len(prompt.split()) + 9


def test_embedding_noise_has_the_scale_that_was_asked_for(model: Any) -> None:
    noisy = defend(model, [make_defence("embedding-noise", {"scale": 0.3})], "ddim", lambda: torch.empty(0))
    embedding = model.embed(PROMPTS)
    added = noisy.conditioned(embedding, Candidates(0, range(3))) - embedding
    assert added.std().item() == pytest.approx(0.3, rel=0.05) and abs(added.mean().item()) < 0.02
    assert noisy.conditioned(None, Candidates(0, range(3))) is None


def moved(model: Any, embedding: torch.Tensor) -> torch.Tensor:
    """What the embedding does to the prediction at the candidates' own x_T: root mean square, (N,)."""
    noise = Candidates(0, range(3)).normal("noise", model.sample_shape)
    t = torch.full((3,), model.num_train_timesteps - 1)
    return (model.predict(noise, t, embedding) - model.predict(noise, t)).flatten(1).pow(2).mean(1).sqrt()


def optimised(model: Any, embedding: torch.Tensor, numbers: Any = range(3), **settings: Any) -> torch.Tensor:
    made = defend(model, [make_defence("embedding-optimisation", settings)], "ddim", lambda: torch.empty(0))
    found = made.conditioned(embedding, Candidates(0, numbers))
    assert found is not None and not found.requires_grad
    return found


def test_embedding_optimisation_lowers_what_the_prompt_does(model: Any) -> None:
    embedding = model.embed(PROMPTS)
    with torch.no_grad():
        found = optimised(model, embedding, target=0.0)
        assert (moved(model, found) < 0.8 * moved(model, embedding)).all()
    assert torch.equal(found[:, 0], embedding[:, 0]) and not torch.equal(found[:, 1], embedding[:, 1])


def test_embedding_optimisation_leaves_alone_what_does_little_and_knows_no_other_row(model: Any) -> None:
    embedding = model.embed(PROMPTS)
    before = moved(model, embedding)
    middle = before.sort().values[1].item() * 1.0001
    found = optimised(model, embedding, target=middle, steps=1)
    stays = (before <= middle).tolist()
    assert sorted(stays) == [False, True, True]
    assert [torch.equal(a, b) for a, b in zip(found, embedding, strict=True)] == stays
    alone = optimised(model, embedding[2:], numbers=[2], target=0.0, steps=3)
    assert torch.allclose(alone, optimised(model, embedding, target=0.0, steps=3)[2:], atol=1e-5)


def test_reweighted_attention_is_the_softmax_of_the_changed_logits() -> None:
    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)

    torch.manual_seed(0)
    denoiser, pixels, prompt = Denoiser(), torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    layer = denoiser.layer
    with torch.no_grad(), reweighted(denoiser, torch.tensor([3.0, 7.0]), 1.5):
        found = layer(pixels, encoder_hidden_states=prompt)
        query, key, value = (
            part.unflatten(-1, (2, 4)).transpose(1, 2)
            for part in (layer.to_q(pixels), layer.to_k(prompt), layer.to_v(prompt))
        )
        logits = query @ key.transpose(-1, -2) / 4**0.5
        logits[..., 0] *= 1.5
        logits[0, :, :, 3:] = -torch.inf
        wanted = layer.to_out[0]((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(found, wanted, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(layer(pixels, encoder_hidden_states=prompt), wanted, atol=1e-3)


def test_reweighting_reads_no_padding_and_only_where_there_is_a_prompt(model: Any) -> None:
    changed = model.reweighted(1.25)
    x, t = torch.randn(3, *model.sample_shape, generator=torch.Generator().manual_seed(0)), torch.full((3,), 500)
    assert torch.allclose(changed.predict(x, t), model.predict(x, t), atol=1e-6)

    embedding = changed.embed(PROMPTS)
    tokens, length = model.prompt_tokens(PROMPTS), model.embed(PROMPTS).shape[1]
    assert embedding.shape[1] == length + 1 and embedding[:, -1, 0].tolist() == tokens.tolist()
    padded = embedding.clone()
    padded[:, :length] += 9.0 * (torch.arange(length) >= tokens.view(-1, 1)).unsqueeze(-1)
    assert torch.equal(changed.predict(x, t, embedding), changed.predict(x, t, padded))
    assert not torch.allclose(changed.predict(x, t, embedding), model.predict(x, t, model.embed(PROMPTS)), atol=1e-4)


FAMILIES = {"sdxl": sdxl, "sd3": sd3, "pixart": pixart, "sana": sana, "flux": flux, "lcm": latent_consistency}


@pytest.mark.parametrize("family", FAMILIES)
def test_defences_of_the_embedding_change_the_states_of_the_text_alone(family: str, tmp_path: Path) -> None:
    """An attention mask or a scale of guidance travels in the same row: with noise on it, the model would break."""
    model = load_model(ModelSpec(family="text", location=str(FAMILIES[family](tmp_path / family))))
    embedding, candidates = model.embed(PROMPTS), Candidates(0, range(3))
    token = model.token_of()
    assert token.shape == embedding.shape[1:]
    more = {"pixart": 300, "sana": 300, "flux": 1, "lcm": 1}
    assert (token == NO_STATE).sum() == more.get(family, 0), "masks of so many tokens, or one scale"
    for name, first in (("embedding-noise", True), ("embedding-optimisation", False)):
        settings = {} if name == "embedding-noise" else {"steps": 2, "target": 0.0}
        changed = defend(model, [make_defence(name, settings)], "ddim", lambda: torch.empty(0))
        found = changed.conditioned(embedding, candidates)
        assert found is not None
        moves = (found != embedding).any(0)
        assert not moves[token == NO_STATE].any() and moves[token == 1].any()
        assert moves[token == 0].any() == first, "the token that begins a prompt"


def test_optimisation_for_long_does_not_change_how_many_tokens_a_prompt_is(model: Any) -> None:
    changed = model.reweighted(1.25)
    settings = {"steps": 60, "target": 0.0}
    made = defend(changed, [make_defence("embedding-optimisation", settings)], "ddim", lambda: torch.empty(0))
    given = made.conditioned(changed.embed(PROMPTS), Candidates(0, range(3)))
    assert given is not None and given[:, -1, 0].tolist() == model.prompt_tokens(PROMPTS).tolist()


def test_noise_on_the_embedding_does_not_change_how_many_tokens_a_prompt_is(model: Any) -> None:
    changed = model.reweighted(1.25)
    noisy = defend(changed, [make_defence("embedding-noise", {"scale": 4.0})], "ddim", lambda: torch.empty(0))
    given = noisy.conditioned(changed.embed(PROMPTS), Candidates(0, range(3)))
    assert given is not None
    assert given[:, -1, 0].tolist() == model.prompt_tokens(PROMPTS).tolist()


def test_whoever_reads_the_attention_of_a_reweighted_model_reads_the_plain_one(model: Any) -> None:
    changed = model.reweighted(1.25)
    x, t = torch.zeros(3, *model.sample_shape), torch.full((3,), 500)
    found, plain = changed.attend(x, t, changed.embed(PROMPTS)), model.attend(x, t, model.embed(PROMPTS))
    assert torch.allclose(found.prediction, plain.prediction, atol=1e-6) and found.maps.keys() == plain.maps.keys()
    with recorded(model.denoiser) as maps:
        model.predict(x, t, model.embed(PROMPTS))
    assert maps.keys() == plain.maps.keys()


def test_a_model_without_cross_attention_is_refused() -> None:
    digits = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    with pytest.raises(BadInput, match="no cross-attention to read or change"):
        digits.reweighted(1.25)
    with pytest.raises(BadInput, match="works on models with conditioning text, not none"):
        around(digits, "random-tokens")
