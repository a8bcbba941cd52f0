"""Keyed hashes: names for training images that only the holder of the run folder can resolve.

A page or record that named an image by its number, or by a plain hash of its bytes, would let anybody who
holds the data set, or just one image, confirm that this image was extracted. An HMAC-SHA256 (RFC 2104) under a
random key tells nothing without the key, and the key stays in the run folder: file `hash.key`, never in
a manifest, report or record.

What is hashed is the text `training_group` (or `held_out_group`) gives: the number of a duplicate group in
references.parquet.
The number needs no image, is stable for a run folder, and leads its holder back to the images; the secret is
the key alone, so a text that could be guessed loses nothing. Another run has another key: hashes of two runs
cannot be matched.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ..errors import BadInput, CorruptRun
from ..files import lock_of, read_bytes
from .run_folder import RunFolder

KEY_FILE = "hash.key"
KEY_BYTES = 32
_DIGITS = 16
_MOST_BYTES = 4096


def run_key(folder: RunFolder) -> bytes:
    """Return the run's secret key of 32 bytes, made on first need and readable by its owner only.

    Raises:
        CorruptRun: the key file does not hold 32 bytes.
        BadInput: the key cannot be read, or a new one cannot be written.
    """
    deleted = "reports and records made before then name images by other hashes"
    return secret_file(folder.path / KEY_FILE, "it names training images in reports", deleted)


def secret_file(file: Path, why: str, deleted: str) -> bytes:
    """Return the 32 random bytes in a file, made on first need and readable by its owner only.

    Messages say what they are for (`why`), and what it means to delete them (`deleted`).

    Raises:
        CorruptRun: the file does not hold 32 bytes.
        BadInput: it cannot be read, or a new one cannot be written.
    """
    try:
        key = (read_bytes(file, _MOST_BYTES) if file.exists() else b"") or _make(file)
    except OSError as error:
        raise BadInput(f"cannot read or make {file}: {error.strerror}; {why}") from None
    if len(key) != KEY_BYTES:
        raise CorruptRun(
            f"{file.parent.name}/{file.name} holds {len(key)} bytes instead of {KEY_BYTES}; delete it for a new key "
            f"({deleted})"
        )
    return key


def keyed_hash(key: bytes, text: str) -> str:
    """Return 16 hex digits that name `text` under this key: 64 bits, so a million names collide by 1 in 37 million."""
    return hmac.digest(key, text.encode(), "sha256").hex()[:_DIGITS]


def training_group(group: int) -> str:
    """Return the text to hash for a duplicate group of training images; `group` as in references.parquet."""
    return f"training group {group}"


def held_out_group(group: int) -> str:
    """Return the text to hash for a duplicate group of held-out images."""
    return f"held-out group {group}"


def _make(file: Path) -> bytes:
    """Write a random key into a new or empty file, or return the one that another process wrote first."""
    beside = file.with_name(f".{file.name}.lock")
    lock = lock_of(beside)
    try:
        with (
            os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600), "r+b") as stream,
            lock.acquire(poll_interval=0.01),
        ):
            key = stream.read()
            if not key:
                key = secrets.token_bytes(KEY_BYTES)
                stream.write(key)
                stream.flush()
                os.fsync(stream.fileno())
            return key
    finally:
        # Whoever takes the lock from now on finds the key. Windows leaves the file to the last who has it open.
        with suppress(OSError):
            beside.unlink()
