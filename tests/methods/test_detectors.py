"""Detectors on a text pipeline of random weights: each formula by hand, independence of company, what they cost."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_repositories import text_pipeline
from text_pipelines import sd3, sdxl
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Model, ModelSpec, SamplerSettings
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.models import load_model
from sidebench.benchmark.registry import make_detector, names
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods.detectors.anisotropy import random_prompts
from sidebench.methods.detectors.bright_ending import end_mask
from sidebench.methods.detectors.predicted_noise import as_noise, guided_path

pytest.importorskip("transformers")
PROMPTS = ["a cat", "a dog", "one house", "red", "two dogs"]
NUMBERS = [11, 5, 902, 40, 7]
SMALL: dict[str, dict[str, Any]] = {
    "anisotropy": {"noises": 1, "references": 8},
    "attention-entropy": {"noises": 1},
    "bright-ending": {"noises": 1, "path": 2, "steps": 1, "guidance_scale": 3.0},
    "dsm": {"noises": 1, "path": 10, "guidance_scale": 3.0},
    "noise-norm": {"noises": 1, "path": 10, "steps": 2, "guidance_scale": 3.0},
    "sharpness": {"noises": 1},
    "summary-entropy": {"noises": 1, "path": 4, "steps": 2, "guidance_scale": 3.0},
}
CALLS = {
    **{"anisotropy": 2, "attention-entropy": 1, "bright-ending": 5, "dsm": 6, "noise-norm": 4, "sharpness": 6},
    "summary-entropy": 11,
}
"""Denoiser calls of a prompt and noise."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = text_pipeline(tmp_path_factory.mktemp("text") / "sd")
    return load_model(ModelSpec(family="text", location=str(folder)))


def audited(model: Model, micro_batch: int = 4) -> AuditedModel:
    return AuditedModel(model, SamplerSettings(steps=2), micro_batch)


def scores(name: str, model: Model, rows: list[int], micro_batch: int = 4, **settings: Any) -> np.ndarray:
    detector = make_detector(name, {**SMALL[name], **settings})
    asked = Candidates(0, [NUMBERS[row] for row in rows], "detection")
    return detector.score(audited(model, micro_batch), [PROMPTS[row] for row in rows], asked)


def noise_of(model: Model, row: int, which: int = 0) -> Tensor:
    return Candidates(0, [NUMBERS[row]], "detection").normal(f"noise {which}", model.sample_shape)


def eps(model: Model, x_t: Tensor, t: int, prompt: str | None) -> Tensor:
    with torch.no_grad():
        return model.predict(x_t, torch.tensor([t]), None if prompt is None else model.embed([prompt]))


def ddim(model: Model, x_t: Tensor, t: int, after: int, prompt: str, scale: float) -> Tensor:
    """Take one guided step, by hand."""
    bare = eps(model, x_t, t, None)
    guided = bare + scale * (eps(model, x_t, t, prompt) - bare)
    (alpha, sigma), (next_alpha, next_sigma) = (
        tuple(level.item() for level in model.noise_level(torch.tensor([time]))) for time in (t, after)
    )
    return next_alpha * (x_t - sigma * guided) / alpha + next_sigma * guided


