"""What runs in an actor, without Ray: a plan by value, and images first, references afterwards."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.files import read_state, read_table
from sidebench.benchmark.results.leases import close_work, open_work
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.runs import ray_actors
from sidebench.benchmark.runs.ray_actors import Parcel, Shared, Worker
from sidebench.benchmark.runs.score import lacking

HELD = "what holds references makes no images"


def sent(parcel: Parcel) -> Parcel:
    """Return a parcel as it comes out of the object store."""
    found: Parcel = pickle.loads(pickle.dumps(parcel))
    return found


@pytest.fixture
def plan(make_plan: Any, finished: Any) -> Any:
    return make_plan(finished.folder.path.parent)


@pytest.fixture
def scoring(plan: Any) -> Parcel:
    return sent(Parcel.to_score(plan, load_references(plan.pair).fingerprint))


def test_the_tables_of_a_shard_are_those_of_the_run(finished: Any, plan: Any, scoring: Parcel) -> None:
    folder, unit = finished.folder, "side.s0"
    worker, spaces = Worker(1), tuple(dict.fromkeys(measure.space for measure in plan.measures))
    worker.open(scoring)
    for shard in folder.image_shards(unit)[:2]:
        images = read_state(folder.images_file(unit, shard)).tensors
        tables, error = worker.score(dict(images), shard.numbers.start, spaces)
        assert error is None and set(tables) == set(spaces)
        for space, parts in tables.items():
            for part, table in parts.items():
                assert table.equals(read_table(folder.scores_file(unit, space, shard, part)))


def test_what_holds_references_makes_no_images(plan: Any, scoring: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, closed = Worker(1), list[str]()
    load, close = ray_actors.load_references, ray_actors.Makers.close
    monkeypatch.setattr(ray_actors, "load_references", lambda pair: closed.append("references") or load(pair))
    monkeypatch.setattr(ray_actors.Makers, "close", lambda self: closed.append("closed") or close(self))
    worker.open(sent(Parcel.to_make(plan)))
    flops, error = worker.flops_per_sample(0)
    assert error is None and flops > 0
    closed.clear()
    # Scores of the same plan, to which the model and the process of the attacks belong.
    worker._parcel = scoring
    worker.score({}, 0, ())
    assert closed == ["closed", "references"]
    for parcel in (scoring, sent(Parcel.to_make(plan))):
        worker.open(parcel)
        assert worker.flops_per_sample(0)[1]["message"] == HELD


def test_a_worker_with_other_images_or_code_is_refused(
    plan: Any, scoring: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parcel, words in (
        (replace(scoring, fingerprint="0" * 64), "a worker has other images than the run"),
        (replace(scoring, measures=((scoring.measures[0][0], [{"package": "x"}]),)), "the code of measure nl2c"),
    ):
        worker = Worker(1)
        worker.open(parcel)
        found, error = worker.score({}, 0, ())
        assert found is None and error["kind"] == "BadInput" and words in error["message"]


def test_a_preparation_leaves_in_a_folder_what_that_keeps(plan: Any, tmp_path: Path) -> None:
    worker = Worker(1)
    worker.open(Parcel.to_make(plan))
    unit = worker._parcel.opened().units[0] if worker._parcel else None
    assert unit is not None
    open_work(tmp_path, {"a": "plan"}, [])
    opened = str(ray_actors.asked(tmp_path)["opened"])  # type: ignore[index]
    for place, own_progress, own_samples in (
        (Shared(str(tmp_path), opened, "state/shared", True), False, False),
        (Shared(str(tmp_path), opened, "samples", False), True, False),
        (Shared(str(tmp_path), "another disk", "samples", True), True, True),
    ):
        progress, samples, shared = worker._places(unit, place, 8)
        assert (tmp_path not in progress.folder.parents) is own_progress
        assert (tmp_path not in samples.folder.parents) is own_samples is not shared
        assert samples.folder.parts[-len(Path(place.samples).parts) :] == Path(place.samples).parts
    close_work(tmp_path)


def test_samples_that_units_share_are_scored_once(plan: Any, copied: Path) -> None:
    folder = RunFolder(copied)
    units = ["carlini-cond.s0", "side.s0"]
    keys = {read_state(folder.state_file(unit)).info["cost"]["samples"][0] for unit in units}
    assert lacking(plan, folder, units) == [] and len(keys) == 1
    for file in (copied / "scores").iterdir():
        file.unlink()
    jobs = lacking(plan, folder, units)
    names = [job.name for job in jobs]
    assert names.count(*keys) == 1 and {"carlini-cond.s0", "side.s0"} < {*names}
    assert all(job.spaces == ("pixels",) and job.images.is_file() for job in jobs)


def test_a_state_is_taken_out_of_the_store_once(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    taken = list[str]()
    monkeypatch.setattr(ray, "get", lambda reference: taken.append(reference) or AttackState({}, {}))
    worker = Worker(1)
    assert worker._state("a") is worker._state("a") is not worker._state("b") and taken == ["a", "b"]
