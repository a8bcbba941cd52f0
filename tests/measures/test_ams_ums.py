"""Counts over scores against the definitions, written a second time with plain loops."""

import math

import numpy as np
import pytest
import torch
from direction import Runs
from hypothesis import given, settings
from hypothesis import strategies as st

from sidebench.benchmark.contracts import Band
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.measures.ams_ums import (
    ams_count,
    best_frequencies,
    by_group,
    found_alone,
    percentile_of_best,
    ums_frequencies,
)
from sidebench.benchmark.measures.hits import cumulative_bands, in_band
from sidebench.benchmark.measures.metrics import AverageMemorizationScore, UniqueBestMatchScore, UniqueMemorizationScore

DISTANCE = [Band("high", 0.0, 0.5), Band("mid", 0.5, 0.75), Band("low", 0.75, 1.0)]
SIMILARITY = [Band("high", 0.6, 1.0), Band("mid", 0.5, 0.6), Band("low", 0.4, 0.5)]
INDEX = {True: DISTANCE, False: SIMILARITY}
EDGES = [-0.1, 0.0, 0.25, 0.4, 0.5, 0.55, 0.6, 0.75, 0.9, 1.0, 1.25, math.inf, math.nan]


def lies_in(score: float, band: Band, distance: bool) -> bool:
    if not math.isfinite(score):
        return False
    if distance:
        return score <= band.high and (band.low == 0 or score > band.low)
    return score >= band.low and (band.high == 1 or score < band.high)


# ---- bands ----


@pytest.mark.parametrize(
    ("score", "names"),
    [
        (0.0, ["high"]),
        (0.5, ["high"]),
        (np.nextafter(np.float32(0.5), np.float32(1)), ["mid"]),
        (0.75, ["mid"]),
        (np.nextafter(np.float32(0.75), np.float32(1)), ["low"]),
        (1.0, ["low"]),
        (np.nextafter(np.float32(1.0), np.float32(2)), []),
        (np.inf, []),
        (np.nan, []),
    ],
)
def test_distances_lie_in_low_open_high_closed(score: float, names: list[str]) -> None:
    assert [band.name for band in DISTANCE if in_band(np.array([score]), band, Runs(True))[0]] == names


@pytest.mark.parametrize(
    ("score", "names"),
    [
        (1.0, ["high"]),
        (1.0000001, ["high"]),  # a cosine may round to more than one
        (0.6, ["high"]),
        (np.nextafter(np.float32(0.6), np.float32(0)), ["mid"]),
        (0.5, ["mid"]),
        (np.nextafter(np.float32(0.5), np.float32(0)), ["low"]),
        (0.4, ["low"]),
        (np.nextafter(np.float32(0.4), np.float32(0)), []),
        (-1.0, []),
        (np.nan, []),
    ],
)
def test_similarities_lie_in_low_closed_high_open(score: float, names: list[str]) -> None:
    assert [band.name for band in SIMILARITY if in_band(np.array([score]), band, Runs(False))[0]] == names


def test_a_first_band_away_from_zero_keeps_its_edge() -> None:
    band = Band("ring", 0.5, 0.75)
    assert in_band(np.array([0.1, 0.5, 0.6, 0.75, 0.8]), band, Runs(True)).tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("distance", [True, False])
def test_cumulative_bands_are_unions(distance: bool) -> None:
    bands, scores = INDEX[distance], np.array(EDGES)
    unions = cumulative_bands(bands, Runs(distance))
    assert [band.name for band in unions] == ["high+mid", "high+mid+low"]
    for i, union in enumerate(unions):
        apart = np.stack([in_band(scores, band, Runs(distance)) for band in bands[: i + 2]])
        assert apart.sum(0).max() == 1
        assert np.array_equal(in_band(scores, union, Runs(distance)), apart.any(0))


@pytest.mark.parametrize("bands", [[], DISTANCE[:1]])
def test_fewer_than_two_bands_have_no_union(bands: list[Band]) -> None:
    assert cumulative_bands(bands, Runs(True)) == []


