"""Exact nearest neighbours: matrix products list what could belong to the answer, direct differences decide.

||a||^2 + ||b||^2 - 2ab loses digits when a is near b, which is the case that matters here. So the product only selects,
with a bound of its error (`products.py`): whatever could belong to the answer is computed again from direct differences
(summed in float64 where the device has it, rounded to float32), and the answer is ordered by (distance, reference
number). Memory is bounded by the block. Where squares overflow or vanish in float32, float64 takes its place.

What is infinite or not a number is infinitely far from everything, so it is never near and comes last.

With `parts` above 1 a descriptor is that many pieces of equal length, and the distance is the largest Euclidean
distance over the pieces. Everything above holds for it: the largest of values within an error bound lies within it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .byte_rows import Rows
from .products import (
    BLOCK,
    Listed,
    Prepared,
    by_part,
    nearest_by_products,
    packed,
    prepare,
    told_apart,
    within_by_products,
)

# Exact, because a rate counts the scores just inside an edge, and groups of copies tie: an index that searches
# approximately, and `topk` among equal values, do not promise which of them comes back, nor the same one elsewhere.
QUERY_BLOCK = 1024
PIECE = 1 << 18
"""Values that are subtracted at a time: a megabyte, which stays in the processor's cache from the first step on."""

MOST = 4
"""Queries of which more than k times this are listed, and more than 1 in 32 references, are selected in float64."""


class TopK(NamedTuple):
    """The k nearest references of each query, nearest first."""

    ids: Tensor
    """N x k int64."""
    distances: Tensor
    """N x k float32."""


class Within(NamedTuple):
    """All (query, reference) pairs within a radius, ordered by query, then reference."""

    rows: Tensor
    ids: Tensor
    distances: Tensor


def top_k(
    queries: Tensor, references: Tensor | Rows | Prepared, k: int, reference_block: int = BLOCK, parts: int = 1
) -> TopK:
    """Return the k nearest of `references` (M x D) for each of `queries` (N x D), float32.

    k larger than M gives M columns. Ties go to the smaller reference number. References that are searched more than
    once are prepared once; they have their own `parts`.
    """
    known = _prepared(references, parts)
    k = min(k, len(known.references))
    # As it stays for queries that are not finite.
    ids = torch.arange(k, device=queries.device).repeat(len(queries), 1)
    found = TopK(ids, queries.new_full((len(queries), k), torch.inf))
    if k:
        for start in range(0, len(queries), QUERY_BLOCK):
            rows = torch.arange(start, min(start + QUERY_BLOCK, len(queries)), device=queries.device)
            _fill(found, queries, rows, known, reference_block)
    return found


def top_k_and_chosen(
    queries: Tensor, references: Tensor | Rows | Prepared, chosen: Tensor, k: int, parts: int = 1
) -> tuple[TopK, Tensor]:
    """Return the k nearest references, and the distances to the k nearest of the `chosen` ones, from one search.

    Twice as many neighbours as are wanted hold enough chosen ones nearly always; rows where they do not are
    searched again with twice as many. A search among the chosen references alone would need a copy of them.
    """
    known = _prepared(references, parts)
    count = len(known.references)
    wanted, width = min(k, int(chosen.sum())), min(2 * k, count)
    found = top_k(queries, known, width)
    distances = queries.new_empty((len(queries), wanted))
    rows, wide = torch.arange(len(queries), device=queries.device), found
    while True:
        mine = chosen[wide.ids]
        enough = mine.sum(1) >= wanted
        order = (~mine[enough]).to(torch.int8).argsort(dim=1, stable=True)[:, :wanted]
        distances[rows[enough]] = wide.distances[enough].gather(1, order)
        rows, width = rows[~enough], min(2 * width, count)
        if not len(rows):
            return TopK(found.ids[:, :k], found.distances[:, :k]), distances
        wide = top_k(queries[rows], known, width)


def within(
    queries: Tensor, references: Tensor | Rows | Prepared, radius: Tensor, reference_block: int = BLOCK, parts: int = 1
) -> Within:
    """Return every pair with distance <= radius (one radius per query, (N,))."""
    known = _prepared(references, parts)
    none = torch.empty(0, dtype=torch.long, device=queries.device)
    if not len(queries) or not len(known.references):
        return Within(none, none, queries.new_empty(0))
    found = [
        (rows + number * QUERY_BLOCK, ids)
        for number, (block, reach) in enumerate(zip(queries.split(QUERY_BLOCK), radius.split(QUERY_BLOCK), strict=True))
        for rows, ids in _reached(block, known, reach, reference_block)
    ]
    rows, ids = (torch.cat(part) for part in zip((none, none), *found, strict=True))
    distances = _direct(queries, known, rows, ids)
    # A pair at the radius belongs to the answer by its exact distance, not by that of the product.
    keep = distances <= radius[rows]
    rows, ids, distances = rows[keep], ids[keep], distances[keep]
    order = torch.argsort(rows * len(known.references) + ids)
    return Within(rows[order], ids[order], distances[order])


