"""Processes that hold nothing of this one: no variable, no cache, no generator's state.

An interpreter spends some ten seconds on importing torch and diffusers before it can load a model. On Linux that is
paid once: a server, a fresh interpreter which imports them and does nothing else, is forked for each process. An
accelerator's driver does not survive a fork, so for work on one, and on other systems, each process is an interpreter
of its own.
"""

import multiprocessing
import sys
from multiprocessing.context import BaseContext

IMPORTED_ONCE = (
    "sidebench.benchmark.runs.check_attack",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
)
"""What the server imports. A module that is not there is left out, and a process imports what it needs beyond these."""


def fresh_processes(device: str) -> BaseContext:
    """Return the multiprocessing context whose processes are fresh ones, for work on this device.

    The server lives as long as this process, and has its environment and folder as they were at the first start.
    """
    if sys.platform != "linux" or device != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED_ONCE))
    return context
