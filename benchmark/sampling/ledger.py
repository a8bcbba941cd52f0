"""Work of an attack by phase: denoiser calls and other operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Ledger:
    """Counts the work of an attack by phase: denoiser calls (NFE) and other operations (FLOP)."""

    def __init__(self) -> None:
        self.nfe: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)
        self.skipped_steps = 0
        self.phase = "prepare"

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count what happens inside under this phase."""
        # The phase before comes back where the work inside fails too: who goes on would count under the wrong one.
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by phase."""
        return {"nfe": dict(self.nfe), "flops": dict(self.flops), "skipped_steps": self.skipped_steps}
