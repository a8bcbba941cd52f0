"""Leases: several processes, on one machine or many, make the parts of one run folder, and no two make the same one.

    work/plan.json                what is asked for; another plan is another folder `work`
    work/workers/<worker>.json    host, pid and the beat of whoever works here
    work/jobs/<job>/              a lease: who holds it, and drafts of what the holder makes

No lock of the system is used: shared disks have none, or break them. Three renames do the work, each of which happens
or does not:

- A lease is a folder that is put in place whole. Where one is there already, that fails.
- A worker counts its beat up. Where another one sees the same beat for as long as the worker said that it may be
  silent, by its own clock and no other, the worker is dead: its lease is renamed away.
- What a holder made is renamed out of its lease into the run. A holder that was stopped, declared dead and woken up has
  no such folder any more, so nothing of what it does next reaches the run.

A live worker may be declared dead by mistake. That costs the time of one job, and never a file.
"""

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ..errors import CorruptRun, LeaseLost, PlanChanged
from ..files import cannot_write, read_json, write_json

WORK = "work"
SILENT_FOR = 60.0
"""Seconds without a beat after which a worker is dead. Shared disks may show a file of half a minute ago."""
_BEATS = 12
"""How often a worker beats in that time."""

Role = Literal["run", "worker"]


# ---- What is asked for --------------------------------------------------------------------------------


def open_work(run: Path, plan: Mapping[str, Any], afresh: list[str]) -> None:
    """Let workers make what this plan asks for; the run folder must be locked.

    Where the folder is open for the same plan already, its workers go on, and what an earlier `run` held is free.

    Args:
        run: The run folder.
        plan: What is to be made, as JSON values; another one is fenced off from whatever was made for the last.
        afresh: Attacks that take no state that was kept between runs.
    """
    if is_open_for(run, plan):
        for file in (run / WORK / "workers").glob("*.json"):
            # It had the run's lock, which is held here now.
            if _read(file).get("role") == "run":
                file.unlink(missing_ok=True)
        return
    close_work(run)
    new = run / f".{WORK}-{uuid.uuid4().hex}"
    for part in ("workers", "jobs", "new"):
        (new / part).mkdir(parents=True)
    write_json(new / "plan.json", {"opened": uuid.uuid4().hex, "plan": plan, "afresh": afresh})
    new.rename(run / WORK)


def is_open_for(run: Path, plan: Mapping[str, Any]) -> bool:
    """Return whether workers may make what this plan asks for already."""
    return _read(run / WORK / "plan.json").get("plan") == plan


def close_work(run: Path) -> None:
    """Take every lease away in one step: whoever holds one can add nothing to the run any more."""
    with suppress(FileNotFoundError):
        (run / WORK).rename(run / f".{WORK}-{uuid.uuid4().hex}")
    for old in run.glob(f".{WORK}-*"):
        shutil.rmtree(old, ignore_errors=True)


def asked(run: Path) -> dict[str, Any] | None:
    """Return what `open_work` wrote, or None where nothing is asked for.

    Raises:
        CorruptRun: the file is damaged.
    """
    file = run / WORK / "plan.json"
    return read_json(file) if file.exists() else None


def has_workers(run: Path) -> bool:
    """Return whether a worker has signed in here, dead or alive."""
    return any(_read(file).get("role") == "worker" for file in (run / WORK / "workers").glob("*.json"))


def _read(file: Path) -> dict[str, Any]:
    """Return a JSON object; nothing where there is none, or half of one."""
    with suppress(CorruptRun):
        return read_json(file)
    return {}


# ---- Leases -------------------------------------------------------------------------------------------


