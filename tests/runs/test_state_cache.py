"""A state is taken again when nothing that matters changed, and never when something did."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.files import read_json, read_state, write_state
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.runs import runner, state_cache
from sidebench.benchmark.runs.plan import RunPlan
from sidebench.methods.side import Side

Made = Callable[..., Any]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep states in a folder of this test."""
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(state_cache, "_root", lambda: tmp_path / "states")
    return tmp_path / "states"


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the seeds that SIDE was prepared for, as it happens."""
    seen: list[int] = []
    before = Side.prepare

    def noted(self: Side, model: Any, budget: Any) -> Any:
        seen.append(budget.seed)
        return before(self, model, budget)

    monkeypatch.setattr(Side, "prepare", noted)
    return seen


def plan_of(make_plan: Made, out: Path, **options: Any) -> Any:
    """Plan few candidates under one measure: what is kept is a matter of the preparation."""
    return make_plan(out, **{"attacks": ("side",), "candidates": 8, "measures": ("rms",), **options})


def run(make_plan: Made, out: Path, **options: Any) -> RunFolder:
    result = runner.execute(plan_of(make_plan, out, **options))
    assert not result.failures
    return result.folder


def make(plan: RunPlan) -> RunFolder:
    """Prepare and generate as a run does, and score nothing."""
    folder = runner.open_run(plan)
    assert runner.make_here(plan, folder, silent) == {}
    return folder


@pytest.fixture(scope="module")
def states_of_a_run(make_plan: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the states that one run kept, in a folder that nobody may change."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDEBENCH_STATES", "on")
        patch.setattr(state_cache, "_root", lambda: folder / "states")
        make(plan_of(make_plan, folder / "runs"))
    return folder / "states"


@pytest.fixture
def begun(states_of_a_run: Path, cache: Path) -> Path:
    """Return this test's folder of states, as a first run left it."""
    return shutil.copytree(states_of_a_run, cache)


def test_another_run_takes_the_state_and_ends_in_the_same_bytes(
    make_plan: Made, cache: Path, prepared: list[int], tmp_path: Path
) -> None:
    first = run(make_plan, tmp_path / "a")
    second = run(make_plan, tmp_path / "b")
    assert prepared == [0] and len(list(cache.iterdir())) == 1
    kept = [read_json(folder.path / "costs.json")["units"]["side.s0"]["state_kept"] for folder in (first, second)]
    assert kept == [False, True]
    for name in ("metrics.json", "state/side.s0/state.safetensors"):
        assert (second.path / name).read_bytes() == (first.path / name).read_bytes()


def test_settings_of_the_generation_do_not_matter(
    make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path
) -> None:
    make(plan_of(make_plan, tmp_path / "b", small={"guidance_scale": 3.0, "interval": [0.2, 1.0]}))
    assert prepared == []


def other_steps(plan: Any) -> Any:
    sampler = plan.protocol.sampler.model_copy(update={"steps": 4})
    return dataclasses.replace(plan, protocol=plan.protocol.model_copy(update={"sampler": sampler}))


