"""How the work of a run is cut, and whether its denoiser is compiled: chosen when a folder is opened, and kept.

Neither is part of what a run is: candidates are the same images, but for rounding in the last bits.
"""

from typing import TYPE_CHECKING

from ..contracts import ModelSpec, SamplerSettings
from ..data.pair import Pair
from ..environment import device_memory
from ..errors import BadSetting, RunConflict
from ..models import PIPELINES, is_own
from ..protocol import Batching, Sampling, batching, default_micro_batch
from ..results.run_folder import RunFolder, stored_batching

if TYPE_CHECKING:
    from ..contracts import Model

MOST = 4096
"""Rows that the denoiser may be asked to see at a time."""


def check_micro_batch(asked: int | None) -> None:
    """Raise `BadSetting` for a micro-batch that is not a number of rows."""
    if asked is not None and not 1 <= asked <= MOST:
        raise BadSetting(f"--micro-batch must be between 1 and {MOST:,} rows, was {asked:,}")


def check_compiled(spec: ModelSpec) -> None:
    """Raise `BadSetting` for a model whose denoiser is not torch.compile's to change: no pipeline of diffusers."""
    if is_own(spec) or spec.family not in PIPELINES:
        raise BadSetting("--compile is for pipelines of diffusers, and this model is none: leave it out")


def chosen(
    pair: Pair,
    spec: ModelSpec,
    sample_size: tuple[int, ...],
    candidates: int,
    asked: int | None = None,
    *,
    compiled: bool = False,
) -> Batching:
    """Return the batching for a new run: what was asked for, what the pair says, or what the device takes.

    It is never larger than the number of candidates: rows that only fill a batch up cost as much as others.
    """
    if asked is None:
        asked = pair.protocol.micro_batch
    if asked is None:
        most = default_micro_batch(spec.family, sample_size[0] * sample_size[1], device_memory(spec.device))
        asked = min(most, 1 << (candidates.bit_length() - 1))
    return batching(asked).model_copy(update={"compiled": compiled})


def in_force(folder: RunFolder, new: Batching, asked: int | None, *, fresh: bool = False) -> Batching:
    """Return the batching of a run's folder: its own once an image was made, before that the new one.

    Raises:
        RunConflict: another micro-batch was asked for than the folder's images were made with, or a compiled denoiser
            where theirs was not.
    """
    stored = None if fresh else stored_batching(folder)
    if stored is None or not any((folder.path / "images").glob("*/*.safetensors")):
        return new
    if asked is not None and asked != stored.micro_batch:
        raise RunConflict(
            f"{folder.path} was made with micro-batch {stored.micro_batch}, which it keeps: leave --micro-batch out, "
            f"or start over with --fresh"
        )
    if new.compiled and not stored.compiled:
        raise RunConflict(
            f"{folder.path} was made without --compile: leave it out, start over with --fresh, or choose another --out"
        )
    return stored


def sampling_of(pair: Pair, model: "Model", candidates: int) -> Sampling:
    """Return how a run of so many candidates would draw from this model."""
    height, width = model.sample_shape[1:]
    cut = chosen(pair, model.spec, (height, width), candidates)
    return Sampling(sampler=pair.protocol.sampler or SamplerSettings(), micro_batch=cut.micro_batch)
