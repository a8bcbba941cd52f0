"""The Frechet distance from moments, against torchmetrics and by hand."""

import math

import pytest
import torch

from sidebench.benchmark.measures.frechet import Moments, distance, moments_of


def images(n: int, seed: int, values: int = 12, constant: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.rand(n, values, generator=draw) @ torch.rand(values, values, generator=draw) / values
    mixed[:, :constant] = 0.25
    return mixed.view(n, 1, 2, values // 2)


@pytest.mark.parametrize("constant", [0, 3])
@pytest.mark.parametrize("sizes", [(200, 90), (200, 8), (9, 90), (9, 8), (13, 12)])
def test_distance_is_that_of_torchmetrics(sizes: tuple[int, int], constant: int) -> None:
    from torchmetrics.image.fid import _compute_fid

    real, made = images(sizes[0], 1, constant=constant), images(sizes[1], 2, constant=constant)
    flat = [part.flatten(1).double() for part in (made, real)]
    wanted = _compute_fid(flat[0].mean(0), torch.cov(flat[0].T), flat[1].mean(0), torch.cov(flat[1].T))
    found = distance(moments_of(made.split(7)), moments_of(real.split(11)).gaussian())
    # Singular covariances cost torchmetrics half of its digits.
    assert found == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("n", [9, 200])
def test_the_factor_gives_the_covariance(n: int) -> None:
    flat = images(n, 3, constant=2).flatten(1).double()
    found = moments_of(flat.split(5))
    gaussian = found.gaussian()
    assert torch.allclose(gaussian.mean, flat.mean(0), atol=1e-14)
    for covariance in (gaussian.factor.T @ gaussian.factor, found.covariance()):
        assert torch.allclose(covariance, torch.cov(flat.T), atol=1e-14)
    assert len(gaussian.factor) <= min(n, 12)


def test_only_sums_are_held_of_many_rows() -> None:
    found = Moments()
    for batch in images(120, 4).split(10):
        found.add(batch)
        assert sum(map(len, found._rows)) <= 12
    assert found.count == 120


def test_fewer_than_two_images_have_no_distance() -> None:
    real = moments_of([images(20, 5)]).gaussian()
    assert math.isnan(distance(moments_of([images(1, 6)]), real)) and math.isnan(distance(Moments(), real))
