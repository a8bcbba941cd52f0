"""What `--engine` and `--workers` stand for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..benchmark.errors import BadSetting

if TYPE_CHECKING:
    from ..benchmark.runs.engine import Engine


def check_engine(name: str | None, workers: int | None) -> None:
    """Refuse `--workers` without an engine.

    Raises:
        BadSetting: nobody would take them.
    """
    if workers and not name:
        raise BadSetting("--workers belongs to --engine; without one, start `sidebench worker` yourself")


@contextmanager
def working(name: str | None, workers: int | None) -> "Iterator[Engine | None]":
    """Yield who makes and scores images, if not this process; it takes seconds to start.

    Raises:
        BadInput: there is no such engine.
    """
    check_engine(name, workers)
    if name is None:
        yield None
        return
    from ..benchmark.runs.ray_engine import address_of, ray_engine

    with ray_engine(address_of(name), workers or 2) as engine:
        yield engine
