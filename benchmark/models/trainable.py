"""Low-rank adapters (LoRA, arXiv 2106.09685) that an attack trains on a copy of the denoiser, by `peft`.

Their names are those of a stored LoRA (`lora.py`), so that what was trained is put on with `Model.adapted`. A denoiser
without classes may get a table of them: a vector for each class, from zero, that is added to its time embedding.
"""

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..candidates import stream_seed
from ..contracts import AdapterPlan, TrainableModel
from ..errors import BadInput

LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention+conv": ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
}
"""How the names of the layers that are adapted end."""

CLASS_TABLE = "class_embedding.weight"
"""What a state holds of the table of classes, after the component's name."""


class LoraTraining(TrainableModel):
    """A copy of a pipeline's denoiser with adapters of one rank; the network itself stays as it is."""

    def __init__(self, model: Any, component: str, attribute: str, plan: AdapterPlan, seed: int) -> None:
        """Put adapters into a copy of the denoiser: A is drawn from the seed, B is zero.

        Args:
            model: The pipeline's model, which calls its denoiser.
            component: The denoiser's name in the pipeline, by which adapters are stored.
            attribute: Its name in the model.
            plan: What is adapted.
            seed: Of the adapters' first values.

        Raises:
            BadInput: `peft` is not installed, the denoiser has no such layer or one that is smaller than the rank, or
                has classes of its own already.
        """
        if importlib.util.find_spec("peft") is None:
            raise BadInput("training adapters needs peft: pip install 'peft>=0.17'")
        import peft

        network = copy.deepcopy(getattr(model, attribute))
        layers = _layers(network, plan, f"{model.owner}/{component}")
        self._model = copy.copy(model)
        if plan.classes:
            put_classes(self._model, network, torch.zeros(plan.classes, _width(network, model.owner)))
        settings = peft.LoraConfig(r=plan.rank, lora_alpha=plan.rank, target_modules=layers, bias="none")
        with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
            torch.manual_seed(stream_seed(seed, "adapters", 0, "weights"))
            peft.inject_adapter_in_model(settings, network)
        setattr(self._model, attribute, network)
        self.parameters = dict(_named(network, component, with_classes=plan.classes > 0))
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the adapted denoiser; gradients reach the adapters."""
        predicted: Tensor = self._model.predict(x_t, t, condition)
        return predicted


def put_classes(model: Any, network: nn.Module, table: Tensor) -> None:
    """Make a model without classes one with as many as the table (classes x width) has rows."""
    model.conditioning, model.num_classes = "class", len(table)
    embedding = nn.Embedding.from_pretrained(table.clone(), freeze=False)
    network.class_embedding = embedding.to(model.device, model.dtype)


def _named(network: nn.Module, component: str, *, with_classes: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what is trained, under the name that a stored LoRA gives it."""
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            yield f"{component}.{name.replace('.default.weight', '.weight')}", parameter
        elif name == CLASS_TABLE and with_classes:
            yield f"{component}.{name}", parameter


def _layers(network: nn.Module, plan: AdapterPlan, owner: str) -> list[str]:
    """Return the names of the layers to adapt, none of which is smaller than the rank."""
    if plan.modules == "auto":
        found = _ending(network, LAYERS["attention"]) or _ending(network, LAYERS["attention+conv"])
    else:
        found = _ending(network, LAYERS[plan.modules])
    if not found:
        raise BadInput(f"{owner} has no layers of the kind {plan.modules} to adapt")
    name, least = min(((name, min(len(w), w[0].numel())) for name, w in found.items()), key=lambda pair: pair[1])
    if plan.rank > least:
        raise BadInput(f"rank = {plan.rank} exceeds {owner}'s layer {name}: the largest rank that fits is {least}")
    return list(found)


def _ending(network: nn.Module, ends: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the weights of the linear layers and convolutions whose names end so."""
    dotted = tuple(f".{end}" for end in ends)
    modules = {name: module for name, module in network.named_modules() if f".{name}".endswith(dotted)}
    return {name: module.weight for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)}


def _width(network: Any, owner: str) -> int:
    """Return the width of the time embedding, to which a class is added."""
    if getattr(network, "class_embedding", network) is not None or not hasattr(network, "time_embedding"):
        raise BadInput(f"{owner} has classes of its own, or no place for them: condition = class does not fit")
    width: int = network.time_embedding.linear_2.out_features
    return width
