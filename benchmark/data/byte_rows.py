"""Descriptors that are pixels on another scale, kept as the bytes they are made from: a quarter of float32's memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_IN_CACHE = 1 << 18
"""Values that are made at a time on a processor: a megabyte, as much again for their places in the table."""


@dataclass(frozen=True, eq=False)
class _Stored:
    """M descriptors of D values, in one tensor M x D."""

    stored: Tensor

    @property
    def size(self) -> int:
        """Values of a descriptor."""
        return self.stored.shape[1]

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(frozen=True, eq=False)
class ByteRows(_Stored):
    """Descriptors, uint8, each value of which follows from one byte; they become float32 where they are read."""

    table: Tensor
    """(256,) float32: the value of each byte."""

    def read(self, rows: slice | Tensor, out: Tensor | None = None) -> Tensor:
        """Return some of the descriptors, N x D float32; written to `out`, N x D and contiguous, where it is given."""
        kept = self.stored[rows] if isinstance(rows, slice) else rows
        count = len(kept)
        if out is None:
            out = self.table.new_empty((count, self.size))
        step = max(1, _IN_CACHE // max(1, self.size)) if out.device.type == "cpu" else max(1, count)
        # int32 is the smallest type that index_select takes. The same memory for each piece: what is new comes from the
        # system, page by page.
        places = torch.empty((min(step, count), self.size), dtype=torch.int32, device=out.device)
        for start in range(0, count, step):
            some = slice(start, start + step)
            piece = kept[some] if isinstance(rows, slice) else self.stored.index_select(0, kept[some])
            index = places[: len(piece)].copy_(piece)
            torch.index_select(self.table, 0, index.view(-1), out=out[some].view(-1))
        return out


@dataclass(frozen=True, eq=False)
class FloatRows(_Stored):
    """Descriptors that are kept as they are, float32."""

    def read(self, rows: slice | Tensor, out: Tensor | None = None) -> Tensor:
        """Return some of the descriptors, N x D: a view for a slice; for numbers a copy, in `out` where it is given."""
        if isinstance(rows, slice) or out is None:
            return self.stored[rows]
        return torch.index_select(self.stored, 0, rows, out=out)


Rows = FloatRows | ByteRows


def as_rows(descriptors: Tensor | Rows) -> Rows:
    """Return descriptors as they are searched."""
    return FloatRows(descriptors) if isinstance(descriptors, Tensor) else descriptors


def as_bytes(images: Tensor, describe: Callable[[Tensor], Tensor], block: int) -> ByteRows | None:
    """Return the descriptors of uint8 images, N x C x H x W, without a copy of them; None where that cannot be done.

    It can where each value follows from one byte of the image, in the image's order. Whether it does is compared for
    every value, to the last bit, `block` images at a time.

    Args:
        images: What is described.
        describe: Maps uint8 images to N x D float32, on the device where the descriptors belong.
        block: Images that are described at a time.
    """
    size = images.shape[1:].numel()
    if not len(images) or images.dtype != torch.uint8:
        return None
    first = describe(images[:1])
    if first.shape[1] != size or first.dtype != torch.float32:
        return None
    # An image in which the bytes follow each other, or as many as it takes.
    ramp = torch.arange(-(-256 // size) * size).remainder(256).to(torch.uint8)
    table = describe(ramp.view(-1, *images.shape[1:])).flatten()[:256].clone()
    found = ByteRows(images.flatten(1).to(table.device), table)
    for number, part in enumerate(images.split(block)):
        start = number * block
        if not torch.equal(found.read(slice(start, start + len(part))), describe(part)):
            return None
    return found
