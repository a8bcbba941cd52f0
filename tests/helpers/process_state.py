"""What a process holds: looked at from inside one that a test starts."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

import torch

_words: list[str] = []


class Seen(NamedTuple):
    """What a process remembers and the seed of its generator."""

    words: list[str]
    seed: int


def remember(word: str) -> None:
    """Keep a word in this process."""
    _words.append(word)


def seen() -> Seen:
    """Return what this process holds."""
    return Seen(list(_words), torch.initial_seed())


def lacking(names: Iterable[str]) -> list[str]:
    """Return the modules that this process has not imported."""
    return [name for name in names if name not in sys.modules]