def test_the_seven_are_registered() -> None:
    assert set(names("detector")) >= SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_prompts_number_depends_on_no_other_prompt(name: str, model: Model) -> None:
    together = scores(name, model, [0, 1, 2, 3, 4])
    assert together.shape == (5,) and together.dtype == np.float64 and np.isfinite(together).all()
    assert len(np.unique(together)) == 5
    mixed = scores(name, model, [3, 0, 4, 2, 1])
    assert np.array_equal(mixed, together[[3, 0, 4, 2, 1]])
    assert np.array_equal(scores(name, model, [2]), together[[2]])
    assert scores(name, model, [0, 1, 2, 3, 4], micro_batch=3) == pytest.approx(together, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_every_call_is_counted(name: str, model: Model) -> None:
    view = audited(model)
    detector = make_detector(name, {**SMALL[name], "noises": 2})
    detector.score(view, PROMPTS, Candidates(0, NUMBERS, "detection"))
    references = SMALL[name].get("references", 0)
    assert view.ledger.nfe == {"prepare": 2 * CALLS[name] * (len(PROMPTS) + references)}
    assert view.ledger.flops["prepare"] > 0, "the text encoder"


@pytest.mark.parametrize("name", SMALL)
def test_the_mean_over_noises_is_that_of_each_noise_alone(name: str, model: Model) -> None:
    one, two = scores(name, model, [0, 1]), scores(name, model, [0, 1], noises=2)
    assert not np.array_equal(one, two)
    if name == "attention-entropy":
        other = [entropy_by_hand(model, noise_of(model, row, 1), PROMPTS[row]) for row in (0, 1)]
        assert two == pytest.approx((one + other) / 2, rel=1e-4)


def test_noise_norm_is_the_mean_norm_over_the_first_steps(model: Model) -> None:
    noise = noise_of(model, 1)
    after = ddim(model, noise, 49, 44, PROMPTS[1], 3.0)  # 50 timesteps in 10 steps
    norms = [(eps(model, x, t, PROMPTS[1]) - eps(model, x, t, None)).norm() for x, t in ((noise, 49), (after, 44))]
    assert scores("noise-norm", model, [1])[0] == pytest.approx((norms[0] + norms[1]).item() / 2, rel=1e-4)
    assert scores("noise-norm", model, [1], steps=1)[0] == pytest.approx(norms[0].item(), rel=1e-4)
    with pytest.raises(BadSetting, match="steps = 11 of a path of 10"):
        make_detector("noise-norm", {"steps": 11, "path": 10})


def test_dsm_is_the_squared_change_between_steps_1_and_2(model: Model) -> None:
    first = ddim(model, noise_of(model, 2), 49, 44, PROMPTS[2], 3.0)
    second = ddim(model, first, 44, 39, PROMPTS[2], 3.0)
    change = eps(model, second, 39, PROMPTS[2]) - eps(model, first, 44, PROMPTS[2])
    assert scores("dsm", model, [2])[0] == pytest.approx(change.square().sum().item(), rel=1e-3)
    assert scores("dsm", model, [2], guidance_scale=9.0)[0] != scores("dsm", model, [2])[0]


def test_anisotropy_adds_z_scores_over_prompts_of_random_letters(model: Model) -> None:
    def parts(noise: Tensor, prompt: str) -> tuple[float, float]:
        bare = eps(model, noise, 49, None)
        change = eps(model, noise, 49, prompt) - bare
        return change.norm().item(), (change * bare).sum().item() / (change.norm() * bare.norm()).item()

    drawn = Candidates(0, range(8), "detection reference")
    words = random_prompts(drawn)
    assert len(set(words)) == 8 and all(4 <= len(word) <= 16 and word.isalpha() for word in words)
    noises = drawn.normal("noise 0", model.sample_shape)
    known = np.array([parts(noise[None], word) for noise, word in zip(noises, words, strict=True)])
    own = np.array(parts(noise_of(model, 3), PROMPTS[3]))
    by_hand = ((own - known.mean(0)) / known.std(0, ddof=1)).sum()
    assert scores("anisotropy", model, [3])[0] == pytest.approx(by_hand, rel=1e-3)


def test_sharpness_is_a_difference_quotient_of_the_scores(model: Model) -> None:
    noise, sigma = noise_of(model, 4).double(), model.noise_level(torch.tensor(49))[1].item()
    double = model.denoiser.double()  # type: ignore[attr-defined]
    try:

        def score(x: Tensor, prompt: str | None) -> Tensor:
            states = model.embed(["" if prompt is None else prompt]).double()
            with torch.no_grad():
                found: Tensor = -double(x, 49, encoder_hidden_states=states).sample / sigma
            return found

        along = score(noise, PROMPTS[4]) - score(noise, None)
        step = 1e-5
        slopes = [
            (score(noise + step * along, p) - score(noise - step * along, p)) / (2 * step) for p in (PROMPTS[4], None)
        ]
        by_hand = (slopes[0] - slopes[1]).norm().item()
    finally:
        double.float()
    assert scores("sharpness", model, [4])[0] == pytest.approx(by_hand, rel=2e-3)


def shares_by_hand(model: Model, x_t: Tensor, t: int, prompt: str) -> list[Tensor]:
    """Ask the network's own layers for queries and keys, and return the softmax of each over the tokens."""
    found: list[Tensor] = []

    def watch(module: Any, given: Any, options: Any) -> None:
        states = options["encoder_hidden_states"]
        query, key = (module.head_to_batch_dim(side) for side in (module.to_q(given[0]), module.to_k(states)))
        found.append((query @ key.transpose(1, 2) * module.scale).softmax(-1).mean((0, 1)))

    parts = [part for name, part in model.denoiser.named_modules() if name.endswith("attn2")]  # type: ignore[attr-defined]
    hooks = [part.register_forward_pre_hook(watch, with_kwargs=True) for part in parts]
    eps(model, x_t, t, prompt)
    for hook in hooks:
        hook.remove()
    assert len(found) == 4
    return found


def entropy_by_hand(model: Model, noise: Tensor, prompt: str, layer: int | None = None) -> float:
    entropies = [-(share * share.log()).sum().item() for share in shares_by_hand(model, noise, 49, prompt)]
    return sum(entropies) / 4 if layer is None else entropies[layer]


def test_attention_entropy_is_that_of_the_layers_softmax(model: Model) -> None:
    noise = noise_of(model, 0)
    mean = entropy_by_hand(model, noise, PROMPTS[0])
    assert 0 < mean < math.log(24)
    assert scores("attention-entropy", model, [0])[0] == pytest.approx(mean, rel=1e-4)
    second = entropy_by_hand(model, noise, PROMPTS[0], 1)
    assert scores("attention-entropy", model, [0], layer=2)[0] == pytest.approx(second, rel=1e-4)
    with pytest.raises(BadSetting, match=r"attention-entropy\.layer = 9: this model has 4 layers"):
        scores("attention-entropy", model, [0], layer=9)


def test_summary_entropy_is_late_entropy_and_its_growth_on_end_and_padding(model: Model) -> None:
    prompt, times = PROMPTS[1], [49, 37, 24, 11]  # 50 timesteps in 4 steps, as the path rounds them
    points = [noise_of(model, 1)]
    for t, after in pairwise(times):
        points.append(ddim(model, points[-1], t, after, prompt, 3.0))
    end, whole, summary = 5, [], []  # the end token stands after the begin token and four letters
    for x_t, t in zip(points, times, strict=True):
        share = torch.stack(shares_by_hand(model, x_t, t, prompt)).mean(0)
        parts = -(share * share.log())
        whole.append(parts.sum().item())
        summary.append(parts[end:].sum().item())
    by_hand = (whole[2] + whole[3]) / 2 + (summary[2] + summary[3]) / 2 - summary[0]
    assert scores("summary-entropy", model, [1])[0] == pytest.approx(by_hand, abs=1e-5)
    assert abs((summary[2] + summary[3]) / 2 - summary[0]) > 1e-4, "so that the growth is seen"
    with pytest.raises(BadSetting, match="steps = 4 of a path of 4"):
        make_detector("summary-entropy", {"steps": 4, "path": 4})


def test_bright_ending_weighs_the_change_by_the_attention_to_the_end_token(model: Model) -> None:
    prompt, noise = PROMPTS[1], noise_of(model, 1)
    last = ddim(model, noise, 49, 24, prompt, 3.0)
    maps = model.attend(last, torch.tensor([24]), model.embed([prompt])).maps
    (down,) = [values for name, values in maps.items() if name.startswith("down_blocks")]
    end = 5  # after the begin token and four letters
    assert model.prompt_tokens([prompt]).tolist() == [end + 1]
    mask = down[0, :, end].view(8, 8)
    change = eps(model, noise, 49, prompt) - eps(model, noise, 49, None)
    by_hand = (mask * change).norm().item() / mask.mean().item()
    assert scores("bright-ending", model, [1])[0] == pytest.approx(by_hand, rel=1e-3)


def test_a_coarse_map_is_enlarged_and_the_finest_of_the_way_down_is_taken() -> None:
    fine, coarse = torch.rand(2, 16, 5), torch.rand(2, 4, 5)
    maps = {"down_blocks.0": coarse, "down_blocks.1": fine, "up_blocks.0": torch.rand(2, 64, 5)}
    ends = torch.tensor([1, 3])
    mask = end_mask(maps, ends, (4, 4))
    assert torch.equal(mask[1, 0], fine[1, :, 3].view(4, 4))
    flat = {"mid_block": torch.full((1, 4, 5), 0.2)}
    assert end_mask(flat, ends[:1], (8, 8)).allclose(torch.full((1, 1, 8, 8), 0.2))
    wide = {"down_blocks.0": torch.arange(32.0).view(1, 8, 4)}
    assert end_mask(wide, ends[:1], (2, 4))[0, 0].tolist() == [[1, 5, 9, 13], [17, 21, 25, 29]]


def test_attending_predicts_what_the_denoiser_predicts_and_leaves_it_as_it_was(model: Model) -> None:
    x, t, condition = noise_of(model, 0), torch.tensor([30]), model.embed(PROMPTS[:1])
    before = {name: type(part) for name, part in model.denoiser.attn_processors.items()}  # type: ignore[attr-defined]
    plain = model.predict(x, t, condition)
    found = model.attend(x, t, condition)
    assert torch.allclose(found.prediction, plain, atol=1e-4)
    assert [name.partition(".")[0] for name in found.maps] == ["down_blocks", "mid_block", "up_blocks", "up_blocks"]
    assert all(values.sum(2).allclose(torch.ones(values.shape[:2]), atol=1e-4) for values in found.maps.values())
    after = {name: type(part) for name, part in model.denoiser.attn_processors.items()}  # type: ignore[attr-defined]
    assert after == before and torch.equal(model.predict(x, t, condition), plain)


def test_a_model_without_cross_attention_says_so_in_a_line(tmp_path: Path) -> None:
    other = load_model(ModelSpec(family="text", location=str(sd3(tmp_path / "sd3", t5_too=False))))
    for call in (lambda: other.prompt_tokens(["a"]), lambda: other.attend(torch.zeros(1), torch.zeros(1))):
        with pytest.raises(BadInput, match="StableDiffusion3Pipeline: this model has no cross-attention to read"):
            call()
    digits = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    with pytest.raises(BadInput, match="this model has no cross-attention to read"):
        digits.attend(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(("family", "names"), [("sdxl", list(SMALL)), ("sd3", ["noise-norm", "dsm", "sharpness"])])
def test_other_families_are_scored_too(family: str, names: list[str], tmp_path: Path) -> None:
    folder = sdxl(tmp_path / "sdxl") if family == "sdxl" else sd3(tmp_path / "sd3", t5_too=False)
    other = load_model(ModelSpec(family="text", location=str(folder)))
    for name in names:
        found = scores(name, other, [0, 1])
        assert np.isfinite(found).all() and found[0] != found[1], name


def test_noise_is_read_off_any_prediction_type(model: Model) -> None:
    """A path of a v-prediction model is that of the epsilon model that predicts the same."""
    view = audited(model)
    x, t = noise_of(model, 0), 30
    alpha, sigma = (level.item() for level in model.noise_level(torch.tensor(t)))
    clean = torch.ones_like(x)
    noise = (x - alpha * clean) / sigma
    view.prediction_type = "v_prediction"
    assert torch.allclose(as_noise(view, x, t, alpha * noise - sigma * clean), noise, atol=1e-4)
    view.prediction_type = "sample"
    assert torch.allclose(as_noise(view, x, t, clean), noise, atol=1e-5)
    with pytest.raises(BadSetting, match="a path of 51 steps: this model has 50 timesteps"):
        next(guided_path(view, x, x, 51, 1.0))
