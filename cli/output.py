"""What a command says: its result on stdout, everything else on stderr."""

import json
import sys
import traceback
from typing import Any

from ..benchmark.errors import SidebenchError, printable


def show(found: Any, text: str, as_json: bool, *, sort_keys: bool = False) -> None:
    """Print what was found: plain data and pydantic models as JSON, or else its text."""
    print(_as_json(found, sort_keys) if as_json else printable(text))


LONGEST = 2000
"""Letters of the longest line that is said of an error."""

TRACEBACKS = False
"""Whether `--traceback` was given: errors are then shown with all the lines that they came by."""


def complain_of(error: SidebenchError) -> None:
    """Say in one line what went wrong; with `--traceback`, where that came from too."""
    if TRACEBACKS:
        shown = error.__cause__ or error
        print(printable("".join(traceback.format_exception(shown))), file=sys.stderr)
    complain(str(error))


def complain(message: str) -> None:
    """Say in one line what went wrong; what was given may be long, and its beginning is enough to know it by."""
    line = printable(" ".join(message.split()))
    print(f"sidebench: {line if len(line) <= LONGEST else line[: LONGEST - 3] + '...'}", file=sys.stderr)


def loading(what: str) -> None:
    """Ask for patience before a slow import."""
    print(f"loading {what} ...", file=sys.stderr, flush=True)


def _as_json(found: Any, sort_keys: bool) -> str:
    from pydantic import BaseModel

    if isinstance(found, BaseModel):
        return found.model_dump_json(by_alias=True, indent=1)
    return json.dumps(found, indent=1, sort_keys=sort_keys, default=lambda model: model.model_dump(mode="json"))
