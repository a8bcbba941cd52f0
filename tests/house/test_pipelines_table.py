"""The table of docs/pairs.md says of every pipeline class of diffusers whether it runs, and if not, why."""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import diffusers
import pytest

from sidebench.benchmark.data.pipeline_folder import FAMILIES, read_layout
from sidebench.benchmark.data.pipeline_reasons import OTHERWISE, REASONS, pipeline_classes, why_not
from sidebench.benchmark.errors import BadInput

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipelines", DOCS / "pipelines.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(text: str) -> dict[str, str]:
    """Return the answer by class of a table."""
    rows = re.findall(r"^\| (works|refused): (.+?) \| (.+) \|$", text, re.M)
    pairs = [(name, f"{answer}: {why}") for answer, why, names in rows for name in names.split(", ")]
    assert len(dict(pairs)) == len(pairs), "a class stands twice"
    return dict(pairs)


def test_the_table_is_that_of_the_installed_diffusers(script: ModuleType) -> None:
    text = (DOCS / "pairs.md").read_text(encoding="utf-8")
    stored, current = answers(text), answers(script.table())
    assert set(pipeline_classes(dir(diffusers))) <= current.keys() and len(current) > 300
    assert current.items() <= stored.items(), "old: run python docs/pipelines.py"
    if f"diffusers {version('diffusers')}:" in text:
        assert script.page(text) == text, "old: run python docs/pipelines.py"


def test_a_class_that_is_not_listed_makes_the_table_old(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "pairs.md").read_text(encoding="utf-8")
    monkeypatch.setattr(script, "dir", lambda _: [*dir(diffusers), "TomorrowVideoPipeline"], raising=False)
    assert "TomorrowVideoPipeline" in script.page(text) and "TomorrowVideoPipeline" not in text


def test_a_refusal_says_what_the_table_says() -> None:
    for name, answer in answers((DOCS / "pairs.md").read_text(encoding="utf-8")).items():
        if name in FAMILIES:
            assert answer == f"works: {FAMILIES[name]}"
            continue
        assert answer == f"refused: {why_not(name)}"
        with pytest.raises(BadInput, match=re.escape(f"a {name} is ")) as refusal:
            read_layout({"_class_name": name}, "someone/else")
        assert why_not(name) in str(refusal.value)


def test_every_reason_is_somebodys() -> None:
    given = {why_not(name) for name in pipeline_classes(dir(diffusers))}
    assert given == {OTHERWISE, *(reason for _, reason in REASONS)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WanImageToVideoPipeline", "makes videos"),
        ("StableAudioPipeline", "makes sound"),
        ("StableDiffusionXLInpaintPipeline", "wants an input image"),
        ("FluxControlNetPipeline", "wants a picture that says what goes where"),
        ("StableDiffusionUpscalePipeline", "enlarges or refines"),
        ("IFPipeline", "cascade of pixel stages"),
        ("KandinskyV22Pipeline", "a prior and a decoder"),
        ("ShapEPipeline", "makes shapes"),
        ("TomorrowPipeline", "not built yet"),
    ],
)
def test_reasons_go_by_kind(name: str, words: str) -> None:
    assert words in why_not(name)
