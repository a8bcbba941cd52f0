"""Zero-normalised cross-correlation of pixels (Lewis 1995, Fast normalized cross-correlation, Vision Interface)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .cosine import CosineMeasure

if TYPE_CHECKING:
    from torch import Tensor


class Zncc(CosineMeasure):
    """zncc(a, b) = <a', b'> with a' = (a - mean a) / ||a - mean a||, 1 for images equal up to brightness and contrast.

    A defence that moves samples away in L2 by a shade or a veil of noise leaves it where it was. Constant images
    have no direction and are at 0.5 to everything. It has no fixed bands: what is near depends on the data.
    """

    name: ClassVar[str] = "zncc"
    title: ClassVar[str] = "zero-normalised cross-correlation"
    paper: ClassVar[str] = "Lewis 1995"
    space: ClassVar[str] = "zero-normalised-pixels"
    floor = 0.95
    """Pairs that correlate less are not stored."""
    bin_width = 0.005

    def descriptors(self, images: Tensor) -> Tensor:
        """Return N x D float32 of mean 0 and length 1."""
        flat = images.flatten(1).float()
        centred = flat - flat.mean(1, keepdim=True)
        unit: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return unit
