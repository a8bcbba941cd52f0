"""One command for a GPU, tried in little on the processor."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.files import read_json
from sidebench.benchmark.runs import accelerator
from sidebench.benchmark.runs.accelerator import Bench, Part, carried_out

FIGURES = {
    "equality": {"attack", "candidates", "hits_on_cpu", "decided_otherwise", "largest_level"},
    "products": {"dtype", "tflops"},
    "throughput": {"dtype", "micro_batch", "images_per_second", "time_over_diffusers", "share_of_product"},
    "side_8": {"first_preparation_seconds", "training_step_seconds"},
    "side_16": {"first_preparation_seconds", "training_step_seconds"},
    "search": {"queries", "references", "values", "seconds", "time_over_product", "same_as_cpu"},
    "compiled": {"dtype", "backend", "first_call_seconds", "time_over_plain"},
}


def test_a_small_run_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = accelerator.SMALL._replace(sides=(8, 16), synthetic=8, candidates=4, micro_batches=(1, 2))
    monkeypatch.setattr(accelerator, "SMALL", little)
    # However busy the machine is.
    patient = [part._replace(seconds=3600) for part in accelerator.parts(little)]
    monkeypatch.setattr(accelerator, "parts", lambda _: patient)
    monkeypatch.setattr(accelerator, "SECONDS", 3600)
    found = accelerator.measure("cpu", small=True, out=tmp_path / "found.json")
    assert read_json(tmp_path / "found.json") == json.loads(json.dumps(found))
    assert found["schema"] == accelerator.SCHEMA and found["environment"]["versions"]["torch"]
    assert {name: part["answer"] for name, part in found["parts"].items()} == dict.fromkeys(FIGURES, "ok")
    text = accelerator.as_text(found)
    for name, keys in FIGURES.items():
        assert keys <= set(found["parts"][name]["figures"][0]) and name in text
    equality, search = (found["parts"][name]["figures"] for name in ("equality", "search"))
    # The same device twice.
    assert [each["decided_otherwise"] for each in equality] == [0, 0] and all(each["same_as_cpu"] for each in search)
    assert "guided_over_plain" in found["parts"]["side_8"]["figures"][1]


def test_without_an_accelerator_the_way_to_try_it_is_said() -> None:
    with pytest.raises(BadInput, match=r"no accelerator here.*--small"):
        accelerator.measure("cpu")


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"), accelerator.SMALL, 1, {})


def figures(*actions: Any) -> Any:
    def measure(_: Bench) -> Iterator[dict[str, Any]]:
        for number, action in enumerate(actions):
            action()
            yield {"figure": number}

    return measure


def test_a_part_that_fails_keeps_what_it_measured(bench: Bench) -> None:
    def fail() -> None:
        raise RuntimeError("no  driver\nat all")

    found = carried_out(Part("a", 60, figures(dict, fail, dict)), bench, 60)
    assert (found["answer"], found["figures"]) == ("failed: RuntimeError: no driver at all", [{"figure": 0}])
    assert found["peak_device_bytes"] is None


@pytest.mark.parametrize("own, left", [(2, 60), (60, 2)])
def test_a_part_that_runs_out_of_time_is_stopped(own: float, left: float, bench: Bench) -> None:
    found = carried_out(Part("a", own, figures(dict, lambda: time.sleep(30), dict)), bench, left)
    assert (found["answer"], found["figures"]) == ("out of time", [{"figure": 0}])


def test_no_part_is_begun_when_all_time_is_over(bench: Bench) -> None:
    assert carried_out(Part("a", 60, figures(dict)), bench, -1.0)["figures"] == []


def test_the_parts_fit_into_the_time_of_all() -> None:
    assert sum(part.seconds for part in accelerator.parts(accelerator.FULL)) <= accelerator.SECONDS == 480
