"""What is fitted once per pair and kept between runs, by content: computed again when what it depends on changes.

An entry is one file of tensors and JSON values below `cache() / "fits"`. Its key spells what was fitted, to which
images, with which settings, by which code, and with which versions, processor and threads. `SIDEBENCH_STATES=off` keeps
and takes nothing, as with the states of attacks. A cache that cannot be read or written costs time and one line.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..contracts import AttackState
from ..environment import describe, files_hash, harness_code
from ..errors import CorruptRun, SidebenchError
from ..files import content_sha256, read_state, write_state
from .hub import cache

FORMAT = 1
LIMIT = 2 * 2**30
"""Bytes that are kept; the entries that were taken longest ago go first."""

_LOG = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """What one fit cost."""

    seconds: float
    """Wall time that making it took, whether it was made now or taken from an earlier run."""
    processor_seconds: float
    kept: bool
    """It was taken from an earlier run."""


class Fits:
    """The fits of one set of images, each taken from the cache or made and kept there."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        """Take what the images are as JSON values, such as `References.content()`."""
        self.content = content
        self.spent: dict[str, Fitted] = {}
        """What each fit cost that was asked for."""
        self._folder = None if os.environ.get("SIDEBENCH_STATES", "on") == "off" else cache() / "fits"

    def values(self, what: str, make: Callable[[], Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
        """Return JSON values, as `tensors` does."""
        return dict(self.tensors(what, lambda: AttackState({}, make()), **settings).info)

    def tensors(self, what: str, make: Callable[[], AttackState], **settings: Any) -> AttackState:
        """Return what `make` returns, from the cache if it was made before with the same settings (JSON values).

        A setting `code` of None says that the code of a plug-in cannot be read: then nothing is kept.
        """
        wanted = self._wanted(what, settings) if self._folder and settings.get("code", "") is not None else None
        if wanted is not None and (found := self._taken(wanted)) is not None:
            seconds, processor_seconds = found.info["spent"]
            self.spent[what] = Fitted(seconds, processor_seconds, kept=True)
            return AttackState(found.tensors, found.info["values"])
        began, processor_began = time.monotonic(), time.process_time()
        made = make()
        spent = time.monotonic() - began, time.process_time() - processor_began
        self.spent[what] = Fitted(spent[0], spent[1], kept=False)
        if wanted is not None:
            values = {"content": wanted, "spent": spent, "values": dict(made.info)}
            self._keep(wanted, AttackState(made.tensors, values))
        return made

    def _wanted(self, what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "what": what,
            "images": dict(self.content),
            "settings": dict(settings),
            "code": harness_code(),
            "environment": describe(),
        }

    def _file(self, wanted: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        return self._folder / f"{content_sha256(wanted)[:32]}.safetensors"

    def _taken(self, wanted: Mapping[str, Any]) -> AttackState | None:
        file = self._file(wanted)
        if not os.path.exists(file):  # noqa: PTH110 - False, not an error, where the folder may not be read
            return None
        try:
            found = read_state(file)
            if found.info["content"] != wanted:
                raise CorruptRun(f"fits/{file.name} is another fit")
        except (CorruptRun, KeyError) as error:
            _LOG.warning("a kept fit (%s) cannot be used and is computed again: %s", wanted["what"], error)
            return None
        with suppress(OSError):  # a cache that others fill may be for reading alone
            os.utime(file)
        return found

    def _keep(self, wanted: Mapping[str, Any], state: AttackState) -> None:
        try:
            write_state(self._file(wanted), state)
        except SidebenchError as error:
            _LOG.warning("fits are not kept, so the next run computes them again: %s", error)
            self._folder = None
            return
        with suppress(OSError):  # another process removes entries too
            _prune(self._file(wanted).parent)


def code_beside(plugins: Sequence[type]) -> str | None:
    """Return a hash of every Python file beside those that define these classes; None if one cannot be read."""
    sources: set[Path] = set()
    for plugin in plugins:
        file = getattr(sys.modules.get(plugin.__module__), "__file__", None)
        if file is None:
            return None
        sources |= set(Path(file).resolve().parent.glob("*.py"))
    return files_hash(sorted(sources))


def _prune(folder: Path) -> None:
    """Remove the entries that were taken longest ago until what is kept fits the limit."""
    entries = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob("*.safetensors"))
    total = sum(size for _, size, _ in entries)
    for _, size, file in entries:
        if total <= LIMIT:
            return
        file.unlink(missing_ok=True)
        total -= size
