"""The smallest output paths: an autoencoder that blurs, and a defence that changes the decoded image alone."""

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from sidebench.benchmark.contracts import Defence, Model, Settings
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.measures.output_path import OutputPath
from sidebench.benchmark.sampling.defended import DefendedModel


class Blurring:
    """Encodes images with so much of each pixel's difference from its block of 2 x 2 left out; 0 loses nothing."""

    def __init__(self, lost: float) -> None:
        self.lost, self.device, self.calls = lost, torch.device("cpu"), 0

    def encode(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        coarse = interpolate(avg_pool2d(images, 2), scale_factor=2)
        return images + self.lost * (coarse - images)

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(0, 1)


def path_of(model: object, **options: object) -> OutputPath:
    content = {"model": "made for a test", "lost": getattr(model, "lost", None)}
    return OutputPath(lambda: model, content, autoencoder=True, **options)  # type: ignore[arg-type, return-value]


def noise_references(count: int = 60) -> References:
    """Return noise on both sides, every image a duplicate group of its own."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * count, 1, 8, 8), dtype=np.uint8)
    every = ImageSet(images, np.arange(4 * count), np.arange(4 * count))
    one, two, three, four = (every.take(rows) for rows in np.split(every.rows, 4))
    return References(one, two, three, four, fingerprint="noise")


class StainSettings(Settings):
    """How strong."""

    scale: float = Field(0.0, ge=0)
    """Standard deviation of what is added."""


class Stain(Defence):
    """Add the same noise to every image that leaves the model."""

    name: ClassVar[str] = "stain"
    title: ClassVar[str] = "noise on the image"
    paper: ClassVar[str] = "none"
    level: ClassVar[Literal["denoiser", "loop", "prompt", "output"]] = "output"
    Settings = StainSettings

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the model whose images are stained."""
        return Stained(model, self.settings.scale)


class Stained(DefendedModel):
    """A model whose images are stained."""

    def __init__(self, inside: Model, scale: float) -> None:
        super().__init__(inside)
        draw = torch.Generator().manual_seed(0)
        self.stain = scale * torch.randn(inside.image_shape, generator=draw)

    def decode(self, x_0: Tensor) -> Tensor:
        """Return the image with the stain on it."""
        return (self.inside.decode(x_0) + self.stain).clamp(0, 1)


class Meddling(Stain):
    """Says that it acts on the output, and changes the sampling loop."""

    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return a model with another eta."""
        return _Meddled(model)


class _Meddled(DefendedModel):
    def eta(self, eta: float) -> float:
        return 1.0
