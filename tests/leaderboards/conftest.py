"""Boards of small records: what is ranked needs no three preparations of 256 candidates here.

Attacks of made-up names are taken at their word: those that book no preparation have none.
"""

from collections.abc import Iterator

import pytest

from sidebench.leaderboards import rank_tests, ranking
from sidebench.leaderboards.record import Record

PREPARES = rank_tests.prepares
LEAST = (ranking.LEAST_PREPARATIONS, ranking.LEAST_CANDIDATES)


@pytest.fixture(scope="module", autouse=True)
def _small_records_are_ranked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "LEAST_PREPARATIONS", 1)
        patch.setattr(ranking, "LEAST_CANDIDATES", 1)
        patch.setattr(rank_tests, "prepares", _books_preparation)
        yield


def _books_preparation(record: Record) -> bool:
    return any(cost.nfe.get("prepare", 0) for cost in record.costs)


@pytest.fixture
def real_prepares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an attack's kind say whether it prepares, in the test that asks."""
    monkeypatch.setattr(rank_tests, "prepares", PREPARES)


@pytest.fixture
def least_sizes(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return the least preparations and candidates of a record that is ranked; they hold in the test that asks."""
    monkeypatch.setattr(ranking, "LEAST_PREPARATIONS", LEAST[0])
    monkeypatch.setattr(ranking, "LEAST_CANDIDATES", LEAST[1])
    return LEAST
