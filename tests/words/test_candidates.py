"""Every draw belongs to (seed, purpose, number, stream) and to nothing else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidebench.benchmark.candidates import Candidates, generator, stream_seed

BASE = (7, "candidate", 3, "noise")
NUMBERS = [5, 0, 17, 2, 9, 400, 1]


@pytest.mark.parametrize(
    "other", [(8, *BASE[1:]), (7, "synthetic", 3, "noise"), (*BASE[:2], 4, "noise"), (*BASE[:3], "x")]
)
def test_each_part_of_the_name_matters(other: tuple[int, str, int, str]) -> None:
    assert stream_seed(*BASE) != stream_seed(*other)
    assert not torch.equal(torch.randn(8, generator=generator(*BASE)), torch.randn(8, generator=generator(*other)))


def test_no_two_streams_share_a_seed() -> None:
    parts = itertools.product(range(12), ("candidate", "synthetic"), range(112), ("noise", "sampler"))
    names = [(seed, purpose, number, stream) for seed, purpose, number, stream in parts]
    seeds = {stream_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_pinned() -> None:
    # BLAKE2b of "7/candidate/3/noise": another value would silently change every published image.
    assert stream_seed(*BASE) == 0x5E74F0DD2FA9C16F


def test_a_generator_starts_afresh_each_time() -> None:
    assert torch.equal(torch.rand(3, generator=generator(*BASE)), torch.rand(3, generator=generator(*BASE)))


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Candidates(1, NUMBERS).normal("noise", (2, 2))
    Candidates(1, NUMBERS).integers("class", 10)
    assert torch.equal(before, torch.get_rng_state())


@given(size=st.integers(1, 9))
def test_normal_does_not_depend_on_grouping(size: int) -> None:
    whole = Candidates(3, NUMBERS)
    parts = [batch.normal("noise", (1, 2, 3)) for batch in whole.batches(size)]
    assert torch.equal(torch.cat(parts), whole.normal("noise", (1, 2, 3)))


@given(size=st.integers(1, 9))
def test_integers_do_not_depend_on_grouping(size: int) -> None:
    whole = Candidates(3, NUMBERS)
    assert torch.equal(
        torch.cat([b.integers("class", 1000) for b in whole.batches(size)]), whole.integers("class", 1000)
    )


@given(order=st.permutations(range(len(NUMBERS))))
def test_draws_follow_the_number_not_the_position(order: list[int]) -> None:
    shuffled = Candidates(3, [NUMBERS[i] for i in order])
    assert torch.equal(shuffled.normal("noise", (4,)), Candidates(3, NUMBERS).normal("noise", (4,))[order])
    assert torch.equal(shuffled.integers("class", 1000), Candidates(3, NUMBERS).integers("class", 1000)[order])


def test_draws_have_the_stated_shapes_and_kinds() -> None:
    normal = Candidates(0, range(5)).normal("noise", (2, 3, 4))
    integers = Candidates(0, range(5)).integers("class", 3)
    assert normal.shape == (5, 2, 3, 4) and normal.dtype == torch.float32
    assert integers.shape == (5,) and integers.dtype == torch.int64


def test_normal_is_standard_normal_across_candidates() -> None:
    drawn = Candidates(0, range(4000)).normal("noise", (2,)).double()
    assert drawn.mean(0).abs().max() < 4 / 4000**0.5
    assert (drawn.var(0) - 1).abs().max() < 4 * (2 / 4000) ** 0.5
    assert torch.corrcoef(drawn.T)[0, 1].abs() < 4 / 4000**0.5


def test_integers_fill_the_range_evenly() -> None:
    counts = torch.bincount(Candidates(0, range(4000)).integers("class", 5))
    assert len(counts) == 5
    assert (counts - 800).abs().max() < 4 * (4000 * 0.2 * 0.8) ** 0.5


def test_batches_keep_seed_purpose_and_order() -> None:
    batches = list(Candidates(4, range(10, 17), "synthetic").batches(3))
    assert [list(batch.numbers) for batch in batches] == [[10, 11, 12], [13, 14, 15], [16]]
    assert {(batch.seed, batch.purpose) for batch in batches} == {(4, "synthetic")}


def test_no_candidates_are_no_batches() -> None:
    assert list(Candidates(4, []).batches(3)) == []


def test_padded_repeats_the_first() -> None:
    padded = Candidates(4, [6, 8], "synthetic").padded(5)
    assert list(padded.numbers) == [6, 8, 6, 6, 6]
    assert (padded.seed, padded.purpose) == (4, "synthetic")


def test_padded_to_its_own_size_is_the_same() -> None:
    assert list(Candidates(4, range(3)).padded(3).numbers) == [0, 1, 2]
