"""random-tokens: words put into the prompt (Somepalli et al. 2023, arXiv 2305.20086)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...benchmark.candidates import Candidates
from ...benchmark.contracts import Conditioning, Defence, Model, Settings
from ...benchmark.sampling.defended import DefendedModel
from ..vocabulary import words

_NUMBERS = 1_000_000
"""A random number is drawn below this."""


class RandomTokensSettings(Settings):
    """What is put in, and how often."""

    insertions: int = Field(4, ge=1)
    """How many words are put in, each at a place of its own among those that are there already."""
    what: Literal["words", "numbers", "repeats"] = "words"
    """Words of a vocabulary, whole numbers, or words of the prompt itself: the paper's three."""


class RandomTokens(Defence):
    """Put random words into each prompt, so that a memorised caption is no longer the one that was learnt.

    The paper draws tokens of the tokenizer; a service has the prompt as text, so these are common English words. A
    prompt that grows past the tokenizer's length is cut by it, like any other.
    """

    name: ClassVar[str] = "random-tokens"
    title: ClassVar[str] = "random words in the prompt"
    paper: ClassVar[str] = "arXiv 2305.20086"
    level: ClassVar[Literal["denoiser", "loop", "prompt"]] = "prompt"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = RandomTokensSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model that is given longer prompts."""
        return _Longer(model, self.settings)


class _Longer(DefendedModel):
    def __init__(self, inside: Model, settings: RandomTokensSettings) -> None:
        super().__init__(inside)
        self.settings = settings

    def prompted(self, prompts: Sequence[str], candidates: Candidates) -> Sequence[str]:
        given = self.inside.prompted(prompts, candidates)
        draws = candidates.generators("random-tokens")
        return [self._longer(prompt, draw) for prompt, draw in zip(given, draws, strict=True)]

    def _longer(self, prompt: str, draw: torch.Generator) -> str:
        found = prompt.split()
        known = {"words": words("common"), "repeats": tuple(found) or ("",), "numbers": ()}[self.settings.what]
        for _ in range(self.settings.insertions):
            number = int(torch.randint(len(known) or _NUMBERS, (), generator=draw))
            place = int(torch.randint(len(found) + 1, (), generator=draw))
            found.insert(place, known[number] if known else str(number))
        return " ".join(found)
