"""Exact nearest neighbours by blocked matrix products, close calls decided by direct differences.

d^2 = ||a||^2 + ||b||^2 - 2ab loses digits when a is near b, which is the case that matters here. So
the product only selects: everything that could belong to the answer within its error bound is computed
again from direct differences (summed in float64 where the device has it, rounded to float32), and the answer is
ordered by (distance, reference number). Memory is bounded by the block.

With `parts` above 1 a descriptor is that many pieces of equal length, and the distance is the largest Euclidean
distance over the pieces. Everything above holds for it: the largest of values within an error bound lies within it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Exact, because a rate counts the scores just inside an edge, and groups of copies tie: an index that searches
# approximately, and `topk` among equal values, do not promise which of them comes back, nor the same one elsewhere.
#
# One block of products is 1,024 x 4,096 float32 values, 17 MB, however many images there are on either side. Larger
# ones come from the system each time, and every page of them is fetched once more.
QUERY_BLOCK = 1024
REFERENCE_BLOCK = 4096
SLACK = 16
"""Neighbours selected beyond k before the exact ranking."""


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


def top_k(queries: Tensor, references: Tensor, k: int, reference_block: int = REFERENCE_BLOCK, parts: int = 1) -> TopK:
    """Return the k nearest of `references` (M x D) for each of `queries` (N x D), float32.

    k larger than M gives M columns. Ties go to the smaller reference number.
    """
    k = min(k, len(references))
    norms = _squared_norms(references, parts)
    results = [
        _top_k_block(block, references, norms, k, reference_block, parts) for block in queries.split(QUERY_BLOCK)
    ]
    if not results:
        empty = queries.new_empty((0, k))
        return TopK(empty.long(), empty)
    return TopK(torch.cat([r.ids for r in results]), torch.cat([r.distances for r in results]))


def top_k_and_chosen(
    queries: Tensor, references: Tensor, chosen: Tensor, k: int, parts: int = 1
) -> tuple[TopK, Tensor]:
    """Return the k nearest references, and the distances to the k nearest of the `chosen` ones, from one search.

    Twice as many neighbours as are wanted hold enough chosen ones nearly always; rows where they do not are
    searched again with twice as many. A search among the chosen references alone would need a copy of them.
    """
    wanted, width = min(k, int(chosen.sum())), min(2 * k, len(references))
    found = top_k(queries, references, width, parts=parts)
    distances = queries.new_empty((len(queries), wanted))
    rows, wide = torch.arange(len(queries), device=queries.device), found
    while True:
        mine = chosen[wide.ids]
        enough = mine.sum(1) >= wanted
        order = (~mine[enough]).to(torch.int8).argsort(dim=1, stable=True)[:, :wanted]
        distances[rows[enough]] = wide.distances[enough].gather(1, order)
        rows, width = rows[~enough], min(2 * width, len(references))
        if not len(rows):
            return TopK(found.ids[:, :k], found.distances[:, :k]), distances
        wide = top_k(queries[rows], references, width, parts=parts)


def _top_k_block(queries: Tensor, references: Tensor, norms: Tensor, k: int, reference_block: int, parts: int) -> TopK:
    # Some more than k: the farther the selection's edge lies from the k-th distance, the fewer rows need a second
    # product.
    take = min(k + SLACK, len(references))
    ids, edge = _select(queries, references, take, reference_block, parts, norms)
    ranked = _order(_direct(queries, references, ids, parts), ids, k)
    if take == len(references):
        return ranked

    # Where the selection's edge is within rounding of the k-th distance, a reference outside of it may belong
    # inside. Those rows are selected again in float64, which costs a second product; rows where even that leaves a
    # tie (copies of one reference, say) are ranked in full.
    rows = _unsure(queries, norms, ranked, edge).nonzero().flatten()
    if len(rows) and queries.device.type != "mps":
        wide = queries[rows].double()
        # Smaller blocks: each is copied to float64 (of 16,384 x 3,072 values that would be 0.4 GB).
        ids, edge = _select(wide, references, take, max(1, reference_block // 8), parts)
        again = _order(_direct(queries[rows], references, ids, parts), ids, k)
        ranked.ids[rows], ranked.distances[rows] = again.ids, again.distances
        rows = rows[_unsure(wide, norms.double(), again, edge)]
    every = torch.arange(len(references), device=queries.device)[None]
    for row in rows.tolist():
        full = _order(_direct(queries[row : row + 1], references, every, parts), every, k)
        ranked.ids[row], ranked.distances[row] = full.ids[0], full.distances[0]
    return ranked


def _unsure(queries: Tensor, norms: Tensor, ranked: TopK, edge: Tensor) -> Tensor:
    """Return the rows whose k-th distance, itself rounded to float32, could lie beyond the selection's edge."""
    farthest = ranked.distances[:, -1].to(queries.dtype).square() * (1 + 2 * torch.finfo(torch.float32).eps)
    own, shift = queries.square().sum(1), _left_out(queries, norms)
    unsure: Tensor = farthest + _error_bound(own, norms, queries.shape[1]) >= edge + shift
    return unsure


