"""SHA256SUMS: what a finished run says about itself, sealed by its last write and checked before it is shown.

`sha256sum -c SHA256SUMS` checks the same. What a run goes on with is not listed: it carries its own hash (`whole`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from ..errors import BadInput, CorruptRun
from ..files import cannot_write, sha256, write_text
from ..progress import say
from .run_folder import RunFolder

SUMS = "SHA256SUMS"
ORIGIN = "results.json"
"""What the results were computed from; see `runs.kept_results`."""
LISTED = (
    *("metrics.json", "metrics.csv", "costs.json", "audit.json", "quality.json", "copying.json"),
    *("evidence/*/*", ORIGIN),
)


@contextmanager
def sealed(folder: RunFolder) -> Iterator[None]:
    """Write a run's results inside; a call that is killed meanwhile leaves none of them sealed."""
    file = folder.path / SUMS
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(file, error) from None
    yield
    found = sorted(each for pattern in LISTED for each in folder.path.glob(pattern) if not each.name.startswith("."))
    write_text(file, "".join(f"{sha256(each)}  {each.relative_to(folder.path).as_posix()}\n" for each in found))


def check_sums(folder: RunFolder) -> None:
    """Refuse results that are not what the run wrote; a listed file that is not there was removed by somebody.

    Raises:
        CorruptRun: a file was changed or cut, or the list was.
    """
    file = folder.path / SUMS
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        _tell(f"{folder.path}: results without {SUMS}, of an earlier version or a killed run; they are not checked")
        return
    except (OSError, ValueError) as error:
        raise CorruptRun(f"{folder.path.name}/{SUMS} cannot be read ({type(error).__name__}); {_AGAIN}") from None
    for name, stated in _listed(folder, text).items():
        if _hash(folder.path / name) not in (stated, None):
            raise CorruptRun(f"{folder.path.name}/{name} is not what was written (its SHA-256 differs); {_AGAIN}")


def is_sealed(folder: RunFolder) -> bool:
    """Return whether every file of the results is there as it was written."""
    try:
        text = (folder.path / SUMS).read_text(encoding="utf-8")
        listed = _listed(folder, text)
        return bool(listed) and all(_hash(folder.path / name) == stated for name, stated in listed.items())
    except (OSError, ValueError, CorruptRun):
        return False


def _listed(folder: RunFolder, text: str) -> dict[str, str]:
    """Return each listed file's SHA-256; a list that names anything but results is refused, for it may be a stranger's.

    Raises:
        CorruptRun: it names another file.
    """
    listed = {}
    for line in text.splitlines():
        stated, _, name = line.partition("  ")
        if ".." in name or not any(PurePosixPath(name).match(pattern) for pattern in LISTED) or name.startswith("/"):
            raise CorruptRun(f"{folder.path.name}/{SUMS} lists {name[:40]!r}, which is no result; {_AGAIN}")
        listed[name] = stated
    return listed


_AGAIN = "the same `sidebench run` writes it again"


def _hash(file: Path) -> str | None:
    """Return a file's SHA-256, or None where there is none."""
    try:
        return sha256(file)
    except BadInput:
        return None
    except OSError as error:
        raise CorruptRun(f"{file.parent.name}/{file.name} cannot be read: {error.strerror}") from None


@cache
def _tell(line: str) -> None:
    say(line)
