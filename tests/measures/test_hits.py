"""When a score is a hit: at every edge, on both sides of it, and for bands inside one another."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from direction import Runs
from hypothesis import given
from hypothesis import strategies as st

from sidebench.benchmark.contracts import Band
from sidebench.benchmark.measures.hits import (
    as_distances,
    band_to,
    closest,
    cumulative_bands,
    far_edge,
    in_band,
    nested_bands,
    owned_by_control,
    owned_shares,
    within,
)

EDGES = [step / 10 for step in range(1, 10)]
SCORES = st.lists(st.floats(-0.5, 1.5, width=32), min_size=1, max_size=30)
DECIMALS = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)


@pytest.mark.parametrize("distance", [True, False])
@pytest.mark.parametrize("edge", EDGES)
def test_a_score_of_exactly_the_edge_is_a_hit(edge: float, distance: bool) -> None:
    at = np.float32(edge)
    scores = np.array([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))])
    wanted = [True, True, False] if distance else [False, True, True]
    assert scores.dtype == np.float32
    assert within(scores, edge, Runs(distance)).tolist() == wanted
    # The same numbers from a file, and the edge as a calibration gives it.
    assert within(scores.astype(np.float64), edge, Runs(distance)).tolist() == wanted
    assert within(np.array(scores.tolist()), float(at), Runs(distance)).tolist() == wanted
    assert in_band(scores, band_to(edge, Runs(distance)), Runs(distance)).tolist() == wanted


@pytest.mark.parametrize("distance", [True, False])
def test_what_is_not_finite_is_never_a_hit(distance: bool) -> None:
    scores = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
    for edge in (0.5, np.inf, -np.inf, 1e300):
        assert not within(scores, edge, Runs(distance)).any()
    assert within(np.array([0.5]), 1e300, Runs(distance)).tolist() == [distance]


def test_edges_are_broadcast() -> None:
    found = within(np.array([0.1, 0.3, 0.5]), np.array([[0.1], [0.4]]), Runs(distance=True))
    assert found.tolist() == [[True, False, False], [True, True, False]]


@given(scores=SCORES, edges=st.lists(DECIMALS, min_size=2, max_size=6, unique=True), distance=st.booleans())
def test_nested_bands_hold_nested_hits(scores: list[float], edges: list[float], distance: bool) -> None:
    runs, values = Runs(distance), np.array(scores, dtype=np.float32)
    closest_first = sorted(edges, reverse=not distance)
    found = [in_band(values, band_to(edge, runs), runs) for edge in closest_first]
    for strict, loose in itertools.pairwise(found):
        assert not (strict & ~loose).any()


@given(scores=SCORES, edges=st.lists(DECIMALS, min_size=2, max_size=6, unique=True), distance=st.booleans())
def test_bands_side_by_side_share_no_hit_and_leave_none_out(
    scores: list[float], edges: list[float], distance: bool
) -> None:
    runs, values = Runs(distance), np.array(scores, dtype=np.float32)
    ends = [closest(runs), *sorted(edges, reverse=not distance)]
    bands = [Band(str(i), *sorted(pair)) for i, pair in enumerate(itertools.pairwise(ends))]
    apart = np.stack([in_band(values, band, runs) for band in bands])
    assert apart.sum(axis=0).max() <= 1
    assert np.array_equal(apart.any(axis=0), within(values, ends[-1], runs))
    for i, union in enumerate(cumulative_bands(bands, runs)):
        assert np.array_equal(in_band(values, union, runs), apart[: i + 2].any(axis=0))
        assert far_edge(union, runs) == ends[i + 2]


@given(scores=SCORES, edge=DECIMALS, distance=st.booleans())
def test_a_closer_score_than_a_hit_is_a_hit(scores: list[float], edge: float, distance: bool) -> None:
    runs = Runs(distance)
    values = np.array(scores, dtype=np.float32)
    values = values[np.argsort(as_distances(values, runs), kind="stable")]
    assert not np.diff(within(values, edge, runs).astype(int)).max(initial=0) > 0


@pytest.mark.parametrize("distance", [True, False])
def test_the_nearer_side_owns_a_candidate_and_either_half_of_a_tie(distance: bool) -> None:
    ours, theirs = np.array([0.1, 0.3, 0.2]), np.array([0.2, 0.1, 0.2])
    if not distance:
        ours, theirs = 1 - ours, 1 - theirs
    mine, others = owned_shares(ours, theirs, Runs(distance))
    assert (mine.tolist(), others.tolist()) == ([1, 0, 0.5], [0, 1, 0.5])
    # The threshold is set on what held-out images own, ties among them.
    calibrating = owned_by_control(ours, theirs, Runs(distance))
    assert np.isnan(calibrating).tolist() == [True, False, False] and calibrating[1:].tolist() == theirs[1:].tolist()


@pytest.mark.parametrize("distance", [True, False])
def test_a_verdict_reads_the_closest_band_and_every_union_with_it(distance: bool) -> None:
    ends = [Band("a", 0.0, 0.2), Band("b", 0.2, 0.5), Band("c", 0.5, 0.9)]
    bands = ends if distance else [Band(band.name, 1 - band.high, 1 - band.low) for band in ends]
    found = nested_bands(SimpleNamespace(distance=distance, bands=tuple(bands)))  # type: ignore[arg-type]
    assert [band.name for band in found] == ["a", "a+b", "a+b+c"]
    wanted = [0.2, 0.5, 0.9] if distance else [0.8, 0.5, 0.1]
    assert [far_edge(band, Runs(distance)) for band in found] == pytest.approx(wanted)
