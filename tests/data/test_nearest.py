"""Exact search against brute force in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidebench.benchmark.data import nearest as search
from sidebench.benchmark.data import products
from sidebench.benchmark.data.nearest import top_k, top_k_and_chosen, within


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def all_distances(queries: Tensor, references: Tensor, parts: int = 1) -> Tensor:
    gaps = queries.double()[:, None] - references.double()[None]
    return gaps.pow(2).unflatten(-1, (parts, -1)).sum(-1).amax(-1).sqrt().float()


def brute_top_k(queries: Tensor, references: Tensor, k: int, parts: int = 1) -> tuple[list[list[int]], Tensor]:
    distances = all_distances(queries, references, parts)
    rows = [sorted(range(len(references)), key=lambda i: (float(row[i]), i))[:k] for row in distances]
    picked = torch.stack([row[ids] for row, ids in zip(distances, rows, strict=True)])
    return rows, picked


def brute_within(queries: Tensor, references: Tensor, radius: Tensor, parts: int = 1) -> list[tuple[int, int]]:
    distances = all_distances(queries, references, parts)
    return [(r, c) for r, row in enumerate(distances) for c, d in enumerate(row) if d <= radius[r]]


def between(distances: Tensor, k: int) -> Tensor:
    """Return radii between the k-th and the next distance of each query."""
    return distances.double().sort(dim=1).values[:, k - 1 : k + 1].mean(1).float()


def assert_top_k(queries: Tensor, references: Tensor, k: int, block: int = products.BLOCK, parts: int = 1) -> None:
    found = top_k(queries, references, k, block, parts)
    ids, distances = brute_top_k(queries, references, k, parts)
    assert found.ids.tolist() == ids
    torch.testing.assert_close(found.distances, distances, rtol=2e-7, atol=0)


def assert_within(
    queries: Tensor, references: Tensor, radius: Tensor, block: int = products.BLOCK, parts: int = 1
) -> None:
    found = within(queries, references, radius, block, parts)
    pairs = list(zip(found.rows.tolist(), found.ids.tolist(), strict=True))
    assert pairs == brute_within(queries, references, radius, parts)
    wanted = all_distances(queries, references, parts)[found.rows, found.ids]
    torch.testing.assert_close(found.distances, wanted, rtol=2e-7, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    m=st.integers(1, 60),
    d=st.integers(1, 20),
    k=st.integers(1, 70),
    block=st.sampled_from([1, 3, 16, 1000]),
    levels=st.sampled_from([0, 2, 5]),
    parts=st.sampled_from([1, 1, 2, 4]),
)
def test_top_k_equals_brute_force(
    seed: int, n: int, m: int, d: int, k: int, block: int, levels: int, parts: int
) -> None:
    queries, references = normal(seed, n, parts * d), normal(seed + 1, m, parts * d)
    if levels:  # few distinct values: many exact ties
        queries, references = (x.mul(levels / 3).round() for x in (queries, references))
    assert_top_k(queries, references, k, block, parts)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    m=st.integers(1, 60),
    d=st.integers(1, 20),
    block=st.sampled_from([1, 3, 16, 1000]),
    levels=st.sampled_from([0, 2, 5]),
    parts=st.sampled_from([1, 1, 2, 4]),
)
def test_within_equals_brute_force(seed: int, n: int, m: int, d: int, block: int, levels: int, parts: int) -> None:
    queries, references = normal(seed, n, parts * d), normal(seed + 1, m, parts * d)
    radius = normal(seed + 2, n).abs() * d**0.5
    if levels:  # whole squared distances, so that radii such as sqrt(2) are met exactly
        queries, references = (x.mul(levels / 3).round() for x in (queries, references))
        radius = radius.square().round().double().sqrt().float()
    assert_within(queries, references, radius, block, parts)


def test_chosen_ones_of_several_parts() -> None:
    queries, references = normal(1, 9, 12), normal(2, 40, 12)
    chosen = torch.arange(40) % 5 == 0
    found, distances = top_k_and_chosen(queries, references, chosen, 6, parts=3)
    assert found.ids.tolist() == brute_top_k(queries, references, 6, 3)[0]
    torch.testing.assert_close(distances, brute_top_k(queries, references[chosen], 6, 3)[1], rtol=2e-7, atol=0)


def test_radius_is_closed() -> None:
    found = within(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([5.0, 4.999]))
    assert found.rows.tolist() == [0] and found.ids.tolist() == [0] and found.distances.tolist() == [5.0]


def test_radius_belongs_to_its_query() -> None:
    queries, references = normal(1, 40, 6), normal(2, 80, 6)
    assert_within(queries, references, torch.linspace(0, 5, 40), 7)


def test_duplicates_are_ordered_by_number() -> None:
    references = normal(3, 5, 4).repeat(20, 1)
    found = top_k(references[:5], references, 30, 9)
    for i, row in enumerate(found.ids.tolist()):
        assert row[:20] == list(range(i, 100, 5))
    assert (found.distances[:, :20] == 0).all()
    assert_top_k(references[:5], references, 30, 9)


def test_a_tie_across_the_selection_goes_to_the_smaller_number() -> None:
    # More equal references than are selected, all as far as the k-th.
    references = torch.ones(300, 3)
    found = top_k(torch.zeros(2, 3), references, 4, 32)
    assert found.ids.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_common_offset_does_not_misorder(offset: float) -> None:
    # Steps of 2^-10 around the offset: exact in float32, but lost in ||a||^2 + ||b||^2 - 2ab.
    steps = torch.randint(-40, 41, (400, 16), generator=torch.Generator().manual_seed(4)).float() / 1024
    references, queries = offset + steps, offset + steps[::40] + 1 / 1024
    if offset == 1000.0:
        product = references.square().sum(1) - 2 * queries @ references.T
        naive = product.sort(dim=1, stable=True).indices[:, :10].tolist()
        assert naive != brute_top_k(queries, references, 10)[0], "the case is too easy to show anything"
    assert_top_k(queries, references, 10, 64)
    assert_within(queries, references, torch.full((len(queries),), 0.11), 64)


def test_near_copies_keep_their_digits() -> None:
    references = 100 + normal(5, 50, 64)
    queries = references[:10].clone()
    queries[:, 0] += 2.0**-10
    found = top_k(queries, references, 1)
    assert found.ids.flatten().tolist() == list(range(10))
    exact = (queries[:, 0] - references[:10, 0]).abs()
    assert torch.equal(found.distances[:, 0], exact)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int, list[int]]]:
    """Return, of each search by products, its precision, its queries and how many references it lists for each."""
    found: list[tuple[torch.dtype, int, list[int]]] = []

    def watch(queries: Tensor, *rest: Any) -> Any:
        listed = products.nearest_by_products(queries, *rest)
        found.append((queries.dtype, len(queries), listed.rows.bincount(minlength=len(queries)).tolist()))
        return listed

    monkeypatch.setattr(search, "nearest_by_products", watch)
    return found


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_an_offset_costs_no_second_search(offset: float, searched: list[tuple[torch.dtype, int, list[int]]]) -> None:
    assert_top_k(offset + normal(8, 20, 8), offset + normal(9, 300, 8), 5)
    ((precision, queries, listed),) = searched
    assert (precision, queries) == (torch.float32, 20) and max(listed) <= 6


def test_queries_that_float32_cannot_tell_apart_are_searched_in_float64(
    searched: list[tuple[torch.dtype, int, list[int]]],
) -> None:
    # Two clusters so far apart that the centre is near neither.
    references = torch.cat([1000 + normal(6, 300, 8) / 64, torch.full((300, 8), -1000.0)])
    assert_top_k(references[:3] + 1 / 1024, references, 5, 50)
    assert [(kind, queries) for kind, queries, _ in searched] == [(torch.float32, 3), (torch.float64, 3)]
    assert searched[0][2] == [0, 0, 0] and max(searched[1][2]) <= 6


def test_more_copies_than_are_listed_are_ranked_by_number(
    searched: list[tuple[torch.dtype, int, list[int]]],
) -> None:
    copies = torch.cat([normal(7, 30, 8), torch.zeros(40, 8)])
    assert_top_k(torch.full((1, 8), 1e-3), copies, 5, 7)
    assert [(kind, listed) for kind, _, listed in searched] == [(torch.float32, [0]), (torch.float64, [40])]


def test_values_whose_squares_overflow_are_searched_in_float64() -> None:
    references = normal(1, 90, 4) * 1e20
    found = top_k(references[:5], references, 1)
    assert found.ids.flatten().tolist() == [0, 1, 2, 3, 4] and (found.distances == 0).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-23, 1e-22, 1.0, 1e18, 3e18, 1e30])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("size, parts", [(64, 1), (64, 2), (600, 1), (2 * products._LONG, 2)])
def test_values_of_any_scale_are_searched_exactly(scale: float, offset: float, size: int, parts: int) -> None:
    """Their squares vanish or overflow in float32; the numbers themselves do not."""
    queries, references = (((offset + normal(seed, n, size)).double() * scale).float() for seed, n in ((1, 4), (2, 80)))
    references[60:64] = references[:4].clone()
    queries[:2] = references[:2]
    assert_top_k(queries, references, 5, 32, parts)
    assert_within(queries, references, between(all_distances(queries, references, parts), 40), 32, parts)


def test_vanishing_distances_are_told_apart_among_ordinary_ones() -> None:
    references = normal(1, 200, 8)
    references[:100] *= 1e-22
    assert_top_k(references[:3] * 0.9, references, 5, 32)
    assert_within(references[:3] * 0.9, references, torch.full((3,), 2e-22), 32)


def test_the_largest_values_are_searched_beside_ordinary_ones() -> None:
    references = normal(1, 200, 8)
    references[7], references[8] = 3e38, -3e38
    queries = torch.cat([references[:9], references[7:8] / 2])
    assert_top_k(queries, references, 5, 32)
    assert_within(queries, references, torch.full((10,), 2.0), 32)
    assert_within(queries, references, torch.full((10,), 3e38), 32)


LACKING = pytest.mark.parametrize("lacking", [torch.nan, -torch.nan, torch.inf, -torch.inf])


@LACKING
@pytest.mark.parametrize("offset", [0.0, 0.5, 50.0])
@pytest.mark.parametrize("size, parts", [(8, 1), (8, 2), (products._LONG, 1)])
def test_references_that_are_not_finite_are_never_near(lacking: float, offset: float, size: int, parts: int) -> None:
    queries, references = offset + normal(1, 6, size), offset + normal(2, 150, size)
    holes = torch.tensor([0, 30, 149])
    references[0, 0], references[30], references[149, -1] = lacking, lacking, lacking
    kept = torch.ones(150).index_fill(0, holes, 0).nonzero().flatten()
    ids, distances = brute_top_k(queries, references[kept], 5, parts)
    found = top_k(queries, references, 5, 32, parts)
    assert found.ids.tolist() == kept[torch.tensor(ids)].tolist()
    torch.testing.assert_close(found.distances, distances, rtol=2e-7, atol=0)
    every = top_k(queries, references, 150, 32, parts)
    assert every.ids[:, -3:].tolist() == [holes.tolist()] * 6 and every.distances[:, -3:].isposinf().all()
    assert every.ids.sort(dim=1).values.tolist() == [list(range(150))] * 6
    radius = between(all_distances(queries, references[kept], parts), 5)
    near = within(queries, references, radius, 32, parts)
    pairs = brute_within(queries, references[kept], radius, parts)
    assert list(zip(near.rows.tolist(), near.ids.tolist(), strict=True)) == [(r, int(kept[c])) for r, c in pairs]
    assert len(within(queries, references, torch.full((6,), torch.inf), 32, parts).ids) == 6 * 150


def test_one_reference_that_is_no_number_costs_no_second_search(
    searched: list[tuple[torch.dtype, int, list[int]]],
) -> None:
    references = 1000 + normal(9, 300, 8)
    references[17] = torch.nan
    top_k(1000 + normal(8, 20, 8), references, 5)
    ((precision, queries, listed),) = searched
    assert (precision, queries) == (torch.float32, 20) and min(listed) >= 5 and max(listed) <= 6


@LACKING
@pytest.mark.parametrize("others", [0, 4])
def test_queries_that_are_not_finite_are_near_nothing(lacking: float, others: int) -> None:
    queries, references = normal(1, others + 2, 8), normal(2, 90, 8)
    queries[1], queries[0, 3] = lacking, lacking
    found = top_k(queries, references, 3, 32)
    assert found.ids[:2].tolist() == [[0, 1, 2]] * 2 and found.distances[:2].isposinf().all()
    assert [found.ids[row].tolist() for row in range(2, others + 2)] == [
        brute_top_k(queries[row : row + 1], references, 3)[0][0] for row in range(2, others + 2)
    ]
    radius = torch.full((others + 2,), 3.0)
    assert_within(queries, references, radius, 32)
    radius[1] = torch.inf
    near = within(queries, references, radius, 32)
    assert near.ids[near.rows == 1].tolist() == list(range(90)) and near.distances[near.rows == 1].isposinf().all()


def test_nothing_but_references_that_are_no_numbers() -> None:
    found = top_k(normal(1, 2, 4), torch.full((40, 4), torch.nan), 3, 16)
    assert found.ids.tolist() == [[0, 1, 2]] * 2 and found.distances.isposinf().all()


def test_chosen_references_of_a_query_that_is_no_number() -> None:
    queries, references, chosen = normal(1, 3, 4), normal(2, 40, 4), torch.arange(40) >= 30
    queries[1] = torch.nan
    found, distances = top_k_and_chosen(queries, references, chosen, 4)
    assert found.ids[1].tolist() == [0, 1, 2, 3] and distances[1].isposinf().all()
    torch.testing.assert_close(distances[::2], brute_top_k(queries[::2], references[30:], 4)[1], rtol=2e-7, atol=0)


def test_without_float64_everything_is_ranked() -> None:
    listed = search._everything(torch.tensor([4, 9]), 3)
    assert listed.rows.tolist() == [0, 0, 0, 1, 1, 1] and listed.ids.tolist() == [0, 1, 2] * 2
    assert not listed.refused.any()


@pytest.mark.parametrize("offset", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_long_descriptors(offset: float, parts: int) -> None:
    """Centred copies are made of those that lie far from the origin only; short ones are kept centred."""
    size = parts * products._LONG
    queries, references = offset + normal(1, 4, size), offset + normal(2, 90, size)
    known = products.prepare(references, parts)
    assert known.longer is None and bool(known.uncentred) == (offset < 30)
    assert_top_k(queries, references, 5, 16, parts)
    assert_within(queries, references, torch.full((4,), 1.4 * products._LONG**0.5), 16, parts)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("size, offset", [(6, 50.0), (2 * products._LONG, 0.0), (2 * products._LONG, 0.5)])
def test_products_are_off_by_less_than_their_bound(parts: int, size: int, offset: float) -> None:
    queries, references = offset + normal(1, 9, size), offset + normal(2, 70, size)
    references[3] += 100
    known = products.prepare(references, parts)
    bound = products.error_bound(queries, known)
    gaps = queries.double()[:, None] - references.double()[None]
    exact = gaps.square().unflatten(-1, (parts, -1)).sum(-1).amax(-1)
    made = products._Products(queries, known, 32)
    for block in products._blocks(known, torch.float32, 32):
        for values, start in made.of(block):
            ids = block.ids(torch.arange(start, start + len(values)))
            real = ids < len(references)
            assert values[~real].isinf().all()
            assert ((values[real] - exact.T[ids[real]]).abs() <= bound).all()


def test_prepared_references_are_searched_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, references = normal(1, 9, 12), normal(2, 40, 12)
    known = products.prepare(references, 3)
    monkeypatch.setattr(search, "prepare", None)
    assert top_k(queries, known, 6).ids.tolist() == brute_top_k(queries, references, 6, 3)[0]


def test_sorted_references_fill_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each block of a sorted set is nearer than the last, every second value would be listed."""
    waiting: list[int] = []
    tidy = products._Net._tidy

    def watch(net: products._Net) -> Any:
        waiting.append(net._waiting)
        return tidy(net)

    monkeypatch.setattr(products._Net, "_tidy", watch)
    references = torch.linspace(100, 0, 4000)[:, None].repeat(1, 3)
    found = top_k(torch.zeros(2, 3), references, 3, 256)
    assert found.ids.tolist() == [[3999, 3998, 3997]] * 2
    assert waiting[-1] < 2 * 4000 / 20


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_what_is_nearer_than_the_edge_is_found_in_every_stripe_of_a_block(offset: float, parts: int) -> None:
    """Blocks of whole stripes and a rest; the nearest ones of each query lie where chance puts them, some twice."""
    references = offset + normal(1, 700, 6)
    references[torch.arange(0, 700, 7)] = references[350].clone()
    assert_top_k(references[::50] + normal(2, 14, 6) / 8, references, 5, 64, parts)


