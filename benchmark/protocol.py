"""The versioned rules of a fair comparison. A change that can move a number is a new version."""

from typing import Any, Literal

from pydantic import Field

from .contracts import Settings

VERSION = "sidebench/1"

TIERS = {"smoke": 256, "quick": 1_024, "standard": 10_000, "paper": 50_000, "full": 2**20}
DEFAULT_TIER = "quick"

TOP_K = 50
"""Neighbours kept per candidate and side; nl2 with n = 50 needs as many."""

SHARD = 256
"""Candidates in one shard, the unit of work and of resuming."""

CONFIDENCE = 0.95

CALIBRATION_RATES = (1e-2, 1e-3, 1e-4)
"""Held-out hit rates q at which thresholds are calibrated."""

PROBES = 8
"""Candidates that each run makes again with another batch size."""

PROBE_LIMIT = 0.02
"""Share of uint8 values off by more than one level at which the probe flags a run."""

FLOAT32_CANDIDATES = 64
"""Candidates that a run in lower precision makes again in float32."""


class SamplerSettings(Settings):
    """How images are drawn from a model: the diffusers scheduler and its steps."""

    name: Literal["ddim", "ddpm", "euler", "dpm-solver++"] = "ddim"
    steps: int = Field(50, ge=1, le=1000)
    eta: float = Field(0.0, ge=0.0, le=1.0)
    """Stochasticity of DDIM (0: deterministic)."""


class Protocol(Settings):
    """The frozen rules under which results may be ranked together."""

    version: str = VERSION
    sampler: SamplerSettings = SamplerSettings()
    micro_batch: int = Field(ge=1)
    """Rows that the denoiser sees at a time, always padded to this number."""
    shard: int = Field(SHARD, ge=1)
    top_k: int = Field(TOP_K, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def default_micro_batch(pixels: int) -> int:
    """Return the micro-batch for images of so many pixels: 256 up to 16 x 16, then fewer."""
    return max(1, min(256, 65_536 // pixels))


def default_measures(pixels: int, *, held_out: bool = True) -> list[str]:
    """Return the measures for images of so many pixels, the headline first; `nl2c` needs held-out images."""
    if pixels <= 64 * 64:
        return [*(["nl2c:n50:a0.5"] if held_out else []), "nl2:n50:a0.5", "rms"]
    return ["sscd:disc_mixup:squash320:imagenet"]


def make_protocol(pixels: int, overrides: dict[str, Any]) -> Protocol:
    """Return the protocol for images of so many pixels, with a pair's overrides."""
    return Protocol(**{"micro_batch": default_micro_batch(pixels), **overrides})
