"""The smallest networks that measures read, and denoisers of somebody's own: random weights, the same each time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DINO, CLIP = "dinov2:small:bicubic28:imagenet:cls", "clip:vit-base-patch32:bicubic16:openai:projection"
"""Ids of the measures that read the two networks below."""


def tiny_dinov2(folder: Path) -> Path:
    """Write a DINOv2 network of 28 x 28 images."""
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(Dinov2Config(**SMALL, image_size=28, patch_size=14)).save_pretrained(folder)
    return folder


def tiny_clip(folder: Path) -> Path:
    """Write a whole CLIP network, text part too, of 16 x 16 images."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**SMALL, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    text = {**SMALL, "intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return folder


class TinyDenoiser(nn.Module):
    """A denoiser as strangers write one: it takes x_t and a whole-number time, and classes where it has some."""

    def __init__(self, channels: int = 1, out: int | None = None, classes: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.time = nn.Embedding(1000, 8)
        self.classes = nn.Embedding(classes, 8) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(8, out or channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = self.first(x_t) + self.time(t)[:, :, None, None]
        if self.classes is not None:
            hidden = hidden + self.classes(labels)[:, :, None, None]
        return self.last(self.dropout(hidden.relu()))


def tiny_denoiser(**options: Any) -> TinyDenoiser:
    """Return a denoiser with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyDenoiser(**options)


OWN_MODEL = """
import sidebench
from tiny_networks import TinyDenoiser


def mine(weights):
    net = TinyDenoiser()
    net.load_state_dict(weights)
    return sidebench.from_torch(net, schedule=("linear", 1000, 1e-4, 0.02), image_shape=(1, 8, 8))


mine.weights = "mine.safetensors"
"""


def own_model(folder: Path, source: str = OWN_MODEL) -> str:
    """Write a file with a model of somebody's own and its weights, and return the name `FILE.py:mine`."""
    from safetensors.torch import save_file

    (folder / "mine.py").write_text(source, encoding="utf-8")
    save_file(tiny_denoiser().state_dict(), folder / "mine.safetensors")
    return f"{folder / 'mine.py'}:mine"
