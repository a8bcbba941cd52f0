"""What two workers cost beside one, in processor seconds of whole processes, from their start to their end."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..data.pair import load_pair
from ..errors import SidebenchError
from .plan import plan_run
from .ratios import Ratio, judged
from .runner import open_run

TOGETHER = 1.1
"""Processor seconds of two workers over those of one, at most: the second one loads torch and the model too."""

BUSIER = 0.55
"""Those of the busier of two over those of one, at most."""

CANDIDATES = 10_240
"""Forty shards: enough that loading torch, some eight seconds a worker, is a twentieth of it."""


def measure(pair: str, candidates: int, device: str = "auto") -> dict[str, Any]:
    """Return the processor seconds of one worker and of each of two that make the same plain samples, and the ratios.

    The folders are opened for workers as by `--plan-only` and removed; nothing is scored.

    Args:
        pair: Name or file of an unconditional or class-conditional pair.
        candidates: Plain samples that are made, once by one worker and once by two.
        device: Where they are made; on a GPU both workers share it.

    Raises:
        SidebenchError: a worker failed; what it said stands on standard error.
    """
    what = "processor seconds"
    if not hasattr(os, "wait4"):
        why = "not measured: this system does not say what an ended process used"
        return {"ratios": [Ratio(f"two workers, {what}", "one worker", None, TOGETHER, why)._asdict()]}
    (alone,), both = (spent(pair, candidates, device, number) for number in (1, 2))
    held = [
        judged(f"two workers, {what}", "one worker", TOGETHER, sum(both), alone),
        judged(f"the busier of two, {what}", "one worker", BUSIER, max(both), alone),
    ]
    return {
        "pair": pair,
        "candidates": candidates,
        "one_worker_processor_seconds": alone,
        "busier_processor_seconds": max(both),
        "other_processor_seconds": min(both),
        "ratios": [ratio._asdict() for ratio in held],
    }


def spent(pair: str, candidates: int, device: str, workers: int) -> list[float]:
    """Return the processor seconds of each of so many workers that are started at once on a new run folder."""
    with tempfile.TemporaryDirectory(prefix="sidebench-") as place:
        plan = plan_run(load_pair(pair), attacks=["carlini-uncond"], candidates=candidates, device=device, out=place)
        folder = open_run(plan).path
        command = [sys.executable, "-m", "sidebench", "worker", str(folder), "--pair", pair, "--device", device]
        started = [_start(command) for _ in range(workers)]
        ended = [os.wait4(process.pid, 0) for process in started]
    for _, status, _ in ended:
        if code := os.waitstatus_to_exitcode(status):
            raise SidebenchError(f"a worker on {Path(folder).name} ended with exit code {code}")
    return [usage.ru_utime + usage.ru_stime for _, _, usage in ended]


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)
