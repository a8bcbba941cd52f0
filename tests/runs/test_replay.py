"""One candidate made again from a run's stored state."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, BadSetting, UnknownName
from sidebench.benchmark.files import read_state, write_state
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run
from sidebench.benchmark.runs.replay import as_text, replay
from sidebench.cli import main


@pytest.fixture(scope="module")
def pair_file(make_pair_file: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_pair_file(tmp_path_factory.mktemp("pair")))


@pytest.fixture(scope="module")
def made(pair_file: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a finished run of `side` on a pair file; nobody may change its folder."""
    out = tmp_path_factory.mktemp("runs")
    plan = plan_run(load_pair(pair_file), attacks=["side"], candidates=30, device="cpu", out=out)
    return runner.execute(plan).folder


def test_the_same_candidate_comes_out(made: RunFolder, pair_file: str, tmp_path: Path) -> None:
    found = replay(made, "side", 17, pair=pair_file, device="cpu", out=tmp_path / "x.png")
    assert found.compared and found.off == 0 and "the same image" in as_text(found)
    stored = made.candidate_image("side.s0", 17)[0].numpy()
    assert np.array_equal(np.asarray(Image.open(found.picture)), stored)


def test_another_state_makes_another_image(made: RunFolder, pair_file: str, tmp_path: Path) -> None:
    shutil.copytree(made.path, tmp_path / made.path.name)
    folder = read_run(tmp_path / made.path.name)
    stored = read_state(folder.state_file("side.s0"))
    turned = {name: -tensor if tensor.is_floating_point() else tensor for name, tensor in stored.tensors.items()}
    write_state(folder.state_file("side.s0"), type(stored)(turned, stored.info))
    found = replay(folder, "side", 17, pair=pair_file, device="cpu")
    assert found.off > 0 and f"by up to {found.off} of 255" in as_text(found)
    assert found.picture == folder.path / "replay" / "side.s0-candidate17.png" and found.picture.is_file()

    shutil.rmtree(folder.path / "images")
    assert not replay(folder, "side", 17, pair=pair_file, device="cpu").compared


def test_what_the_run_does_not_have_is_refused(made: RunFolder, pair_file: str) -> None:
    with pytest.raises(BadSetting, match="candidates 0 to 29, not 30"):
        replay(made, "side", 30, pair=pair_file, device="cpu")
    for attack, seed in (("carlini-cond", 0), ("side", 4)):
        with pytest.raises(UnknownName, match="attack and seed of this run"):
            replay(made, attack, 1, seed=seed, pair=pair_file, device="cpu")
    with pytest.raises(BadInput, match="cannot be made here as it was: "):
        replay(made, "side", 1, pair="digits", device="cpu")


def test_the_command_prints_what_came_out(
    made: RunFolder, pair_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["replay", str(made.path), "3", "--attack", "side", "--pair", pair_file, "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main([*line, "--out", str(tmp_path / "c.png"), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["off"] == 0


MINE = """
from sidebench import Defence

class Same(Defence):
    name, title, paper, level = "same", "changes nothing", "none", "loop"
    def wrap(self, model, training):
        return model
"""


def test_a_local_defence_is_named_again_and_must_be_the_same(pair_file: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    options: dict[str, Any] = {"defences": [f"{file}:Same"], "candidates": 4, "measures": ["rms"], "device": "cpu"}
    plan = plan_run(load_pair(pair_file), attacks=["carlini-uncond"], out=tmp_path, **options)
    folder = runner.execute(plan).folder
    again = {"pair": pair_file, "device": "cpu", "out": tmp_path / "x.png"}
    assert replay(folder, "carlini-uncond", 1, defences=[f"{file}:Same"], **again).off == 0
    with pytest.raises(UnknownName, match="unknown defence 'same'"):
        replay(folder, "carlini-uncond", 1, **again)
    file.write_text(MINE + "# edited\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot be made here as it was: code\.same\.sha256 was"):
        replay(folder, "carlini-uncond", 1, defences=[f"{file}:Same"], **again)