class Lease:
    """One job, held by this process until it leaves the context, or is thought dead."""

    def __init__(self, place: Path, token: str, away: Path) -> None:
        self._place, self._drafts, self._away = place, place / token, away

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held():
            _remove(self._place, self._away)
        elif isinstance(error, Exception) and not isinstance(error, LeaseLost):
            # Whatever went wrong may come from another one's work on the same files.
            raise LeaseLost(_LOST.format(self._place.name)) from error

    def held(self) -> bool:
        """Return whether the job is still this process's."""
        return self._drafts.is_dir()

    def put(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a draft and make it a file of the run, as `write_atomic` does, if the lease is still held.

        Raises:
            LeaseLost: somebody else has the job; nothing was changed.
            CannotWrite: the disk is full or failing.
        """
        draft = self._drafts / uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            with draft.open("r+b") as stream:
                os.fsync(stream.fileno())
            draft.replace(path)
        except OSError as error:
            if not self.held():
                raise LeaseLost(_LOST.format(self._place.name)) from None
            raise cannot_write(path, error) from None
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


_LOST = "{}: another process has taken this job over"


def _remove(place: Path, away: Path) -> None:
    """Remove a lease in one step."""
    with suppress(OSError):
        place.rename(away)
        shutil.rmtree(away, ignore_errors=True)


class Desk:
    """Where one process signs in, takes jobs of a run folder, and sees who else is alive."""

    def __init__(
        self,
        run: Path,
        role: Role,
        silent_for: float = SILENT_FOR,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sign in.

        Args:
            run: A run folder that `open_work` has opened.
            role: What holds the jobs: a `run`, which has the folder's lock, or a worker.
            silent_for: Seconds without a beat after which others take this process for dead.
            clock: Any clock that only goes forward; no two processes compare theirs.
            sleep: How to wait.

        Raises:
            PlanChanged: nothing is asked for.
        """
        found = asked(run)
        if found is None:
            raise PlanChanged(f"{run} asks for nothing: open it by `sidebench run` with --plan-only")
        self.asked, self._run, self._place = found, run, run / WORK
        self._silent_for, self._clock, self._sleep = silent_for, clock, sleep
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._me = uuid.uuid4().hex
        self._file, self._beat = self._place / "workers" / f"{self._me}.json", 0
        about = {"host": socket.gethostname(), "pid": os.getpid(), "role": role, "silent_for": silent_for}
        self._about = about
        try:
            self._file.write_bytes(self._line())
        except FileNotFoundError:
            raise _changed(run) from None
        except OSError as error:
            raise cannot_write(self._file, error) from None
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> "Desk":
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def claim(self, job: str) -> Lease | None:
        """Return a lease of this job, or None where somebody else who is alive has it.

        Whether the job is still to be done is to be looked at afterwards: its last holder may just have ended it.

        Raises:
            PlanChanged: something else is asked for meanwhile, or nothing.
        """
        place = self._place / "jobs" / job
        if place.is_dir():
            if not self._is_dead(str(_read(place / "holder.json").get("worker"))):
                return None
            _remove(place, self._new("dead"))
        token, new = uuid.uuid4().hex, self._new("claim")
        try:
            new.mkdir()
            (new / token).mkdir()
            write_json(new / "holder.json", {"worker": self._me, **self._about})
            new.rename(place)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            self.check()
            if not place.is_dir():
                raise cannot_write(place, error) from None
            if not (place / token).is_dir():  # it is there where only the answer of a shared disk was lost
                return None
        lease = Lease(place, token, self._new("done"))
        try:
            self.check()
        except PlanChanged:
            with lease:
                raise
        return lease

    def check(self) -> None:
        """Raise `PlanChanged` where the run does not ask for the same any more."""
        if _read(self._place / "plan.json") != self.asked:
            raise _changed(self._run)

    def wait(self) -> None:
        """Sleep a little, for others to get on."""
        self._sleep(min(1.0, self._silent_for / _BEATS))

    def holder(self, job: str) -> str:
        """Return who has a job, for people to read; empty where nobody has."""
        found = _read(self._place / "jobs" / job / "holder.json")
        return f"{found['host']}, process {found['pid']}" if found else ""

    def beat(self) -> None:
        """Show that this process is alive: the count goes up in place, so it never comes back where it was removed."""
        self._beat += 1
        with suppress(OSError), self._file.open("r+b") as stream:
            stream.write(self._line())

    def _keep_beating(self) -> None:
        while not self._ended.wait(self._silent_for / _BEATS):
            self.beat()

    def _line(self) -> bytes:
        # Of one length, so that no reader sees half of an older one.
        return json.dumps({**self._about, "beat": f"{self._beat:012d}"}).encode()

    def _new(self, what: str) -> Path:
        return self._place / "new" / f"{what}-{uuid.uuid4().hex}"

    def _is_dead(self, worker: str) -> bool:
        """Return whether a worker has left, or its beat stood still for as long as it said, seen from here."""
        file = self._place / "workers" / f"{worker}.json"
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return True
        except OSError:  # a disk that is away for a moment
            return False
        before, since = self._seen.get(worker, (b"", 0.0))
        if content != before:
            self._seen[worker] = content, self._clock()
            return False
        return self._clock() - since >= _silence(content)


def _silence(content: bytes) -> float:
    try:
        return float(json.loads(content)["silent_for"])
    except (ValueError, TypeError, LookupError):
        return SILENT_FOR


def _changed(run: Path) -> PlanChanged:
    return PlanChanged(f"{run} was planned again or has ended meanwhile; start the worker again for what it asks now")
