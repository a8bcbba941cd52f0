"""Plug-ins and errors as plain values, so that another process finds the same code and raises the same error."""

import traceback
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import BadInput, RaisedElsewhere, SidebenchError, raised_in
from ..registry import code_of, find, found_as, make_attack, make_defence

PASSED_ON = (
    *("BadInput", "BadSetting", "TooFew", "UnsafeFile", "CannotWrite"),
    *("AttackFailed", "DefenceFailed", "MeasureFailed"),
)
"""Errors that name what is wrong already, and are raised again as what they are."""


class _Trace(Exception):
    """The lines by which an error came in the other process, for `--traceback`."""


def named_plugin(plugin: Any) -> dict[str, Any]:
    """Return how another process finds a plug-in, and which code it must find."""
    return {
        "name": found_as(type(plugin)),
        "settings": plugin.settings.model_dump(mode="json"),
        "code": code_of(type(plugin)),
    }


def rebuilt_error(kind: str, message: str, line: str, trace: str) -> Exception:
    """Return the error that `described_error` has described."""
    known = kind in PASSED_ON
    found: Exception = getattr(errors, kind)(message) if known else RaisedElsewhere(kind, message, line)
    found.__cause__ = _Trace(trace)
    return found


def described_error(error: Exception, *sources: Path | None) -> dict[str, str]:
    """Return what `rebuilt_error` takes: an error, and the line of the first of these sources that it came from."""
    own = isinstance(error, SidebenchError)
    kind, line = type(error).__name__, "" if own else next(filter(None, (raised_in(error, s) for s in sources)), "")
    if isinstance(error, RaisedElsewhere):  # in a process of that process
        kind, line = error.kind, error.line
    trace = "".join(traceback.format_exception(error))
    return {"kind": kind, "message": str(error), "line": line, "trace": trace}


def built_plugin(kind: Any, named: dict[str, Any]) -> Any:
    """Build a plug-in, of the code that the run was planned with.

    Raises:
        BadInput: its code has changed since.
    """
    if code_of(find(kind, named["name"])) != named["code"]:
        raise BadInput(f"the code of {named['name']} has changed since the run was begun")
    return (make_attack if kind == "attack" else make_defence)(named["name"], named["settings"])
