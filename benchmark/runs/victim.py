"""The model under attack, with its defences and with what an attack may know of the data."""

from typing import TYPE_CHECKING

from ..sampling.defended import defend
from .plan import RunPlan

if TYPE_CHECKING:
    from torch import Tensor

    from ..contracts import Model


def load_victim(plan: RunPlan) -> "Model":
    """Load the plan's model and put its defences around it.

    Raises:
        BadInput: a defence does not fit the model.
    """
    from ..models import load_model

    model: Model = load_model(plan.model)
    if any(unit.attack.access == "prompts" for unit in plan.units):
        model.prompts = captions(plan)
    if any(unit.attack.access == "oracle" for unit in plan.units):
        model.labelled = _labelled(plan)
    return defend(model, plan.defences, plan.protocol.sampler.name, lambda: _training_images(plan))


def captions(plan: RunPlan) -> list[str]:
    """Load what an attack with access "prompts" knows: the training images' captions, and nothing of the images."""
    from ..data.references import load_references

    return load_references(plan.pair).training.captions or []


def _labelled(plan: RunPlan) -> "tuple[Tensor, Tensor] | None":
    """Load the training images with their classes, which only an oracle has; None where the pair has no classes."""
    import torch

    from ..data.references import load_references

    training = load_references(plan.pair).training
    if training.labels is None:
        return None
    return training.floats(), torch.from_numpy(training.labels).long()


def _training_images(plan: RunPlan) -> "Tensor":
    """Load what a defender has; attacks see the defended model only."""
    from ..data.references import load_references

    return load_references(plan.pair).training.floats()
