"""`sidebench doctor`: what works on this machine, and what to do about the rest."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from .. import environment, registry
from ..data.model_files import check_files, locate
from ..data.pair import load_pair, pair_names
from ..environment import pick_device


class DoctorCheck(NamedTuple):
    """One finding."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def examine() -> list[DoctorCheck]:
    """Look at versions, device, memory, disk, cache, Hub, plug-ins and the embedded weights."""
    return [*_versions(), _device(), _memory(), _disk(), *_hub(), *_plugins(), *_zoo()]


def as_text(checks: list[DoctorCheck]) -> str:
    """Return the findings, a line each, with what to do about those that are not well."""
    lines = [f"{'ok  ' if check.ok else 'look'}  {check.name}: {check.found}" for check in checks]
    fixes = [f"{check.name}: {check.fix}" for check in checks if not check.ok and check.fix]
    return "\n".join([*lines, "", *fixes] if fixes else lines)


def _versions() -> list[DoctorCheck]:
    return [
        DoctorCheck(name, version != "missing", version, f"pip install {name}")
        for name, version in environment.versions().items()
    ]


def _device() -> DoctorCheck:
    import torch

    device = pick_device("auto")
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else environment.processor()
    return DoctorCheck("device", True, f"{device} ({name}), {torch.get_num_threads()} threads")


def _memory() -> DoctorCheck:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    return DoctorCheck("memory", free > 2, f"{free:.1f} GB free", "runs on digits need up to 2 GB")


def _disk() -> DoctorCheck:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return DoctorCheck("disk", free > 1, f"{free:.1f} GB free here", "choose another folder with --out")


def _hub() -> list[DoctorCheck]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    writable = os.access(parent, os.W_OK)
    offline = bool(constants.HF_HUB_OFFLINE)
    return [
        DoctorCheck(
            "hub cache",
            writable,
            "writable" if writable else "not writable",
            "set HF_HOME to a folder of yours",
        ),
        DoctorCheck(
            "hub",
            True,
            "offline by HF_HUB_OFFLINE" if offline else "not asked: the embedded pairs need no network",
        ),
    ]


def _plugins() -> list[DoctorCheck]:
    checks = []
    kinds: tuple[registry.Kind, ...] = ("attack", "defence", "detector", "measure")
    for kind in kinds:
        for name in registry.names(kind):
            try:
                registry.find(kind, name)
                checks.append(DoctorCheck(f"{kind} {name}", True, "loads"))
            except Exception as error:  # a broken plug-in is a finding, not a failure of the doctor
                checks.append(DoctorCheck(f"{kind} {name}", False, str(error), "fix or remove its package"))
    return checks


def _zoo() -> list[DoctorCheck]:
    checks = []
    for name in pair_names():
        pair = load_pair(name)
        if not pair.model.location.startswith("zoo:"):
            continue
        try:
            check_files(locate(pair.model.location), pair.model.sha256)
            checks.append(DoctorCheck(f"pair {name}", True, "weights are the pinned ones"))
        except Exception as error:  # likewise
            checks.append(DoctorCheck(f"pair {name}", False, str(error), "install sidebench again"))
    return checks