# ---- counts ----


def test_ums_may_exceed_ams() -> None:
    # One candidate of two near three references: AMS = 1/2, UMS = 3/2, ums_best = 1/2.
    best_ids, best_scores = np.array([4, 0]), np.array([0.1, 2.0])
    pair_ids, pair_scores = np.array([4, 2, 1]), np.array([0.1, 0.3, 0.5])
    assert ams_count(best_scores, DISTANCE[0], Runs(True)) == 1
    assert ums_frequencies(pair_ids, pair_scores, DISTANCE[0], 6, Runs(True)).tolist() == [0, 1, 1, 0, 1, 0]
    assert best_frequencies(best_ids, best_scores, DISTANCE[0], 6, Runs(True)).tolist() == [0, 0, 0, 0, 1, 0]
    ums = UniqueMemorizationScore(DISTANCE[0], 6, distance=True)
    ums.update(torch.from_numpy(pair_ids), torch.from_numpy(pair_scores), 2)
    assert float(ums.compute()) == 1.5


def test_every_pair_counts_not_only_the_best() -> None:
    # In the mid band the best match lies outside, and another pair of the same candidate inside.
    assert ams_count(np.array([0.2]), DISTANCE[1], Runs(True)) == 0
    counts = ums_frequencies(np.array([0, 1]), np.array([0.2, 0.6]), DISTANCE[1], 2, Runs(True))
    assert counts.tolist() == [0, 1]


def test_what_a_candidate_alone_found_is_found_by_no_other() -> None:
    # Image 6 was found by two candidates, 5 and 7 by one each, and candidate 3 found two that nobody else did.
    rows, images = np.array([0, 0, 1, 2, 3, 3]), np.array([5, 6, 6, 7, 8, 9])
    assert found_alone(rows, images).tolist() == [1, 0, 1, 2]


def test_no_pairs_are_no_frequencies() -> None:
    none = ums_frequencies(np.empty(0, dtype=np.int32), np.empty(0), DISTANCE[0], 4, Runs(True))
    assert none.tolist() == [0, 0, 0, 0]


def test_by_group_adds_up() -> None:
    counts = by_group(np.array([1, 0, 2, 5, 7]), np.array([30, 10, 30, 20, 10]))
    assert counts.tolist() == [7, 5, 3]  # groups 10, 20, 30
    assert counts.dtype == np.int64
    assert by_group(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)).tolist() == []


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=40))
def test_by_group_is_a_plain_sum(rows: list[tuple[int, int]]) -> None:
    wanted: dict[int, int] = {}
    for group, count in rows:
        wanted[group] = wanted.get(group, 0) + count
    found = by_group(np.array([count for _, count in rows]), np.array([group for group, _ in rows]))
    assert found.tolist() == [wanted[group] for group in sorted(wanted)]


def test_percentile_of_best_is_the_closest_five_percent() -> None:
    scores = np.concatenate([np.arange(101) / 100, [np.nan] * 7])
    assert percentile_of_best(scores, Runs(True)) == pytest.approx(0.05)
    assert percentile_of_best(scores, Runs(False)) == pytest.approx(0.95)
    assert percentile_of_best(scores, Runs(True), q=80) == pytest.approx(0.2)


@pytest.mark.parametrize("scores", [[], [math.nan, math.nan]])
def test_percentile_of_nothing_is_none(scores: list[float]) -> None:
    assert percentile_of_best(np.array(scores), Runs(True)) is None


# ---- metrics ----


