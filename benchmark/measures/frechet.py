"""The Frechet distance of two sets of images as Gaussians, from statistics that are gathered batch by batch.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982, JMVA 12:450). With C1 = F1'F1 the last trace is the
sum of the square roots of the eigenvalues of F1 C2 F1', which is symmetric; torchmetrics takes those of C1 C2, which is
not, and needs half a minute for images of 32 x 32 x 3.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean and covariance of a set of images."""

    mean: Tensor
    """(D,) float64."""
    factor: Tensor
    """R x D float64; the covariance is factor' factor."""


class Moments:
    """Mean and covariance (n - 1) of rows that come batch by batch.

    Rows are held while they are at most as many as their D values, then the D x D sums of their products alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[Tensor] = []
        self._sum: Tensor | float = 0.0
        self._products: Tensor | None = None

    def add(self, images: Tensor) -> None:
        """Add images in [0, 1], N x ..., each a row of D values."""
        rows = images.flatten(1).double()
        self.count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._rows.append(rows)
        if self.count > rows.shape[1]:
            for held in self._rows:
                self._products = held.T @ held if self._products is None else self._products.addmm_(held.T, held)
            self._rows = []

    def mean(self) -> Tensor:
        """Return the mean, (D,)."""
        return torch.as_tensor(self._sum / max(self.count, 1))

    def centred(self) -> Tensor | None:
        """Return the factor N x D that the rows are, or None where there are more rows than values."""
        if self._products is not None:
            return None
        factor: Tensor = (torch.cat(self._rows) - self.mean()) / (self.count - 1) ** 0.5
        return factor

    def covariance(self) -> Tensor:
        """Return the covariance, D x D."""
        factor = self.centred()
        if factor is not None:
            return factor.T @ factor
        assert self._products is not None
        mean = self.mean()
        return torch.addr(self._products, mean, mean, alpha=-self.count).div_(self.count - 1)

    def gaussian(self) -> Gaussian:
        """Return mean and factor; of more rows than values by Cholesky's decomposition with pivoting.

        Pivoting, since a pixel that is the same in all images leaves the covariance singular.
        """
        factor = self.centred()
        if factor is None:
            from scipy.linalg.lapack import dpstrf

            upper, pivots, rank, _ = dpstrf(self.covariance().numpy(), lower=0, overwrite_a=1)
            factor = torch.zeros(rank, len(upper), dtype=torch.float64)
            factor[:, torch.from_numpy(pivots).long() - 1] = torch.from_numpy(np.triu(upper[:rank]))
        return Gaussian(self.mean(), factor)


def moments_of(batches: Iterable[Tensor]) -> Moments:
    """Return the moments of all images of these batches."""
    found = Moments()
    for images in batches:
        found.add(images)
    return found


def distance(images: Moments, real: Gaussian) -> float:
    """Return the Frechet distance; NaN of fewer than two images."""
    if images.count < 2:
        return float("nan")
    factor = images.centred()
    if factor is None:
        covariance = images.covariance()
        product, spread = real.factor @ covariance @ real.factor.T, covariance.trace()
    else:
        between = real.factor @ factor.T
        # The smaller of the two products: both have the same eigenvalues but for zeros.
        product = between.T @ between if between.shape[1] <= between.shape[0] else between @ between.T
        spread = factor.square().sum()
    shared = torch.linalg.eigvalsh(product).clamp_(min=0).sqrt().sum()
    apart = (images.mean() - real.mean).square().sum()
    return float(apart + spread + real.factor.square().sum() - 2 * shared)
