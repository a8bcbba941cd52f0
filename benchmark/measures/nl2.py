"""Normalised L2 distance of Carlini et al. 2023 (arXiv 2301.13188), with its own and a shared normaliser.

nL2(g, x) = l2(g, x) / (alpha * mean over the n nearest x' of l2(g, x')). A copy is far below 1, an
ordinary image near 1 / alpha. The n neighbours are representatives of duplicate groups, since a group
of n duplicates would otherwise hide itself. n grows the background with n / |X|, so more than a tenth
of the set is refused unless the pair allows it.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts import Band, Measure, Neighbours, Side
from ..data.pixels import SPACE, pixel_descriptors
from ..errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


class NormalizedL2(Measure):
    """`nl2:n50:a0.5`: each side divides by its own neighbours, as in the literature.

    The held-out side with its own normaliser has another scale; for a control use `nl2c`.
    """

    name: ClassVar[str] = "nl2"
    title: ClassVar[str] = "normalised L2, own normaliser"
    paper: ClassVar[str] = "arXiv 2301.13188"
    space: ClassVar[str] = SPACE
    distance: ClassVar[bool] = True
    bands = (Band("high", 0.0, 0.5), Band("mid", 0.5, 0.75), Band("low", 0.75, 1.0))
    floor = 1.0
    decides = False

    def __init__(self, options: list[str] | None = None) -> None:
        given = {option[:1]: option[1:] for option in options or []}
        if unknown := set(given) - {"n", "a"}:
            raise ValueError(f"unknown option {sorted(unknown)[0]!r}; write it like {self.name}:n50:a0.5")
        if len(given) < len(options or []):
            raise ValueError("an option is given twice")
        self.n = self.neighbours = int(given.get("n", 50))
        self.alpha = float(given.get("a", 0.5))
        if self.n < 1 or not 0 < self.alpha <= 1:
            raise ValueError("n must be at least 1 and a in (0, 1]")

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return f"{self.name}:n{self.n}:a{self.alpha!r}"

    def check(self, training: int, held_out: int, allow_dense: bool) -> None:
        """Refuse n above a tenth of either set that there is, unless the pair allows it, and n above the set always."""
        smallest = min(size for size in (training, held_out) if size)
        limit = smallest if allow_dense else smallest // 10
        if self.n > limit:
            raise BadInput(
                f"measure {self.id}: n = {self.n} neighbours of {smallest} images; "
                f"at most {limit} {'exist' if allow_dense else 'unless the pair sets allow_dense_neighbours'}"
            )

    def descriptors(self, images: "Tensor") -> "Tensor":
        """Return the scaled pixels."""
        return pixel_descriptors(images)

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Divide by alpha times the mean distance to the n nearest representatives."""
        unit = self._unit(training, held_out, side)[:, None]
        # Without a distance to compare with, a copy is as near as can be and all else infinitely far.
        out = np.where(distances > 0, np.inf, 0).astype(np.float32)
        scores: np.ndarray = np.divide(distances, unit, out=out, where=unit > 0)
        return scores

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the distance at which the score is `floor`."""
        return (self.floor * self._unit(training, held_out, side)).astype(np.float32)

    def _unit(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        own = training if side == "training" else held_out
        return self._mean_of_nearest(own.representatives)

    def _mean_of_nearest(self, ordered: np.ndarray) -> np.ndarray:
        mean: np.ndarray = self.alpha * ordered[:, : self.n].astype(np.float64).mean(axis=1)
        return mean


class NormalizedL2Combined(NormalizedL2):
    """`nl2c:n50:a0.5`: one normaliser from training and held-out images together, so one scale for both."""

    name: ClassVar[str] = "nl2c"
    title: ClassVar[str] = "normalised L2, one normaliser for both sides"
    decides = True

    def check(self, training: int, held_out: int, allow_dense: bool) -> None:
        """Refuse pairs without held-out images too: the normaliser reads them."""
        if not held_out:
            raise BadInput(f"measure {self.id}: needs held-out images, this pair has none; take nl2{self.id[4:]}")
        super().check(training, held_out, allow_dense)

    def _unit(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        both = np.concatenate([training.representatives, held_out.representatives], axis=1)
        return self._mean_of_nearest(np.sort(both, axis=1))
