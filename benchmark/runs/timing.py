"""A few calls of a model, timed: how long plain sampling takes on this machine, and how much memory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..data.pair import Pair
from ..environment import peak_memory
from ..errors import printable
from ..models.find_model import find_model
from ..progress import duration
from .batching import sampling_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..contracts import Model

CALLS = 3
"""Calls that are timed, after one that is not."""


class Rehearsal(NamedTuple):
    """What a short calibration found."""

    seconds: float
    """Plain sampling of all candidates, decoding too; with classifier-free guidance where the model takes text."""
    peak_bytes: int
    """The most memory that was held: the device's on CUDA, otherwise this process's."""


def rehearse(pair: Pair, candidates: int, device: str, out: Path, allow_pickle: bool = False) -> Rehearsal:
    """Load a pair's model, and time it as `rehearsed` does."""
    import torch

    from ..models import load_model

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    spec = find_model(pair, None, out, allow_pickle).spec
    return rehearsed(pair, lambda: load_model(spec.model_copy(update={"device": device})), candidates)


def rehearsed(pair: Pair, load: "Callable[[], Model]", candidates: int) -> Rehearsal:
    """Time the denoiser and the decoder of the model that `load` returns, on one micro-batch each."""
    import torch

    loaded = load()
    sampling = sampling_of(pair, loaded, candidates)
    x_t = torch.zeros(sampling.micro_batch, *loaded.sample_shape, device=loaded.device)
    t = torch.zeros(sampling.micro_batch, dtype=torch.long, device=loaded.device)
    condition = _condition(loaded, t)
    with torch.no_grad():
        a_call = _timed(lambda: loaded.predict(x_t, t, condition))
        decoding = _timed(lambda: loaded.decode(x_t))
    guided_by_two = condition is not None and loaded.conditioning == "text" and loaded.guided(condition, 2.0) is None
    calls = sampling.sampler.steps * (2 if guided_by_two else 1)
    batches = -(-candidates // sampling.micro_batch)
    return Rehearsal((a_call * calls + decoding) * batches, _peak(loaded.device))


def sampling_time(pair: Pair, load: "Callable[[], Model]", candidates: int) -> str:
    """Say how long plain sampling of so many candidates takes here, or why that cannot be told.

    `load` returns the model that will make them, in memory already or loaded now and kept: no other one is loaded.
    """
    try:
        seconds = rehearsed(pair, load, candidates).seconds
    except Exception as error:  # of a model that is somebody's own, any; the command itself stops at it, or does not
        why = next(iter(str(error).splitlines()), type(error).__name__)
        return f"how long they take cannot be told: {printable(why)}"
    return f"{candidates:,} plain samples take about {duration(seconds)} here, guided attacks several times that"


def _condition(model: "Model", t: "Tensor") -> "torch.Tensor | None":
    if model.conditioning == "text":
        embedding = model.embed([""])
        return embedding.expand(len(t), *embedding.shape[1:])
    return t if model.conditioning == "class" else None


def _timed(call: "Callable[[], Tensor]") -> float:
    """Return the seconds of a call; reading a sum waits until the device is done."""
    float(call().sum())
    began = time.monotonic()
    for _ in range(CALLS):
        float(call().sum())
    return (time.monotonic() - began) / CALLS


def _peak(device: "torch.device") -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return peak_memory()
