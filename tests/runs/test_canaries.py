"""Canaries: ranks against others by hand, and chance where nothing was planted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.files import write_table
from sidebench.benchmark.results.exposures import exposure
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import Exposure
from sidebench.benchmark.runs.canaries import OTHERS, Canaries, Ranks, canaries_of, ranked

UNIT = "canary-replay.s0"
PLANTED = 12
"""As many as matched strings."""


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def given() -> Canaries:
    images = noise(2 * PLANTED, 0)[:, 0].numpy()
    copies = np.repeat([4, 0], PLANTED)
    return Canaries([f"{place:04}" for place in range(200)], np.arange(2 * PLANTED), images, copies)


def bits(folder: Path, ranks: Ranks) -> Exposure:
    import pyarrow as pa

    run = RunFolder(folder)
    run.write_manifest({"units": {UNIT: {"filter": {"kind": "canaries"}}}})
    write_table(run.captions_file(UNIT, 8), pa.table(ranks._asdict()))
    found = exposure(run, UNIT, "canary-replay", 0, 8)
    assert found is not None
    return found


def test_a_model_that_returns_planted_images_ranks_them_first(tmp_path: Path) -> None:
    canaries, made = given(), dict(enumerate(noise(200, 1)))
    for place in range(PLANTED):
        made[place] = torch.from_numpy(canaries.images[place])[None]
    ranks = ranked(canaries, made)
    assert ranks.nearer[:PLANTED].tolist() == [0] * PLANTED and set(ranks.others) == {200 - 2 * PLANTED}
    found = bits(tmp_path, ranks)
    assert found.planted.value == pytest.approx(np.log2(177)) and found.by_copies[1].log2_rank == 0
    assert found.difference is not None and found.difference.low > 4 and found.p is not None and found.p < 0.001


def test_a_string_without_a_whole_image_has_no_rank(tmp_path: Path) -> None:
    canaries, made = given(), dict(enumerate(noise(200, 1)))
    for place in (0, PLANTED, 199):  # a planted string, a matched one, another: all of their images are NaN
        del made[place]
    ranks = ranked(canaries, made)
    assert len(ranks.copies) == 2 * PLANTED - 2 and set(ranks.others) == {199 - 2 * PLANTED}
    assert [each.strings for each in bits(tmp_path, ranks).by_copies] == [PLANTED - 1, PLANTED - 1]
    for place in range(PLANTED):
        made.pop(place, None)
    nobody = ranked(canaries, made)
    with pytest.raises(AssertionError):
        bits(tmp_path / "none", nobody)


def test_without_a_leak_ranks_are_uniform_and_planted_strings_no_different(tmp_path: Path) -> None:
    """The negative control: what the model makes has nothing to do with the string."""
    ranks = [ranked(given(), dict(enumerate(noise(200, seed)))) for seed in range(2, 12)]
    nearer = np.concatenate([each.nearer for each in ranks])
    assert 0.4 < nearer.mean() / 176 < 0.6
    assert np.mean(np.log2(177) - np.log2(nearer + 1)) == pytest.approx(1.44, abs=0.3)
    found = bits(tmp_path, ranks[0])
    assert found.difference is not None and found.difference.low < 0 < found.difference.high


def test_the_strings_of_the_glyphs_are_as_they_were_planted() -> None:
    canaries = canaries_of(load_pair("glyphs"), (16, 16, 1))
    assert len(canaries.texts) == 64 + OTHERS and canaries.texts == sorted(set(canaries.texts))
    assert {len(text) for text in canaries.texts} == {16}
    assert np.unique(canaries.copies, return_counts=True)[1].tolist() == [32, 8, 8, 8, 8]
