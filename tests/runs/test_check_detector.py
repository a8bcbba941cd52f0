"""`check_detector`: every built-in passes, and each fault of a plug-in is found and named."""

from pathlib import Path
from typing import Any

import pytest
from hub_repositories import text_pipeline
from text_pipelines import sd3

from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.errors import AttackFailed, BadInput, SidebenchError
from sidebench.benchmark.runs import check_detector as checks
from sidebench.benchmark.runs.check_attack import NotConformant
from sidebench.benchmark.runs.check_detector import check_detector

pytest.importorskip("transformers")
QUICK: dict[str, dict[str, Any]] = {
    "anisotropy": {"noises": 1, "references": 8},
    "attention-entropy": {"noises": 1},
    "bright-ending": {"noises": 1, "path": 2},
    "dsm": {"path": 10},
    "noise-norm": {"noises": 1, "path": 10, "steps": 2},
    "sharpness": {},
    "summary-entropy": {"noises": 1, "path": 3, "steps": 2},
}

HEAD = """
import numpy as np
import torch
from sidebench import Detector


class Mine(Detector):
    name, title, paper = "mine", "mine", "none"
    calls = 0

    def score(self, model, prompts, candidates):
        condition = model.embed(prompts)
        noise = candidates.normal("noise", model.sample_shape)
        with torch.no_grad():
            found = model.predict(noise, torch.full((len(prompts),), 40), condition).flatten(1).norm(dim=1)
        found = found.double().numpy()
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(family="text", location=str(text_pipeline(tmp_path_factory.mktemp("text") / "sd")))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the check by another process, which takes seconds to start."""
    monkeypatch.setattr(checks, "check_process", lambda *given: None)


def mine(folder: Path, *lines: str) -> str:
    (folder / "mine.py").write_text(HEAD + "".join(f"        {line}\n" for line in lines), encoding="utf-8")
    return f"{folder / 'mine.py'}:Mine"


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.usefixtures("in_this_process")
def test_built_in_detectors_conform(name: str, spec: ModelSpec) -> None:
    check_detector(name, QUICK[name], spec)


FAULTS: dict[str, tuple[tuple[str, ...], type[SidebenchError], str]] = {
    "raises": (("return 1 / 0",), AttackFailed, "detector mine.*ZeroDivisionError"),
    "too few": (("return found[1:]",), AttackFailed, "a finite number for each of 6 prompts"),
    "not finite": (("return found * np.nan",), AttackFailed, "a finite number for each of 6 prompts"),
    "not numbers": (("return list(prompts)",), AttackFailed, "detector mine.*ValueError"),
    "global generator": (("return found + torch.rand(1).item()",), NotConformant, "mine: scored again"),
    "memory": (("self.calls += 1", "return found + self.calls"), NotConformant, "mine: scored again"),
    "place": (("return found + np.arange(len(found))",), NotConformant, "mine: scored in another order"),
    "company": (("return found - found.mean()",), NotConformant, "mine: scored alone, 'two dogs' and others"),
    "own work": (
        ("torch.ones(2000, 2000) @ torch.ones(2000, 2000)", "return found"),
        NotConformant,
        r"where torch counts .*report work outside the denoiser with model\.charge",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("in_this_process")
def test_a_fault_is_named(fault: str, spec: ModelSpec, tmp_path: Path) -> None:
    lines, kind, said = FAULTS[fault]
    with pytest.raises(kind, match=said):
        check_detector(mine(tmp_path, *lines), {}, spec)


def test_what_rests_on_the_process_is_found(spec: ModelSpec, tmp_path: Path) -> None:
    by_process = "return found + __import__('os').getpid()"
    with pytest.raises(NotConformant, match="in another process 'a house by a lake' and others have other numbers"):
        check_detector(mine(tmp_path, by_process), {}, spec)


def test_models_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="noise-norm: detectors score prompts, and a model of family pixel takes none"):
        check_detector("noise-norm", {}, ModelSpec(family="pixel", location="zoo:digits"))
    other = ModelSpec(family="text", location=str(sd3(tmp_path / "sd3", t5_too=False)))
    with pytest.raises(BadInput, match="this model has no cross-attention to read"):
        check_detector("attention-entropy", {}, other)