@pytest.mark.parametrize(
    "change",
    [
        {"small": {"clusters": 4}},
        {"seeds": (1,)},
        {"model": "zoo:digits-clean"},
        {"defences": ("eta",)},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_matters_makes_a_new_one(
    change: dict[str, Any], make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path
) -> None:
    make(plan_of(make_plan, tmp_path / "b", **change))
    assert len(prepared) == 1 and len(list(begun.iterdir())) == 2


def test_the_number_of_candidates_matters_where_prepare_reads_it(
    make_plan: Made, begun: Path, tmp_path: Path, prepared: list[int]
) -> None:
    make(plan_of(make_plan, tmp_path / "b", candidates=9))
    assert prepared == [] and len(list(begun.iterdir())) == 1
    (entry,) = begun.iterdir()
    state = read_state(entry / "state.safetensors")
    counted = AttackState(state.tensors, {**state.info, "candidates": 8})
    write_state(entry / "state.safetensors", counted)
    make(plan_of(make_plan, tmp_path / "c", candidates=8))
    assert prepared == []
    make(plan_of(make_plan, tmp_path / "d", candidates=9))
    assert prepared == [0]


@pytest.mark.parametrize("what", ["sampler", "micro-batch", "versions", "threads", "code"])
def test_what_else_matters(
    what: str, make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = plan_of(make_plan, tmp_path / "b")
    if what == "sampler":
        again = other_steps(again)
    elif what == "micro-batch":
        again = dataclasses.replace(again, batching=Batching(micro_batch=4, shard=16))
    elif what == "versions":
        monkeypatch.setattr(state_cache, "versions", lambda: {"torch": "0.0"})
    elif what == "threads":
        monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    else:
        monkeypatch.setattr(state_cache, "harness_code", lambda: "other")
    make(again)
    assert len(prepared) == 1


def test_a_changed_line_of_a_local_attack_matters(make_plan: Made, cache: Path, tmp_path: Path) -> None:
    source = "from sidebench.methods.side import Side\nclass Mine(Side):\n    name = 'mine'\n"
    file = tmp_path / "mine.py"
    places = set()
    for text in (source, source + "# another line\n", source):
        file.write_text(text, encoding="utf-8")
        plan = plan_of(make_plan, tmp_path, attacks=(f"{file}:Mine",))
        kept = state_cache.kept_state(plan, plan.units[0])
        assert kept is not None
        places.add(kept.folder)
    assert len(places) == 2


@pytest.mark.parametrize("name", ["state.safetensors", "samples-*.safetensors", "content.json"])
def test_a_changed_entry_is_dropped_in_a_line(
    name: str, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = begun.iterdir()
    kept = state_cache.KeptState(read_json(entry / "content.json"))
    assert kept.folder == entry and kept.copy_to(RunFolder(tmp_path / "whole"), "side.s0", 8)
    assert (entry / "state.safetensors").read_bytes() == RunFolder(tmp_path / "whole").state_file(
        "side.s0"
    ).read_bytes()
    file = min(entry.glob(name))
    content = file.read_bytes()
    file.write_bytes(content[:-60] + bytes([content[-60] ^ 1]) + content[-59:])
    assert not kept.copy_to(RunFolder(tmp_path / "run"), "side.s0", 8)
    assert not entry.exists() and not (tmp_path / "run").exists()
    assert caplog.messages == ["the kept state of side.s0 was changed or cut; it is rebuilt"]


def test_a_damaged_entry_is_made_again(make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path) -> None:
    (entry,) = begun.iterdir()
    content = (entry / "content.json").read_bytes()
    (entry / "state.safetensors").write_bytes(b"cut off")
    made = make(plan_of(make_plan, tmp_path / "b")).state_file("side.s0")
    assert len(prepared) == 1
    assert (entry / "state.safetensors").read_bytes() == made.read_bytes()
    assert (entry / "content.json").read_bytes() == content


def test_an_entry_that_claims_another_content_is_not_taken(
    make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path
) -> None:
    (entry,) = begun.iterdir()
    text = (entry / "content.json").read_text(encoding="utf-8")
    (entry / "content.json").write_text(text.replace('"seed": 0', '"seed": 5'), encoding="utf-8")
    make(plan_of(make_plan, tmp_path / "b"))
    assert len(prepared) == 1


def test_fresh_and_off_prepare_again(
    make_plan: Made, begun: Path, prepared: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plan_of(make_plan, tmp_path / "b", fresh=True))
    assert len(prepared) == 1
    monkeypatch.setenv("SIDEBENCH_STATES", "off")
    make(plan_of(make_plan, tmp_path / "c"))
    assert len(prepared) == 2


def test_old_entries_make_room(make_plan: Made, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = begun.iterdir()
    size = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(state_cache, "LIMIT", int(1.5 * size))
    make(plan_of(make_plan, tmp_path / "b", seeds=(1,)))
    assert len(list(begun.iterdir())) == 1 and not first.exists()


def test_attacks_that_prepare_nothing_keep_nothing(make_plan: Made, cache: Path, tmp_path: Path) -> None:
    make(make_plan(tmp_path / "a", attacks=("carlini-uncond",)))
    assert not cache.exists()


def test_what_killed_writers_left_goes_after_a_day(begun: Path) -> None:
    alive, dead = begun / ".new-alive", begun / ".new-dead"
    for folder in (alive, dead):
        folder.mkdir()
    os.utime(dead, times=(1e9, 1e9))
    state_cache._prune()
    assert alive.exists() and not dead.exists() and len(list(begun.iterdir())) == 2


def test_a_cache_that_cannot_be_written_stops_no_run(make_plan: Made, cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    run(make_plan, tmp_path / "a")
