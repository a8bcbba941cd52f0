"""Another measure, with references on both sides that went through the model's own autoencoder.

A candidate of a latent model comes out of a decoder, which blurs: the copy of a training image can be farther from that
image than the bands of a pixel measure reach. Its distance to the image's own round trip is free of that loss.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts import Measure, Neighbours, Side
from ..registry import make_measure

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = "nl2c"


class RoundTrip(Measure):
    """`roundtrip:nl2c:n50:a0.5`: nl2c:n50:a0.5 against the references as they come back from the autoencoder.

    Training and held-out images are encoded, decoded and quantised by the model under audit, so scores of two models
    are on two scales. Pixel models have no autoencoder and are refused.
    """

    name: ClassVar[str] = "roundtrip"
    title: ClassVar[str] = "another measure, against references out of the model's autoencoder"
    paper: ClassVar[str] = "none"

    def __init__(self, options: list[str] | None = None) -> None:
        inner = make_measure(":".join(options or [DEFAULT]))
        if inner.round_trip_of is not None:
            raise ValueError("one round trip is enough")
        self.round_trip_of, self._inner = inner, inner
        self.bands, self.floor, self.bin_width = inner.bands, inner.floor, inner.bin_width
        self.parts, self.neighbours = inner.parts, inner.neighbours

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return f"{self.name}:{self._inner.id}"

    @property
    def space(self) -> str:  # type: ignore[override]
        """The descriptor space: that of the measure inside, with other references in it."""
        return f"{self._inner.space}-roundtrip"

    @property
    def distance(self) -> bool:  # type: ignore[override]
        """Which scores are closer is the inner measure's word."""
        return self._inner.distance

    def check(self, training: int, held_out: int, allow_dense: bool) -> None:
        """Refuse what the measure inside refuses."""
        self._inner.check(training, held_out, allow_dense)

    def weights(self) -> dict[str, str]:
        """Return the networks of the measure inside."""
        return self._inner.weights()

    def homes(self) -> dict[str, str]:
        """Return where these networks are fetched from."""
        return self._inner.homes()

    def descriptors(self, images: "Tensor") -> "Tensor":
        """Return the inner measure's descriptors."""
        return self._inner.descriptors(images)

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the inner measure's scores."""
        return self._inner.scores(distances, training, held_out, side)

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the inner measure's radius."""
        return self._inner.radius(training, held_out, side)
