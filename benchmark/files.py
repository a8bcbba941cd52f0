"""Files that are whole or not there: JSON, tables and tensors written in one step and checked when they are read.

What a later call trusts carries the SHA-256 of its content: states and tables in their metadata, JSON under a key of
its own. Files of earlier versions carry none and are read unchecked.
"""

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .contracts import AttackState
from .errors import BadInput, CannotWrite, CorruptRun, SidebenchError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from filelock import BaseFileLock
    from torch import Tensor

import functools

import yaml

MOST_LEVELS = 64
"""Levels of a YAML or JSON file that somebody else may have written."""

MOST_BYTES = 64 * 2**20
"""Bytes of the largest file that is read as one text."""

MOST_YAML = 2**20
"""Bytes of the largest YAML file; a reader in Python takes ten seconds for them."""

MADE = b"Made by sidebench"
"""Stands near the beginning or the end of every page, picture and summary that a command writes where it is told to."""

_ENDS = 4096
"""Bytes at either end of a file among which `MADE` is looked for."""

JSON_HASH = "content_sha256"
"""Key under which checked JSON carries the SHA-256 of everything else in it."""

DAY = 24 * 3600.0
"""Seconds after which nobody writes to a temporary file any more that was not touched meanwhile."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a file that this process has hashed already is read again only if it changed."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, _NO_FILE, str(path))
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        raise BadInput(f"{path.parent.name}/{path.name} is missing") from None


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    # Planning and loading both check the files; those of a large model take half a minute.
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_NO_FILE = "Not a regular file"


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what a file holds, at most so many bytes.

    A pipe or a device is not opened: reading it may wait or go on for ever.

    Raises:
        OSError: there is no such file, it cannot be opened, is none, or is larger; `strerror` says which.
    """
    try:
        state = path.stat()
    except ValueError:  # a null character in the name
        raise OSError(errno.EINVAL, "Not a name of a file", str(path)) from None
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, _NO_FILE, str(path))
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"Larger than {most:,} bytes", str(path))
    return content


