"""The smallest networks that measures read: random weights, the same each time."""

from pathlib import Path

import torch

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