BATCH = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(EDGES)), max_size=5),  # a candidate's pairs
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(batches=st.lists(BATCH, min_size=1, max_size=4), distance=st.booleans(), number=st.integers(0, 2))
def test_metrics_agree_with_the_definition(
    batches: list[list[list[tuple[int, float]]]], distance: bool, number: int
) -> None:
    band = INDEX[distance][number]
    ams = AverageMemorizationScore(band, distance=distance)
    ums = UniqueMemorizationScore(band, 7, distance=distance)
    unique_best = UniqueBestMatchScore(band, 7, distance=distance)
    candidates = hits = 0
    any_match: set[int] = set()
    best_match: set[int] = set()
    for batch in batches:
        best: list[tuple[int, float]] = []
        for pairs in batch:
            sound = [pair for pair in pairs if not math.isnan(pair[1])]
            near = min(sound, key=lambda p: p[1] if distance else -p[1]) if sound else (0, math.nan)
            best.append(near)
            candidates += 1
            if lies_in(near[1], band, distance):
                hits += 1
                best_match.add(near[0])
            any_match |= {i for i, score in pairs if lies_in(score, band, distance)}
        flat = [pair for pairs in batch for pair in pairs]
        ids, scores = torch.tensor([i for i, _ in best]), torch.tensor([s for _, s in best], dtype=torch.float64)
        pair_ids = torch.tensor([i for i, _ in flat], dtype=torch.long)
        ams.update(scores)
        ums.update(pair_ids, torch.tensor([s for _, s in flat], dtype=torch.float64), len(batch))
        unique_best.update(ids, scores)
    assert float(ams.compute()) == pytest.approx(hits / candidates)
    assert float(ums.compute()) == pytest.approx(len(any_match) / candidates)
    assert float(unique_best.compute()) == pytest.approx(len(best_match) / candidates)
    assert float(unique_best.compute()) <= float(ams.compute())


def test_metrics_start_again_after_reset() -> None:
    ams = AverageMemorizationScore(DISTANCE[0], distance=True)
    ams.update(torch.tensor([0.1, 0.2]))
    ams.reset()
    ams.update(torch.tensor([0.1, 0.9, math.nan, 0.6]))
    assert float(ams.compute()) == 0.25
    ums = UniqueMemorizationScore(DISTANCE[0], 3, distance=True)
    ums.update(torch.tensor([0, 1]), torch.tensor([0.1, 0.1]), 2)
    ums.reset()
    ums.update(torch.tensor([2]), torch.tensor([0.1]), 4)
    assert float(ums.compute()) == 0.25


def test_calling_a_metric_returns_the_batch_and_keeps_the_total() -> None:
    unique = UniqueBestMatchScore(DISTANCE[0], 5, distance=True)
    assert float(unique(torch.tensor([1, 1]), torch.tensor([0.1, 0.2]))) == 0.5
    assert float(unique(torch.tensor([1, 3]), torch.tensor([0.1, 0.2]))) == 1.0
    assert float(unique.compute()) == 0.5


def test_metrics_refuse_matches_that_cannot_be() -> None:
    unique = UniqueBestMatchScore(DISTANCE[0], 3, distance=True)
    near = torch.tensor([0.1, 0.2])
    for ids, scores in (
        (torch.tensor([0, 3]), near),
        (torch.tensor([-1, 0]), near),
        (torch.tensor([0.0, 1.0]), near),
        (torch.tensor([0]), near),
        (torch.tensor([[0, 1]]), near),
    ):
        with pytest.raises(BadInput):
            unique.update(ids, scores)
        with pytest.raises(BadInput):
            UniqueMemorizationScore(DISTANCE[0], 3, distance=True).update(ids, scores, 2)
    with pytest.raises(BadInput, match="shape"):
        AverageMemorizationScore(DISTANCE[0], distance=True).update(near[None])
    with pytest.raises(BadInput, match="there are 0"):
        UniqueBestMatchScore(DISTANCE[0], 0, distance=True)


def test_a_candidate_without_a_match_needs_no_image_number() -> None:
    unique = UniqueBestMatchScore(DISTANCE[0], 3, distance=True)
    assert float(unique(torch.tensor([-1, 2]), torch.tensor([math.nan, 0.1]))) == 0.5


def test_scores_with_a_gradient_are_taken() -> None:
    ams = AverageMemorizationScore(DISTANCE[0], distance=True)
    assert float(ams(torch.tensor([0.1, 0.9], requires_grad=True))) == 0.5
