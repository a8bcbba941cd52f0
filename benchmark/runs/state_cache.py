"""States of attacks, kept between runs by content: taken again when nothing that matters has changed, else rebuilt.

What matters is spelt out in `kept_state`: the attack's settings that `prepare` reads, its code and the harness's, the
model's weights, how it is sampled, the defences around it, the seed, the micro-batch, and the versions,
device and threads that numbers depend on. One that depends on the number of candidates is taken for that number alone.
An entry holds the state with its cost and the plain samples that it was
made from, which a run scores as well. `SIDEBENCH_STATES=off` keeps and takes nothing.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.fits import code_beside
from ..data.hub import cache
from ..environment import harness_code, versions
from ..errors import CorruptRun, SidebenchError
from ..files import (
    DAY,
    Put,
    content_sha256,
    read_info,
    read_json,
    read_state,
    write_atomic,
    write_checked_json,
    write_state,
)
from ..progress import say
from ..registry import code_of
from ..results.run_folder import RunFolder, fits

if TYPE_CHECKING:
    from .plan import RunPlan, Unit

FORMAT = 2
LIMIT = 4 * 2**30
"""Bytes that are kept; the entries that were taken longest ago go first."""


class KeptState:
    """One unit's place in the cache."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        digest = content_sha256(content)
        self.folder = _root() / digest[:32]

    def copy_to(self, run: RunFolder, unit: str, candidates: int, put: Put = write_atomic) -> bool:
        """Put the kept state and its samples into the run's folder, the state by `put`.

        Returns False where there is none, it is damaged, or it is of another number of candidates and depends on it. A
        damaged entry is removed, in a line.

        Raises:
            CannotWrite: the run's disk is full or failing.
        """
        if not os.path.isdir(self.folder):  # noqa: PTH112  Path.is_dir raises where it may not look
            return False
        try:
            if read_json(self.folder / "content.json") != self.content:
                return False
            state = read_state(self.folder / "state.safetensors")
            samples = {key: read_state(self.folder / f"{key}.safetensors") for key in state.info["cost"]["samples"]}
        except (CorruptRun, KeyError):
            say(f"the kept state of {unit} was changed or cut; it is rebuilt")
            shutil.rmtree(self.folder, ignore_errors=True)
            return False
        if not fits(state.info, candidates):
            return False
        for key, made in samples.items():
            if not run.shared_samples().file(key).exists():
                run.shared_samples().save(key, made)
        write_checked_json(run.kept_file(unit), {"content": self.folder.name}, put)
        write_state(run.state_file(unit), state, put)
        with suppress(OSError):
            os.utime(self.folder)
        return True

    def keep(self, run: RunFolder, unit: str) -> None:
        """Keep the unit's state, unless making it cost nothing; where there is no room, nothing is kept."""
        cost = read_info(run.state_file(unit))["cost"]
        if not any(cost["nfe"].values()) and not any(cost["flops"].values()):
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".new-"))
        except OSError:
            return
        try:
            shutil.copy(run.state_file(unit), made / "state.safetensors")
            for key in cost["samples"]:
                shutil.copy(run.shared_samples().file(key), made / f"{key}.safetensors")
            write_checked_json(made / "content.json", self.content)
            shutil.rmtree(self.folder, ignore_errors=True)
            made.rename(self.folder)
        except (OSError, SidebenchError):
            shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):  # another process may prune at the same time
            _prune()


def kept_state(plan: "RunPlan", unit: "Unit") -> KeptState | None:
    """Return the place of a unit's state; None where nothing is kept, or where some code cannot be read."""
    if os.environ.get("SIDEBENCH_STATES", "on") == "off" or plan.model.live is not None:
        return None
    plugins = [type(unit.attack), *(type(defence) for defence in plan.defences)]
    beside = code_beside(plugins)
    if beside is None:
        return None
    import torch

    settings = unit.attack.settings.model_dump(mode="json", exclude=set(unit.attack.generation_settings))
    knows = unit.attack.replayed() != "none" or unit.attack.access == "oracle"
    pair = {"pair": plan.pair.identity()} if plan.defences or knows else {}
    return KeptState(
        {
            "format": FORMAT,
            "attack": unit.attack.name,
            "settings": settings,
            # What was loaded, and what it may have imported from its own folder.
            "code": [harness_code(), beside, *map(code_of, plugins)],
            "seed": unit.seed,
            "model": {**plan.model.content(), "variant": plan.model.variant, "dtype": plan.model.dtype},
            "protocol": plan.protocol.model_dump(mode="json"),
            "micro_batch": plan.batching.micro_batch,
            **({"compiled": True} if plan.batching.compiled else {}),
            "defences": {each.name: each.settings.model_dump(mode="json") for each in plan.defences},
            # A defence may read the training images, and captions and labels are the pair's.
            **pair,
            "device": plan.model.device.partition(":")[0],
            "accelerator": torch.cuda.get_device_name(0) if plan.model.device.startswith("cuda") else None,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
    )


def _root() -> Path:
    return cache() / "states"


def _prune() -> None:
    """Remove what killed writers left, and the entries that were taken longest ago until the rest fits the limit."""
    entries = []
    for entry in _root().iterdir():
        if entry.name.startswith("."):
            if time.time() - entry.stat().st_mtime > DAY:
                shutil.rmtree(entry, ignore_errors=True)
        else:
            size = sum(file.stat().st_size for file in entry.iterdir())
            entries.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= LIMIT:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= size
