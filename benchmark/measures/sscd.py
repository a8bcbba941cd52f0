"""Self-supervised copy detection (Pizzi et al. 2022, arXiv 2202.10261): similarity of learned image descriptors.

At least seven different numbers in the literature are called "SSCD similarity", so the id spells which network,
how images are brought to its size, and how they are normalised: `sscd:disc_mixup:squash320:imagenet`.

The network is a TorchScript file of its authors' (facebookresearch/sscd-copy-detection), which is not shipped. Its
SHA-256 is recorded when it is brought in, checked on every later use, and part of a run's identity.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..contracts import Band
from . import weights
from .cosine import NetworkMeasure

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NETWORKS = ("disc_blur", "disc_advanced", "disc_mixup", "disc_large")
DEFAULT = ("disc_mixup", "squash320", "imagenet")
BATCH = 16
"""Images that the network sees at a time, always padded to this number, as its arithmetic may depend on it."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sscd(NetworkMeasure):
    """Cosine similarity of SSCD descriptors; `squashN` resizes to N x N whatever the shape, antialiased.

    Grey images are repeated to three channels. The bands are those that arXiv 2410.02467 uses; the lower end of the
    lowest is read off its figures.
    """

    name: ClassVar[str] = "sscd"
    title: ClassVar[str] = "similarity of copy-detection descriptors"
    paper: ClassVar[str] = "arXiv 2202.10261"
    bands = (Band("high", 0.6, 1.0), Band("mid", 0.5, 0.6), Band("low", 0.4, 0.5))
    floor = 0.4
    bin_width = 0.05

    def __init__(self, options: list[str] | None = None) -> None:
        self.options = tuple(options) if options else DEFAULT
        size = re.fullmatch(r"squash([1-9]\d{1,2})", self.options[1]) if len(self.options) == len(DEFAULT) else None
        if size is None or self.options[0] not in NETWORKS or self.options[2] != "imagenet":
            raise ValueError(f"write it like sscd:{':'.join(DEFAULT)}; networks: {', '.join(NETWORKS)}")
        self.size = int(size[1])

    def weights(self) -> dict[str, str]:
        """Return the network's SHA-256.

        Raises:
            BadInput: the network is not here, or not the one that was recorded.
        """
        return {self._file: weights.check(self._file, self.id)[1]}

    def descriptors(self, images: Tensor) -> Tensor:
        """Return N x D float32 of length 1."""
        import torch

        network = _load(weights.check(self._file, self.id)[0], str(images.device))
        with torch.no_grad():
            parts = [self._describe(network, part) for part in images.split(BATCH)]
        return torch.cat(parts)

    @property
    def _file(self) -> str:
        return f"sscd_{self.options[0]}.torchscript.pt"

    def _describe(self, network: Any, images: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import interpolate, normalize

        rgb = images.expand(-1, 3, -1, -1)
        padded = torch.cat([rgb, rgb[:1].expand(BATCH - len(rgb), -1, -1, -1)])
        squashed = interpolate(padded, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return normalize(network((squashed - mean) / std).float(), dim=1)[: len(images)]


@functools.lru_cache(maxsize=2)
def _load(file: Path, device: str) -> torch.jit.ScriptModule:
    import torch

    network: torch.jit.ScriptModule = torch.jit.load(file, map_location=device).eval()
    return network
