"""Cross-attention of a UNet, written down while it runs: where each pixel looks in the prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..contracts import NO_ATTENTION
from ..errors import BadInput


def check_attention(denoiser: Any, pipeline: str) -> None:
    """Raise `BadInput` where the denoiser is not a `UNet2DConditionModel`, whose cross-attention can be read."""
    from diffusers import UNet2DConditionModel

    if not isinstance(denoiser, UNet2DConditionModel):
        raise BadInput(f"{pipeline}: {NO_ATTENTION}")


@contextmanager
def recorded(denoiser: Any) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that is filled with the maps of each call inside: N x pixels x tokens by layer, in call order.

    Attention is computed step by step in place of the fused kernel, which never holds the probabilities. A second call
    replaces the maps of the first.
    """
    from diffusers.models.attention_processor import Attention

    maps: dict[str, Tensor] = {}
    layers = {
        name: part for name, part in denoiser.named_modules() if isinstance(part, Attention) and part.is_cross_attention
    }
    before = {name: part.processor for name, part in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Recording(name, maps))
        yield maps
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


class _Recording:
    """diffusers' plain attention processor, which writes down the probabilities, their mean over heads."""

    def __init__(self, name: str, maps: dict[str, Tensor]) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self._name, self._maps, self._plain = name, maps, AttnProcessor()

    def __call__(self, attn: Any, *given: Any, **options: Any) -> Any:
        return self._plain(_Watched(attn, self._name, self._maps), *given, **options)


class _Watched:
    """An attention layer whose probabilities are written down; everything else is the layer's own."""

    def __init__(self, layer: Any, name: str, maps: dict[str, Tensor]) -> None:
        self._layer, self._name, self._maps = layer, name, maps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the layer's own, (N heads) x pixels x tokens, and keep their mean over heads."""
        found: Tensor = self._layer.get_attention_scores(query, key, mask)
        self._maps[self._name] = found.float().unflatten(0, (-1, self._layer.heads)).mean(1)
        return found
