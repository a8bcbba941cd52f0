"""A repository of the Hub at a commit -> files on this machine, and one clear line for whatever goes wrong.

A branch is resolved to a commit once, when it is fetched. What was fetched is written down beside the cache, so
that every later run finds the same commit without asking anybody; `sidebench fetch` asks again. The user's own
login is used (huggingface_hub finds it), and no message repeats what the Hub or a library said, so none can hold
a token.
"""

import errno
import glob
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import files
from ..contracts import Settings
from ..errors import BadInput, CannotReach, CannotWrite, CorruptRun, RunConflict, SidebenchError, UnsafeFile
from ..files import read_json, short_hash, write_json
from .named_folder import did_you_mean

Kind = Literal["model", "dataset"]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


class Listing(NamedTuple):
    """A repository at one commit, as the Hub lists it."""

    kind: Kind
    repo: str
    """As the Hub names it: `uoft-cs/cifar10`, where the user may have written `cifar10`."""
    revision: str
    """As the user named it: a branch, a tag or a commit."""
    commit: str
    """The full commit hash."""
    sizes: Mapping[str, int]
    """Bytes by file name."""
    gated: bool
    licence: str
    sha256: Mapping[str, str] = {}
    """Of large files, where the Hub states it."""
    asked: str = ""
    """The repository as the user named it."""


class Fetched(Settings):
    """What was fetched of a repository; kept as JSON, so that later runs ask nobody."""

    kind: Kind
    repo: str
    """As the Hub names it."""
    revision: str
    commit: str
    sizes: dict[str, int]
    """Bytes by name of the files that were chosen."""
    licence: str
    sha256: dict[str, str] = {}
    """By name, as the files were when they were fetched."""
    details: dict[str, Any] = {}
    """For data: how to read the files (`dataset_files`)."""

    def origin(self) -> dict[str, str]:
        """Return what a manifest says of it."""
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit}

    def folder(self) -> Path:
        """Return the snapshot's folder.

        Raises:
            CannotReach: a file is no longer there.
        """
        from huggingface_hub import constants

        repository = f"{self.kind}s--{self.repo.replace('/', '--')}"
        folder = Path(constants.HF_HUB_CACHE) / repository / "snapshots" / self.commit
        for name, size in self.sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise CannotReach(f"{self.repo}: {name} is not in the cache any more; sidebench fetch brings it back")
        return folder

    def unchanged(self) -> Path:
        """Return the snapshot's folder once every file was read and found to be the one that was fetched.

        Raises:
            CannotReach: a file is no longer there.
            UnsafeFile: a file was changed.
        """
        folder = self.folder()
        for name, expected in self.sha256.items():
            if files.sha256(folder / name) != expected:
                raise UnsafeFile(
                    f"{self.repo}/{name} in the cache is not the file that was fetched; sidebench fetch brings it back"
                )
        return folder


def cache() -> Path:
    """Return the folder of what sidebench itself keeps between runs, beside the Hub's cache (HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "sidebench"


def look_up(kind: Kind, repo: str, revision: str) -> Listing:
    """Ask the Hub which commit a revision is and what it holds.

    Raises:
        BadInput: no such repository or revision, or no right to see it.
        CannotReach: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with explained(kind, repo, revision):
        ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
        info = ask(repo, revision=revision, files_metadata=True)
    licence = getattr(info.card_data, "license", None) or "not stated"
    files = info.siblings or []
    sizes = {file.rfilename: int(file.size or 0) for file in files}
    hashes = {file.rfilename: str(file.lfs.sha256) for file in files if file.lfs is not None}
    name = info.id or repo  # a repository that was moved answers under its new name
    return Listing(kind, name, revision, str(info.sha), sizes, bool(info.gated), str(licence), hashes, repo)


def download(found: Listing, names: Sequence[str]) -> Path:
    """Download files of a commit, going on where an earlier call broke off; return the snapshot's folder.

    A file in the cache that is not what the Hub states is fetched again.

    Raises:
        BadInput: the repository is gated and this user has no access.
        CannotReach: the connection broke off; the same call goes on. Or a file arrived damaged.
        CannotWrite: the disk is full.
    """
    from huggingface_hub import constants

    needed, free = sum(found.sizes[name] for name in names), _free(Path(constants.HF_HUB_CACHE))
    if needed > free:
        raise CannotWrite(
            f"{found.repo}: up to {needed / 1e9:.1f} GB to download, {free / 1e9:.1f} GB are free; "
            "set HF_HOME to a folder on a larger disk"
        )
    folder = _snapshot(found, names)
    damaged = _damaged(found, folder, names)
    for name in damaged:
        (folder / name).resolve().unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
    if damaged and _damaged(found, _snapshot(found, names), names):
        raise CannotReach(f"{found.kind} {found.repo}: {damaged[0]} arrived damaged; try again")
    return folder


def _snapshot(found: Listing, names: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(name) for name in names]
    with explained(found.kind, found.repo, found.revision), _bars_on_terminals_alone():
        return Path(snapshot_download(found.repo, repo_type=found.kind, revision=found.commit, allow_patterns=patterns))


