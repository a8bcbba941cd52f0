"""Named states of attacks, in a folder or in memory."""

from pathlib import Path
from types import TracebackType

from ..contracts import AttackState
from ..files import Put, read_state, write_atomic, write_state
from .leases import Desk, Lease


class FolderCheckpoints:
    """Named states in one folder, each one file, replaced atomically."""

    def __init__(self, folder: Path, put: Put = write_atomic) -> None:
        self.folder, self.put = folder, put

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""
        file = self.file(name)
        return read_state(file) if file.exists() else None

    def save(self, name: str, state: AttackState) -> None:
        """Save in place of what was there."""
        write_state(self.file(name), state, self.put)

    def file(self, name: str) -> Path:
        """Return where the state of this name is."""
        return self.folder / f"{name}.safetensors"


class SharedCheckpoints(FolderCheckpoints):
    """Named states that several processes ask for at once: one makes each, the others wait for it.

    A name that was asked for and is not there is this process's to save, until it leaves the context.
    """

    def __init__(self, folder: Path, desk: Desk) -> None:
        super().__init__(folder)
        self._desk, self._mine = desk, dict[str, Lease]()

    def __enter__(self) -> "SharedCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._mine:
            _, lease = self._mine.popitem()
            with lease:
                pass

    def load(self, name: str) -> AttackState | None:
        """Return what was saved under this name; None where this process is to make it."""
        while (found := super().load(name)) is None and name not in self._mine:
            if (lease := self._desk.claim(name)) is None:
                self._desk.wait()
            else:
                self._mine[name] = lease
        return found

    def save(self, name: str, state: AttackState) -> None:
        """Save what was asked for before, and let go of it."""
        with self._mine.pop(name) as lease:
            write_state(self.file(name), state, lease.put)


class MemoryCheckpoints:
    """Named states that last as long as this object."""

    def __init__(self) -> None:
        self._states: dict[str, AttackState] = {}

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""
        return self._states.get(name)

    def save(self, name: str, state: AttackState) -> None:
        """Save in place of what was there."""
        self._states[name] = state
