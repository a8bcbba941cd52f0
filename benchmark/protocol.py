"""The versioned rules of a fair comparison. A change that can move a number is a new version."""

from typing import Any, Literal

from pydantic import Field

from .contracts import SamplerSettings, Settings

VERSION = "sidebench/2"
RANKED = ("sidebench/1", VERSION)
"""Versions whose records stand on boards, each on boards of its own."""

TIERS = {"smoke": 256, "quick": 1_024, "standard": 10_000, "paper": 50_000, "full": 2**20}
DEFAULT_TIER = "quick"

TOP_K = 50
"""Neighbours kept per candidate and side; nl2 with n = 50 needs as many."""

SHARD = 256
"""Candidates in one shard, the unit of work and of resuming, where the micro-batch asks for no other number."""

UNLIKE = 0.25
"""Frechet distance to held-out images, in units of their variance, above which candidates are no such images.

Measured in pixel space: training digits 0.02 to 0.05, candidates of both embedded models 0.04 to 0.07, digits
upside down 0.25 to 0.34, half the contrast 0.85, the mean image 1, noise 2, half the value range 2.1.
"""

CONFIDENCE = 0.95

CALIBRATION_RATES = (1e-2, 1e-3, 1e-4)
"""Held-out hit rates q at which thresholds are calibrated."""

PROBES = 8
"""Most candidates of a unit that are generated again with another micro-batch: one in 64, so 4 of tier smoke."""

PROBE_LIMIT = 0.02
"""Share of uint8 values off by more than one level at which the probe flags a run."""

FLOAT32_CANDIDATES = 64
"""Candidates that a run in lower precision makes again in float32."""


CPU_PIXELS = 2**16
"""Pixels of x_t, over all rows, that keep a processor busy: more rows at a time are no faster there."""

PIXEL_BYTES = {"pixel": 2**14, "mixture": 2**14}
"""Memory that a denoiser's call is taken to need per pixel of x_t, by family: 8 to 11 kB in pixel networks of 32 x 32
and 256 x 256 (docs/runs.md)."""

LATENT_PIXEL_BYTES = 80 * 2**10
"""The same of the other families: 75 kB in the U-Net of Stable Diffusion 1.5."""


class Protocol(Settings):
    """The frozen rules under which results may be ranked together."""

    version: str = VERSION
    sampler: SamplerSettings = SamplerSettings()
    top_k: int = Field(TOP_K, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Sampling(Settings):
    """How images are drawn from a model: by which sampler, and how many rows the denoiser sees at a time."""

    sampler: SamplerSettings = SamplerSettings()
    micro_batch: int = Field(ge=1)
    """Rows of one call of the denoiser, always padded to this number."""


class Batching(Settings):
    """How the work of a run is cut; recorded, and no part of what makes two runs the same.

    Candidates are the same images whatever the numbers are, but for rounding (docs/runs.md says how far).
    """

    micro_batch: int = Field(ge=1)
    shard: int = Field(ge=1)
    """Candidates in one file, a multiple of the micro-batch: what is lost when a run is killed."""
    compiled: bool = False
    """Whether the denoiser is compiled."""

    def stored(self) -> dict[str, Any]:
        """Return this as a manifest holds it; what most runs do not do is left out."""
        return self.model_dump(exclude_defaults=True)


def default_measures(pixels: int, *, held_out: bool = True, smallest: int | None = None) -> list[str]:
    """Return the measures for images of so many pixels, the headline first.

    Args:
        pixels: Height times width.
        held_out: Whether there are held-out images; `nl2c` needs them.
        smallest: Number of images of the smaller side: n of nl2 is a tenth of it where that is below 50, and with fewer
            than 20 images there is no nl2. None: not known, n is 50.

    Examples:
        >>> default_measures(8 * 8, smallest=120)
        ['nl2c:n12:a0.5', 'nl2:n12:a0.5', 'rms']
        >>> default_measures(8 * 8, smallest=19, held_out=False)
        ['rms']
    """
    if pixels <= 64 * 64:
        n = 50 if smallest is None else min(50, smallest // 10)
        names = [*(["nl2c"] if held_out else []), "nl2"] if n > 1 else []  # with n = 1 every score is 1 / a
        return [*(f"{name}:n{n}:a0.5" for name in names), "rms"]
    return ["sscd:disc_mixup:squash320:imagenet"]


def batching(micro_batch: int) -> Batching:
    """Return the batching with this micro-batch: shards of about 256, smaller ones where a row is heavy.

    Examples:
        >>> batching(256).shard, batching(100).shard, batching(1).shard, batching(512).shard
        (256, 300, 32, 512)
    """
    wanted = min(SHARD, max(32, 16 * micro_batch))
    return Batching(micro_batch=micro_batch, shard=micro_batch * -(-wanted // micro_batch))


def default_micro_batch(family: str, pixels: int, memory: int | None = None) -> int:
    """Return the micro-batch for a denoiser of so many pixels of x_t, a power of two up to 256.

    Args:
        family: The model's family, such as "pixel".
        pixels: Height times width of x_t: of the latents, where there are any.
        memory: Bytes of the accelerator, of which calls may take a quarter; None on a processor, where the number is
            what keeps it busy.

    Examples:
        >>> [default_micro_batch("pixel", side * side) for side in (8, 28, 32, 256)]
        [256, 64, 64, 1]
        >>> [default_micro_batch("text", side * side, 80 * 2**30) for side in (64, 96, 128)]
        [64, 16, 16]
    """
    rows = CPU_PIXELS // pixels
    if memory is not None:
        rows = memory // 4 // (PIXEL_BYTES.get(family, LATENT_PIXEL_BYTES) * pixels)
    return 1 << (min(SHARD, max(1, rows)).bit_length() - 1)
