"""A genetic search over prompts: lists of words, selected by a score that somebody else gives each of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator

FEWEST, MOST = 3, 8
"""Words of a first prompt."""

LONGEST = 16
"""Words that a prompt may grow to."""

ELITE, TOURNAMENT = 0.1, 3
CROSSOVER, MUTATION = 0.8, 0.1
REPLACED, INSERTED = 0.7, 0.15
_TRIES = 10

Prompt = tuple[str, ...]


class Scored(NamedTuple):
    """A prompt and its score, higher is better."""

    prompt: Prompt
    score: float


def first_prompt(words: Sequence[str], draw: Generator) -> Prompt:
    """Draw a prompt of 3 to 8 different words."""
    count = min(int(torch.randint(FEWEST, MOST + 1, (1,), generator=draw)), len(words))
    return tuple(words[place] for place in torch.randperm(len(words), generator=draw)[:count].tolist())


def first_population(words: Sequence[str], size: int, draw: Generator) -> list[Prompt]:
    """Draw as many prompts, no two the same where the vocabulary allows it."""
    return _different(lambda: first_prompt(words, draw), [], size)


def next_population(scored: Sequence[Scored], words: Sequence[str], draw: Generator) -> list[Prompt]:
    """Return the next generation: a tenth stays, the others are children of tournament winners.

    A child is a one-point crossover at word boundaries with probability 0.8, otherwise a copy; then each word is
    changed with probability 0.1 (replaced, doubled by another or left out), at least one where it equals a parent.
    """
    ordered = sorted(scored, key=lambda one: (-one.score, one.prompt))
    elite = [one.prompt for one in ordered[: max(1, round(ELITE * len(ordered)))]]
    return _different(lambda: _child(ordered, words, draw), elite, len(ordered))


def search(
    words: Sequence[str],
    size: int,
    generations: int,
    ask: Callable[[Sequence[Prompt], int], Sequence[float]],
    draw: Callable[[int], Generator],
) -> list[list[Scored]]:
    """Return every generation with its scores.

    Args:
        words: The vocabulary.
        size: Prompts of a generation.
        generations: How often they are asked for, at least 1.
        ask: Takes prompts and the generation's number, from 0; returns a score each.
        draw: Returns the generator of a generation.
    """
    found: list[list[Scored]] = []
    for number in range(generations):
        prompts = next_population(found[-1], words, draw(number)) if found else first_population(words, size, draw(0))
        found.append([Scored(*pair) for pair in zip(prompts, ask(prompts, number), strict=True)])
    return found


def _child(ordered: Sequence[Scored], words: Sequence[str], draw: Generator) -> Prompt:
    first, second = _winner(ordered, draw), _winner(ordered, draw)
    child = first
    if _chance(CROSSOVER, draw):
        child = (first[: _below(len(first) + 1, draw)] + second[_below(len(second) + 1, draw) :])[:LONGEST]
    child = _mutated(child, words, draw)
    return _changed(child, words, draw) if child in (first, second, ()) else child


def _winner(ordered: Sequence[Scored], draw: Generator) -> Prompt:
    """Return the best of three that are drawn: of places in order, the first."""
    return ordered[min(_below(len(ordered), draw) for _ in range(TOURNAMENT))].prompt


def _mutated(prompt: Prompt, words: Sequence[str], draw: Generator) -> Prompt:
    kept: list[str] = []
    for word in prompt:
        if not _chance(MUTATION, draw):
            kept.append(word)
            continue
        kind = float(torch.rand(1, generator=draw))
        if kind < REPLACED:
            kept.append(_word(words, draw))
        elif kind < REPLACED + INSERTED:
            kept += [word, _word(words, draw)]
    return tuple(kept[:LONGEST])


def _changed(prompt: Prompt, words: Sequence[str], draw: Generator) -> Prompt:
    """Replace one word, or begin with one where there is none."""
    place = _below(len(prompt), draw) if prompt else 0
    return (*prompt[:place], _word(words, draw), *prompt[place + 1 :])


def _different(make: Callable[[], Prompt], start: list[Prompt], size: int) -> list[Prompt]:
    """Fill a list up; what is there already is drawn again, at most ten times."""
    found = list(start)
    while len(found) < size:
        made = next((one for one in (make() for _ in range(_TRIES)) if one not in found), None)
        found.append(make() if made is None else made)
    return found


def _word(words: Sequence[str], draw: Generator) -> str:
    return words[_below(len(words), draw)]


def _below(high: int, draw: Generator) -> int:
    return int(torch.randint(high, (1,), generator=draw))


def _chance(share: float, draw: Generator) -> bool:
    return bool(torch.rand(1, generator=draw) < share)