@contextmanager
def _bars_on_terminals_alone() -> Iterator[None]:
    """Show how far a download is to somebody who watches; a log is spared the bars."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _damaged(found: Listing, folder: Path, names: Sequence[str]) -> list[str]:
    """Return the files that are not of the size, or not of the SHA-256, that the Hub states."""
    return [
        name
        for name in names
        if (folder / name).stat().st_size != found.sizes[name]
        or (name in found.sha256 and files.sha256(folder / name) != found.sha256[name])
    ]


def remember(
    found: Listing, folder: Path, names: Collection[str], key: Mapping[str, Any], details: Any = None
) -> Fetched:
    """Write down what was fetched into a snapshot's folder, under what was asked for."""
    sizes = {name: found.sizes[name] for name in names}
    fetched = Fetched(
        kind=found.kind,
        repo=found.repo,
        revision=found.revision,
        commit=found.commit,
        sizes=sizes,
        licence=found.licence,
        sha256={name: files.sha256(folder / name) for name in names},
        details=details or {},
    )
    write_json(_note(found.kind, found.asked, found.revision, key), fetched.model_dump(mode="json"))
    return fetched


def recall(kind: Kind, repo: str, revision: str, key: Mapping[str, Any]) -> Fetched | None:
    """Return what was fetched before for the same question, or None."""
    try:
        fetched = Fetched(**read_json(_note(kind, repo, revision, key)))
        fetched.folder()
    except (CorruptRun, CannotReach, OSError, ValueError, TypeError):
        return None
    return fetched


def _note(kind: Kind, repo: str, revision: str, key: Mapping[str, Any]) -> Path:
    return cache() / "fetched" / f"{kind}-{short_hash([repo, revision, dict(key)])}.json"


def _free(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def explained(kind: Kind, repo: str, revision: str = "main", *, sending: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that names the thing and the way out.

    Args:
        kind: Kind of the repository.
        repo: Its name, as the user gave it.
        revision: Branch, tag or commit that is asked for.
        sending: The repository is one to publish to, and nothing of it is kept in the cache.
    """
    from huggingface_hub import constants, errors

    what = f"{kind} repository {repo}" if sending else f"{kind} {repo}"
    try:
        yield
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        raise BadInput(f"{what} is gated: ask for access on {page}, then log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise BadInput(_not_found(what, kind, repo, sending)) from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{what} has no revision {revision!r}: give a branch, a tag or a full commit hash") from None
    except errors.HFValidationError:
        raise BadInput(f"{repo!r} is no repository name: write it as OWNER/NAME") from None
    except errors.LocalEntryNotFoundError:
        raise _unreachable(what, repo, revision, sending) from None
    except errors.EntryNotFoundError:
        raise CannotReach(f"{what}: a file of the listing is not there; try again") from None
    except errors.HfHubHTTPError as error:
        raise _answered(what, repo, error.response.status_code if error.response is not None else 0, sending) from None
    except (errors.OfflineModeIsEnabled, ConnectionError):
        raise _unreachable(what, repo, revision, sending) from None
    except OSError as error:
        if error.errno in _FULL:
            raise CannotWrite(
                f"{what}: the disk is full; make room or set HF_HOME, then the same command goes on"
            ) from None
        raise (unusable_cache(what, error) or _broken(what, error)) from None
    except Exception as error:
        # The HTTP library's own errors: which one it is depends on huggingface_hub's version (requests, httpx).
        if type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError"):
            raise _unreachable(what, repo, revision, sending) from None
        packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if packages & {"httpx", "httpx2", "httpcore", "httpcore2", "requests"}:
            raise _broken(what, error) from None
        raise


def unusable_cache(what: str, error: OSError) -> BadInput | None:
    """Return what to raise where the cache's place is no folder, or one that may not be used; else None."""
    if error.errno not in _NO_FOLDER:
        return None
    return BadInput(f"{what}: cannot use the cache {error.filename}: {error.strerror}; set HF_HOME to another folder")


def _answered(what: str, repo: str, status: int, sending: bool) -> SidebenchError:
    """Return the error for an HTTP status that has no class of its own."""
    if sending and status in (409, 412):
        return RunConflict(f"somebody else published to {repo} in between; run the same command again")
    if status in (401, 403):
        if sending:
            return BadInput(f"you may not write to {repo}: log in with `hf auth login`, or send --create-pr")
        return BadInput(f"{what}: the Hub refused this login ({status}); log in with `hf auth login`")
    return CannotReach(f"{what}: the Hub answered {status or 'nothing'}; try again later, what is there is kept")


def _broken(what: str, error: Exception) -> CannotReach:
    return CannotReach(f"{what}: the connection broke off ({type(error).__name__}); the same command goes on")


def _not_found(what: str, kind: Kind, repo: str, sending: bool) -> str:
    advice = "check the name; for a private one log in with `hf auth login`"
    if sending:
        advice = f"{advice}; `hf repos create {repo} --type {kind}` makes a new one"
    here = "" if sending or Path(repo).is_dir() else ", and no such folder is here"
    meant = "" if sending else did_you_mean(repo)
    return f"no {what} on the Hub, or it is private{here}{meant or ':'} {advice}"


def _unreachable(what: str, repo: str, revision: str, sending: bool) -> SidebenchError:
    if sending:
        return CannotReach(f"{what}: the Hub cannot be reached; try again later")
    if meant := did_you_mean(repo):  # the Hub would have no answer to a name that is mistyped
        return BadInput(f"no such folder here: {repo}{meant} No {what} is in the cache, and the Hub cannot be reached")
    return CannotReach(
        f"{what} at {revision} is not in the cache and the Hub cannot be reached; "
        "run `sidebench fetch` where there is a network, or unset HF_HUB_OFFLINE"
    )
