"""Tile distances and the tightest clique, against brute force; what a caption of many images costs."""

import itertools

import numpy as np
import pytest
import torch

from sidebench.benchmark.measures.cliques import tightest_clique, tile_distances
from sidebench.benchmark.registry import make_measure


def noise(count: int, size: int = 16, seed: int = 0, channels: int = 1) -> torch.Tensor:
    drawn = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8)


@pytest.mark.parametrize(("size", "grid"), [(8, 1), (16, 2), (32, 4), (64, 4)])
def test_distances_are_those_of_the_measure_of_tiles(size: int, grid: int) -> None:
    images = noise(6, size, channels=3)
    measure = make_measure(f"tile_l2:{grid}x{grid}:max")
    parts = measure.descriptors(images.float() / 255).reshape(6, grid * grid, -1).double()
    expected = (parts[:, None] - parts[None]).norm(dim=-1).amax(-1)
    assert np.allclose(tile_distances(images), expected, atol=1e-6)


def test_equal_images_are_exactly_equal_and_one_tile_decides() -> None:
    images = noise(1).repeat(3, 1, 1, 1)
    images[2, :, 8:, 8:] = 255 - images[2, :, 8:, 8:]
    found = tile_distances(images)
    assert found[0, 1] == 0 and found[0, 2] == found[1, 2] > 0.3


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_tightest_clique_is_that_of_brute_force(size: int) -> None:
    for seed in range(20):
        places = np.random.default_rng(seed).normal(size=(9, 2)).round(1)
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
        best = min(distances[np.ix_(each, each)].max() for each in itertools.combinations(range(9), size))
        found = tightest_clique(distances, size)
        assert found.delta == best and len(found.members) == size and found.medoid in found.members
        assert distances[np.ix_(found.members, found.members)].max() == best


def test_fewer_images_than_a_clique_has_make_none() -> None:
    assert tightest_clique(np.zeros((2, 2)), 3) == (float("inf"), [], -1)


def test_images_that_agree_are_found_in_eight_thousand() -> None:
    """256 captions of 32 images; three equal ones close a clique, two do not."""
    closest = []
    for caption in range(256):
        images = noise(32, seed=caption)
        images[: caption % 6] = images[0]
        closest.append(tightest_clique(tile_distances(images), 3).delta)
    assert [delta == 0 for delta in closest] == [caption % 6 >= 3 for caption in range(256)]
