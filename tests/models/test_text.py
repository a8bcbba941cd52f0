"""Text to image: a Stable Diffusion pipeline behind the contract, and the attack that knows captions."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import text_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import (
    Attack,
    AttackState,
    Generated,
    ModelSpec,
    PromptedModel,
    SamplerSettings,
)
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.models import inspect_files, load_model
from sidebench.benchmark.models.flops import OperationCount
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.runs.victim import fitting
from sidebench.benchmark.sampling.call_attack import make_candidates
from sidebench.benchmark.sampling.views import AuditedModel, in_order_of, view_for
from sidebench.methods.carlini_uncond import CarliniUncond
from sidebench.methods.prompt_replay import PromptReplay, PromptReplaySettings

pytest.importorskip("transformers")
SAMPLER = SamplerSettings(steps=3)
PROMPTS = ["a cat", "two dogs", "a red house", "cat a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_pipeline(tmp_path_factory.mktemp("text") / "sd")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(ModelSpec(family="text", location=str(folder)))


def view(model: Any) -> Any:
    audited = AuditedModel(model, SAMPLER, 4)
    return view_for("prompts", audited, PROMPTS)


def test_plain_sampling_is_that_of_the_empty_prompt(model: Any) -> None:
    candidates = Candidates(0, [0, 1, 2])
    plain = CarliniUncond(CarliniUncond.Settings()).generate(view(model), AttackState(), candidates)
    asked = view(model).sample_prompts(candidates, [""] * 3)
    torch.testing.assert_close(plain.images, asked, rtol=0, atol=1e-5)
    assert not torch.allclose(plain.images, view(model).sample_prompts(candidates, PROMPTS[:3]), atol=1e-3)


def test_what_the_files_say(folder: Path, model: Any) -> None:
    files = inspect_files(model.spec)
    assert files.image_size == (16, 16, 3) and files.conditioning == "text"
    assert files.left_out == ("safety_checker",)
    assert model.image_shape == (3, 16, 16) and model.sample_shape == (4, 8, 8)
    assert model.prediction_type == "epsilon" and model.num_train_timesteps == 50


def test_predictions_are_those_of_diffusers_own_parts(folder: Path, model: Any) -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    network = UNet2DConditionModel.from_pretrained(folder / "unet")
    x_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 40])
    for prompts, condition in ((["a cat", "two dogs"], model.embed(["a cat", "two dogs"])), (["", ""], None)):
        tokens = tokenizer(prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = network(x_t, t, encoder_hidden_states=encoder(tokens)[0]).sample
        assert torch.allclose(model.predict(x_t, t, condition), expected, atol=1e-5)
    assert not torch.allclose(model.embed(["a cat"]), model.embed(["two dogs"]))
    assert model.embed(["cat " * 100]).shape == (1, 24, 16)


def test_guided_samples_follow_their_prompt_in_any_group(model: Any) -> None:
    prompted = view(model)
    assert isinstance(prompted, PromptedModel) and not hasattr(prompted, "predict")
    together = prompted.sample_prompts(Candidates(0, range(4)), PROMPTS, guidance_scale=7.5)
    alone = prompted.sample_prompts(Candidates(0, [2]), PROMPTS[2:3], guidance_scale=7.5)
    assert torch.equal((together[2:3] * 255).round(), (alone * 255).round())
    other = prompted.sample_prompts(Candidates(0, [2]), ["zzz"], guidance_scale=7.5)
    assert not torch.equal(alone, other)
    plain = prompted.sample_prompts(Candidates(0, [2]), PROMPTS[2:3])
    assert not torch.equal(alone, plain)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_guided_images_are_those_of_diffusers_own_pipeline(tmp_path: Path, kind: str) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(50, prediction_type=kind, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    folder, candidates = text_pipeline(tmp_path / "sd", scheduler), Candidates(0, range(2))
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    x_T = candidates.normal("noise", (4, 8, 8))
    asked = {"latents": x_T, "num_inference_steps": 5, "guidance_scale": 7.5, "output_type": "pt"}
    expected = theirs(["a cat", "two dogs"], **asked).images
    model = load_model(ModelSpec(family="text", location=str(folder)))
    found = view_for("prompts", AuditedModel(model, SamplerSettings(steps=5), 2), PROMPTS)
    assert isinstance(found, PromptedModel)
    images = found.sample_prompts(candidates, ["a cat", "two dogs"], guidance_scale=7.5)
    assert torch.allclose(images, expected, atol=2e-3)


def test_a_text_encoder_that_lacks_a_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, name in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        broken = Path(shutil.copytree(folder, tmp_path / part))
        file = broken / part / f"{name}.safetensors"
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[-1])
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(BadInput, match=f"{part}/{part}: the files lack 1 weights"):
            load_model(ModelSpec(family="text", location=str(broken)))


def test_captions_that_the_encoder_would_cut_are_refused(model: Any) -> None:
    """The encoder takes 24 tokens, a letter each, two of them for begin and end."""
    fits, longer = "a" * 22, "b" * 23
    assert model.too_long([fits, longer]) == [longer] and fitting(model, [fits], "own") == [fits]
    with pytest.raises(BadInput, match="pair own: 1 of 2 captions are longer than the text encoder takes, 'bbb"):
        fitting(model, [fits, longer], "own")


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8])
def test_the_harness_binds_candidates_to_the_captions_that_were_sent(model: Any, micro_batch: int) -> None:
    """Attacks are given captions in an order of the seed's, and a run numbers them as they are sorted."""
    model.prompts = sorted(PROMPTS)
    attack, sampling = PromptReplay(PromptReplaySettings(seeds=1)), Sampling(micro_batch=micro_batch, sampler=SAMPLER)
    try:
        for seed in (0, 1):
            made = make_candidates(attack, model, AttackState(), Candidates(seed, range(4)), sampling)
            assert made.captions is not None
            given = in_order_of(seed, model.prompts)
            assert [model.prompts[number] for number in made.captions.tolist()] == given
        assert in_order_of(0, model.prompts) != in_order_of(1, model.prompts)
    finally:
        model.prompts = ()
    assert make_candidates(Plain(), model, AttackState(), Candidates(0, [0]), sampling).captions is None


