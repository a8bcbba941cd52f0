"""side-queries on a text pipeline of random weights: what it asks, keeps and costs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import text_pipeline

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import (
    AttackState,
    Budget,
    Model,
    ModelSpec,
    PromptedModel,
    SamplerSettings,
    WhiteBoxModel,
)
from sidebench.benchmark.errors import BadSetting
from sidebench.benchmark.models import load_model
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.sampling.call_attack import make_candidates, prepare_attack
from sidebench.benchmark.sampling.views import AuditedModel, view_for
from sidebench.methods.vocabulary import words

pytest.importorskip("transformers")
SAMPLING = Sampling(micro_batch=8, sampler=SamplerSettings(steps=2))
SMALL = {
    "synthetic_images": 24,
    "clusters": 3,
    "cohesion": -1.0,
    "targets": 2,
    "population": 4,
    "generations": 2,
    "elite": 2,
    "training_steps": 2,
    "batch": 8,
    "width": 8,
    "service_guidance": 2.0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = text_pipeline(tmp_path_factory.mktemp("text") / "sd")
    return load_model(ModelSpec(family="text", location=str(folder)))


def prepared(model: Model, folder: Path, **settings: Any) -> Any:
    attack = make_attack("side-queries", {**SMALL, **settings})
    return attack, prepare_attack(attack, model, SAMPLING, Budget(0, 8, FolderCheckpoints(folder), silent))


def prompts(state: AttackState) -> list[str]:
    return bytes(state.tensors["prompts"].tolist()).decode().split("\n")


def test_the_service_takes_prompts_and_shows_no_caption_and_no_weight(model: Model) -> None:
    model.prompts = ["a secret caption"]
    view = view_for("queries", AuditedModel(model, SAMPLING.sampler, 8), model.prompts)
    assert not isinstance(view, PromptedModel | WhiteBoxModel)
    assert not hasattr(view, "prompts") and not hasattr(view, "predict") and not hasattr(view, "embed")


def test_every_query_is_counted_and_the_best_prompts_are_sent_in_turn(model: Model, tmp_path: Path) -> None:
    attack, found = prepared(model, tmp_path)
    queries = 24 + 2 * 2 * 4
    assert found.state.info["queries"] == queries
    assert found.cost["nfe"] == {"prepare": queries * 2 * 2}, "two steps, two calls each for guidance"
    sent = prompts(found.state)
    assert len(sent) == 4 and found.state.tensors["cluster"].shape == (4,)
    assert all(word in words("common") for prompt in sent for word in prompt.split())
    fitness = found.state.tensors["fitness"].tolist()
    assert fitness[0] >= fitness[1] and fitness[2] >= fitness[3]
    made = make_candidates(attack, model, found.state, Candidates(0, [0, 5, 4]), SAMPLING)
    assert made.columns["query"].tolist() == [0, 1, 0]
    alone = make_candidates(attack, model, found.state, Candidates(0, [4]), SAMPLING)
    assert torch.equal(made.images[2], alone.images[0]) and not torch.equal(made.images[0], made.images[2])


@pytest.mark.parametrize("stop", ["synthetic", "checkpoint-classifier", "target-0"])
def test_a_killed_search_ends_in_the_same_prompts(
    stop: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = prepared(model, tmp_path / "whole")
    save = FolderCheckpoints.save

    def killed(self: FolderCheckpoints, name: str, state: AttackState) -> None:
        save(self, name, state)
        if name == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FolderCheckpoints, "save", killed)
        prepared(model, tmp_path / "killed")
    _, again = prepared(model, tmp_path / "killed")
    assert prompts(again.state) == prompts(whole.state) and again.state.info == whole.state.info


def test_ablations_ask_without_information_or_not_at_all(model: Model, tmp_path: Path) -> None:
    _, none = prepared(model, tmp_path / "none", generations=0)
    assert none.state.info["queries"] == 0 and len(set(prompts(none.state))) == 4 and not none.cost["nfe"]
    for fitness in ("random", "cosine"):
        _, found = prepared(model, tmp_path / fitness, fitness=fitness)
        assert found.state.info["queries"] == 40


def test_more_elite_than_prompts_is_refused() -> None:
    with pytest.raises(BadSetting, match="elite = 5 of a population of 4"):
        make_attack("side-queries", {**SMALL, "elite": 5})
