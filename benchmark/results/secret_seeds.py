"""Run seeds that nobody can guess, and that the same command finds again.

Whoever has the model and a seed can make the candidates of a run. A record of a model that was trained on images which
are not public therefore numbers its preparations 0, 1, 2 ..., and their seeds are HMAC-SHA256 (RFC 2104) of that number
under a nonce. The record commits to the nonce by its SHA-256; the nonce lies in the run folder (`seeds.key`), which a
challenger alone is shown. It is itself the HMAC of the pair's identity under a key of the user's own, so that a nonce
that was shown says nothing of other pairs.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import BadInput, CorruptRun
from ..files import read_bytes, write_atomic
from .keyed_names import KEY_BYTES, secret_file
from .run_folder import RunFolder

NONCE_FILE = "seeds.key"

_SMALLEST = 2**62
"""No seed is smaller, so that none can be mistaken for one that somebody chose."""


class SecretSeeds(NamedTuple):
    """The nonce of a pair, and the seeds of its first preparations."""

    nonce: bytes
    seeds: tuple[int, ...]


def secret_seeds(pair_identity: str, count: int, key_file: Path | None = None) -> SecretSeeds:
    """Return the seeds of so many preparations of attacks on a pair, under the user's key, made on first need.

    Raises:
        BadInput: the key cannot be read or made.
        CorruptRun: the key file does not hold a key.
    """
    file = key_file or _default_key_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make {file.parent}: {error.strerror}; secret seeds come from a key in it") from None
    key = secret_file(file, "it makes seeds that nobody can guess", "runs made before have other seeds then")
    nonce = hmac.digest(key, pair_identity.encode(), "sha256")
    return SecretSeeds(nonce, tuple(seed_of(nonce, number) for number in range(count)))


def seed_of(nonce: bytes, number: int) -> int:
    """Return the seed of a preparation, from 2^62 to 2^63 - 1.

    Examples:
        >>> seed_of(bytes(32), 0) == seed_of(bytes(32), 0), seed_of(bytes(32), 0) == seed_of(bytes(32), 1)
        (True, False)
    """
    digest = hmac.digest(nonce, f"preparation {number}".encode(), "sha256")
    return _SMALLEST | int.from_bytes(digest[:8], "big") >> 2


def keep_nonce(folder: RunFolder, nonce: bytes) -> None:
    """Write the nonce into a run folder, for whoever checks its records."""
    file = folder.path / NONCE_FILE
    if not file.exists():
        write_atomic(file, lambda part: part.write_bytes(nonce))


def nonce_in(folder: RunFolder) -> bytes:
    """Return the nonce in a run folder; nothing where there is none.

    Raises:
        CorruptRun: it cannot be read.
    """
    file = folder.path / NONCE_FILE
    try:
        return read_bytes(file, 2 * KEY_BYTES) if file.exists() else b""
    except OSError as error:
        raise CorruptRun(f"{folder.path.name}/{NONCE_FILE} cannot be read: {error.strerror}") from None


def numbers_of(folder: RunFolder, seeds: Sequence[int]) -> tuple[str, dict[int, int]]:
    """Return what a record commits to, and the number of the preparation by seed, of the seeds that are secret.

    Raises:
        BadInput: none of them is, or the folder has no nonce.
        CorruptRun: the nonce cannot be read.
    """
    nonce = nonce_in(folder)
    known = {seed_of(nonce, number): number for number in range(len(seeds))} if nonce else {}
    found = {seed: known[seed] for seed in seeds if seed in known}
    if not found:
        raise BadInput(
            f"{folder.path.name} is of images that are not public, and whoever knows a seed can make its candidates: "
            f"run it with --secret-seeds {max(3, len(seeds))}, or let the pair file say public: true"
        )
    return hashlib.sha256(nonce).hexdigest(), found


def _default_key_file() -> Path:
    told = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (told if told.is_absolute() else Path("~/.config").expanduser()) / "sidebench" / "seeds.key"
