"""The simulation of many workers, held against schedules that can be written down."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def simulation() -> Any:
    """Return docs/worker_simulation.py, which is no package."""
    file = Path(__file__).parents[2] / "docs" / "worker_simulation.py"
    spec = importlib.util.spec_from_file_location("worker_simulation", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_worker_does_everything_in_turn(simulation: Any) -> None:
    assert simulation.seconds(simulation.Plan(5, 7.0, 2.0, 1.0, 0.5), 1) == 1 + 7 + 5 * 2 + 5 * 0.5


@pytest.mark.parametrize("workers, shards_in_turn", [(1, 7), (2, 4), (3, 3), (4, 2), (6, 2), (7, 1), (64, 1)])
def test_shards_are_whole(simulation: Any, workers: int, shards_in_turn: int) -> None:
    # Equal shards: the busiest worker has ceil(7 / workers) of them.
    assert simulation.seconds(simulation.Plan(7, 3.0, 2.0), workers) == 3 + 2 * shards_in_turn


def test_without_a_preparation_workers_that_divide_the_shards_are_perfect(simulation: Any) -> None:
    plan = simulation.Plan(64, 0.0, 2.0)
    assert [simulation.speed(plan, workers) / workers for workers in simulation.WORKERS] == [1.0] * 7


def test_preparation_and_scoring_are_serial(simulation: Any) -> None:
    # Amdahl: of 10 + 10 seconds 10 are divided.
    plan = simulation.Plan(10, 8.0, 1.0, 1.0, 0.1)
    assert simulation.seconds(plan, 1) == pytest.approx(20)
    assert simulation.speed(plan, 5) == pytest.approx(20 / 12)
    assert simulation.limit(plan) == pytest.approx(20 / 11) == simulation.speed(plan, 640)


@pytest.mark.parametrize(
    "given, said",
    [
        (["64", "0", "2", "0", "0"], ["given: 64 shards, at most 64 times as fast"]),
        ([], ["digits: 4", "digits, 10,000"]),
    ],
)
def test_every_plan_has_a_table(
    given: list[str], said: list[str], simulation: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["worker_simulation.py", *given])
    simulation.main()
    out = capsys.readouterr().out
    assert all(line in out for line in said) and out.count("efficiency") == len(said)
