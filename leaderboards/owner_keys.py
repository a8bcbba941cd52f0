"""A submitter's key: the private half in a file of their own, and what is signed with it and checked by the other.

Signatures are Ed25519 (RFC 8032) over a record's JSON without its field `signature`, keys sorted and without spaces.
The file is PEM (PKCS8), readable by nobody else, never written over, and never in a folder that goes to others.
"""

import errno
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..benchmark.errors import BadInput
from ..benchmark.files import cannot_write
from ..benchmark.results.run_folder import RunFolder
from .signed_record import SignedRecord

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_Record = TypeVar("_Record", bound=SignedRecord)

_MOST = 4096
"""Bytes of the largest file that is read as a key; one of ours has 119."""

_OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def default_file() -> Path:
    """Return where a key lies unless `--key` says otherwise: `sidebench/owner.pem` in XDG_CONFIG_HOME or ~/.config."""
    told = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (told if told.is_absolute() else Path("~/.config").expanduser()) / "sidebench" / "owner.pem"


def read_key(file: Path) -> "Ed25519PrivateKey | None":
    """Return the private key in a file, or None where there is no such file.

    Raises:
        BadInput: it is a link, no file, open to others, or holds no Ed25519 key without a passphrase.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # A pipe would be waited for without O_NONBLOCK.
        with os.fdopen(os.open(file, os.O_RDONLY | _OPEN | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise BadInput(f"key {file}: is no regular file")
            if os.name == "posix" and mode & 0o077:
                raise BadInput(f"key {file}: others may read it; chmod 600 it, or use another if they may have done so")
            content = stream.read(_MOST)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "is a link; name the file that it leads to" if error.errno == errno.ELOOP else error.strerror
        raise BadInput(f"key {file}: {why}") from None
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):  # no PEM, or one with a passphrase
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"key {file}: holds no Ed25519 key in PEM without a passphrase")
    return key


def make_key(file: Path) -> "Ed25519PrivateKey":
    """Make a private key and write it to a new file, readable by its owner alone.

    Raises:
        BadInput: something is there already, or the file cannot be written.
        CannotWrite: the disk is full or failing.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    except OSError as error:
        raise cannot_write(file, error) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise cannot_write(file, error) from None
    return key


def refuse_place(file: Path, records: Path) -> None:
    """Refuse a key's place inside a run folder or a folder of records: both are handed to others.

    Raises:
        BadInput: the file lies, or would lie, in one.
    """
    try:
        place, goes = file.parent.resolve(), records.resolve()
    except OSError as error:  # the folder that one works in may be gone
        raise BadInput(f"{records}: {error.strerror}; give --records a full path, or change the folder") from None
    for folder in (place, *place.parents):
        if folder == goes or RunFolder(folder).manifest_file.is_file():
            raise BadInput(f"key {file}: lies in {folder.name}, which goes to others; keep it outside")


def public_half(key: "Ed25519PrivateKey") -> str:
    """Return the public half of a key as 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def signed(record: _Record, key: "Ed25519PrivateKey") -> _Record:
    """Return the record with its owner and signature."""
    owned = record.model_copy(update={"owner": public_half(key), "signature": None})
    signature = key.sign(_signed_bytes(owned.model_dump(mode="json", by_alias=True)))
    return owned.model_copy(update={"signature": signature.hex()})


def holds(content: Mapping[str, Any]) -> bool:
    """Return whether the signature in a record's JSON value is that of its owner over all else in it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["owner"]))
        key.verify(bytes.fromhex(content["signature"]), _signed_bytes(content))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_bytes(content: Mapping[str, Any]) -> bytes:
    # Without line ends, unlike the file: with them this took 7 ms in place of 3 for each record that is read.
    signed = {key: value for key, value in content.items() if key != "signature"}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
