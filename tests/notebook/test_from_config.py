"""`sidebench.run(config=...)`: a file's options as arguments, under those of the call."""

from pathlib import Path
from typing import Any

import pytest

import sidebench
from sidebench.benchmark.errors import BadSetting
from sidebench.benchmark.runs import plan


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the plan is asked for by the last call of `sidebench.run`, which ends there."""
    found: dict[str, Any] = {}

    def plan_run(pair: Any, **given: Any) -> None:
        found.update(given, pair=pair.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan_run", plan_run)
    return found


CONFIG = {"pair": "digits-clean", "attack": {"side": {"width": 8}, "carlini-uncond": None}, "seed": 3, "tier": "smoke"}
FILE = """
pair: digits
attack: {side: {width: 8}}
candidates: 8
json: true
"""


def test_arguments_come_from_the_file_and_the_call_wins(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sidebench.run(config=CONFIG)
    assert (asked["pair"], asked["attacks"], asked["seeds"]) == ("digits-clean", ["side", "carlini-uncond"], [3])
    assert asked["settings"] == {"side": {"width": 8}} and asked["tier"] == "smoke"
    file = tmp_path / "run.yaml"
    file.write_text(FILE, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        sidebench.run("digits-clean", config=file, seeds=(0,), tier="quick", settings={"side": {"clusters": 9}})
    assert (asked["pair"], asked["seeds"], asked["tier"], asked["candidates"]) == ("digits-clean", [0], "quick", None)
    assert asked["settings"] == {"side": {"width": 8, "clusters": 9}}
    with pytest.raises(KeyboardInterrupt):
        sidebench.run(config=str(file), attacks="carlini-uncond")
    assert asked["attacks"] == ["carlini-uncond"] and asked["settings"] == {}


def test_what_the_function_lacks_is_refused(asked: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadSetting, match="config, engine: only the command"):
        sidebench.run(config={**CONFIG, "engine": "ray"})
    with pytest.raises(BadSetting, match="config, pair: names 2"):
        sidebench.run(config={"pair": ["digits", "glyphs"]})
    with pytest.raises(BadSetting, match="config, candidate: no such key; did you mean candidates"):
        sidebench.run("digits", config={"candidate": 4})
    with pytest.raises(BadSetting, match="allow-pickle: a pickle can run code"):
        sidebench.run(config={"pair": "digits", "allow_pickle": True})
    with pytest.raises(BadSetting, match=r"--config c.json: .* ends in .yaml or .yml"):
        sidebench.run(config="c.json")
    with pytest.raises(sidebench.BadInput, match="--dataset-config goes with"):
        sidebench.run("digits", config="en")
    assert "dataset_config=NAME" in caplog.text and not asked
