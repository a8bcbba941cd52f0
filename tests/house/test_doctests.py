"""The examples in docstrings print what they say."""

import doctest
import importlib

import pytest

WITH_EXAMPLES = [
    "measures.metrics",
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"sidebench.benchmark.{name}"))
    assert done.attempted and not done.failed, done
