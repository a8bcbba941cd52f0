"""What a run was made with: versions, hardware class, threads. No host name, no path."""

from typing import TYPE_CHECKING

from .errors import BadInput

if TYPE_CHECKING:
    import torch

import atexit
import ctypes
import functools
import gc
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = (
    "sidebench",
    "torch",
    "diffusers",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pyarrow",
    "pandas",
    "pillow",
    "datasets",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can move a number."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@functools.cache
def version(package: str) -> str:
    """Return the version of an installed package, or "missing". Its metadata is read once; a run asks 60 times."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


ALLOCATIONS = 10_000
"""New objects between two collections of garbage; Python's own 700 suit programs that load less."""


def collect_seldom() -> None:
    """Let Python look for garbage less often, and not once more on leaving.

    Loading torch and diffusers makes 750,000 objects that stay. Searching them over and over, and all of them again at
    the end, takes 2.5 of the 11.5 processor seconds that a process needs to load a U-Net and leave.
    """
    gc.set_threshold(ALLOCATIONS)
    atexit.register(gc.freeze)


KEPT = 1 << 28
"""Freed bytes that a process keeps for its next allocations."""
LARGEST = 1 << 25
"""Allocations above these bytes are given back at once; glibc takes no larger limit."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep what was freed in place of giving it back, and say whether it does; other systems do as they do.

    Each call of a denoiser frees all that it took. Where that goes back to the system, the next call pays for it by the
    page: on `digits`, 20 to 25 % of the processor time of plain sampling. No number depends on it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none, Windows no such handle
        return False
    # The second fixes what glibc would otherwise adapt, and stops to adapt once the first is set.
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and mallopt(_MMAP_THRESHOLD, LARGEST))


def describe() -> dict[str, Any]:
    """Return versions, the hash of sidebench's own code, processor, accelerator and thread count.

    The hash says where a run goes on in a checkout that has changed under the same version.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "versions": versions(),
        "code": package_code(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "accelerator": torch.cuda.get_device_name(0) if cuda else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Return the processor's model name where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes.

    psutil knows the peak on Windows alone, `resource` everywhere else; where neither tells it, the size now is given.
    """
    import sys

    try:
        import resource
    except ImportError:
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@functools.cache
def harness_code() -> str:
    """Return a hash of the names and contents of all Python files below `benchmark/`: what a kept number rests on."""
    return files_hash(sorted(Path(__file__).parent.rglob("*.py")))


@functools.cache
def package_code() -> str:
    """Return a hash of all that makes and scores candidates: the Python files of `benchmark/` and `methods/`."""
    here = Path(__file__).parent
    return files_hash(sorted([*here.rglob("*.py"), *(here.parent / "methods").rglob("*.py")]))


def files_hash(files: Iterable[Path]) -> str:
    """Return one SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def device_memory(device: str) -> int | None:
    """Return the bytes of an accelerator's memory; None on a processor, and where it is not told."""
    import torch

    if not device.startswith("cuda"):
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def peak_device_memory() -> int | None:
    """Return the most bytes that this process held on its CUDA devices so far, added up; None without one."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(number)) for number in range(torch.cuda.device_count()))


def use_full_precision() -> None:
    """Let float32 be float32 on CUDA, and let a convolution take one algorithm, the same each time.

    torch's convolutions round their inputs to 10 bits (TF32) unless told otherwise, which moves hit decisions as
    bfloat16 does. Nothing here promises equal bits on two kinds of GPU.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def pick_device(name: str) -> "torch.device":
    """Return the device of this name; "auto" takes CUDA, then MPS, then the CPU. CUDA computes in full precision.

    Raises:
        BadInput: the device is not there.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name.startswith("cuda"):
        use_full_precision()
    present = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())], *(["mps"] if mps else [])]
    if name in present or (name == "cuda" and cuda):
        return torch.device(name)
    known = {"gpu": "a GPU of NVIDIA or AMD is called cuda", "metal": "a GPU of Apple is called mps"}
    hint = f"; {known[name]}" if name in known else ""
    raise BadInput(f"no device {name!r} here: there is {', '.join(present)}{hint}")