def _reached(queries: Tensor, known: Prepared, radius: Tensor, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield query and reference of what may lie within the radii, (N,); float64 finds what float32 cannot tell."""
    plain = told_apart(queries, known)
    if bool(plain.all()):
        yield within_by_products(queries, known, radius, block)
        return
    finite = queries.isfinite().all(1)
    hard, every = ~plain & finite, ~finite & radius.isposinf()
    if queries.device.type == "mps":
        hard, every = torch.zeros_like(hard), hard | every
    for rows, searched, size in (
        (plain.nonzero().flatten(), queries.dtype, block),
        (hard.nonzero().flatten(), torch.float64, max(1, block // 8)),
    ):
        if len(rows):
            row, ids = within_by_products(queries[rows].to(searched), known, radius[rows], size)
            yield rows[row], ids
    rows = every.nonzero().flatten()
    listed = _everything(rows, len(known.references))
    yield rows[listed.rows], listed.ids


def _prepared(references: Tensor | Rows | Prepared, parts: int) -> Prepared:
    return references if isinstance(references, Prepared) else prepare(references, parts)


def _fill(found: TopK, queries: Tensor, rows: Tensor, known: Prepared, reference_block: int) -> None:
    """Write the answers of some queries; where float32 products cannot tell enough apart, those of float64 do."""
    count, k = len(known.references), found.ids.shape[1]
    listed = nearest_by_products(queries[rows], known, k, reference_block, max(MOST * k, count // 32))
    _rank(found, queries, rows, known, listed.rows, listed.ids)
    again = rows[listed.refused]
    again = again[queries[again].isfinite().all(1)]
    # So few at a time that all references of each may be listed, as many equal ones are.
    few = max(1, 4 * PIECE // count)
    for start in range(0, len(again), few):
        some = again[start : start + few]
        # Smaller blocks: each is made in float64 (4,096 x 3,072 values are 0.1 GB).
        listed = (
            _everything(some, count)
            if queries.device.type == "mps"
            else nearest_by_products(queries[some].double(), known, k, max(1, reference_block // 8), count)
        )
        _rank(found, queries, some, known, listed.rows, listed.ids)


def _everything(rows: Tensor, count: int) -> Listed:
    """List all references for each row: what a device without float64 is left with."""
    every = torch.arange(len(rows) * count, device=rows.device)
    return Listed(every // count, every % count, torch.zeros_like(rows, dtype=torch.bool))


def _rank(found: TopK, queries: Tensor, queried: Tensor, known: Prepared, rows: Tensor, ids: Tensor) -> None:
    """Write the k nearest of what is listed for the queries numbered `queried`; `rows`, in order, are places there."""
    if not len(rows):
        return
    distances = _direct(queries, known, queried[rows], ids)
    # One number per pair, ordered by distance, then by reference: bits of floats that are not negative sort as they do.
    keys = (distances.view(torch.int32).long() << 32) | ids
    counts = rows.bincount(minlength=len(queried))
    best = packed(keys, rows, counts, torch.iinfo(torch.int64).max).sort(dim=1).values[:, : found.ids.shape[1]]
    done = counts > 0
    found.ids[queried[done]] = best[done] & 0xFFFFFFFF
    found.distances[queried[done]] = (best[done] >> 32).int().view(torch.float32)


def _direct(queries: Tensor, known: Prepared, rows: Tensor, ids: Tensor) -> Tensor:
    """Return the exact distance of each pair of a query and a reference."""
    size = queries.shape[1]
    step = max(1, PIECE // max(1, size))
    distances = queries.new_empty(len(rows))
    # The same memory for each piece: what is new comes from the system, page by page.
    own, gaps = (queries.new_empty((min(step, len(rows)), size)) for _ in range(2))
    for row, reference, place in zip(rows.split(step), ids.split(step), distances.split(step), strict=True):
        torch.index_select(queries, 0, row, out=own[: len(row)])
        known.references.read(reference, gaps[: len(row)])
        place.copy_(_lengths(gaps[: len(row)].sub_(own[: len(row)]), known.parts))
    # A sum of squares below this lost digits as they vanished; it is 1e-15 for 60 values.
    least = (size * torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps) ** 0.5
    poor = (~((distances >= least) & (distances < torch.inf))).nonzero().flatten()
    for some in poor.split(step):
        distances[some] = _direct_in_float64(queries[rows[some]], known.references.read(ids[some]), known.parts)
    return distances


def _direct_in_float64(queries: Tensor, references: Tensor, parts: int) -> Tensor:
    """Return the distance of each query, N x D, to the reference beside it; infinite where it is not a number."""
    own, other = ((x.cpu() if x.device.type == "mps" else x).double() for x in (queries, references))
    return _lengths(other - own, parts).nan_to_num(torch.inf, torch.inf).to(queries.device)


def _lengths(gaps: Tensor, parts: int) -> Tensor:
    """Return the length of each difference; its values are lost."""
    # Differences in float32, summed in float64 where the device has it, so that the order of summation is no matter.
    wide = torch.float32 if gaps.device.type == "mps" else torch.float64
    squared = by_part(gaps.square_(), parts).sum(-1, dtype=wide)
    distances: Tensor = squared.amax(-1).sqrt().float()
    return distances