def _select(
    queries: Tensor, references: Tensor, take: int, reference_block: int, parts: int, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the `take` nearest references by products in the queries' precision, and the last one's value."""
    best = queries.new_empty((len(queries), 0))
    ids = torch.empty((len(queries), 0), dtype=torch.long, device=queries.device)
    for start in range(0, len(references), reference_block):
        part = references[start : start + reference_block].to(queries.dtype)
        own = _norms_of(part, parts) if norms is None else norms[start : start + len(part)]
        partial = _by_products(queries, part, own)
        if queries.device.type == "cpu" and best.shape[1] == take:
            near, where = _closer(partial, best[:, -1])
        else:
            near, where = partial.topk(min(take, len(part)), largest=False, sorted=False)
        best, ids = torch.cat([best, near], 1), torch.cat([ids, where + start], 1)
        best, order = best.topk(min(take, best.shape[1]), largest=False)
        ids = ids.gather(1, order)
    return ids, best[:, -1]


_STRIPES = 16
"""Columns of which only the smallest is held against the edge."""


def _closer(partial: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of each row (N x M) below its edge and their columns, in any order, filled up with infinity.

    Few are: of the block that begins at reference n, take / n of the columns. The smallest of 16 columns takes an
    eighth of what a selection from the row takes, and rules nearly all of them out.
    """
    rows, columns = _below(partial, edge)
    counts = rows.bincount(minlength=len(partial))
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    width = int(counts.max())
    values, where = partial.new_full((len(partial), width), torch.inf), rows.new_zeros((len(partial), width))
    values[rows, place], where[rows, place] = partial[rows, columns], columns
    return values, where


def _below(partial: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of every value below its row's edge, ordered by row."""
    whole = partial.shape[1] // _STRIPES * _STRIPES
    if whole < partial.shape[1]:
        rows, columns = (partial < edge[:, None]).nonzero(as_tuple=True)
        return rows, columns
    striped = partial.unflatten(1, (_STRIPES, -1))
    rows, within_stripe = (striped.amin(1) < edge[:, None]).nonzero(as_tuple=True)
    found, stripe = (striped[rows, :, within_stripe] < edge[rows, None]).nonzero(as_tuple=True)
    return rows[found], stripe * striped.shape[2] + within_stripe[found]


def _by_products(queries: Tensor, references: Tensor, norms: Tensor) -> Tensor:
    """Return squared distances, N x M, less what `_left_out` says of each query."""
    if norms.shape[1] == 1:
        return torch.addmm(norms[:, 0], queries, references.T, alpha=-2)
    largest = queries.new_zeros((len(queries), len(references)))
    width = queries.shape[1] // norms.shape[1]
    for a, b, norm in zip(queries.split(width, 1), references.split(width, 1), norms.T, strict=True):
        squared = torch.addmm(norm, a, b.T, alpha=-2).add_(a.square().sum(1, keepdim=True))
        torch.maximum(largest, squared, out=largest)
    return largest


def _left_out(queries: Tensor, norms: Tensor) -> Tensor:
    """Return ||a||^2, which changes no order among one query's references; of several parts nothing is left out."""
    return queries.square().sum(1) if norms.shape[1] == 1 else queries.new_zeros(len(queries))


def within(
    queries: Tensor, references: Tensor, radius: Tensor, reference_block: int = REFERENCE_BLOCK, parts: int = 1
) -> Within:
    """Return every pair with distance <= radius (one radius per query, (N,))."""
    if not len(queries):
        none = torch.empty(0, dtype=torch.long, device=queries.device)
        return Within(none, none, queries.new_empty(0))
    norms = _squared_norms(references, parts)
    found: list[tuple[Tensor, Tensor]] = []
    for first, block in zip(range(0, len(queries), QUERY_BLOCK), queries.split(QUERY_BLOCK), strict=True):
        # The products only cast the net, wider by their own error; what it catches is measured directly below.
        slack = _error_bound(block.square().sum(1), norms, block.shape[1])
        limit = (radius[first : first + len(block)].square() - _left_out(block, norms) + slack)[:, None]
        for start in range(0, len(references), reference_block):
            part = references[start : start + reference_block]
            partial = _by_products(block, part, norms[start : start + len(part)])
            row, column = (partial <= limit).nonzero(as_tuple=True)
            found.append((row + first, column + start))
    rows = torch.cat([row for row, _ in found])
    ids = torch.cat([column for _, column in found])
    # In pieces: gathered at once, every pair would hold a copy of two descriptors.
    distances = torch.cat(
        [
            _pair_distance(queries[r], references[i], parts)
            for r, i in zip(rows.split(65_536), ids.split(65_536), strict=True)
        ]
        or [queries.new_empty(0)]
    )
    # A pair at the radius belongs to the answer by its exact distance, not by that of the product.
    keep = distances <= radius[rows]
    rows, ids, distances = rows[keep], ids[keep], distances[keep]
    order = torch.argsort(rows * len(references) + ids)
    return Within(rows[order], ids[order], distances[order])


def _squared_norms(references: Tensor, parts: int) -> Tensor:
    """Return ||b||^2 of each reference's parts, M x parts, block by block: the squares of all would be a second copy.

    Written in place: small results kept among large temporaries split the heap (0.6 GB for 50,000 x 3,072 values).
    """
    norms = references.new_empty((len(references), parts))
    for part, place in zip(references.split(QUERY_BLOCK), norms.split(QUERY_BLOCK), strict=True):
        torch.sum(_by_part(part.square(), parts), -1, out=place)
    return norms


def _norms_of(references: Tensor, parts: int) -> Tensor:
    return _by_part(references.square(), parts).sum(-1)


def _by_part(values: Tensor, parts: int) -> Tensor:
    """View ... x D as ... x parts x D / parts."""
    viewed: Tensor = values.unflatten(-1, (parts, values.shape[-1] // parts))
    return viewed


def _direct(queries: Tensor, references: Tensor, ids: Tensor, parts: int) -> Tensor:
    """Return exact distances of each query to its own list of references, N x m."""
    # A megabyte a piece, which stays in the processor's cache from the first step to the last.
    step = max(1, 262_144 // max(1, ids.shape[1] * queries.shape[1]))
    distances = queries.new_empty(ids.shape)
    for query, chosen, place in zip(queries.split(step), ids.split(step), distances.split(step), strict=True):
        gathered = references.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        place.copy_(_lengths(gathered.sub_(query[:, None, :]), parts))
    return distances


def _pair_distance(a: Tensor, b: Tensor, parts: int) -> Tensor:
    return _lengths(a - b, parts)


def _lengths(gaps: Tensor, parts: int) -> Tensor:
    """Return the length of each difference; its values are lost."""
    # Differences in float32, summed in float64 where the device has it, so that the order of summation is no matter.
    wide = torch.float32 if gaps.device.type == "mps" else torch.float64
    squared = _by_part(gaps.square_(), parts).sum(-1, dtype=wide)
    distances: Tensor = squared.amax(-1).sqrt().float()
    return distances


def _order(distances: Tensor, ids: Tensor, k: int) -> TopK:
    # By number first, then stably by distance: ties go to the smaller number on every device.
    by_id = ids.argsort(dim=1)
    ids, distances = ids.gather(1, by_id), distances.gather(1, by_id)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return TopK(ids.gather(1, order), distances.gather(1, order))


def _error_bound(own: Tensor, norms: Tensor, dimensions: int) -> Tensor:
    """Bound the rounding error of ||a||^2 + ||b||^2 - 2ab in the arguments' precision (Higham 2002, section 3.1)."""
    unit = torch.finfo(own.dtype).eps
    gamma = (dimensions + 4) * unit / 2
    # |2ab| <= ||a||^2 + ||b||^2, so twice the sum bounds every term. TF32 is never switched on for this.
    return 2 * gamma * (own + norms.sum(1).max())
