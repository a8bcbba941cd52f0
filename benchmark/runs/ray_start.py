"""Start Ray on this machine, or join a cluster, without a token in a file, a dashboard or a word on standard output."""

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, CannotReach

if TYPE_CHECKING:
    from types import ModuleType

STARTS = 3
"""How often a Ray of this machine's own is started: it gives itself 30 s, which may be too little on a busy machine."""

_TOKEN = secrets.token_hex(32)
"""What lets this process and its workers talk to a Ray of their own; Ray reads it once per process."""
_READ: set[str] = set()
"""Holds the token once Ray was imported with it."""


@contextmanager
def started(address: str, processors: int) -> Iterator["ModuleType"]:
    """Yield Ray, connected to the cluster of this address; without one, to a Ray that begins and ends with this.

    Raises:
        BadInput: Ray is not installed.
        CannotReach: no cluster answers.
    """
    with (
        _environment(local=not address),
        _folder() as own,
    ):
        ray = _imported(local=not address)
        options: dict[str, Any] = {"address": address}
        if not address:
            gpus = torch.cuda.device_count()
            options = {"address": "local", "num_cpus": processors, "num_gpus": gpus, "include_dashboard": False}
            options |= {"_node_ip_address": "127.0.0.1", "_temp_dir": own}
        _join(ray, options)
        try:
            yield ray
        finally:
            ray.shutdown()


def _folder() -> "TemporaryDirectory[str]":
    # Its path is part of the names of sockets, which may not be long.
    return TemporaryDirectory(prefix="sidebench-", ignore_cleanup_errors=True)


def _join(ray: Any, options: Mapping[str, Any]) -> None:
    """Connect to Ray, or start it.

    Raises:
        CannotReach: it does not answer.
    """
    for attempt in range(STARTS):
        try:
            # What workers print stays in Ray's own files: standard output is the run's.
            ray.init(log_to_driver=False, configure_logging=False, **options)
            return
        except Exception as error:  # Ray raises `Exception` itself where a part of it is late
            ray.shutdown()
            if attempt + 1 == STARTS or "timed out" not in str(error):
                where = "on this machine" if options["address"] == "local" else f"at {options['address']}"
                raise CannotReach(f"Ray {where} cannot be used: {' '.join(str(error).split())}") from error


@contextmanager
def _environment(*, local: bool) -> Iterator[None]:
    """Set what Ray reads when it is imported and started, unless somebody has said otherwise."""
    wanted = {
        "RAY_worker_niceness": "0",  # 15 by default
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray says on standard output that a worker has died, where no log is asked for too; a run says so itself.
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    }
    if local:
        wanted |= {
            # A token of this process's own; by default Ray writes one into the home folder.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _TOKEN,
            # Only where it is told that there is no cluster does Ray listen on the loopback address alone.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    before = set(os.environ)
    os.environ.update({key: value for key, value in wanted.items() if key not in before})
    try:
        yield
    finally:
        for key in set(os.environ) - before:  # Ray adds some of its own
            os.environ.pop(key, None)


def _imported(*, local: bool) -> "ModuleType":
    if local and sys.modules.get("ray") and not _READ:
        raise BadInput("Ray was imported here before it could be kept to this machine: give --engine ray:ADDRESS")
    try:
        import ray
    except ImportError:
        raise BadInput("--engine ray needs Ray: pip install 'ray>=2.40'") from None
    if local:
        _READ.add(_TOKEN)
    found: ModuleType = ray
    return found
