"""What a user may have meant by a folder that is not there."""

import difflib
import os
from pathlib import Path


def did_you_mean(name: str) -> str:
    """Return a question that names the most similar path that is there, ready to end a sentence; "" if none is near.

    Each part of the path is compared with what lies beside it, so that `modell/unet` finds `model/unet`.
    """
    found = Path(Path(name).anchor)
    for part in Path(name).relative_to(found).parts:
        if part != os.pardir and not os.path.exists(found / part):  # noqa: PTH110  Path raises of a name that is too long
            try:
                close = difflib.get_close_matches(part, [file.name for file in found.iterdir()], n=1, cutoff=0.7)
            except OSError:
                return ""
            if not close:
                return ""
            part = close[0]
        found = found / part
    return f"; did you mean {found.as_posix()}?" if found != Path(name) and found.exists() else ""
