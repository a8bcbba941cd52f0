"""Workers in processes of their own that die, or stop, in the middle of a job."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from sidebench.benchmark.results.leases import Lease
from sidebench.benchmark.results.run_folder import read_run
from sidebench.benchmark.runs.worker import planned_for_workers, work


def work_until(folder: Path, pair: Path, at: int, sign: int, attacks: tuple[str, ...] = ()) -> None:
    """Work on a run, and get a signal just before the file number `at`, from 1, of those that this worker makes."""
    torch.set_num_threads(1)
    put, puts = Lease.put, [0]

    def interrupted(self: Lease, path: Path, write: Callable[[Path], object]) -> None:
        puts[0] += 1
        if puts[0] == at:
            os.kill(os.getpid(), sign)
        put(self, path, write)

    Lease.put = interrupted  # type: ignore[method-assign]
    run = read_run(folder)
    work(run, planned_for_workers(run, pair=str(pair), attacks=attacks, device="cpu"), silent_for=1.0)


def wait_until_stopped(pid: int) -> None:
    """Wait for a process to be stopped."""
    import psutil

    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        signal.sigtimedwait([], 0.05)
