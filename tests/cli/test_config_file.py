"""`--config FILE.yaml`: what the file says, unless the command line says it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from typer.main import get_command

from sidebench.benchmark.runs import forecast, plan
from sidebench.benchmark.runs.run_config import RunConfig, read_config
from sidebench.cli import app
from sidebench.cli.config_file import KEYS, Configured

Call = Callable[..., tuple[int, str, str]]

CONFIG = """
pair: tiny.yaml
attack:
  carlini-uncond:
  side: {clusters: 3, width: 8}
seed: [0, 1]
candidates: 8
measure: rms
set: {side: {width: 16}}
fresh-attack: side
out: elsewhere
"""


@pytest.fixture
def asked(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that gives `run` options beside the file's, and what the plan is asked for by them."""
    found: dict[str, Any] = {}

    def plan_run(pair: Any, **given: Any) -> None:
        found.update(given, pair=pair.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan_run", plan_run)
    (here / "run.yaml").write_text(CONFIG, encoding="utf-8")

    def ask(*options: object) -> dict[str, Any]:
        found.clear()
        code, _, err = call("run", "--config", "run.yaml", *options)
        assert code == 130, err
        return dict(found)

    return ask


def test_a_file_gives_what_the_command_line_leaves_out(asked: Callable[..., dict[str, Any]]) -> None:
    said = asked()
    assert (said["pair"], said["attacks"], list(said["seeds"])) == ("tiny", ["carlini-uncond", "side"], [0, 1])
    assert (said["candidates"], said["measures"], said["fresh_attacks"]) == (8, ["rms"], ["side"])
    assert said["settings"] == {"side": {"clusters": 3, "width": 16}} and said["out"] == Path("elsewhere")
    assert (said["device"], said["fresh"], said["tier"]) == ("auto", False, None)


def test_the_command_line_wins(asked: Callable[..., dict[str, Any]]) -> None:
    said = asked("--seed", 5, "--tier", "smoke", "--set", "side.clusters=9", "--out", "here")
    assert (list(said["seeds"]), said["tier"], said["candidates"], said["out"]) == ([5], "smoke", None, Path("here"))
    assert said["settings"] == {"side": {"clusters": 9, "width": 16}}
    assert asked("digits")["pair"] == "digits"
    said = asked("--attack", "side")
    assert said["attacks"] == ["side"] and said["settings"] == {"side": {"clusters": 3, "width": 16}}


def test_the_command_line_turns_off_what_the_file_turns_on(asked: Callable[..., dict[str, Any]], here: Path) -> None:
    (here / "run.yaml").write_text(CONFIG + "fresh: true\ncompile: true\njson: full\n", encoding="utf-8")
    on = asked()
    assert (on["fresh"], on["compiled"]) == (True, True)
    off = asked("--no-fresh", "--no-compile", "--no-json")
    assert (off["fresh"], off["compiled"]) == (False, False)
    assert asked("--no-fresh", "--fresh")["fresh"] and not asked("--fresh", "--no-fresh")["fresh"]


def test_a_switch_that_is_off_rules_nothing_out() -> None:
    config = read_config({"pair": "digits", "plan-only": True, "engine": "ray", "workers": 3})
    assert config.options(off={"plan_only"}) == {"pair": ["digits"], "engine": "ray", "workers": 3}
    assert config.options({"plan_only"}) == {"pair": ["digits"]}


def test_json_of_a_file_is_turned_off(here: Path, call: Call) -> None:
    (here / "run.yaml").write_text("pair: tiny.yaml\nplan-only: true\njson: true\n", encoding="utf-8")
    arguments = ("run", "--config", "run.yaml", "--candidates", 4, "--attack", "carlini-uncond", "--measure", "rms")
    code, out, err = call(*arguments)
    assert code == 0 and out.startswith("["), err
    code, out, _ = call(*arguments, "--no-json")
    assert code == 0 and out.startswith("runs/")


@pytest.mark.parametrize("form", ["true", "full", "summary"])
def test_a_file_of_run_serves_plan_too(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(forecast, "examine", lambda pair, number, *_, **__: {"pair": pair.name, "candidates": number})
    monkeypatch.setattr(forecast, "as_text", lambda found: "in words")
    (here / "run.yaml").write_text(f"{CONFIG}\nfresh: true\nplan-only: true\njson: {form}\n", encoding="utf-8")
    code, out, err = call("plan", "--config", "run.yaml")
    assert code == 0 and json.loads(out) == [{"pair": "tiny", "candidates": 8}], err
    assert call("plan", "--config", "run.yaml", "--no-json")[1] == "in words\n"


def test_settings_below_an_attack_go_with_it(asked: Callable[..., dict[str, Any]], here: Path) -> None:
    (here / "run.yaml").write_text(CONFIG.replace("set:", "# set:"), encoding="utf-8")
    assert asked("--attack", "carlini-uncond")["settings"] == {}
    (here / "run.yaml").write_text(CONFIG, encoding="utf-8")
    assert asked("--attack", "carlini-uncond")["settings"] == {}


def test_an_old_spelling_still_names_the_data_and_a_file_does_not(here: Path, call: Call) -> None:
    code, _, err = call("fetch", "tiny.yaml", "--config", "en")
    old, wrong = complaints(err)
    assert code == 2 and "old spelling" in old and "--dataset-config goes with" in wrong
    for command in ("run", "plan", "fetch"):
        code, _, err = call(command, "--config=none.yaml")
        assert (code, complaints(err)) == (2, ["sidebench: config none.yaml: No such file or directory"])
    assert call("run", "--config", "none.yaml", "--help")[0] == 0
    assert "--dataset-config goes with" in call("fetch", "tiny.yaml", "--config", "x" * 5000)[2]
    (here / "options").write_text(CONFIG, encoding="utf-8")
    for name in ("c.json", "run.YAML", "options"):
        code, _, err = call("run", "--config", name)
        said = f"sidebench: --config {name}: a file of options is YAML, and its name ends in .yaml or .yml"
        assert (code, complaints(err)) == (2, [said])


def test_keys_are_the_options_of_run() -> None:
    root: Any = get_command(app)
    command = root.commands["run"]
    assert isinstance(command, Configured)
    options = {KEYS.get(one.name, one.name) for one in command.params} - {"config", "set_", "help"}
    assert options - {"allow_pickle"} == RunConfig.model_fields.keys() - {"set"}


def test_a_run_says_the_file_that_asks_for_it(here: Path, call: Call) -> None:
    arguments = ("tiny.yaml", "--candidates", 4, "--attack", "carlini-cond", "--seed", 3, "--defence", "eta")
    setting = ("--set", "eta.eta=0.5", "--measure", "rms")
    code, out, err = call("run", *arguments, *setting, "--plan-only")
    assert code == 0, err
    folder = out.strip()
    code, text, _ = call("show", folder, "--config")
    assert code == 0 and "# tiny: no pair that ships" in text and "eta: 0.5" in text
    Path("again.yaml").write_text(text.replace("pair: tiny", "pair: tiny.yaml"), encoding="utf-8")
    code, again, err = call("run", "--config", "again.yaml", "--out", "again", "--plan-only")
    assert code == 0 and again.strip() == str(Path("again", Path(folder).name)), err
    assert call("show", "again/" + Path(folder).name, "--config")[1] == text
    assert call("show", "digits", "--config")[0] == 2
