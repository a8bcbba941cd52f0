"""Which references could be among a query's nearest, by blocked matrix products and a bound of their rounding error.

||a - b||^2 = ||a||^2 + ||b||^2 - 2ab is one product of longer vectors, (-2a, 1, ||a||^2) and (b, ||b||^2, 1), which are
kept for short descriptors. Its error grows with the vectors' lengths, so both are taken from a centre c, which changes
no distance. Long descriptors would be copied for that, so where they are not much longer than from the centre, only
queries are moved: (a - c)(b - c) = (a - c)b - (a - c)c.

Of a block of products little is read twice: the smallest of 16 is held against the query's edge, beyond which nothing
can belong to its k nearest, and the few that remain are listed. The k-th smallest of many groups' minima is such an
edge, since k groups have a member below it.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from .byte_rows import ByteRows, Rows, as_rows

BLOCK = 4096
"""References that are centred and held against the queries at a time."""

_STRIPES = 16
"""References of which only the smallest value is compared first."""

_IN_CACHE = 1 << 20
"""Products that are looked at before they leave the processor's cache, where large blocks are not made faster."""

_LONG = 512
"""Values of a descriptor from which on it does."""

_READ = 1 << 22
"""Values that become float32 at a time, where bytes are kept: 16 MB."""

_FAR = 16
"""Times the squared length from the centre: references that are longer are centred before they are multiplied."""

_ROUNDED = 1 + 8 * torch.finfo(torch.float32).eps
"""Distances that are equal in float32 differ by less than this factor, squared and of rounded differences."""


class Prepared(NamedTuple):
    """References that can be searched many times."""

    references: Rows
    """M x D float32, as given, or the bytes from which they are made."""
    parts: int
    """A descriptor is that many pieces of equal length."""
    centre: Tensor
    """D float32, near the middle of the references."""
    norms: Tensor
    """M x parts float32: squared lengths of the centred pieces, summed in float64 where the device has it."""
    longest: Tensor
    """0-d float64 where the device has it: the largest squared length of a centred reference that is finite."""
    uncentred: Tensor
    """0-d: that of a reference as given; 0 where centred copies are multiplied."""
    longer: Tensor | None
    """parts x M x (D / parts + 2): (b, ||b||^2, 1) of centred pieces, in the order of `_spread`; None where long."""
    finite: bool
    """Whether every value of the references is."""


class Listed(NamedTuple):
    """What may belong to the k nearest, ordered by query."""

    rows: Tensor
    """Query of each entry, int64."""
    ids: Tensor
    """Reference of each entry, int64."""
    refused: Tensor
    """(N,) bool: queries of which nothing is listed, since too much would be."""


def prepare(references: Tensor | Rows, parts: int = 1) -> Prepared:
    """Centre and measure references, M x D float32, block by block: no copy of them is made."""
    given = as_rows(references)
    count, size = len(given), given.size
    centre = _centre(given)
    norms = centre.new_empty((count, parts))
    wide = torch.float32 if centre.device.type == "mps" else torch.float64
    lengths = centre.new_zeros((count, 2), dtype=wide)
    step = _rows_at_once(given)
    buffer, made = (centre.new_empty((min(step, count), size)) for _ in range(2))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        part = given.read(rows, made[: rows.stop - start])
        # Written in place: small results kept among large temporaries split the heap.
        centred = torch.sub(part, centre, out=buffer[: len(part)])
        found = norms[rows] = _squared_lengths(centred, parts)
        lengths[rows, 0] = found.sum(1)
        lengths[rows, 1] = _squared_lengths(part, 1)[:, 0]
    finite = bool(lengths.isfinite().all()) or _bound_lengths(lengths, given, centre)
    zero = lengths.new_zeros(())
    longest, uncentred = lengths.amax(0) if count else (zero, zero)
    known = Prepared(given, parts, centre, norms, longest, zero, None, finite)
    if size // parts < _LONG:
        return known._replace(longer=_longer(known, _spread(count, BLOCK, centre.device), centre.dtype))
    return known._replace(uncentred=uncentred) if bool(uncentred <= _FAR * longest) else known


