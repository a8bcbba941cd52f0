"""What a run was made with, and how a process starts and leaves."""

import contextlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidebench.benchmark import environment
from sidebench.benchmark.environment import ALLOCATIONS, PACKAGES, version, versions
from sidebench.benchmark.errors import BadInput


def test_versions_are_those_installed() -> None:
    import numpy

    found = versions()
    assert set(found) == {"python", *PACKAGES}
    assert found["numpy"] == numpy.__version__ == version("numpy")
    assert version("no-such-package") == "missing"


LEAVING = """
import atexit, gc
from sidebench.benchmark.environment import collect_seldom

class Slow:
    def __del__(self):
        print("searched on leaving")

collect_seldom()
slow = Slow()
slow.itself = slow
del slow
atexit.register(print, "said on leaving")
print(gc.isenabled(), gc.get_threshold()[0])
"""


def test_garbage_is_collected_seldom_and_not_on_leaving() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"True {ALLOCATIONS}", "said on leaving"]


FREEING = """
import resource
from sidebench.benchmark.environment import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [bytearray(1 << 22) for _ in range(8)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults(), keep_freed_memory(), faults() and faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_freed_memory_is_kept_for_the_next_call() -> None:
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)
    before, kept, after = done.stdout.split()
    assert kept == "True" and 50 * int(after) < int(before)


def test_a_system_without_glibc_keeps_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.ctypes, "CDLL", lambda name: object())
    assert not environment.keep_freed_memory()


def test_the_package_s_code_is_one_hash_of_its_files() -> None:
    here = Path(environment.__file__).parent
    files = [*here.rglob("*.py"), *(here.parent / "methods").rglob("*.py")]
    assert environment.describe()["code"] == environment.package_code() == environment.files_hash(sorted(files))
    assert here.parent / "methods" / "side.py" in files and here / "sampling" / "sampler.py" in files


def test_a_gpu_computes_in_full_precision_with_one_algorithm() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
    environment.pick_device("cpu")
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark, "a notebook's own work stays its own"
    with contextlib.suppress(BadInput):
        environment.pick_device("cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.benchmark and torch.backends.cudnn.deterministic


def test_no_device_memory_is_said_where_there_is_no_device() -> None:
    if not torch.cuda.is_available():
        assert environment.peak_device_memory() is None
