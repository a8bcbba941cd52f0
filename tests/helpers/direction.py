"""A direction of scores without a measure."""

from typing import NamedTuple


class Runs(NamedTuple):
    """Which way scores run, as a measure says it."""

    distance: bool