def _centre(references: Rows) -> Tensor:
    """Return the mean of some references, (D,); of values that are not finite none enters it."""
    some = references.read(slice(None, None, max(1, len(references) // BLOCK)))
    centre = some.mean(0) if len(some) else some.new_zeros(references.size)
    if not bool(centre.isfinite().all()):
        centre = some[some.isfinite().all(1)].mean(0)
        centre = torch.where(centre.isfinite(), centre, 0)
    return centre


def _rows_at_once(references: Rows) -> int:
    """Return how many references are read at a time: on a processor what stays in its cache, elsewhere a block."""
    if references.stored.device.type != "cpu":
        return BLOCK
    return max(1, min(BLOCK, _READ // max(1, references.size)))


def _bound_lengths(lengths: Tensor, references: Rows, centre: Tensor) -> bool:
    """Bound squared lengths whose differences from the centre overflow, and say whether all references are finite.

    Those that are not count for nothing: they are near no query.
    """
    step = _rows_at_once(references)
    starts = range(0, len(references), step)
    finite = torch.cat([references.read(slice(start, start + step)).isfinite().all(1) for start in starts])
    over = ~lengths[:, 0].isfinite()
    lengths[over, 0] = 2 * (lengths[over, 1] + centre.to(lengths.dtype).square().sum())
    lengths[~finite] = 0
    return bool(finite.all())


def nearest_by_products(queries: Tensor, known: Prepared, k: int, block: int, most: int) -> Listed:
    """List every reference that may be among the k nearest of each query, N x D, and few others.

    Works in the queries' precision. Refused are queries of which more than `most` are left, and those whose error has
    no bound.
    """
    net = _Net(queries, known, k, most)
    products = _Products(queries, known, block)
    with _threads_of_torch(queries):
        for number, part in enumerate(_blocks(known, queries.dtype, block)):
            # The first block is made whole: its minima give the first edge.
            for values, start in products.of(part, whole=not number):
                net.cast(values, part, start)
            if (number + 1) & number == 0:  # after 1, 2, 4, 8, ... blocks; the edge moves ever less
                net.draw_in()
            net.tidy_if_full()
    return net.listed()


def within_by_products(queries: Tensor, known: Prepared, radius: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return query and reference of every pair that may lie within the queries' radii (N,), and of few others.

    Works in the queries' precision; their error must have a bound.
    """
    products = _Products(queries, known, block)
    edge = radius.to(queries.dtype).square() * _ROUNDED + error_bound(queries, known)
    rows, ids = [], []
    with _threads_of_torch(queries):
        for part in _blocks(known, queries.dtype, block):
            for values, start in products.of(part):
                place, row, _ = _at_most(values, edge, _smallest(values))
                rows.append(row)
                ids.append(part.ids(place + start))
    row, reference = torch.cat(rows), torch.cat(ids)
    real = reference < len(known.references)
    return row[real], reference[real]


def error_bound(queries: Tensor, known: Prepared) -> Tensor:
    """Bound how far a product is from the squared distance, (N,), in the queries' precision; not finite without one.

    Of D + 2 terms the sum is wrong by D + 2 roundings of their absolute sum, which is at most 2 (||a||^2 + ||b||^2)
    (Higham 2002, section 3.1), or 2 ||a|| ||b|| where b is not centred; centring adds four of that, norms a few. TF32
    is never switched on for this. What is too small for that is in `_underflow`.
    """
    own = (queries - known.centre.to(queries.dtype)).square().sum(1)
    lengths = own + known.longest.to(queries.dtype) + own.sqrt() * known.uncentred.to(queries.dtype).sqrt()
    # No sum within a product is longer than four lengths; where that overflows, so may a product.
    lengths = torch.where((4 * lengths).isfinite(), lengths, torch.inf)
    return (queries.shape[1] + 16) * torch.finfo(queries.dtype).eps * lengths + _underflow(queries)


def told_apart(queries: Tensor, known: Prepared) -> Tensor:
    """Return whose products, (N,), have an error that lengths bound: squares neither overflow nor mostly vanish."""
    bound = error_bound(queries, known)
    return bound.isfinite() & (bound > 2 * _underflow(queries))


def _underflow(queries: Tensor) -> float:
    """Bound what underflow adds to the error of a product, or of a radius squared.

    Each of D + 2 terms, as many sums of them, D terms of a shift and a few norms lose at most the smallest normal
    number, even where the processor makes zero of what is smaller. Distances that are themselves smaller than
    float32's smallest normal number and round to the same differ, squared, by less than its square.
    """
    least = torch.finfo(torch.float32).tiny ** 2
    return 4 * (queries.shape[1] + 16) * torch.finfo(queries.dtype).tiny + least


class _Block(NamedTuple):
    known: Prepared
    rows: int
    numbers: Tensor
    """(rows,) int64 and a stripe more: which references they are, and then a number above all."""
    vectors: Tensor | None
    """parts x rows x D / parts, or longer by two; None where bytes are kept, which are read a few at a time."""
    norms: Tensor | None
    """parts x rows: squared lengths of the centred pieces, where the vectors do not hold them."""

    def ids(self, place: Tensor) -> Tensor:
        """Return the references at some places; rows that only fill up the last stripe have a number above all."""
        return self.numbers.index_select(0, place)

    def pieces(self, part: int, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield the vectors of some rows in one part, and where among these rows they lie."""
        if self.vectors is not None:
            yield slice(0, rows.stop - rows.start), self.vectors[part, rows]
            return
        references = self.known.references
        step = _rows_at_once(references)
        buffer = self.known.norms.new_empty((step, references.size))
        for start in range(rows.start, rows.stop, step):
            some = self.numbers[start : min(start + step, rows.stop)]
            made = references.read(some, buffer[: len(some)])
            yield slice(start - rows.start, start - rows.start + len(some)), _pieces(made, self.known.parts)[part]


def _spread(count: int, size: int, device: torch.device) -> Tensor:
    """Return all numbers below `count`, int64, in an order in which each `size` of them come from all over the set.

    Sets are often sorted, by class for one; then the first edge would say little about the rest.
    """
    step = max(1, -(-count // size))
    every = [torch.arange(first, count, step, device=device) for first in range(step)]
    return torch.cat(every)


def _blocks(known: Prepared, dtype: torch.dtype, size: int) -> Iterator[_Block]:
    """Yield all references, each block from all over the set."""
    count, device = len(known.references), known.norms.device
    above = torch.full((_STRIPES,), count, device=device)
    same = dtype == known.norms.dtype
    if same and known.longer is not None:
        kept = zip(_spread(count, BLOCK, device).split(size), known.longer.split(size, 1), strict=True)
        for numbers, vectors in kept:
            yield _Block(known, len(numbers), torch.cat([numbers, above]), vectors, None)
        return
    step = -(-count // size)
    for first in range(step):
        every = slice(first, None, step)
        numbers = torch.arange(first, count, step, device=device)
        padded = torch.cat([numbers, above])
        if not (same and bool(known.uncentred)):
            yield _Block(known, len(numbers), padded, _longer(known, numbers, dtype), None)
            continue
        vectors = None
        if not isinstance(known.references, ByteRows):
            vectors = _pieces(known.references.read(every), known.parts)
        yield _Block(known, len(numbers), padded, vectors, known.norms[every].T)


def _longer(known: Prepared, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (b, ||b||^2, 1) of centred pieces, parts x rows x (D / parts + 2), filled a few rows at a time."""
    size = known.references.size // known.parts
    longer = known.norms.new_empty((known.parts, len(rows), size + 2), dtype=dtype)
    centre = _pieces(known.centre[None].to(dtype), known.parts)
    step = _rows_at_once(known.references)
    for part, places in zip(longer.split(step, 1), rows.split(step), strict=True):
        torch.sub(_pieces(known.references.read(places), known.parts), centre, out=part[..., :-2])
        same = dtype == known.norms.dtype
        part[..., -2] = known.norms[places].T if same else part[..., :-2].square().sum(-1)
    longer[..., -1] = 1
    return longer


class _Products:
    """Squared distances of the queries to some references, in the same memory each time."""

    def __init__(self, queries: Tensor, known: Prepared, block: int) -> None:
        centred = queries - known.centre.to(queries.dtype)
        norms = _squared_lengths(centred, known.parts).to(queries.dtype).T
        pieces = _pieces(centred, known.parts)
        self._vectors = -2 * pieces
        self._finite = known.finite
        # What the queries' centring left out, where references are multiplied as they are.
        shift = (self._vectors * _pieces(known.centre[None].to(queries.dtype), known.parts)).sum(-1)
        self._own = norms - shift
        self._longer = torch.cat([self._vectors, torch.ones_like(norms)[..., None], norms[..., None]], -1)
        self._rows = max(_STRIPES, _IN_CACHE // len(queries) // _STRIPES * _STRIPES)
        if pieces.shape[2] >= _LONG or queries.device.type != "cpu":
            self._rows = block
        rows = _whole_stripes(min(block, len(known.references)))
        self._scratch = queries.new_empty((min(2, known.parts), rows, len(queries)))

    def of(self, block: _Block, whole: bool = False) -> Iterator[tuple[Tensor, int]]:
        """Yield rows x N and the place of the first row: of the whole block, or of as much as stays in the cache.

        Rows that fill up the last stripe are infinite.
        """
        count = block.rows
        rows = count if whole else min(self._rows, count)
        for start in range(0, count, rows):
            size = min(rows, count - start)
            values, other = self._scratch[0, :size], self._scratch[-1, :size]
            for part in range(len(self._vectors)):
                self._write(block, part, slice(start, start + size), other if part else values)
                if part:
                    torch.maximum(values, other, out=values)
            if not self._finite:  # one that is no number would hide its group's smallest
                values.nan_to_num_(torch.inf, torch.inf, -torch.inf)
            self._scratch[0, size : _whole_stripes(size)] = torch.inf
            yield self._scratch[0, : _whole_stripes(size)], start

    def _write(self, block: _Block, part: int, rows: slice, out: Tensor) -> None:
        other = self._longer if block.norms is None else self._vectors
        for place, vectors in block.pieces(part, rows):
            _multiply(vectors, other[part], out[place])
        if block.norms is not None:
            out.add_(block.norms[part, rows, None]).add_(self._own[part])


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.device.type == "cpu" and _numpy_is_faster(a.shape[1] >= _LONG):
        _multiply_in_numpy(a, b, out)
    else:
        torch.mm(a, b.T, out=out)


def _multiply_in_numpy(a: Tensor, b: Tensor, out: Tensor) -> None:
    with np.errstate(all="ignore"):  # what overflows has no bound, and float64 answers it
        np.matmul(a.numpy(), b.numpy().T, out=out.numpy())


@functools.cache
def _numpy_is_faster(long: bool) -> bool:
    """Try on this processor whether NumPy's library multiplies faster than torch's, in a few hundredths of a second.

    OpenBLAS took 0.8 to 0.85 of MKL's time on an AMD EPYC with AVX2, and 1.1 with AVX-512 at 64 values.
    """
    # The blocks of a search for 1,024 images, or a part of one.
    a, b = (
        (torch.ones(1024, 66), torch.ones(1024, 66)) if not long else (torch.ones(1024, _LONG), torch.ones(512, _LONG))
    )
    out = torch.empty(len(a), len(b))
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(6):
        for numpy, times in found.items():
            began = time.process_time()
            if numpy:
                _multiply_in_numpy(a, b, out)
            else:
                torch.mm(a, b.T, out=out)
            times.append(time.process_time() - began)
    return min(found[True]) < min(found[False])


class _Net:
    """What was listed so far, and each query's edge."""

    def __init__(self, queries: Tensor, known: Prepared, k: int, most: int) -> None:
        self._k, self._most, self._count = k, most, len(known.references)
        self._slack = error_bound(queries, known)
        self._refused = ~self._slack.isfinite()
        self._edge = torch.full_like(self._slack, torch.inf).masked_fill_(self._refused, -torch.inf)
        self._minima: Tensor | None = None
        self._entries: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    def cast(self, values: Tensor, block: _Block, start: int) -> None:
        """List what lies within the edges of these products, rows x N."""
        smallest = _smallest(values)
        if self._minima is None:
            self._minima = smallest
            self.draw_in()
        else:
            ours = self._minima[start // _STRIPES :][: len(smallest)]
            torch.minimum(ours, smallest, out=ours)
        place, row, value = _at_most(values, self._edge, smallest)
        self._entries.append((row, block.ids(place + start), value))
        self._waiting += len(row)

    def draw_in(self) -> None:
        """Take the k-th smallest of the groups' minima for the edge, where it is nearer."""
        if self._minima is not None and len(self._minima) >= self._k:
            self._edge = torch.minimum(self._edge, self._widened(_kth(self._minima.T, self._k)))

    def tidy_if_full(self) -> None:
        """Drop what later edges rule out, and queries that have too much, before the list fills the memory."""
        if self._waiting > 2 * self._most * len(self._edge):
            self._tidy()

    def listed(self) -> Listed:
        self.draw_in()
        rows, ids = self._tidy()
        return Listed(rows, ids, self._refused)

    def _tidy(self) -> tuple[Tensor, Tensor]:
        rows, ids, values = (torch.cat(part) for part in zip(*self._entries, strict=True))
        rows, ids, values = _where((values <= self._edge[rows]) & (ids < self._count), rows, ids, values)
        order = _order(rows, len(self._edge))
        rows, ids, values = rows[order], ids[order], values[order]
        counts = rows.bincount(minlength=len(self._edge))
        if int(counts.max()) >= self._k:
            kth = _kth(packed(values, rows, counts, torch.inf), self._k)
            self._edge = torch.minimum(self._edge, self._widened(kth))
        rows, ids, values = _where(values <= self._edge[rows], rows, ids, values)
        self._refused |= rows.bincount(minlength=len(self._edge)) > self._most
        self._edge.masked_fill_(self._refused, -torch.inf)
        rows, ids, values = _where(~self._refused[rows], rows, ids, values)
        self._entries, self._waiting = [(rows, ids, values)], 0
        return rows, ids

    def _widened(self, value: Tensor) -> Tensor:
        """Return how far a product can say to be what is as near as one that lies at most at `value`."""
        return (value + self._slack) * _ROUNDED + self._slack


def _whole_stripes(rows: int) -> int:
    return -(-rows // _STRIPES) * _STRIPES


def _smallest(values: Tensor) -> Tensor:
    """Return the smallest of each group of rows, groups x N; the rows of one group lie as far apart as they can."""
    smallest: Tensor = values.unflatten(0, (_STRIPES, -1)).amin(0)
    return smallest


def _at_most(values: Tensor, edge: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, column and value of all values, rows x N, that are not beyond their column's edge (N,)."""
    groups = _places(smallest <= edge)
    group, column = _divided(groups, len(edge))
    found = values.view(_STRIPES, -1).index_select(1, groups)
    inside = _places(found <= edge.index_select(0, column))
    stripe, which = _divided(inside, max(1, len(groups)))
    row = group.index_select(0, which).add_(stripe, alpha=len(smallest))
    return row, column.index_select(0, which), found.flatten().index_select(0, inside)


def packed(values: Tensor, rows: Tensor, counts: Tensor, rest: float) -> Tensor:
    """Return the values, which are ordered by row, as N rows of the longest one's length, filled up with `rest`."""
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    filled = values.new_full((len(counts), int(counts.max())), rest)
    filled[rows, place] = values
    return filled


def _kth(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of each row."""
    if values.device.type == "cpu":  # a sixth of torch's time
        found: Tensor = torch.from_numpy(np.partition(values.contiguous().numpy(), k - 1, 1)[:, k - 1])
        return found
    return values.topk(k, largest=False).values[:, -1]


def _places(wanted: Tensor) -> Tensor:
    """Return the places of what is true, int64, in the flattened tensor."""
    if wanted.device.type == "cpu":  # where little is true, a quarter of torch's time
        return torch.from_numpy(np.flatnonzero(wanted.numpy()))
    return wanted.flatten().nonzero().flatten()


def _divided(places: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of numbers that are not negative."""
    # NumPy divides by one number faster.
    quotient = torch.from_numpy(places.numpy() // by) if places.device.type == "cpu" else places // by
    return quotient, places.sub(quotient, alpha=by)


def _order(values: Tensor, bound: int) -> Tensor:
    """Return what sorts values from 0 to below `bound`; equal ones keep their order."""
    if values.device.type == "cpu" and bound <= 1 << 16:  # by digits, a quarter of torch's time
        return torch.from_numpy(np.argsort(values.numpy().astype(np.uint16), kind="stable"))
    return values.argsort(stable=True)


def _where(wanted: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    places = _places(wanted)
    return tuple(part[places] for part in parts)


def _squared_lengths(values: Tensor, parts: int) -> Tensor:
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    lengths: Tensor = torch.linalg.vector_norm(by_part(values, parts), dim=-1, dtype=wide).square()
    return lengths


def _pieces(values: Tensor, parts: int) -> Tensor:
    """View N x D as parts x N x D / parts."""
    return by_part(values, parts).movedim(-2, 0)


def by_part(values: Tensor, parts: int) -> Tensor:
    """View ... x D as ... x parts x D / parts."""
    viewed: Tensor = values.unflatten(-1, (parts, values.shape[-1] // parts))
    return viewed


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _threads_of_torch(queries: Tensor) -> AbstractContextManager[object]:
    """Let NumPy's product have as many threads as torch's would."""
    if queries.device.type != "cpu":
        return nullcontext()
    limits: AbstractContextManager[object] = _libraries().limit(limits=torch.get_num_threads(), user_api="blas")
    return limits
