"""A run where the system is as strict as Windows: no fcntl, no resource, and its rules for files.

Only the differences that Python shows are simulated here; nothing of this ran on Windows itself.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CODE = r"""
import fcntl, importlib, os, pathlib, pkgutil, sys, warnings

import psutil  # its part for Linux reads `resource`, its part for Windows does not

access, flags = fcntl.fcntl, fcntl.F_GETFL
for name in ("fcntl", "resource"):
    sys.modules[name] = None

real_fsync, real_replace, real_unlink = os.fsync, os.replace, os.unlink


def fsync(descriptor):
    if access(descriptor, flags) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Windows flushes only what is open for writing")
    real_fsync(descriptor)


def unmapped(path):
    if os.path.realpath(path) in pathlib.Path("/proc/self/maps").read_text():
        raise PermissionError(13, "a mapped file is neither replaced nor deleted on Windows", str(path))


def replace(source, target, **options):
    unmapped(target)
    real_replace(source, target, **options)


def unlink(path, *arguments, **options):
    if isinstance(path, (str, os.PathLike)):
        unmapped(path)
    real_unlink(path, *arguments, **options)


os.fsync, os.replace, os.unlink = fsync, replace, unlink
warnings.filterwarnings("ignore", "only soft file lock is available")

import sidebench

for module in pkgutil.walk_packages(sidebench.__path__, "sidebench."):
    if ".tests" not in module.name and ".docs" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)

import filelock
from sidebench.benchmark.errors import RunConflict
from sidebench.benchmark.reports import page
from sidebench.benchmark.results.keyed_names import run_key
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.cli import main

assert filelock.FileLock is filelock.SoftFileLock
page.inlined = lambda name, picture: {"title": picture.title, "svg": "<svg/>"}  # drawn in memory: no file to it


def call(*arguments):
    try:
        main(list(arguments))
    except SystemExit as left:
        assert not left.code, (arguments, left.code)


call("run", "tiny.yaml", "--model", "control:copycat", "--attack", "carlini-uncond", "--candidates", "8")
(manifest,) = pathlib.Path("runs").glob("*/manifest.json")
run = RunFolder(manifest.parent)
assert run_key(run) == run_key(run)
with run.locked():
    try:
        with run.locked():
            raise AssertionError("two writers")
    except RunConflict:
        pass
call("report", str(run.path))
print("all done")
"""


def test_a_run_needs_no_module_of_unix(make_pair_file: Callable[..., Path], tmp_path: Path) -> None:
    make_pair_file(tmp_path)
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("all done\n"), done.stderr[-4000:]
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert len(files) > 20 and not [file for file in files if set(file.name) & set('<>:"|?*\\')]
    assert not [file for file in files if file.suffix in (".json", ".csv") and b"\r" in file.read_bytes()]
