"""The classifiers' networks: their parts, and how they are sized to the image."""

import itertools
import math

import pytest
import torch
from torch import nn

from sidebench.methods.networks import (
    ResidualBlock,
    SurrogateClassifier,
    TimeModule,
    has_strided_stem,
    receptive_field,
    scaled_blocks,
    sinusoidal_embedding,
)


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4, 6, 3)])
@pytest.mark.parametrize("time_conditioned", [True, False])
def test_forward_shape(blocks: tuple[int, ...], time_conditioned: bool) -> None:
    network = SurrogateClassifier(3, 5, blocks, 8, time_conditioned, 1000).eval()
    logits = network(torch.randn(2, 3, 8, 8), torch.tensor([3, 900]))
    assert logits.shape == (2, 5) and bool(logits.isfinite().all())
    assert len(network.stages) == sum(blocks)
    assert sum(isinstance(module, TimeModule) for module in network.modules()) == time_conditioned * sum(blocks)
    assert network.head.in_features == 8 * 2 ** (len(blocks) - 1)


def test_time_conditioned_network_needs_t() -> None:
    with pytest.raises(ValueError, match="needs t"):
        SurrogateClassifier(1, 2, (1,), 8, True, 1000)(torch.zeros(1, 1, 8, 8))


def test_time_module_comes_right_after_the_first_norm() -> None:
    block = ResidualBlock(4, 4, 1, embedding=64)
    order: list[str] = []
    for name, module in block.named_children():
        module.register_forward_hook(lambda *_, name=name: order.append(name))  # type: ignore[misc]
    block(torch.randn(2, 4, 8, 8), torch.randn(2, 64))
    assert [name for name in order if name != "skip"] == ["conv1", "norm1", "time", "conv2", "norm2"]


def test_time_module_parts_and_their_order() -> None:
    module = TimeModule(64, 4)
    assert [type(part) for part in module.children()] == [nn.GroupNorm, nn.Linear]
    nn.init.normal_(module.linear.weight)
    features, embedding = torch.randn(3, 4, 2, 2), torch.randn(3, 64)
    scale, shift = module.linear(nn.functional.silu(module.norm(embedding))).split(4, dim=1)
    wanted = features * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(module(features, embedding), wanted)


def test_time_module_starts_as_the_identity() -> None:
    features = torch.randn(2, 4, 3, 3)
    assert torch.equal(TimeModule(64, 4)(features, torch.randn(2, 64)), features)
    timed, plain = (SurrogateClassifier(1, 3, (1, 2), 8, timed, 1000).eval() for timed in (True, False))
    plain.load_state_dict({k: v for k, v in timed.state_dict().items() if ".time." not in k})
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(timed(x, torch.tensor([5, 700])), plain(x))


def test_trained_network_depends_on_t() -> None:
    network = SurrogateClassifier(1, 3, (1,), 8, True, 1000).eval()
    for module in network.modules():
        if isinstance(module, TimeModule):
            nn.init.normal_(module.linear.weight)
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    first, second = network(x, torch.tensor([5, 700]))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("shape", "blocks"), [((1, 8, 8), (1, 1)), ((3, 16, 16), (1, 1, 1)), ((3, 32, 32), (1,) * 4), ((4, 3, 3), (1,))]
)
def test_the_network_grows_with_the_image(shape: tuple[int, int, int], blocks: tuple[int, ...]) -> None:
    assert scaled_blocks(shape) == blocks


def test_the_skip_is_added_before_the_last_relu() -> None:
    block = ResidualBlock(2, 2, 1, None).eval()
    nn.init.zeros_(block.conv2.weight)
    nn.init.constant_(block.norm2.bias, -1)
    x = torch.tensor([0.25, 1.5]).view(1, 2, 1, 1)
    assert block(x, None).flatten().tolist() == [0.0, 0.5]  # relu(-1 + x), not relu(-1) + x


def test_the_embedding_holds_sines_and_cosines_of_t() -> None:
    found = sinusoidal_embedding(torch.tensor([0, 3]), 4)
    angles = [3.0, 3.0 / 100]  # frequencies 1 and 10,000 ** -(1 / 2)
    wanted = [[0.0, 0.0, 1.0, 1.0], [*map(math.sin, angles), *map(math.cos, angles)]]
    torch.testing.assert_close(found, torch.tensor(wanted))


def seen_by_the_middle(network: SurrogateClassifier, size: int) -> int:
    """Return how many pixels in a row move the middle output of the last stage, whatever the weights are."""
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1e-3)
    for pool in (module for module in network.modules() if isinstance(module, nn.MaxPool2d)):
        pool.register_forward_hook(lambda one, given, _: nn.functional.avg_pool2d(given[0], 3, 2, 1))
    x = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    features = network.double().eval().stem(x)
    for block in network.stages:
        features = block(features, None)
    middle = features.shape[-1] // 2
    (gradient,) = torch.autograd.grad(features[..., middle, middle].sum(), x)
    rows = gradient[0, 0].abs().amax(1).nonzero().flatten()
    return int(rows.max() - rows.min() + 1)


@pytest.mark.parametrize(("blocks", "strided"), [((1, 1), False), ((1, 1, 1), False), ((2, 1), False), ((1, 1), True)])
def test_receptive_field_is_what_moves_an_output(blocks: tuple[int, ...], strided: bool) -> None:
    network = SurrogateClassifier(1, 2, blocks, 2, False, 1000, strided_stem=strided)
    field = receptive_field(blocks, strided_stem=strided)
    assert seen_by_the_middle(network, 4 * field) == field


@pytest.mark.parametrize("size", [4, 8, 15, 28, 32, 48, 63, 64, 96, 128, 256, 512])
def test_the_default_network_sees_the_whole_image(size: int) -> None:
    shape = (3, size, size)
    assert receptive_field(scaled_blocks(shape), strided_stem=has_strided_stem(shape)) >= size


@pytest.mark.parametrize(("size", "last"), [(8, 4), (16, 4), (64, 4), (256, 4)])
def test_stages_halve_the_image_down_to_four_pixels(size: int, last: int) -> None:
    shape, maps = (1, size, size), []
    strided = has_strided_stem(shape)
    network = SurrogateClassifier(1, 2, scaled_blocks(shape), 1, False, 1000, strided_stem=strided).eval()
    for block in network.stages:
        block.register_forward_hook(lambda _, given, made: maps.append(made.shape[-1]))
    network(torch.zeros(1, *shape))
    assert maps[-1] == last and all(earlier == 2 * later for earlier, later in itertools.pairwise(maps))


def test_the_paper_s_network_costs_as_much_as_resnet_34() -> None:
    # 3.66e9 multiply-adds of its convolutions at 224 px (He et al. 2016, table 1: 3.6e9).
    from sidebench.benchmark.models.flops import OperationCount

    network = SurrogateClassifier(3, 1000, (3, 4, 6, 3), 64, False, 1000, strided_stem=has_strided_stem((3, 224, 224)))
    with OperationCount() as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 224, 224))
    assert counter.total / 2 == pytest.approx(3.6e9, rel=0.03)
