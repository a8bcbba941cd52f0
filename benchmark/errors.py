"""One class per cause. The command prints `str(error)` as one line and leaves with `exit_code`."""

import difflib
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def printable(text: str) -> str:
    """Return text that is safe to show, whoever wrote it: without access tokens, without control characters."""
    own = os.environ.get("HF_TOKEN")
    hidden = re.sub(r"\bhf_\w{8,}", "hf_...", text.replace(own, "hf_...") if own else text)
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in hidden)


class SidebenchError(Exception):
    """Base of every error that sidebench raises on purpose."""

    exit_code = 70


class BadInput(SidebenchError):
    """The user named or gave something that cannot be used; the message says what to do instead."""

    exit_code = 2


class WrongImages(BadInput):
    """Images of a pair are of another size than its model makes."""


class UnknownName(BadInput):
    """A name that is not registered; the message lists close matches and then all names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}")
        self.name, self.close = name, close


class BadPair(BadInput):
    """A pair file that cannot be read, or says something impossible."""


class BadPolicy(BadInput):
    """A release policy that cannot be read, or says something impossible."""


class BadSetting(BadInput):
    """A setting that does not exist or has an impossible value."""


class UnsafeFile(BadInput):
    """A file that may not be loaded: a pickle, or one whose SHA-256 is not the pinned one."""


class RunConflict(BadInput):
    """The run folder was made by other settings, or another process writes to it."""


class PlanChanged(RunConflict):
    """A run folder asks workers for something else than when they began, or for nothing."""


class LeaseLost(SidebenchError):
    """Another process has taken over what this one was making, since it was silent for too long."""

    exit_code = 3


class CorruptRun(BadInput):
    """A file of a run folder cannot be read or contradicts the rest of the folder."""


class BadRecord(BadInput):
    """A leaderboard record that cannot be read, or contradicts itself; the message names the field."""


class TooFew(BadInput):
    """Too few candidates, clusters or images for what was asked."""


class CannotWrite(SidebenchError):
    """The disk is full or failing; the run can be resumed."""

    exit_code = 3


class CannotReach(SidebenchError):
    """A server does not answer, or a download broke off; the same command can be run again."""

    exit_code = 3


class DefenceFailed(SidebenchError):
    """A defence raised, or returned something that its contract does not allow."""

    exit_code = 3


class MeasureFailed(SidebenchError):
    """A measure raised, or returned something that its contract does not allow; the images stay."""

    exit_code = 3


class AttackFailed(SidebenchError):
    """An attack raised, or returned something that its contract does not allow."""

    exit_code = 3


class Problem(NamedTuple):
    """What is wrong with one value that pydantic refused."""

    key: str
    """Where it stands, such as `limits.excess`; empty for a rule about several values together."""
    message: str
    given: Any
    unknown: bool
    """There is no such key."""

    def of(self, what: str) -> str:
        """Return the problem as one line about `what`, a file for instance."""
        return f"{what}, {self.key}: {self.message}" if self.key else f"{what}: {self.message}"


def first_problem(error: "ValidationError", model: "type[BaseModel] | None" = None) -> Problem:
    """Return the first thing that pydantic refused; `model` is what was checked, for a hint at a mistyped key.

    A key that nobody knows comes first: a mistyped one is also the reason why another is missing.
    """
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key, unknown = ".".join(str(part) for part in first["loc"]), first["type"] == "extra_forbidden"
    message = first["msg"].removeprefix("Value error, ")
    if unknown:
        close = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]), cutoff=0.5)
        message = "no such key" + (f"; did you mean {' or '.join(close)}?" if close else "")
    return Problem(key, message, first["input"], unknown)


def _keys_at(model: Any, place: "Sequence[int | str]") -> list[str]:
    """Return the keys that a model knows at a place inside it; none where the place is no model of its own."""
    for part in place:
        if isinstance(part, int):  # of a list, whose items are what its annotation holds
            continue
        field = _keys_of(model).get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(_keys_of(model))


def _keys_of(model: Any) -> dict[str, Any]:
    """Return a model's fields by the key that a file gives them, which may be no name of Python's."""
    return {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}


class RaisedElsewhere(Exception):
    """What a plug-in raised in another process: the name of the class, the message and the plug-in's line."""

    def __init__(self, kind: str, message: str, line: str) -> None:
        super().__init__(message)
        self.kind, self.line = kind, line


def raised_in(error: BaseException, source: Path | None) -> str:
    """Return " (mine.py, line 12)", the deepest line below a file or folder that an error came from; or nothing."""
    if source is None:
        return ""
    whole = source.resolve()
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and _lies_below(Path(frame.filename).resolve(), whole)
    ]
    return lines[-1] if lines else ""


def _lies_below(file: Path, source: Path) -> bool:
    """Return whether a file is this one, or lies in this folder; packages installed into the folder do not count."""
    return file.is_relative_to(source) and "site-packages" not in file.relative_to(source).parts


@contextmanager
def blaming(who: str, kind: type[SidebenchError], source: Path | None = None) -> Iterator[None]:
    """Turn whatever a plug-in raises into an error of this kind that names it, e.g. "defence amg".

    The line of the plug-in is named where `source`, its file or folder, is given.

    Running out of memory is the run's doing and passes as it is.
    """
    try:
        yield
    except SidebenchError:
        raise
    except Exception as error:  # a plug-in may fail in any way
        if "out of memory" in str(error).lower():
            raise
        raise kind(f"{who} failed: {type(error).__name__}: {error}{raised_in(error, source)}") from error
