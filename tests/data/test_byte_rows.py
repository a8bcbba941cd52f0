"""Descriptors kept as bytes: the same values and the same answers, and no copy of the set in float32."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidebench.benchmark.data import nearest, products
from sidebench.benchmark.data.byte_rows import ByteRows, FloatRows, as_bytes, as_rows
from sidebench.benchmark.data.nearest import top_k, within
from sidebench.benchmark.data.pixels import pixel_descriptors
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.registry import make_measure

LONG = (3, 16, 16)
"""An image of more values than are kept centred."""


def some_images(number: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (number, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def described(images: Tensor) -> Tensor:
    return pixel_descriptors(images.float() / 255)


def kept(images: Tensor, block: int = 7) -> ByteRows:
    found = as_bytes(images, described, block)
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [(1, 4, 4), LONG, (1, 16, 17)])
def test_values_come_back_to_the_last_bit(shape: tuple[int, ...]) -> None:
    images = some_images(30, shape)
    rows, wanted = kept(images), described(images)
    picked = torch.tensor([29, 3, 3])
    assert torch.equal(rows.read(slice(None)), wanted) and (len(rows), rows.size) == wanted.shape
    assert torch.equal(rows.read(slice(1, 30, 4)), wanted[1::4]) and torch.equal(rows.read(picked), wanted[picked])
    out = torch.empty(3, rows.size)
    assert rows.read(picked, out) is out and torch.equal(out, wanted[picked])


def test_bytes_are_bytes_and_values_are_float32() -> None:
    images = some_images(4, (1, 4, 4))
    assert as_bytes(images.short(), described, 7) is None
    assert as_bytes(images, lambda part: described(part).double(), 7) is None


def test_images_are_not_copied() -> None:
    images = some_images(30, LONG)
    assert kept(images).stored.data_ptr() == images.data_ptr()


def test_what_does_not_follow_from_each_byte_in_its_place_is_not_kept_as_bytes() -> None:
    images = some_images(30, (3, 8, 8))
    ways = {
        "other places": lambda x: described(x).flip(1),
        "fewer values": lambda x: described(x)[:, :100],
        "of the whole image": lambda x: described(x) - described(x).mean(1, keepdim=True),
        "of one late image": lambda x: torch.where((x == images[29]).flatten(1).all(1)[:, None], 0.0, described(x)),
    }
    assert {name: as_bytes(images, way, 7) for name, way in ways.items()} == dict.fromkeys(ways)
    assert as_bytes(images[:0], described, 7) is None


@pytest.mark.parametrize("shape", [(1, 4, 4), LONG])
@pytest.mark.parametrize("block", [8, products.BLOCK])
def test_answers_are_those_of_the_values(shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, and with copies, whose order is that of their numbers."""
    monkeypatch.setattr(products, "_READ", 5 * LONG[0] * LONG[1] * LONG[2])
    images = some_images(90, shape)
    images[50:60] = images[0]
    queries = described(torch.cat([images[::9], some_images(9, shape, seed=1)]))
    for references in (kept(images), described(images)):
        found = top_k(queries, references, 13, block)
        near = within(queries, references, found.distances[:, 5].contiguous(), block)
        results = [found.ids, found.distances, near.rows, near.ids, near.distances]
        if isinstance(references, ByteRows):
            first = results
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, results, strict=True))


def test_centred_copies_of_bytes_are_made_block_by_block() -> None:
    """Images that differ little and lie far from mid-grey."""
    images = some_images(60, LONG) // 16
    queries = described(images[:5] + 1)
    known = products.prepare(kept(images))
    assert known.longer is None and not bool(known.uncentred)
    assert torch.equal(top_k(queries, known, 9).ids, top_k(queries, described(images), 9).ids)


def test_no_more_than_a_block_is_made_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored end to end: what is held are the images themselves, and what is read of them is a small part."""
    images = some_images(400, LONG).numpy()
    numbers, size = np.arange(200), images[0].size
    sides = [ImageSet(part, numbers, numbers) for part in (images[:200], images[200:])]
    none = sides[0].take(numbers[:0])
    monkeypatch.setattr(products, "BLOCK", 16)
    monkeypatch.setattr(products, "_READ", 16 * size)
    monkeypatch.setattr(nearest, "PIECE", 16 * size)
    monkeypatch.setattr("sidebench.benchmark.measures.scorer._BLOCK", 16)
    read, made = ByteRows.read, []

    def watch(self: ByteRows, rows: Any, out: Tensor | None = None) -> Tensor:
        found = read(self, rows, out)
        made.append(len(found))
        return found

    monkeypatch.setattr(ByteRows, "read", watch)
    measure = make_measure("rms")
    scorer = Scorer(References(*sides, none, none, ""), [measure], 5, torch.device("cpu"))
    scorer.score_finite(some_images(20, LONG, seed=1), measure.space)
    held = scorer.reference_descriptors(measure, "held_out")
    assert isinstance(held, ByteRows) and np.shares_memory(held.stored.numpy(), images)
    assert sum(made) > 2 * 400 and max(made) <= 32


def test_floats_are_read_as_they_are() -> None:
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    rows = as_rows(values)
    assert isinstance(rows, FloatRows) and as_rows(rows) is rows
    assert rows.read(slice(2, 9, 3)).data_ptr() == values[2].data_ptr()
    assert torch.equal(rows.read(torch.tensor([8, 0])), values[[8, 0]])
