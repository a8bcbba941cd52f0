"""Who makes and scores images: this process, or an engine with workers of its own (`ray_engine.py`).

An engine makes the images of a run (`make`) and scores them (`score`); to `tune` and `gate`, which decide what comes
next by what they have seen, it lends a crew that takes one job after the other.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..contracts import Progress
from ..errors import SidebenchError
from ..results.run_folder import RunFolder
from .makers import Makers

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import RunPlan

T = TypeVar("T")


class Place(NamedTuple):
    """Where preparations leave what they may need again, on the disk of the process that asks for them."""

    folder: "Path"
    """Opened by `leases.open_work`: by what stands there a worker sees whether it has the same disk."""
    samples: str = "state/shared"
    """Below the folder: plain samples that several preparations share."""
    keeps_progress: bool = True
    """Whether the folder is a run folder, in which a preparation that was broken off goes on."""


class Crew(Protocol):
    """Does jobs in the order in which they were given, several at a time where it has several workers."""

    workers: int

    def submit(self, job: Callable[[Makers], T]) -> "Future[T]":
        """Have a job done with the attacks of a plan; one may wait for those that were submitted before it."""


class Engine(Protocol):
    """Workers that make and score images."""

    def make(self, plan: "RunPlan", folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
        """Make the images of a plan in an open folder, and return why units failed."""

    def score(
        self, plan: "RunPlan", folder: RunFolder, units: Iterable[str], fingerprint: str, progress: Progress
    ) -> None:
        """Score what has no scores yet of these units, by references of this fingerprint."""

    def crew(self, plan: "RunPlan", place: Place, *, tuning: bool = False) -> AbstractContextManager[Crew]:
        """Yield a crew that calls a plan's attacks: on the plan's victim, or the one that `tune` attacks."""


class Alone:
    """A crew of this process alone: a job is done when it is submitted."""

    workers = 1

    def __init__(self, makers: Makers) -> None:
        self._makers = makers

    def submit(self, job: Callable[[Makers], T]) -> "Future[T]":
        """Do a job now."""
        done: Future[T] = Future()
        try:
            done.set_result(job(self._makers))
        except Exception as error:
            done.set_exception(error)
        return done
