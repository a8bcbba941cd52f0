"""What a state says of its preparation is shown if it is what it should be, and left out if not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sidebench.benchmark.reports.attack_diagnostics import read, table_rows
from sidebench.benchmark.results.run_folder import RunFolder

ROW = {"t": 0, "accuracy": 0.625, "confidence": 0.2, "calibration_error": 0.4}


def stored(folder: Path, state: Any) -> dict[str, Any]:
    run = RunFolder(folder)
    file = run.state_file("side.s0")
    file.parent.mkdir(parents=True)
    save_file({"x": np.zeros(1)}, file, {"info": json.dumps({"state": state})})
    return read(run, "side.s0")


def test_a_surrogate_is_read_and_shown(tmp_path: Path) -> None:
    state = {
        "classes": 2,
        "sizes": [3, 5],
        "cohesions": [0.2, 0.9, 0.8],
        "training": {"loss": 1.25, "accuracy": 0.5},
        "by_timestep": [ROW],
    }
    found = stored(tmp_path, {**state, "note": "own"})
    assert found == state
    (row,) = table_rows({"side, seed 0": found, "carlini-uncond, seed 0": {}})
    assert list(row.values()) == ["side, seed 0", "2 of 3", "0.80", "5", "1.25", "50.00", "62.5", "62.5", "-", "20.0"]


def test_the_closed_form_stands_beside_the_classifier(tmp_path: Path) -> None:
    rows = [{**ROW, "closed_form": 1.0}, {**ROW, "t": 999, "accuracy": 0.125, "closed_form": 0.25}]
    found = stored(tmp_path, {"by_timestep": rows})
    assert found["by_timestep"] == rows
    (row,) = table_rows({"side, seed 0": found})
    assert (row["right over all t, %"], row["closed form over all t, %"]) == ("37.5", "62.5")
    assert (
        "closed_form"
        not in stored(tmp_path / "odd", {"by_timestep": [rows[0], {**ROW, "closed_form": "1"}]})["by_timestep"][0]
    )


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"sizes": "many", "cohesions": [float("nan")], "classes": -1, "by_timestep": []},
        {"sizes": [True], "cohesions": [], "by_timestep": [{"t": 0}]},
        {"sizes": {"a": 1}, "by_timestep": [{**ROW, "accuracy": "<b>"}]},
    ],
)
def test_what_is_no_such_thing_is_left_out(tmp_path: Path, state: Any) -> None:
    assert stored(tmp_path, state) == {}


def test_states_of_the_run_are_read(finished: Any) -> None:
    for unit in ("side.s0", "carlini-cond.s0"):
        assert {"cohesions", "sizes", "training", "by_timestep", "classes"} == set(read(finished.folder, unit))
    assert read(finished.folder, "carlini-uncond.s0") == {}


def test_gaps_are_dashes() -> None:
    (row,) = table_rows({"mine": {"classes": 3}})
    assert set(list(row.values())[1:]) == {"-"}


def test_queries_have_a_column_where_prompts_are_sent() -> None:
    rows = table_rows({"side-queries": {"queries": 1024}, "side": {"classes": 3}})
    assert [row["queries"] for row in rows] == ["1,024", "-"]
    assert "queries" not in table_rows({"side": {"classes": 3}})[0]
