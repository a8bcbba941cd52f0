"""The examples in docstrings print what they say."""

import doctest
import importlib

import pytest

WITH_EXAMPLES = [
    "benchmark",
    "benchmark.candidates",
    "benchmark.data",
    "benchmark.data.config_rules",
    "benchmark.data.pipeline_reasons",
    "benchmark.gate",
    "benchmark.measures",
    "benchmark.measures.metrics",
    "benchmark.models.torch_module",
    "benchmark.results",
    "benchmark.results.guidance",
    "benchmark.results.secret_seeds",
    "benchmark.results.shards",
    "benchmark.sampling",
    "benchmark.stats",
    "benchmark.stats.comparison",
    "benchmark.stats.equal_cost",
    "benchmark.stats.families",
    "benchmark.stats.flags",
    "benchmark.stats.intervals",
    "benchmark.stats.preparations",
    "benchmark.stats.richness",
    "benchmark.stats.thresholds",
    "leaderboards",
    "leaderboards.aggregates",
    "leaderboards.figures_again",
    "leaderboards.owners",
    "leaderboards.rank_tests",
    "methods",
    "methods.defences",
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"sidebench.{name}"))
    assert done.attempted and not done.failed, done
