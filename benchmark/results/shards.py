"""Shards: which candidates a file of images or scores holds, by its name, and which are still to be made.

A file is named by the first candidate in it and the one after its last, so a folder says by itself what it holds. A
shard is never rewritten: where a run grows, the candidates that are missing go into files of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import CorruptRun

_NAME = re.compile(r"(\d{8,15})-(\d{8,15})")
_NAME_BEFORE = re.compile(r"\d{5}")


class Shard(NamedTuple):
    """A file of a unit: its name, without what the file is for, and the candidates in it."""

    name: str
    numbers: range


def shard_of(numbers: range) -> Shard:
    """Return the shard of these candidates.

    Examples:
        >>> shard_of(range(256, 300)).name
        '00000256-00000300'
    """
    return Shard(f"{numbers.start:08d}-{numbers.stop:08d}", numbers)


SAMPLES = Shard("00000", range(0))
"""What the scores of shared samples are filed under: their file has one number of images, whoever asks for them."""


def named(name: str, manifest: Mapping[str, Any]) -> Shard | None:
    """Return the shard of this name, or None where it is not one.

    Runs of `sidebench/1` number their shards; the manifest says how many candidates are in each.
    """
    if found := _NAME.fullmatch(name):
        return Shard(name, range(int(found[1]), int(found[2])))
    size = manifest["identity"]["protocol"].get("shard")
    if size is None or not _NAME_BEFORE.fullmatch(name):
        return None
    start, most = int(name) * size, manifest["identity"]["candidates"]
    return Shard(name, range(start, start + size if most is None else min(start + size, most)))


def in_order(shards: Iterable[Shard], owner: str) -> list[Shard]:
    """Return shards by their first candidate.

    Raises:
        CorruptRun: two of them hold the same candidate, or one holds none; `owner` is how the message names them.
    """
    ordered = sorted(shards, key=lambda shard: shard.numbers.start)
    for position, shard in enumerate(ordered):
        if not shard.numbers or (position and shard.numbers.start < ordered[position - 1].numbers.stop):
            raise CorruptRun(f"{owner}: {shard.name} holds candidates of another file; delete one, and the run goes on")
    return ordered


def below(shards: Sequence[Shard], candidates: int) -> list[Shard]:
    """Return those of the ordered shards that hold one of the first `candidates`."""
    return [shard for shard in shards if shard.numbers.start < candidates]


def missing(shards: Sequence[Shard], candidates: int, size: int) -> list[Shard]:
    """Return shards for those of the first `candidates` that the ordered shards lack, cut at multiples of `size`.

    Examples:
        A run of 100 candidates that grows to 300 keeps its first file.

        >>> [shard.name for shard in missing([shard_of(range(100))], 300, 256)]
        ['00000100-00000256', '00000256-00000300']
    """
    wanted, at = [], 0
    for stop, after in [*((shard.numbers.start, shard.numbers.stop) for shard in shards), (candidates, candidates)]:
        while at < min(stop, candidates):
            end = min(stop, candidates, (at // size + 1) * size)
            wanted.append(shard_of(range(at, end)))
            at = end
        at = max(at, after)
    return wanted
