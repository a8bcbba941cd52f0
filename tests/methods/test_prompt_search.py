"""The genetic search finds words that are worth something, and nothing where the score knows nothing."""

import pytest
import torch

from sidebench.benchmark.candidates import generator
from sidebench.methods.prompt_search import LONGEST, Prompt, Scored, first_population, next_population, search
from sidebench.methods.vocabulary import words

WORDS = tuple(f"word{number}" for number in range(100))
MAGIC = {"word17", "word51", "word80"}


def worth(prompt: Prompt) -> int:
    return len(MAGIC & set(prompt))


def best(seed: int, generations: int, *, informed: bool) -> int:
    noise = generator(seed, "noise", 0, "scores")

    def ask(prompts: list[Prompt], number: int) -> list[float]:
        return [float(worth(one)) if informed else float(torch.rand(1, generator=noise)) for one in prompts]

    every = search(WORDS, 50, generations, ask, lambda number: generator(seed, "test", number, "evolve"))  # type: ignore[arg-type]
    assert [len(scored) for scored in every] == [50] * generations
    return max(worth(one.prompt) for one in every[-1])


def test_it_gathers_hidden_words_where_chance_and_an_idle_score_do_not() -> None:
    # 1,500 queries. A random prompt of 5.5 words of 100 holds three given ones once in some 8,000.
    assert [best(seed, 30, informed=True) for seed in range(20)].count(3) == 20
    idle = [best(seed, 30, informed=False) for seed in range(10)]
    assert 3 not in idle and sum(idle) / 10 < 2


def test_a_generation_keeps_its_best_and_repeats_nothing() -> None:
    draw = generator(0, "test", 0, "x")
    first = first_population(WORDS, 40, draw)
    assert len(set(first)) == 40 and all(3 <= len(one) <= 8 and len(set(one)) == len(one) for one in first)
    scored = [Scored(prompt, float(place)) for place, prompt in enumerate(first)]
    following = next_population(scored, WORDS, draw)
    assert following[:4] == first[:-5:-1], "the tenth with the best scores, in order"
    assert len(set(following)) == 40 and all(1 <= len(one) <= LONGEST for one in following)


def test_few_words_are_enough_for_it_to_end() -> None:
    population = first_population(("a", "b"), 6, generator(0, "test", 0, "x"))
    assert len(population) == 6 and set(population) == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize(("vocabulary", "count", "known"), [("common", 334, "zebra"), ("unicode", 1000, "omega")])
def test_vocabularies_are_words_without_repeats(vocabulary: str, count: int, known: str) -> None:
    found = words(vocabulary)  # type: ignore[arg-type]
    assert len(found) == len(set(found)) == count and known in found
    assert all(word == word.lower() and word.isalpha() for word in found)
