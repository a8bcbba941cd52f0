"""The options of a run in a file: checked as they are read, and beside those of the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidebench.benchmark.data import model_files
from sidebench.benchmark.data.pair import load_pair, named_model
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.models.find_model import find_source
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.runs.run_config import EXCLUDES, MODEL, RunConfig, config_of, read_config


def test_names_are_lone_listed_or_have_settings() -> None:
    for attack in ("side", ["side"], {"side": None}, {"side": {}}):
        assert read_config({"attack": attack}).options() == {"attack": ["side"]}
    config = read_config(
        {"attack": {"side": {"width": 8}}, "defence": {"eta": {"eta": 1.0}}, "set": {"side": {"width": 16}}}
    )
    assert config.settings(["side"], ["eta"]) == {"side": {"width": 16}, "eta": {"eta": 1.0}}
    assert config.settings([], []) == {"side": {"width": 16}}
    assert read_config({"seed": 3, "json": True, "fresh-attack": "side", "fresh": False}).options() == {
        "seed": [3],
        "as_json": "summary",
        "fresh_attack": ["side"],
        "fresh": False,
    }


def test_set_of_an_attack_goes_with_it_where_others_are_run() -> None:
    for file in ({}, {"attack": ["side", "carlini-cond"]}, {"attack": {"side": {"width": 8}}}):
        config = read_config({**file, "set": {"side": {"width": 16}, "eta": {"eta": 0.5}, "sidee": {"width": 3}}})
        assert config.settings(["carlini-uncond"], []) == {"eta": {"eta": 0.5}, "sidee": {"width": 3}}
        assert config.settings(["side"], [])["side"] == {"width": 16}
    config = read_config({"attack": "carlini-uncond", "set": {"side": {"width": 16}}})
    assert "side" in config.settings(["carlini-uncond"], []), "the file contradicts itself, which is refused"


def test_secret_seeds_take_the_tracker_of_the_file_with_them() -> None:
    assert RunConfig(track=["trackio"]).options({"secret_seeds"}) == {}
    assert RunConfig(secret_seeds=2).options({"track"}) == {"secret_seeds": 2}, "no seed loses its secrecy unasked"


def test_what_the_command_line_gives_takes_what_it_excludes_with_it() -> None:
    of_data = {"dataset": "x", "split": "a", "holdout": "b", "control": "iid"}
    config = RunConfig(candidates=8, seed=[1], **of_data)  # type: ignore[arg-type]
    assert config.options({"tier", "secret_seeds", "pair"}) == {}
    assert config.options({"split"}).keys() == {"candidates", "seed", "dataset", "holdout", "control"}
    assert {
        other for others in EXCLUDES.values() for other in others
    } | EXCLUDES.keys() <= RunConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"candidate": 4}, "config, candidate: no such key; did you mean candidates"),
        ({"attack": {"side": 3}}, "config, attack.side: "),
        ({"attack": [["side"]]}, "config, attack: a name, a list of names"),
        ({"workers": 0}, "config, workers: Input should be greater than or equal to 1"),
        ({"json": "short"}, "config, json: Input should be 'summary' or 'full'"),
        ({"set": ["side.width=8"]}, "config, set: "),
        ({"config": "other.yaml"}, "config, config: no such key"),
        ({"compiled": True}, "config, compiled: no such key; did you mean compile?$"),
        ({"as_json": True}, "config, as_json: no such key; did you mean json"),
        ({"dataset-config": "a", "dataset_config": "b"}, "config, dataset-config: stands twice"),
        ({"candidates": True}, "config, candidates: a whole number is wanted, not true"),
        ({"seed": [0, False]}, "config, seed.1: a whole number is wanted, not false"),
        ({"workers": True}, "config, workers: a whole number"),
        ({"micro-batch": True}, "config, micro_batch: a whole number"),
        ({"allow-pickle": True}, "config, allow-pickle: a pickle can run code, .*give --allow-pickle"),
        ({1: 2}, "config holds no options"),
    ],
)
def test_what_it_cannot_say_is_named(content: Any, said: str) -> None:
    with pytest.raises(BadSetting, match="^" + said.replace("(", r"\(").replace("?", r"\?")):
        read_config(content)


def test_a_run_says_its_options(finished: Any, tmp_path: Path) -> None:
    text = config_of(finished.folder)
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    said = read_config(tmp_path / "again.yaml")
    manifest = finished.folder.manifest()
    assert said.options()["candidates"] == 40 and said.options()["micro_batch"] == manifest["batching"]["micro_batch"]
    assert said.settings(["side"], [])["side"] == manifest["units"]["side.s0"]["settings"]
    assert list(yaml.safe_load(text))[:2] == ["pair", "attack"]
    assert not [line for line in text.splitlines()[1:] if line.startswith("#")]


@pytest.fixture
def changed(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that gives the file of the finished run, with other values in its manifest."""

    def change(*, sources: Any = None, **identity: Any) -> str:
        manifest = finished.folder.manifest()
        content = {**manifest, "identity": {**manifest["identity"], **identity}, "sources": sources or {}}
        monkeypatch.setattr(RunFolder, "checked_manifest", lambda folder: content)
        return config_of(finished.folder)

    return change


def test_a_file_never_asks_for_another_victim(changed: Callable[..., str]) -> None:
    clean = model_files.check_files(model_files.locate("zoo:digits-clean"), {}, None)
    text = changed(model={"family": "pixel", "sha256": clean})
    assert f"# model: another of family pixel, not the pair's own; write it in place of {MODEL}" in text
    config = read_config(yaml.safe_load(text))
    assert config.model == MODEL
    with pytest.raises(BadInput, match=MODEL):
        find_source(named_model(MODEL), None, False)
    text = changed(model={"family": "pixel", "sha256": {}}, sources={"model": {"repo": "a/b", "commit": "1"}})
    assert "# model: a/b, not the pair's own" in text
    text = changed(pair_identity="0" * 64)
    assert "# digits: not the pair of this name that ships (model, data, variant, control" in text
    assert read_config(yaml.safe_load(text)).pair == ["digits.yaml"]
    unknown = changed(pair="mine")
    assert "# mine: no pair that ships" in unknown and "columns, variant and control" in unknown
    assert MODEL not in unknown


def test_a_name_of_a_manifest_begins_no_line(changed: Callable[..., str]) -> None:
    text = changed(model={"family": "pixel", "sha256": {}}, sources={"model": {"repo": "a\nout: b"}})
    assert "# model: a out: b, not" in text and "out" not in yaml.safe_load(text)


def test_a_model_of_the_hub_is_the_pairs_by_its_repository(changed: Callable[..., str]) -> None:
    pair = load_pair("ddpm-cifar10")
    source = {"repo": pair.model.repo, "revision": pair.model.revision, "commit": "0" * 40}
    identity = {
        "pair": pair.name,
        "pair_identity": pair.identity(),
        "model": {"family": "pixel", "sha256": {**pair.model.sha256}},
    }
    assert "#" not in changed(sources={"model": source}, **identity).split("\n", 1)[1]
    for other in ({"repo": "a/b"}, {"revision": "other"}):
        assert f"model: {MODEL}" in changed(sources={"model": {**source, **other}}, **identity)
    assert f"model: {MODEL}" in changed(**identity)