def test_values_within_the_edge_are_found_with_their_places() -> None:
    values = torch.full((32, 2), 9.0)
    values[[0, 17, 31], 1] = torch.tensor([1.0, 2.0, 2.5])
    smallest = products._smallest(values)
    rows, columns, found = products._at_most(values, torch.tensor([8.0, 2.0]), smallest)
    assert sorted(zip(rows.tolist(), columns.tolist(), found.tolist(), strict=True)) == [(0, 1, 1.0), (17, 1, 2.0)]


def test_more_neighbours_than_references_give_all() -> None:
    found = top_k(normal(1, 3, 4), normal(2, 5, 4), 9)
    assert found.ids.shape == found.distances.shape == (3, 5)
    assert found.ids.sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert (found.distances.diff(dim=1) >= 0).all()


def test_many_queries_cross_the_query_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERY_BLOCK", 4)
    queries, references = normal(1, 11, 5), normal(2, 70, 5)
    assert_top_k(queries, references, 6, 16)
    assert_within(queries, references, torch.linspace(0.5, 4, 11), 16)


def test_top_k_without_queries() -> None:
    found = top_k(torch.empty(0, 4), normal(2, 50, 4), 3)
    assert found.ids.shape == found.distances.shape == (0, 3)
    assert found.ids.dtype == torch.int64 and found.distances.dtype == torch.float32


def test_within_without_queries() -> None:
    found = within(torch.empty(0, 4), normal(2, 50, 4), torch.empty(0))
    assert found.rows.shape == found.ids.shape == found.distances.shape == (0,)


def test_within_without_matches() -> None:
    found = within(normal(1, 3, 4), 50 + normal(2, 9, 4), torch.ones(3))
    assert found.rows.shape == found.ids.shape == found.distances.shape == (0,)


def test_infinite_radius_takes_all() -> None:
    found = within(normal(1, 3, 4), normal(2, 5, 4), torch.full((3,), torch.inf), 2)
    assert list(zip(found.rows.tolist(), found.ids.tolist(), strict=True)) == [
        (i, j) for i in range(3) for j in range(5)
    ]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_chosen_references_come_out_of_the_search_for_all(share: float) -> None:
    draw = torch.Generator().manual_seed(3)
    queries, references = torch.randn(20, 6, generator=draw), torch.randn(400, 6, generator=draw)
    chosen = torch.rand(400, generator=draw) < share
    nearest, representatives = top_k_and_chosen(queries, references, chosen, 7)
    assert torch.equal(nearest.ids, top_k(queries, references, 7).ids)
    assert torch.equal(representatives, top_k(queries, references[chosen], 7).distances)
