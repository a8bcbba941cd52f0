"""Publish records to a dataset repository on the Hub: one commit on top of what is there, or a pull request.

The commit names its parent, so two submitters cannot overwrite each other: the later one is told that the repository
has moved. A record that is there already is never changed, and neither is an owner: new names are added to the
`owners.json` that is there, and new tasks to its `eval.yaml`. Authentication is the user's own login
(`hf auth login`, HF_TOKEN); nothing of it is read or printed here.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from ..benchmark.data.hub import explained
from ..benchmark.errors import BadInput
from . import eval_yaml, owners
from .badge import SUFFIX, checked_file
from .check import Problem, check_files
from .read_records import read_any, record_files
from .record import Record

FOLDER = "records"
"""Where records lie in the repository."""


class Publication(NamedTuple):
    """What would be sent: files by their path in the repository, on top of the commit `parent`."""

    repo: str
    parent: str
    new: dict[str, Path | bytes]
    present: int
    """Files that are there already, the same."""


def prepare(repo: str, records: Path) -> Publication:
    """Compare a folder of records with the repository and return what it lacks.

    Raises:
        BadInput: there are no records, one of them has a problem or differs from the one that is there, a name
            belongs to somebody else there, or the repository cannot be found or read.
        CannotReach: the Hub does not answer.
    """
    files = _checked_records(records)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with explained("dataset", repo, sending=True):
        api = HfApi()
        parent = api.dataset_info(repo).sha
        tree = api.list_repo_tree(repo, recursive=True, revision=parent, repo_type="dataset")
        there = {entry.path: entry.blob_id for entry in tree if isinstance(entry, RepoFile)}
    local = _by_place(files, records)
    changed = {path: file for path, file in local.items() if there.get(path) != _blob(file.read_bytes())}
    for path, file in changed.items():
        if path in there and file in files:
            raise BadInput(f"{path} in {repo} differs from the one here: records are never changed")
    registry = f"{FOLDER}/{owners.FILE}"
    text = _registry(repo, str(parent), records, files, registry in there).encode()
    made = {registry: text, **_tasks(repo, str(parent), files, eval_yaml.PLACE in there)}
    new: dict[str, Path | bytes] = {
        **changed,
        **{path: content for path, content in made.items() if there.get(path) != _blob(content)},
    }
    return Publication(repo, str(parent), new, len(local) + len(made) - len(new))


def _tasks(repo: str, parent: str, files: list[Path], there: bool) -> dict[str, bytes]:
    """Return the eval.yaml that the repository should have, by its path; nothing where no result of a model needs it.

    Raises:
        BadInput: the one that is there is none of its form.
    """
    text = eval_yaml.eval_yaml(_extraction(files), _content_there(repo, parent, eval_yaml.PLACE) if there else None)
    return {eval_yaml.PLACE: text.encode()} if text else {}


def _extraction(files: list[Path]) -> list[Record]:
    """Return the records of extraction: those of detectors are no result of a model."""
    return [record for record in map(read_any, files) if isinstance(record, Record)]


def _content_there(repo: str, parent: str, path: str) -> bytes:
    """Return what a file of the repository holds."""
    from huggingface_hub import hf_hub_download

    with explained("dataset", repo, sending=True):
        return Path(hf_hub_download(repo, path, revision=parent, repo_type="dataset")).read_bytes()


def _registry(repo: str, parent: str, records: Path, files: list[Path], there: bool) -> str:
    """Return the owners.json that the repository should have: its own with the names that are new here.

    Raises:
        BadInput: a name, or an unsigned record, is not of whom the repository says.
    """
    own = owners.read_owners(records)
    if not there:
        return own.text()
    base = owners.parse_owners(_content_there(repo, parent, f"{FOLDER}/{owners.FILE}"))
    _refuse([Problem(owners.FILE, *found) for found in own.taken(base)], f"names stay their owners' in {repo}")
    _refuse(check_files(files, records, registry=own.after(base)), f"by the {owners.FILE} of {repo}")
    return own.after(base).text()


def rehearsal(repo: str, records: Path) -> str:
    """Say what a first publication would hold, a line per file, without asking the Hub anything.

    Raises:
        BadInput: there are no records, one of them has a problem, or the name cannot be one of a repository.
    """
    from huggingface_hub.utils._validators import validate_repo_id

    with explained("dataset", repo, sending=True):
        validate_repo_id(repo)
    files = _checked_records(records)
    sizes = {path: file.stat().st_size for path, file in _by_place(files, records).items()}
    sizes[f"{FOLDER}/{owners.FILE}"] = len(owners.read_owners(records).text().encode())
    if tasks := eval_yaml.eval_yaml(_extraction(files)):
        sizes[eval_yaml.PLACE] = len(tasks.encode())
    lines = [f"{path} ({size:,} bytes)" for path, size in sorted(sizes.items())]
    total = f"{len(lines):,} files, {sum(sizes.values()):,} bytes, all records are in order"
    return "\n".join([*lines, f"{total}; {repo} was not asked which of them it has"])


def _checked_records(records: Path) -> list[Path]:
    files = record_files(records)
    if not files:
        raise BadInput(f"{records} holds no records; make some with `sidebench leaderboard add RUN`")
    _refuse(check_files(files, records), "`sidebench leaderboard check` lists them")
    return files


def _by_place(files: list[Path], records: Path) -> dict[str, Path]:
    """Return records and the badges beside them by their path in the repository."""
    found = [*files, *(beside for file in files if (beside := checked_file(file)).is_file())]
    return {f"{FOLDER}/{file.relative_to(records).as_posix()}": file for file in found}


def _refuse(problems: list[Problem], more: str) -> None:
    if problems:
        raise BadInput(f"{problems[0]} ({len(problems)} problems; {more})")


def send(publication: Publication, *, create_pr: bool = False) -> str:
    """Commit what `prepare` found and return the address of the commit or pull request.

    Raises:
        RunConflict: somebody else published in between.
        BadInput: the user may not write there.
        CannotReach: the Hub does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path, file) for path, file in sorted(publication.new.items())]
    count = len(
        [path for path in publication.new if path.startswith(FOLDER) and not path.endswith((SUFFIX, f"/{owners.FILE}"))]
    )
    with explained("dataset", publication.repo, sending=True):
        made = HfApi().create_commit(
            publication.repo,
            operations,
            commit_message=f"{count} sidebench record{'' if count == 1 else 's'}",
            repo_type="dataset",
            parent_commit=publication.parent,
            create_pr=create_pr,
        )
    return str(made.pr_url or made.commit_url)


def as_text(publication: Publication) -> str:
    """Say what would be sent, a line per file."""
    sizes = {path: len(_content(found)) for path, found in sorted(publication.new.items())}
    lines = [f"{path} ({size:,} bytes)" for path, size in sizes.items()]
    total = f"{len(lines):,} files, {sum(sizes.values()):,} bytes, for {publication.repo} on top of "
    total += f"{publication.parent[:12]}; "
    return "\n".join([*lines, f"{total}{publication.present:,} are there already"])


def _content(found: Path | bytes) -> bytes:
    return found if isinstance(found, bytes) else found.read_bytes()


def _blob(content: bytes) -> str:
    """Return the id that git gives to a file's content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