class Plain(Attack):
    name = title = paper = "plain"
    access = "samples"

    def generate(self, model: Any, state: AttackState, candidates: Candidates) -> Generated:
        return Generated(model.sample(candidates))


def test_equal_prompts_are_embedded_once_and_charged_each(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    embed = model.embed

    def counted(prompts: Sequence[str]) -> torch.Tensor:
        asked.append(list(prompts))
        found: torch.Tensor = embed(prompts)
        return found

    monkeypatch.setattr(model, "embed", counted)
    costs, rows = [], []
    for prompts in (["a cat", "two dogs", "a cat", "a cat"], ["a cat"], ["two dogs"]):
        audited = AuditedModel(model, SamplerSettings(steps=1), 4)
        rows.append(audited.sample_prompts(Candidates(0, range(len(prompts))), prompts))
        costs.append(audited.ledger.as_dict()["flops"]["prepare"] / len(prompts))
    assert asked[0] == ["a cat", "two dogs"]
    assert torch.equal(rows[0][:1], rows[1]) and len(set(costs)) == 1


def test_the_operations_of_a_call_do_not_depend_on_what_was_asked_before(folder: Path) -> None:
    first, later = (load_model(ModelSpec(family="text", location=str(folder))) for _ in range(2))
    x, t = torch.zeros(1, *later.sample_shape), torch.zeros(1, dtype=torch.long)
    condition = later.embed(["a cat"])
    with torch.no_grad():
        later.predict(x, t, condition)
        with OperationCount() as counter:
            later.predict(x, t, condition)
    assert first.flops_per_sample() == later.flops_per_sample() == counter.total > 0


@pytest.mark.parametrize("rows", [1, 3, 8, 11])
def test_rows_that_fill_a_batch_of_the_autoencoder_are_nobodys_cost(model: Any, rows: int) -> None:
    """A challenge draws few candidates: of 11, five rows more would be decoded and booked, and the record refused."""
    found = []
    for count in (8, rows):
        with OperationCount() as counter:
            model.decode(torch.zeros(count, *model.sample_shape))
        found.append(counter.total / count)
    assert found[0] == found[1] > 0


def test_guidance_costs_two_calls(model: Any) -> None:
    audited = AuditedModel(model, SAMPLER, 4)
    prompted = view_for("prompts", audited, PROMPTS)
    with audited.ledger.during("generate"):
        PromptReplay().generate(prompted, None, Candidates(0, range(2)))  # type: ignore[arg-type]
    assert audited.ledger.nfe["generate"] == 2 * 2 * 3


def test_each_caption_is_tried_with_every_seed(model: Any) -> None:
    attack = PromptReplay(PromptReplaySettings(seeds=3, guidance_scale=1.0))
    whole = attack.generate(view(model), None, Candidates(0, range(14)))  # type: ignore[arg-type]
    prompt = whole.columns["prompt"].tolist()
    assert [prompt[i : i + 3] for i in range(0, 12, 3)] == [[p] * 3 for p in prompt[:12:3]]
    assert sorted(prompt[:12:3]) == [0, 1, 2, 3] and prompt[12] == prompt[0]
    part = attack.generate(view(model), None, Candidates(0, range(5, 8)))  # type: ignore[arg-type]
    assert part.columns["prompt"].tolist() == prompt[5:8]
    with pytest.raises(TooFew, match="needs captions"):
        attack.generate(view_for("prompts", AuditedModel(model, SAMPLER, 4)), None, Candidates(0, [0]))  # type: ignore[arg-type]
