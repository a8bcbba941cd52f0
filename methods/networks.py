"""The classifiers of the guided attacks: residual networks with an optional time module.

Paper: ResNet-34 with, in every residual block right after the first batch norm, a time module
t -> GroupNorm -> SiLU -> Linear -> scale and shift (arXiv 2410.02467, Appendix B, Figure 9). The
sinusoidal embedding of t, its width and the place of the group norm on it are ours; the paper is silent.
"""

import math

import torch
from torch import Tensor, nn

from ..benchmark.models.flops import OperationCount


class TimeModule(nn.Module):
    """t -> GroupNorm -> SiLU -> Linear -> (scale, shift) of a feature map."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, embedding), embedding)
        self.linear = nn.Linear(embedding, 2 * channels)
        # Start as the identity, so that training begins from the time-independent network.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Scale and shift N x C x H x W features by an N x E embedding."""
        scale, shift = self.linear(nn.functional.silu(self.norm(embedding)))[..., None, None].chunk(2, dim=1)
        scaled: Tensor = features * (1 + scale) + shift
        return scaled


class ResidualBlock(nn.Module):
    """conv - BN - [time] - ReLU - conv - BN, plus the skip, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, embedding: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.time = None if embedding is None else TimeModule(embedding, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Return the block's output."""
        features = self.norm1(self.conv1(x))
        if self.time is not None:
            features = self.time(features, embedding)
        features = self.norm2(self.conv2(nn.functional.relu(features)))
        output: Tensor = nn.functional.relu(features + self.skip(x))
        return output


class SurrogateClassifier(nn.Module):
    """log p(c | x_t, t), or log p(c | x) without time modules.

    `blocks` residual blocks per stage; each stage after the first halves the resolution and doubles the width, up to
    eight times `width`. (3, 4, 6, 3) with width 64 is the paper's ResNet-34. From 64 px on its stem is that of the
    literature (He et al. 2016, arXiv 1512.03385, table 1): a 7 x 7 convolution and a pooling, each by 2; smaller images
    get a 3 x 3 convolution that keeps their size.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: tuple[int, ...],
        width: int,
        time_conditioned: bool,
        num_train_timesteps: int,
        embedding: int = 64,
        *,
        strided_stem: bool = False,
    ) -> None:
        super().__init__()
        self.time_conditioned = time_conditioned
        self.num_train_timesteps = num_train_timesteps
        self.embedding = embedding
        first = nn.Conv2d(channels, width, *((7, 2, 3) if strided_stem else (3, 1, 1)), bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU())
        if strided_stem:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2 ** min(stage, 3)
            for block in range(count):
                stride = 2 if stage and block == 0 else 1
                self.stages.append(ResidualBlock(inputs, outputs, stride, embedding if time_conditioned else None))
                inputs = outputs
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Return logits, N x classes, for x (N x C x H x W) and timesteps t (N,)."""
        embedding = None
        if self.time_conditioned:
            if t is None:
                raise ValueError("a time-conditioned classifier needs t")
            embedding = sinusoidal_embedding(t, self.embedding)
        features = self.stem(x)
        for block in self.stages:
            features = block(features, embedding)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def sinusoidal_embedding(t: Tensor, size: int) -> Tensor:
    """Return N x size sines and cosines of t at geometric frequencies (Vaswani et al. 2017, section 3.5)."""
    half = size // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def gradient_flops(network: SurrogateClassifier, shape: tuple[int, int, int], *, of: str) -> float:
    """Count the operations of one sample's forward and backward pass.

    `of` is "inputs" (guidance: parameters are frozen) or "parameters" (training).
    """
    device = next(network.parameters()).device
    x = torch.zeros(1, *shape, device=device, requires_grad=of == "inputs")
    t = torch.zeros(1, device=device)
    was = network.training
    network.eval()
    with OperationCount() as counter, torch.enable_grad():
        total = network(x, t).sum()
        if of == "inputs":
            torch.autograd.grad(total, x)
        else:
            torch.autograd.grad(total, [p for p in network.parameters() if p.requires_grad], allow_unused=True)
    network.train(was)
    return float(counter.total)


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """Count the operations of one sample's forward pass."""
    x = torch.zeros(1, *shape, device=next(network.parameters()).device)
    with OperationCount() as counter, torch.no_grad():
        network(x)
    return float(counter.total)


STRIDED_FROM = 64
"""Pixels of the shorter side from which the stem is strided."""


def has_strided_stem(shape: tuple[int, int, int]) -> bool:
    """Return whether a classifier of x_t of this shape (C, H, W) begins with the strided stem."""
    return min(shape[1:]) >= STRIDED_FROM


def scaled_blocks(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return one residual block per stage for x_t of this shape (C, H, W): stages down to 4 x 4 after the stem.

    More of them where the last one would not see the whole image otherwise (`receptive_field`).
    """
    strided = has_strided_stem(shape)
    size = min(shape[1:]) // (4 if strided else 1)
    blocks = (1,) * max(1, int(math.log2(max(1, size))) - 1)
    while receptive_field(blocks, strided_stem=strided) < max(shape[1:]):
        blocks = (*blocks, 1)
    return blocks


def receptive_field(blocks: tuple[int, ...], *, strided_stem: bool) -> int:
    """Return how many pixels in a row one output of the last stage sees.

    Examples:
        >>> receptive_field((1, 1), strided_stem=False)
        13
        >>> receptive_field((3, 4, 6, 3), strided_stem=True)  # ResNet-34
        899
    """
    seen, step = (11, 4) if strided_stem else (3, 1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and block == 0 else 1
            seen += 2 * step  # the first convolution, whose stride counts for what comes after it
            step *= stride
            seen += 2 * step
    return seen
