"""The descriptor space "pixels": values in [0, 1], scaled so that Euclidean distance is RMS distance."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SPACE = "pixels"


def pixel_descriptors(images: "Tensor") -> "Tensor":
    """Map N x C x H x W in [0, 1] to N x D float32 with ||a - b|| = rms(a, b), centred on mid-grey.

    Centring halves the norms and with them the cancellation in ||a||^2 + ||b||^2 - 2ab.
    """
    flat = images.flatten(1).float()
    scaled: Tensor = (flat - 0.5) / flat.shape[1] ** 0.5
    return scaled
