"""Boards of small records: what is ranked needs no three preparations of 256 candidates here."""

from collections.abc import Iterator

import pytest

from sidebench.leaderboards import ranking

LEAST = (ranking.LEAST_PREPARATIONS, ranking.LEAST_CANDIDATES)


@pytest.fixture(scope="module", autouse=True)
def _small_records_are_ranked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "LEAST_PREPARATIONS", 1)
        patch.setattr(ranking, "LEAST_CANDIDATES", 1)
        yield


@pytest.fixture
def least_sizes(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return the least preparations and candidates of a record that is ranked; they hold in the test that asks."""
    monkeypatch.setattr(ranking, "LEAST_PREPARATIONS", LEAST[0])
    monkeypatch.setattr(ranking, "LEAST_CANDIDATES", LEAST[1])
    return LEAST
