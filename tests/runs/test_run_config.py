"""The options of a run in a file: checked as they are read, and beside those of the command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidebench.benchmark.errors import BadSetting
from sidebench.benchmark.runs.run_config import EXCLUDES, RunConfig, config_of, read_config


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
        ({1: 2}, "config holds no options"),
    ],
)
def test_what_it_cannot_say_is_named(content: Any, said: str) -> None:
    with pytest.raises(BadSetting, match="^" + said.replace("(", r"\(")):
        read_config(content)


def test_a_run_says_its_options(finished: Any, tmp_path: Path) -> None:
    text = config_of(finished.folder)
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    said = read_config(tmp_path / "again.yaml")
    manifest = finished.folder.manifest()
    assert said.options()["candidates"] == 40 and said.options()["micro_batch"] == manifest["batching"]["micro_batch"]
    assert said.settings(["side"], [])["side"] == manifest["units"]["side.s0"]["settings"]
    assert list(yaml.safe_load(text))[:2] == ["pair", "attack"]
