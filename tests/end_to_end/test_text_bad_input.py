"""What cannot work on text models: each attack says it in one line, and makes no image of the run before."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from complaints import complaints
from hub_repositories import captioned_pair, text_pipeline

from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.pair import Pair

pytest.importorskip("transformers")
pytest.importorskip("peft")
Call = Callable[..., tuple[int, str, str]]
OF_CAPTIONS = ("prompt-replay", "carlini-cliques", "webster-one-step", "webster-edges", "dori")
OTHERS = ("canary-replay", "side-lora", "side-queries")
FEW = {
    "side-lora": (
        "--set",
        "side-lora.synthetic_images=8",
        "--set",
        "side-lora.clusters=3",
        "--set",
        "side-lora.rank=4",
    ),
    "side-queries": ("--set", "side-queries.synthetic_images=8", "--set", "side-queries.clusters=3"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    return captioned_pair(folder, 9, 5, text_pipeline(folder / "sd"))


@pytest.fixture
def refused(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs an attack on a pair, which must be refused, and returns the one line."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")

    def run(pair: Pair | str, attack: str, *options: str) -> str:
        named = pair if isinstance(pair, str) else tmp_path / "pair.yaml"
        if isinstance(pair, Pair):
            (tmp_path / "pair.yaml").write_text(pair.model_dump_json(), encoding="utf-8")
        asked = ("--candidates", 32, "--device", "cpu", "--out", tmp_path / "out", *options)
        code, _, err = call("run", named, "--attack", attack, *asked)
        (line,) = complaints(err)
        assert code == 2, err
        assert not list((tmp_path / "out").rglob("images/*/*")), "images were made"
        return line

    return run


@pytest.mark.parametrize("attack", [*OF_CAPTIONS, "canary-replay"])
def test_without_captions_or_canaries(attack: str, pair: Pair, refused: Callable[..., str]) -> None:
    bare = pair.model_copy(update={"data": pair.data.model_copy(update={"captions": None})})
    what = "canaries" if attack == "canary-replay" else "captions"
    assert f"{attack} replays {what}, and pair own has none: give it" in refused(bare, attack)


@pytest.mark.parametrize("attack", OF_CAPTIONS)
def test_captions_that_the_text_encoder_would_cut(
    attack: str, pair: Pair, refused: Callable[..., str], tmp_path: Path
) -> None:
    long = captioned_pair(tmp_path / "long", 9, 5, Path(pair.model.location))
    file = tmp_path / "long" / "noise" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    texts = [f"{text} {'and so on ' * 40}" for text in table["text"].to_pylist()]
    place = table.column_names.index("text")
    pq.write_table(table.set_column(place, table.schema.field(place), [texts]), file)
    said = refused(long, attack)
    assert "pair own: 9 of 14 captions are longer than the text encoder takes, 'picture number" in said
    assert "shorten them, or leave these images out" in said


@pytest.mark.parametrize("attack", [*OF_CAPTIONS, "canary-replay", "side-queries"])
def test_a_model_that_takes_no_prompts(attack: str, refused: Callable[..., str]) -> None:
    assert attack in refused("digits", attack)


@pytest.mark.parametrize("option", ["rank=512", "preset=paper"])
def test_a_rank_above_the_size_of_a_layer(option: str, pair: Pair, refused: Callable[..., str]) -> None:
    said = refused(pair, "side-lora", *FEW["side-lora"], "--set", f"side-lora.{option}")
    assert "rank" in said and "512" in said


@pytest.mark.parametrize("attack", ["side-lora", "side-queries"])
def test_fewer_than_two_clusters_that_are_cohesive(attack: str, pair: Pair, refused: Callable[..., str]) -> None:
    said = refused(pair, attack, *FEW[attack], "--set", f"{attack}.cohesion=0.99999")
    assert "of 3 clusters reach cohesion = 0.99999, two are needed: the best are" in said


@pytest.mark.parametrize(
    ("attack", "option"),
    [
        ("side-queries", "vocabulary="),
        ("side-queries", "vocabulary=none"),
        ("side-queries", "population=0"),
        ("side-queries", "elite=60"),
        ("side-lora", "condition=class"),
        ("side-lora", "rank=0"),
        ("carlini-cliques", "images=0"),
        ("webster-one-step", "kept=0"),
        ("dori", "vectors=0"),
        ("canary-replay", "seeds=0"),
    ],
)
def test_values_that_cannot_be_used(attack: str, option: str, pair: Pair, refused: Callable[..., str]) -> None:
    assert attack in refused(pair, attack, "--set", f"{attack}.{option}")


def test_without_the_packages_of_the_extra(
    pair: Pair, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, hidden = importlib.util.find_spec, {"peft"}

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name.partition(".")[0] in hidden else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert "side-lora trains adapters with peft: pip install" in refused(pair, "side-lora", *FEW["side-lora"])
    hidden.add("transformers")
    assert "needs transformers: pip install" in refused("glyphs", "prompt-replay")
