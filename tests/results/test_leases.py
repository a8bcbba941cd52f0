"""Leases of jobs: one holder at a time, by a clock that nobody else has, and nothing added by who has lost one."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import CannotWrite, LeaseLost, PlanChanged
from sidebench.benchmark.results import leases
from sidebench.benchmark.results.checkpoints import SharedCheckpoints
from sidebench.benchmark.results.leases import Desk, Lease, close_work, open_work

PLAN = {"candidates": 4}


class Clock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sign_in(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Desk]]:
    """Return a function that signs a worker in; it beats when the test says so."""
    open_work(tmp_path, PLAN, [])
    yield lambda silent_for=60.0: Desk(tmp_path, "worker", silent_for, clock=clock, sleep=clock.sleep)


def held(desk: Desk, job: str) -> Lease:
    lease = desk.claim(job)
    assert lease is not None
    return lease


def write(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text, encoding="utf-8")


def test_a_job_has_one_holder_and_is_free_afterwards(sign_in: Callable[..., Desk], tmp_path: Path) -> None:
    one, two = sign_in(), sign_in()
    with held(one, "a") as lease:
        assert two.claim("a") is None and one.claim("a") is None
        assert "process" in two.holder("a")
        lease.put(tmp_path / "images" / "a", write("made"))
    assert (tmp_path / "images" / "a").read_text(encoding="utf-8") == "made"
    assert two.holder("a") == ""
    with held(two, "a"), held(one, "b"):
        pass
    assert list((tmp_path / "work" / "jobs").iterdir()) == list((tmp_path / "work" / "new").iterdir()) == []


def test_of_many_that_ask_at_once_one_gets_it(sign_in: Callable[..., Desk]) -> None:
    desks, found = [sign_in() for _ in range(8)], []
    start = threading.Barrier(len(desks))

    def ask(desk: Desk) -> None:
        for job in range(20):
            start.wait()
            found.append((job, desk.claim(f"job{job}")))

    threads = [threading.Thread(target=ask, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job for job, lease in found if lease is not None) == list(range(20))


def test_whoever_beats_lives_however_long_it_takes(sign_in: Callable[..., Desk], clock: Clock) -> None:
    one, two = sign_in(), sign_in()
    held(one, "a")
    for _ in range(10):
        assert two.claim("a") is None
        clock.now += 59
        one.beat()


def test_a_beat_that_stands_still_for_as_long_as_its_worker_said_is_death(
    sign_in: Callable[..., Desk], clock: Clock
) -> None:
    one, two = sign_in(silent_for=60), sign_in(silent_for=5)
    held(one, "a")
    # However long ago the last beat was: the watch begins with the first look.
    clock.now += 1e6
    assert two.claim("a") is None
    clock.now += 59.9
    assert two.claim("a") is None
    clock.now += 0.2
    assert two.claim("a") is not None


def test_nobody_compares_the_clocks_of_two_machines(tmp_path: Path) -> None:
    open_work(tmp_path, PLAN, [])
    early, late = Clock(), Clock()
    early.now, late.now = -1e9, 1e9
    one, two = Desk(tmp_path, "worker", clock=early), Desk(tmp_path, "worker", clock=late)
    held(one, "a"), held(two, "b")
    assert two.claim("a") is None and one.claim("b") is None
    late.now += 61
    assert two.claim("a") is not None and one.claim("b") is None


def test_a_worker_that_wakes_up_adds_nothing(sign_in: Callable[..., Desk], clock: Clock, tmp_path: Path) -> None:
    one, two, file = sign_in(), sign_in(), tmp_path / "images" / "a"
    with pytest.raises(LeaseLost), held(one, "a") as lost:
        two.claim("a")
        clock.now += 61
        with held(two, "a") as taken:
            assert not lost.held() and taken.held()
            with pytest.raises(LeaseLost):
                lost.put(file, write("too late"))
            assert not file.exists()
            taken.put(file, write("in time"))
            one.beat()
            assert one.claim("a") is None
        lost.put(file, write("too late"))
    assert file.read_text(encoding="utf-8") == "in time"
    assert list((tmp_path / "work" / "jobs").iterdir()) == []


def test_a_worker_that_is_stopped_before_its_last_step_adds_nothing(
    sign_in: Callable[..., Desk], clock: Clock, tmp_path: Path
) -> None:
    one, two, file = sign_in(), sign_in(), tmp_path / "a"

    def stopped(draft: Path) -> None:
        draft.write_text("too late", encoding="utf-8")
        two.claim("a")
        clock.now += 61
        held(two, "a").put(file, write("in time"))

    with pytest.raises(LeaseLost):
        held(one, "a").put(file, stopped)
    assert file.read_text(encoding="utf-8") == "in time"


def test_what_goes_wrong_after_a_job_was_lost_is_no_failure_of_the_job(
    sign_in: Callable[..., Desk], clock: Clock
) -> None:
    one, two = sign_in(), sign_in()
    with pytest.raises(LeaseLost), held(one, "a"):
        two.claim("a")
        clock.now += 61
        held(two, "a")
        raise ValueError("a checkpoint is gone")
    with pytest.raises(ValueError, match="own"), held(one, "b"):
        raise ValueError("my own")
    assert two.claim("b") is not None


def test_who_takes_a_live_ones_job_by_mistake_harms_nothing(
    sign_in: Callable[..., Desk], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two see the same worker dead; the slower one takes the job from the faster one, who is alive."""
    dead, fast, slow = sign_in(), sign_in(), sign_in()
    held(dead, "a")
    fast.claim("a"), slow.claim("a")
    clock.now += 61
    remove, taken = leases._remove, []

    def late(place: Path, away: Path) -> None:
        if not taken:
            monkeypatch.setattr(leases, "_remove", remove)
            taken.append(held(fast, "a"))
        remove(place, away)

    monkeypatch.setattr(leases, "_remove", late)
    last = held(slow, "a")
    with pytest.raises(LeaseLost):
        taken[0].put(tmp_path / "a", write("fast"))
    last.put(tmp_path / "a", write("slow"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "slow"


def test_another_plan_takes_every_lease_away(sign_in: Callable[..., Desk], tmp_path: Path) -> None:
    one = sign_in()
    lease = held(one, "a")
    open_work(tmp_path, PLAN, [])
    assert lease.held(), "the same plan changes nothing"
    one.check()
    open_work(tmp_path, {"candidates": 5}, [])
    with pytest.raises(LeaseLost):
        lease.put(tmp_path / "a", write("of the last plan"))
    for call in (one.check, lambda: one.claim("a"), lambda: one.claim("b")):
        with pytest.raises(PlanChanged, match="start the worker again"):
            call()
    one.beat()
    assert not (tmp_path / "a").exists()
    assert [list((tmp_path / "work" / part).iterdir()) for part in ("workers", "jobs", "new")] == [[], [], []]


def test_a_plan_that_changes_while_a_job_is_taken_lets_go_of_it(
    sign_in: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, rename = sign_in(), Path.rename

    def slow(self: Path, target: Path) -> Path:
        if target.name == "a" and self.name.startswith("claim"):
            file = tmp_path / "work" / "plan.json"
            file.write_text(file.read_text(encoding="utf-8").replace("4", "5"), encoding="utf-8")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    with pytest.raises(PlanChanged):
        one.claim("a")
    assert list((tmp_path / "work" / "jobs").iterdir()) == []


def test_a_closed_run_has_no_jobs(sign_in: Callable[..., Desk], tmp_path: Path) -> None:
    one = sign_in()
    close_work(tmp_path)
    with pytest.raises(PlanChanged):
        one.claim("a")
    with pytest.raises(PlanChanged, match="--plan-only"):
        Desk(tmp_path, "worker")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_held_is_free_for_the_next_one(tmp_path: Path, clock: Clock) -> None:
    """The next run has the folder's lock, so the last one is gone; a worker may be alive."""
    open_work(tmp_path, PLAN, [])
    run, worker = Desk(tmp_path, "run", clock=clock), Desk(tmp_path, "worker", clock=clock)
    held(run, "a"), held(worker, "b")
    assert leases.has_workers(tmp_path)
    open_work(tmp_path, PLAN, [])
    again = Desk(tmp_path, "run", clock=clock)
    assert again.claim("a") is not None and again.claim("b") is None


def test_who_leaves_leaves_nothing(tmp_path: Path) -> None:
    open_work(tmp_path, PLAN, [])
    with Desk(tmp_path, "worker", silent_for=0.12) as desk:
        file = next((tmp_path / "work" / "workers").iterdir())
        before, beaten = file.read_bytes(), threading.Event()
        for _ in range(500):
            if file.read_bytes() != before:
                break
            beaten.wait(0.01)
        else:
            raise AssertionError("no beat")
        held(desk, "a")
    assert not file.exists()
    assert Desk(tmp_path, "worker").claim("a") is not None


def test_a_full_disk_is_told_as_such(
    sign_in: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CannotWrite, match="No space"), held(sign_in(), "a") as lease:
        lease.put(tmp_path / "a", full)


def test_samples_that_two_ask_for_are_made_by_one(sign_in: Callable[..., Desk], clock: Clock, tmp_path: Path) -> None:
    one, two, waited = sign_in(), sign_in(), []
    made = AttackState({}, {"nfe": 3})
    with SharedCheckpoints(tmp_path / "shared", one) as first, SharedCheckpoints(tmp_path / "shared", two) as second:
        assert first.load("samples-1") is None and first.load("samples-1") is None

        def wait() -> None:
            waited.append(1)
            first.save("samples-1", made)

        two.wait = wait  # type: ignore[method-assign]
        found = second.load("samples-1")
        assert found is not None and found.info == made.info and waited == [1]
        assert first.load("samples-2") is None
    assert two.claim("samples-2") is not None, "who leaves lets go of what it did not make"


def test_a_damaged_plan_is_another_one(sign_in: Callable[..., Desk], tmp_path: Path) -> None:
    one = sign_in()
    (tmp_path / "work" / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(PlanChanged):
        one.claim("a")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(PlanChanged):
        one.claim("a")
