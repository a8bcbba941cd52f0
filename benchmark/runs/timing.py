"""A few calls of a model, timed: how long plain sampling takes on this machine, and how much memory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..data.pair import Pair
from ..environment import peak_memory
from ..models.find_model import find_model
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
    """Load a pair's model and time its denoiser and decoder on one micro-batch each."""
    import torch

    from ..models import load_model

    spec = find_model(pair, None, out, allow_pickle).spec
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    model = load_model(spec.model_copy(update={"device": device}))
    sampling = sampling_of(pair, model, candidates)
    x_t = torch.zeros(sampling.micro_batch, *model.sample_shape, device=model.device)
    t = torch.zeros(sampling.micro_batch, dtype=torch.long, device=model.device)
    condition = _condition(model, t)
    with torch.no_grad():
        a_call = _timed(lambda: model.predict(x_t, t, condition))
        decoding = _timed(lambda: model.decode(x_t))
    guided_by_two = condition is not None and model.conditioning == "text" and model.guided(condition, 2.0) is None
    calls = sampling.sampler.steps * (2 if guided_by_two else 1)
    batches = -(-candidates // sampling.micro_batch)
    return Rehearsal((a_call * calls + decoding) * batches, _peak(device))


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


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return peak_memory()
