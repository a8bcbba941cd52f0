"""Guidance by a classifier that knows nothing is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sidebench.benchmark.results.guidance import Checked, guided_by_chance, read_check
from sidebench.benchmark.results.run_folder import RunFolder


@pytest.mark.parametrize(
    ("right", "images", "chance", "flagged"),
    [
        ([0.10, 0.09], 100, 0.10, True),
        ([0.99, 0.10], 100, 0.10, False),  # at one timestep it knows something
        ([0.17, 0.10], 100, 0.10, True),  # P(X >= 17) = 0.0206, and there are 11 timesteps
        ([0.25, 0.10], 100, 0.10, False),
        ([0.60, 0.60], 100, 0.60, True),  # one label is more frequent than the others
        ([1.0, 1.0], 4, 0.5, True),  # four images show nothing
        ([1.0, 1.0], 100, 1.0, True),
    ],
)
def test_a_classifier_at_chance_is_named(right: list[float], images: int, chance: float, flagged: bool) -> None:
    said = guided_by_chance(Checked(right + [0.0] * 9, images, chance))
    assert (said is not None) == flagged
    assert said is None or f"no better than chance on {images} synthetic images" in said


def stored(folder: Path, state: Any) -> Checked | None:
    run = RunFolder(folder)
    file = run.state_file("side.s0")
    file.parent.mkdir(parents=True)
    save_file({"x": np.zeros(1)}, file, {"info": json.dumps({"state": state})})
    return read_check(run, "side.s0")


ROWS = [{"t": 0, "accuracy": 0.5}, {"t": 9, "accuracy": 1}]
ON = {"images": 9, "chance": 0.25}


def test_what_a_state_says_is_read(tmp_path: Path) -> None:
    assert stored(tmp_path, {"by_timestep": ROWS, "checked_on": ON}) == ([0.5, 1.0], 9, 0.25)


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"by_timestep": ROWS},
        {"checked_on": ON},
        {"by_timestep": [], "checked_on": ON},
        {"by_timestep": [{"t": 0}], "checked_on": ON},
        {"by_timestep": [{"accuracy": float("nan")}], "checked_on": ON},
        {"by_timestep": [{"accuracy": True}], "checked_on": ON},
        {"by_timestep": ["<b>"], "checked_on": ON},
        *({"by_timestep": ROWS, "checked_on": {**ON, "images": images}} for images in (0, -1, 2.0, True, "many", None)),
        *({"by_timestep": ROWS, "checked_on": {**ON, "chance": chance}} for chance in (-0.1, 1.5, "half", None)),
    ],
    ids=str,
)
def test_of_what_is_no_such_thing_nothing_is_said(tmp_path: Path, state: Any) -> None:
    assert stored(tmp_path, state) is None


def test_states_of_the_run_say_it(finished: Any) -> None:
    for unit in ("side.s0", "carlini-cond.s0"):
        checked = read_check(finished.folder, unit)
        assert checked is not None and checked.images == 12 and len(checked.accuracies) == 11
    assert read_check(finished.folder, "carlini-uncond.s0") is None
