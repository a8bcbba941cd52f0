"""LoRA (Hu et al. 2021, arXiv 2106.09685): W + scale (alpha / r) B A, added to a network's weights once.

A state holds, by component and layer, `unet.LAYER.lora_A.weight` (r x in), `unet.LAYER.lora_B.weight` (out x r) and,
where it is not r, `unet.LAYER.alpha`. Every tensor must find its place: the usual loaders pass over what they cannot
place with a warning, and a run would be of another model than the one that it names.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput

METADATA = "lora_adapter_metadata"
"""Under this name diffusers keeps the settings of training in a file's header."""

_RENAMED = (
    (r"^lora_unet_([^.]+)\.", r"unet.\1."),
    (r"^lora_te1?_([^.]+)\.", r"text_encoder.\1."),
    (r"^lora_te2_([^.]+)\.", r"text_encoder_2.\1."),
    (r"\.self_attn\.to_out_lora\.", ".self_attn.out_proj.lora."),
    (r"\.self_attn\.to_([qkv])_lora\.", r".self_attn.\1_proj.lora."),
    (r"\.processor\.to_out_lora\.", ".to_out.0.lora."),
    (r"\.processor\.(to_[qkv])_lora\.", r".\1.lora."),
    (r"\.lora_linear_layer\.", ".lora."),
    (r"\.lora[._]down\.", ".lora_A."),
    (r"\.lora[._]up\.", ".lora_B."),
)
"""Spellings of kohya's scripts, which have _ for . in a layer's path, and of earlier versions of diffusers."""


def read_state(file: Path, owner: str) -> dict[str, Tensor]:
    """Read a LoRA file (safetensors) in the spelling of diffusers, old or new, or of kohya's scripts.

    Raises:
        BadInput: the file cannot be read, or holds another kind of adapter.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            stored = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            trained: dict[str, Any] = json.loads((content.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{owner} cannot be read as safetensors ({type(error).__name__})") from None
    _check_kind(stored, owner)
    state = stored
    for old, new in _RENAMED:
        state = {re.sub(old, new, name): tensor for name, tensor in state.items()}
    return {**_alphas(state, trained), **state}


def put_on(networks: Mapping[str, nn.Module], state: Mapping[str, Tensor], scale: float, owner: str) -> None:
    """Add a state to the weights of networks, by component name; a state of one network needs no component's name.

    Raises:
        BadInput: a tensor has no place in the networks, or is of another shape than its place.
    """
    first = next(iter(networks))
    named = any(name.partition(".")[0] in networks for name in state)
    found = {name if named else f"{first}.{name}": tensor for name, tensor in state.items()}
    layers = {name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")}
    used = {f"{layer}.{part}" for layer in layers for part in ("lora_A.weight", "lora_B.weight", "alpha")}
    if strange := sorted(found.keys() - used):
        raise BadInput(f"{owner}: {strange[0]} is no part of a LoRA that sidebench knows (lora_A, lora_B, alpha)")
    if not layers:
        raise BadInput(f"{owner} holds no LoRA")
    for layer in sorted(layers):
        if f"{layer}.lora_B.weight" not in found:
            raise BadInput(f"{owner}: {layer}.lora_B.weight is missing")
        _add(_place(networks, layer, owner), layer, found, scale, owner)


def digest(state: Mapping[str, Tensor], before: str = "") -> str:
    """Return SHA-256 over names, shapes and values of a state, and over what it is put on top of."""
    total = hashlib.sha256(before.encode())
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().float().contiguous()
        total.update(f"{name} {tuple(values.shape)}".encode())
        total.update(values.numpy().tobytes())
    return total.hexdigest()


@torch.no_grad()
def _add(place: nn.Module, layer: str, state: Mapping[str, Tensor], scale: float, owner: str) -> None:
    """Add scale (alpha / r) B A to a layer; a convolution's A has its kernel, and B is 1 x 1."""
    weight = place.weight
    assert isinstance(weight, Tensor)
    down, up = (state[f"{layer}.lora_{part}.weight"].to(weight.device, torch.float32).flatten(1) for part in "AB")
    if up.shape[1] != down.shape[0] or (up.shape[0], down.shape[1]) != (len(weight), weight[0].numel()):
        shapes = f"{tuple(up.shape)} x {tuple(down.shape)}, the layer's weight {tuple(weight.shape)}"
        raise BadInput(f"{owner}: {layer} is {shapes}: the LoRA is of another model")
    rank = len(down)
    alpha = float(state.get(f"{layer}.alpha", torch.tensor(float(rank))))
    # In float32 whatever the network's dtype, rounded once.
    weight.copy_(weight.float() + scale * alpha / rank * (up @ down).view_as(weight))


def _place(networks: Mapping[str, nn.Module], layer: str, owner: str) -> nn.Module:
    """Return the layer of this path, whose dots may be written as _."""
    component, _, path = layer.partition(".")
    if component in networks:
        places = {name.replace(".", "_"): module for name, module in networks[component].named_modules()}
        wanted = path.replace(".", "_")
        # Newer transformers keep the text encoder's layers one level higher than the files' names say.
        found = places.get(wanted) or places.get(wanted.removeprefix("text_model_"))
        if isinstance(found, nn.Linear | nn.Conv2d):
            return found
    known = ", ".join(networks)
    raise BadInput(f"{owner}: the model has no layer {layer} (of {known}), so the LoRA is of another model")


def _check_kind(stored: Mapping[str, Tensor], owner: str) -> None:
    for name in stored:
        for sign, kind in (("dora_scale", "DoRA"), ("lora_magnitude", "DoRA"), ("hada_", "LoHa"), ("lokr_", "LoKr")):
            if sign in name:
                raise BadInput(f"{owner} is a {kind} adapter ({name}); sidebench knows LoRA")


def _alphas(state: Mapping[str, Tensor], trained: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return each layer's alpha by what the header says of training: lora_alpha, alpha_pattern, use_rslora."""
    found = {}
    for name, down in state.items():
        layer, is_down, _ = name.partition(".lora_A.weight")
        component, _, inside = layer.partition(".")
        alpha = trained.get(f"{component}.lora_alpha")
        if not is_down or alpha is None:
            continue
        for pattern, own in (trained.get(f"{component}.alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", inside):
                alpha = own
        # Rank-stabilised LoRA (arXiv 2312.03732) divides by the root of r.
        root = len(down) ** 0.5 if trained.get(f"{component}.use_rslora") else 1.0
        found[f"{layer}.alpha"] = torch.tensor(float(alpha) * root)
    return found
