"""Named states of attacks, in a folder or in memory."""

import shutil
from pathlib import Path

from ..contracts import AttackState
from ..files import read_state, write_state


class FolderCheckpoints:
    """Named states in one folder, each one file, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""
        file = self.file(name)
        return read_state(file) if file.exists() else None

    def save(self, name: str, state: AttackState) -> None:
        """Save in place of what was there."""
        write_state(self.file(name), state)

    def file(self, name: str) -> Path:
        """Return where the state of this name is."""
        return self.folder / f"{name}.safetensors"

    def clear(self) -> None:
        """Forget everything that was saved here."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
