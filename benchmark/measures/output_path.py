"""The last stretch of every candidate, open to any image: the model's autoencoder, defences on the output, uint8.

A candidate can be no nearer to a training image than that image comes back from here, however well the model knows it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..contracts import AttackState, Model, Side
from ..data.fits import Fits
from ..sampling.sampler import quantise

KEPT_BYTES = 256 * 2**20
"""Size up to which the round trips of a side's images are kept between runs."""

_BATCH = 64


class OutputPath:
    """Encodes and decodes images as the model does, through its defences on the output, and quantises them."""

    def __init__(
        self,
        load: Callable[[], Model],
        content: Mapping[str, Any],
        *,
        autoencoder: bool,
        defences: Sequence[str] = (),
        fits: Fits | None = None,
    ) -> None:
        """Take how to load the model, and what it is as JSON values: its files, precision, device and output defences.

        `fits` keeps the round trips of small reference sets between runs.
        """
        self.content, self.autoencoder, self.defences, self.fits = content, autoencoder, tuple(defences), fits
        self._load = load
        self._model: Model | None = None

    def once(self, images: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Return uint8 images N x C x H x W after their round trip, and which had values that are not finite, (N,)."""
        if self._model is None:
            self._model = self._load()
        done = [_round_trip(self._model, batch) for batch in images.split(_BATCH)]
        if not done:
            return images, np.zeros(0, dtype=bool)
        return torch.cat([made for made, _ in done]), np.concatenate([nan for _, nan in done])

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model's encoder makes of images in [0, 1], N x C x H x W: float32, N x latent shape."""
        if self._model is None:
            self._model = self._load()
        with torch.no_grad():
            made = [self._model.encode(batch.to(self._model.device)) for batch in images.split(_BATCH)]
        return torch.cat(made).float().cpu()

    def blocks(self, images: np.ndarray, side: Side, size: int) -> Iterator[torch.Tensor]:
        """Yield the round trips of all of a side's images, uint8, `size` at a time."""
        whole = torch.from_numpy(images)
        if self.fits is None or images.nbytes > KEPT_BYTES:
            yield from (self.once(block)[0] for block in whole.split(size))
            return
        kept = self.fits.tensors(
            f"round trips of {side.replace('_', '-')} images",
            lambda: AttackState({"images": self.once(whole)[0]}),
            path=self.content,
        )
        yield from kept.tensors["images"].split(size)


@torch.no_grad()
def _round_trip(model: Model, images: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    decoded = model.decode(model.encode((images.float() / 255).to(model.device))).float().cpu()
    return quantise(decoded), ~torch.isfinite(decoded.flatten(1)).all(1).numpy()
