"""A pipeline without its weights: whether its configurations make networks that fit each other, before any work.

The networks are built on the device "meta", which computes shapes and no values, and called once.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts import ModelSpec
from ..data import pipeline_folder
from ..errors import BadInput
from .load_network import why
from .pipeline import OUTLINE, PipelineModel

LIMITS = ("NotImplementedError", "meta")
"""Words in errors that are the device's own: what cannot be tried so is tried when the weights are there."""


@functools.lru_cache(maxsize=8)
def outline(
    cls: type[PipelineModel], family: str, location: str, configs: tuple[tuple[str, str], ...]
) -> PipelineModel:
    """Build a model of this class without weights and call it once; a process does so once for the same files.

    Args:
        cls: The family's class.
        family: Its name.
        location: Where the files are.
        configs: Names and SHA-256 of the configurations.

    Raises:
        BadInput: a configuration makes no network, or one that cannot be called on what the pipeline gives it; the key
            is named where one alone is at fault.
    """
    model = cls(ModelSpec(family=family, location=location, device=OUTLINE))
    try:
        answer = _called(model)
    except BadInput:
        raise
    except Exception as error:  # whatever diffusers finds wrong with the files, they are the user's
        if any(word in f"{type(error).__name__} {error}" for word in LIMITS):
            return model
        raise BadInput(
            f"{_place(model)}: the denoiser cannot be called on {_by(model.sample_shape)}: {why(error)}"
        ) from None
    if answer.shape[1:] != model.sample_shape:
        raise BadInput(f"{_file(model)}: the denoiser returns {_by(answer.shape[1:])} for {_by(model.sample_shape)}")
    return model


def _called(model: PipelineModel) -> Tensor:
    """Return the denoiser's answer to one row, of class 0 where it takes classes, decoded where there is a decoder."""
    x_t = torch.zeros(1, *model.sample_shape, device=model.device)
    t = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        answer = model.predict(x_t, t, t if model.conditioning == "class" else None)
        model.decode(x_t)
    return answer


def _place(model: PipelineModel) -> str:
    """Return the denoiser's file, and the key that is at fault where that can be known."""
    attends = pipeline_folder.read_json(_config(model)).get("cross_attention_dim", 1280)
    if getattr(model, "without_text", None):
        return f"{_file(model)}, cross_attention_dim: is {attends}, but there is no text to attend to"
    return _file(model)


def _config(model: PipelineModel) -> Path:
    return pipeline_folder.component(model.folder, next(iter(model.adaptable))) / "config.json"


def _file(model: PipelineModel) -> str:
    return f"{_config(model).parent.name}/config.json"


def _by(sizes: Any) -> str:
    return " x ".join(str(size) for size in sizes)
