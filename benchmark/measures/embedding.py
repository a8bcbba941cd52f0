"""What measures by an image network of transformers share: their id, and where the network comes from.

The network is brought in by `sidebench fetch`, from its home on the Hub or from a folder; its hashes are recorded,
checked on every later use, and part of a run's identity.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from . import networks
from .cosine import NetworkMeasure

if TYPE_CHECKING:
    from torch import Tensor


class Embedding(NetworkMeasure):
    """Cosine similarity of a network's descriptors; `bicubicN` resizes to N x N whatever the shape, antialiased."""

    architectures: ClassVar[tuple[str, ...]]
    """The networks that the first option chooses from."""
    default: ClassVar[tuple[str, str, str, str]]
    """The options where none are given: network, size, normalisation, descriptor."""
    home: ClassVar[str]
    """Name of the repositories up to the network's own."""
    mean: ClassVar[tuple[float, float, float]]
    deviation: ClassVar[tuple[float, float, float]]

    def __init__(self, options: list[str] | None = None) -> None:
        self.options = tuple(options) if options else self.default
        sized = len(self.options) == len(self.default)
        size = re.fullmatch(r"bicubic([1-9]\d{1,3})", self.options[1]) if sized else None
        if size is None or self.options[0] not in self.architectures or self.options[2:] != self.default[2:]:
            known = ", ".join(self.architectures)
            raise ValueError(f"write it like {self.name}:{':'.join(self.default)}; networks: {known}")
        self.size = int(size[1])
        self._network, self._home = f"{self.name}_{self.options[0]}", f"{self.home}{self.options[0]}"

    @abstractmethod
    def load(self, place: Path, digest: str, device: str) -> Callable[[Tensor], Tensor]:
        """Return what maps normalised images, B x 3 x N x N, to B x D."""

    def weights(self) -> dict[str, str]:
        """Return the digest of the network's files.

        Raises:
            BadInput: the network is not here; the message says how to bring it in.
            UnsafeFile: it is not the one that was recorded.
        """
        return {self._network: networks.check(self._network, self.id, self._home)[1]}

    def homes(self) -> dict[str, str]:
        """Return the network's repository."""
        return {self._network: self._home}

    def descriptors(self, images: Tensor) -> Tensor:
        """Return N x D float32 of length 1."""
        network = self.load(*networks.check(self._network, self.id, self._home), str(images.device))
        return networks.described(network, images, self.size, self.mean, self.deviation)
