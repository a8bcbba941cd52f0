"""Live progress: two lines when a person watches, a line for each phase when not. Everything goes to stderr."""

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from .errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def say(line: str) -> None:
    """Say a line between the reports, such as what was found damaged.

    It is a warning of the logger `sidebench`: without a handler Python prints it to stderr, above any bars.
    """
    logging.getLogger("sidebench").warning("%s", printable(" ".join(line.split())))


LEAST_SECONDS = 1.0
"""A rate over less time than this says nothing."""


def duration(seconds: float) -> str:
    """Return a time as a reader says it.

    >>> duration(4.4), duration(80), duration(600), duration(3 * 3600)
    ('4 s', '80 s', '10 min', '3.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class PlainProgress:
    """A line for each phase as it ends; of a long one also every `every` seconds, so that nobody thinks it dead."""

    def __init__(self, stream: TextIO | None = None, every: float = 300.0) -> None:
        self.stream = stream or sys.stderr
        self.every = every
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def expect(self, phases: Mapping[str, int]) -> None:
        """Take no notice of what is to come: a log has a line for each phase."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in this phase."""
        now = time.monotonic()
        began, first = self._began.setdefault(phase, (now, done))
        if done < total and now - self._last.get(phase, began) < self.every:
            return
        self._last[phase] = now
        seconds = now - began
        if done < total:
            left = seconds * (total - done) / (done - first) if done > first else None
            said = f" of {total:,}" + (f", {duration(left)} left" if left is not None else "")
        else:
            said = f" in {duration(seconds)}" if seconds >= LEAST_SECONDS else ""
            # A phase of this name that begins again, as of the next preparation, has a time of its own.
            del self._began[phase], self._last[phase]
        print(f"{phase}: {done:,}{said}", file=self.stream, flush=True)


class LiveLines:
    """A line for the phase at work and, where it is known what is to come, one for all of it, both with time left.

    A phase that is done leaves the screen, and all of it is gone in the end.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._phases: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._done: dict[str, int] = {}

    def __enter__(self) -> "LiveLines":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def expect(self, phases: Mapping[str, int]) -> None:
        """Take what is to come, the total of each phase by name: a line for all of them says how much is left."""
        self._done = dict.fromkeys(phases, 0)
        self._all = self._bars.add_task("all candidates", total=sum(phases.values()))

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in this phase."""
        if self._all is not None and phase in self._done:
            self._done[phase] = done
            self._bars.update(self._all, completed=sum(self._done.values()))
        if done >= total:
            if phase in self._phases:
                self._bars.remove_task(self._phases.pop(phase))
            return
        if phase not in self._phases:
            self._phases[phase] = self._bars.add_task(phase.replace("[", "\\["), total=total, completed=done)
        self._bars.update(self._phases[phase], completed=done, total=total)


def reporter_for(stream: TextIO) -> "PlainProgress | LiveLines":
    """Return live lines for a terminal and plain ones for anything else."""
    return LiveLines() if stream.isatty() else PlainProgress(stream)
