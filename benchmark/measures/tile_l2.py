"""The largest L2 distance over tiles, of Carlini et al. 2023 (arXiv 2301.13188, section 4.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts import Measure, Neighbours, Side
from ..errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = ("4x4", "max")


class TileL2(Measure):
    """`tile_l2:4x4:max`: the rms distance of each of 4 x 4 tiles, and of these the largest.

    Two images that are flat nearly everywhere are near in plain L2; here the tile that differs most decides. At 512 x
    512 the tiles are the paper's, 128 x 128. It has no fixed bands: what is near depends on the data.
    """

    name: ClassVar[str] = "tile_l2"
    title: ClassVar[str] = "largest root-mean-square distance over tiles"
    paper: ClassVar[str] = "arXiv 2301.13188"
    distance: ClassVar[bool] = True
    floor = 0.15
    """The near-copy threshold that the paper has for whole images; pairs beyond it are not stored."""
    bin_width = 0.01

    def __init__(self, options: list[str] | None = None) -> None:
        self.options = tuple(options) if options else DEFAULT
        grid = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", self.options[0])
        if grid is None or self.options[1:] != ("max",):
            raise ValueError(f"write it like tile_l2:{':'.join(DEFAULT)}, rows x columns of tiles")
        self.rows, self.columns = int(grid[1]), int(grid[2])
        self.parts = self.rows * self.columns

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return ":".join((self.name, *self.options))

    @property
    def space(self) -> str:  # type: ignore[override]
        """The descriptor space: each grid has its own."""
        return f"pixels-in-{self.options[0]}-tiles"

    def descriptors(self, images: Tensor) -> Tensor:
        """Return N x D float32, tile after tile, scaled so that a tile's Euclidean distance is its rms distance.

        Raises:
            BadInput: the images cannot be cut into such tiles.
        """
        count, channels, height, width = images.shape
        if height % self.rows or width % self.columns:
            raise BadInput(f"measure {self.id}: images of {height}x{width} cannot be cut into {self.options[0]} tiles")
        tall, wide = height // self.rows, width // self.columns
        cut = images.float().reshape(count, channels, self.rows, tall, self.columns, wide).permute(0, 2, 4, 1, 3, 5)
        scaled: Tensor = (cut.reshape(count, -1) - 0.5) / (channels * tall * wide) ** 0.5
        return scaled

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the distances themselves."""
        return distances

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return the floor for every candidate."""
        return np.full(len(training.ids), self.floor, dtype=np.float32)
