"""Changes of training images that are drawn again in each step."""

import torch
from torch import Tensor


def shifted(images: Tensor, reach: int, draw: torch.Generator) -> Tensor:
    """Move each image by up to `reach` pixels in both directions, uniformly; border pixels are repeated."""
    count, _, height, width = images.shape
    moves = torch.randint(-reach, reach + 1, (2, count, 1), generator=draw).to(images.device)
    rows = (torch.arange(height, device=images.device) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + moves[1]).clamp(0, width - 1)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved: Tensor = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved
