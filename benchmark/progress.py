"""Live progress: bars when a person watches, plain lines when not. Everything goes to stderr."""

import logging
import sys
import time
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


class PlainProgress:
    """A line when a phase begins to be slow, ends, and every `every` seconds between."""

    def __init__(self, stream: TextIO | None = None, every: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.every = every
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in this phase."""
        now = time.monotonic()
        began, first = self._began.setdefault(phase, (now, done))
        if done < total and now - self._last.get(phase, began) < self.every:
            return
        self._last[phase] = now
        seconds = now - began
        rate = (done - first) / seconds if seconds > 0.1 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        speed = f" ({rate:.1f}/s{left})" if rate > 0 else ""
        print(f"{phase}: {done:,} of {total:,}{speed}", file=self.stream, flush=True)


class RichBars:
    """One bar per phase with rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, tuple[TaskID, float, int]] = {}

    def __enter__(self) -> "RichBars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in this phase."""
        now = time.monotonic()
        if phase not in self._tasks:
            task = self._bars.add_task(phase.replace("[", "\\["), total=total, completed=done, rate="")
            self._tasks[phase] = (task, now, done)
            return
        task, began, first = self._tasks[phase]
        rate = f"{(done - first) / (now - began):.1f}/s" if now > began else ""
        self._bars.update(task, completed=done, total=total, rate=rate)


def reporter_for(stream: TextIO) -> "PlainProgress | RichBars":
    """Return bars for a terminal and plain lines for anything else."""
    return RichBars() if stream.isatty() else PlainProgress(stream)