def parse_json(text: str | bytes, *, any_number: bool = False) -> Any:
    """Return the value that JSON text spells, if everything here can work with it.

    Unlike `json.loads` this refuses numbers that are none or infinite (NaN, 1e999), whole numbers beyond 64 bits, half
    a character (a lone surrogate), and more than 64 levels. `any_number` lets Infinity, -Infinity and whole numbers of
    any size pass, which libraries write into configurations of theirs.

    Raises:
        ValueError: the text breaks one of these rules, or is no JSON in UTF-8.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        if any_number:
            content = json.loads(text, parse_constant=_infinite, parse_float=_finite)
        else:
            content = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [content], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MOST_LEVELS:
            raise ValueError(_TOO_DEEP)
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    if "\\ud" in text.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half a character") from None
    return content


_TOO_DEEP = f"it is nested deeper than {MOST_LEVELS} levels"


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _infinite(word: str) -> float:
    return float(word) if word.endswith("Infinity") else _no_number(word)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]} is no finite number")
    return value


def _whole(word: str) -> int:
    if len(word) > 20 or not -(2**63) <= int(word) < 2**64:
        raise ValueError(f"{word[:40]} is beyond 64 bits")
    return int(word)


def difference(stored: Any, wanted: Any, key: str = "") -> str | None:
    """Describe the first difference between two JSON values, or None."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in sorted({*stored, *wanted}):
            found = difference(stored.get(name), wanted.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if stored == wanted else f"{key} was {stored!r}, now {wanted!r}"


Put = Callable[[Path, Callable[[Path], object]], None]
"""How a file gets into its place: `write_atomic`, or what does the same under a condition."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    What is there keeps its permissions; a link, a pipe or a device is not replaced.

    Raises:
        CannotWrite: the disk is full or failing; what was there stays.
        BadInput: the place cannot be written to.
    """
    temporary: Path | None = None
    try:
        mode = _replaced_mode(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("r+b") as stream:  # Windows flushes only what is open for writing
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _replaced_mode(path: Path) -> int:
    """Return the permissions of the file that is to be replaced, or those of a new one.

    Raises:
        BadInput: what is there may not be replaced.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0o644
    if stat.S_ISLNK(mode):
        raise BadInput(f"cannot write {path}: it is a link; remove it, or name the file that it leads to")
    if stat.S_ISDIR(mode):
        raise BadInput(f"cannot write {path}: it is a folder")
    if not stat.S_ISREG(mode):
        raise BadInput(f"cannot write {path}: it is no regular file")
    return stat.S_IMODE(mode)


def check_output(path: Path | None, *, force: bool = False) -> None:
    """Refuse a file that a user named for output where something is that sidebench did not write.

    Args:
        path: The file, or None where none was asked for.
        force: Replace it all the same, if it is a regular file.

    Raises:
        BadInput: another file is there, or something that is no file.
    """
    if path is None:
        return
    try:
        _replaced_mode(path)
        if not force and path.exists() and not _is_ours(path):
            raise BadInput(f"{path} is there and sidebench did not write it; choose another file, or add --force")
    except OSError as error:
        raise cannot_write(path, error) from None


def _is_ours(path: Path) -> bool:
    """Return whether a file is empty or names sidebench as its maker."""
    with path.open("rb") as stream:
        start = stream.read(_ENDS)
        stream.seek(max(0, path.stat().st_size - _ENDS))
        return not start or MADE in start or MADE in stream.read(_ENDS)


def lock_of(path: Path) -> "BaseFileLock":
    """Return the lock of this file, to be acquired.

    A lock is an empty file. Taking one would empty whatever else is there, so that is refused.

    Raises:
        BadInput: something else is there: a link, a file with a content or with another name, no file.
    """
    from filelock import FileLock, SoftFileLock

    # Where the system has no locks the file itself is one: it is created, never opened, and names its owner.
    soft = issubclass(FileLock, SoftFileLock)
    with suppress(FileNotFoundError, NotADirectoryError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or (found.st_size and not soft) or found.st_nlink > 1:
            raise BadInput(f"cannot write to {path.parent}: {path.name} in it is no lock of sidebench; remove it")
    return FileLock(path)


def refuse_links(folder: Path) -> None:
    """Refuse a folder of somebody else's in which a name leads out of it, or to something that is no file.

    Whoever reads or writes in it would reach other files of this machine, or wait for ever.

    Raises:
        BadInput: it holds such a name, which is named.
    """
    root = folder.resolve()
    places = [root]
    while places:
        place = places.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_symlink() and not _stays(Path(entry.path), root):
                    raise BadInput(f"{folder}: {_below(entry, root)} is a link that leads out of the folder; remove it")
                if entry.is_dir(follow_symlinks=False):
                    places.append(Path(entry.path))
                elif not entry.is_symlink() and not entry.is_file():
                    raise BadInput(f"{folder}: {_below(entry, root)} is no regular file; remove it")


def _stays(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # it leads to itself
        return False


def _below(entry: "os.DirEntry[str]", root: Path) -> str:
    return Path(entry.path).relative_to(root).as_posix()


def remove_leftovers(folder: Path, name: str = "*", age: float = DAY) -> None:
    """Remove the temporary files in a folder, not below it, that killed writers left.

    Args:
        folder: Where `write_atomic` wrote; it may be missing or unreadable.
        name: Pattern of the files that were to be written.
        age: Seconds that such a file was not written to; 0 where a lock says that nobody else writes here.
    """
    with suppress(OSError):
        for file in folder.glob(f".{name}.*.tmp"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime >= age:
                    file.unlink()


def cannot_write(path: Path, error: OSError) -> SidebenchError:
    """Return what to raise where writing failed: `CannotWrite` if the disk is full or failing, else `BadInput`."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return (CannotWrite if full else BadInput)(f"cannot write {path}: {error.strerror or error}")


def canonical_json(content: Any) -> str:
    """Return JSON with sorted keys and no NaN: the same content is the same bytes."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def content_sha256(content: Any) -> str:
    """Return the SHA-256 of a JSON value's canonical text: what something that is kept by content goes by."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def write_text(path: Path, text: str, put: Put = write_atomic) -> None:
    """Write text atomically, as UTF-8 with the same line ends, and so the same bytes, on every system."""
    put(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, content: Any) -> None:
    """Write canonical JSON atomically."""
    write_text(path, canonical_json(content))


def write_checked_json(path: Path, content: Mapping[str, Any], put: Put = write_atomic) -> None:
    """Write canonical JSON atomically, with its own SHA-256, which `read_json` checks and leaves out."""
    write_text(path, canonical_json(_with_hash(content)), put)


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object of a run folder, of at most so many bytes.

    Raises:
        CorruptRun: the file cannot be read, holds no object, or not what `write_checked_json` wrote.
    """
    try:
        content = parse_json(read_bytes(path, most))
        if not isinstance(content, dict):
            raise CorruptRun(f"{path.parent.name}/{path.name} holds no object")
        if not _is_intact(content):
            raise CorruptRun(
                f"{path.parent.name}/{path.name} is not what was written (its SHA-256 differs); put a copy of it back, "
                f"or start over with --fresh"
            )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CorruptRun(f"{path.parent.name}/{path.name} cannot be read: {why}") from None
    return content


def _with_hash(content: Mapping[str, Any]) -> dict[str, Any]:
    # As it will be read: a tuple is a list then, and a number that is a key is text.
    content = json.loads(json.dumps(content))
    return {**content, JSON_HASH: _json_sha256(content)}


def _is_intact(content: dict[str, Any]) -> bool:
    """Take the SHA-256 out of JSON that was read, and return whether the rest has it; without one it is unchecked."""
    stated = content.pop(JSON_HASH, None)
    return stated is None or stated == _json_sha256(content)


def _json_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_state(path: Path, state: AttackState, put: Put = write_atomic) -> None:
    """Write tensors and JSON values as one safetensors file; the JSON and the SHA-256 of both are in its header.

    The same state is the same bytes: there is one entry of metadata, since the library writes several in any order.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    values = _with_hash({"info": state.info, "tensors_sha256": _tensors_sha256(tensors)})
    content = save(tensors, {"content": json.dumps(values, sort_keys=True)})
    put(path, lambda file: file.write_bytes(content))


def read_state(path: Path) -> AttackState:
    """Read what `write_state` wrote.

    Raises:
        CorruptRun: the file is missing, or was changed or cut.
    """
    return _read_safetensors(path, tensors=True)


def read_info(path: Path) -> Mapping[str, Any]:
    """Read the JSON values of what `write_state` wrote, without the tensors and without importing torch.

    Raises:
        CorruptRun: the file is missing, or its header was changed or cut.
    """
    return _read_safetensors(path, tensors=False).info


def _read_safetensors(path: Path, *, tensors: bool) -> AttackState:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt" if tensors else "numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys() if tensors else []
            # A copy: a tensor that maps the file would keep Windows from replacing or deleting it.
            found = {name: file.get_tensor(name).clone() for name in names}
        if metadata.keys() <= {"info"}:  # of an earlier version
            return AttackState(found, json.loads(metadata.get("info", "{}")))
        content = json.loads(metadata["content"])
        if not _is_intact(content) or (tensors and content["tensors_sha256"] != _tensors_sha256(found)):
            raise _changed(path)
        return AttackState(found, content["info"])
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _tensors_sha256(tensors: "Mapping[str, Tensor]") -> str:
    """Return the SHA-256 over each tensor's name, type, shape and bytes, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unreadable(path: Path, error: Exception) -> CorruptRun:
    name = f"{path.parent.name}/{path.name}"
    return CorruptRun(f"{name} cannot be read ({type(error).__name__}); the same `sidebench run` rebuilds it")


def _changed(path: Path) -> CorruptRun:
    return CorruptRun(
        f"{path.parent.name}/{path.name} is not what was written (its SHA-256 differs); the same `sidebench run` "
        f"rebuilds it"
    )


_ROWS_PER_BYTE = 64
"""More rows than that of what is stored here fit into no byte; a file that says so would fill the memory."""


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a parquet table atomically, with the SHA-256 of its columns."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({"sha256": _table_sha256(table)})
    write_atomic(path, lambda file: pq.write_table(table, file.absolute(), compression="zstd"))


def read_table(path: Path) -> "pa.Table":
    """Read a parquet table of a run folder, without threads and read-ahead: the files are small.

    Raises:
        CorruptRun: the file is missing, or was changed or cut.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A relative path with a colon, such as control:copycat/..., is an address to pyarrow.
        file = pq.ParquetFile(path.absolute(), pre_buffer=False)
        if file.metadata.num_rows > _ROWS_PER_BYTE * path.stat().st_size:
            raise _changed(path)
        table = file.read(use_threads=False)
        # pyarrow writes a schema of its own beside the hash: where that is missing too, the file's end was changed.
        footer, stated = file.metadata.metadata or {}, table.schema.metadata
        if b"ARROW:schema" not in footer or (stated and stated != {b"sha256": _table_sha256(table).encode()}):
            raise _changed(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return table.replace_schema_metadata(None)


def _table_sha256(table: "pa.Table") -> str:
    """Return the SHA-256 over each column's name, NumPy type, shape and values, in their order.

    Values, not the file: a table has the same hash whichever version of pyarrow wrote it.
    """
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        for values in _arrays(column):
            digest.update(f"\0{name}\0{column.null_count}\0{values.dtype.str}\0{values.shape}\0".encode())
            digest.update(values.data)
    return digest.hexdigest()


def _arrays(column: "pa.ChunkedArray") -> "Iterator[np.ndarray]":
    """Yield what a column holds: numbers, lists of one length as a matrix, and text as its bytes and their lengths."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_string(column.type):
        texts = [(text or "").encode() for text in column.to_pylist()]
        yield np.array([len(text) for text in texts], dtype=np.int64)
        yield np.frombuffer(b"".join(texts), dtype=np.uint8)
    elif pa.types.is_fixed_size_list(column.type):
        yield column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    else:
        yield np.ascontiguousarray(column.to_numpy())


def read_yaml(path: Path, what: str, kind: type[BadInput] = BadInput, *, advice: str = "") -> Any:
    """Read a YAML file that a user wrote, with the rules of `parse_yaml`.

    Args:
        path: The file.
        what: How messages name it, such as "policy strict.yaml".
        kind: Class of the errors.
        advice: What to do where the file cannot be opened.

    Raises:
        BadInput: the file cannot be opened, or breaks a rule; one line.
    """
    try:
        content = read_bytes(path, MOST_YAML)
    except OSError as error:
        raise kind(f"{what}: {error.strerror}{'; ' if advice else ''}{advice}") from None
    return parse_yaml(content, what, kind)


def parse_yaml(text: str | bytes, what: str, kind: type[BadInput] = BadInput) -> Any:
    """Return the value that YAML text spells, of the types of `yaml.safe_load`.

    Unlike there, a key that stands twice is refused (the first value would be lost without a word), and so are tags,
    values that contain themselves, more than 64 levels, and whatever cannot be read as what it looks like, such as
    the date 2001-99-99.

    Raises:
        BadInput: the text breaks one of these rules, or is no YAML; one line of the class `kind`.
    """
    try:
        return yaml.load(text.decode() if isinstance(text, bytes) else text, _Loader)
    except UnicodeDecodeError:
        raise kind(f"{what} is not YAML: it is no text in UTF-8") from None
    except _Refused as error:
        raise kind(f"{what}, line {error.line}: {error}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # an escape beyond Unicode, say
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise kind(f"{what} is not YAML{'' if line is None else f', line {line + 1}'}") from None


class _Refused(yaml.YAMLError):
    """A rule of `parse_yaml` is broken."""

    def __init__(self, message: str, place: Any) -> None:
        super().__init__(message)
        self.line = place.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """Safe YAML with the rules of `parse_yaml`, all checked while the text is read, before aliases are followed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []
        """Anchors of the nodes that the reader is inside of, None for a node without one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call,unused-ignore]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise _Refused(f"*{event.anchor} contains itself", event)
        elif event.tag is not None:
            raise _Refused("a tag (!...) is not read here", event)
        if len(self._open) >= MOST_LEVELS:
            raise _Refused(f"nested deeper than {MOST_LEVELS} levels", event)
        self._open.append(None if isinstance(event, yaml.AliasEvent) else event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag.endswith(":merge") else self.construct_object(key)
                if name in lines:
                    raise _Refused(f"{key.value} stands twice, the first time in line {lines[name]}", key)
                lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int | str):
                str(value).encode()  # a number of 5,000 digits, or half a character, would fail far from here
            if isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise OverflowError
            return value
        except (ValueError, OverflowError):
            looks = {"int": "a number", "float": "a number", "timestamp": "a date"}
            kind = looks.get(node.tag.rpartition(":")[2], "text")
            shown = node.value if len(node.value) <= 40 else f"{node.value[:37]}..."
            raise _Refused(f"{shown!r} cannot be read as {kind}; put text in quotes", node) from None


def short_hash(content: Any) -> str:
    """Return 8 hex digits that name a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
