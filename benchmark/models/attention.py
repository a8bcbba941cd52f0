"""Cross-attention of a UNet, written down or changed while it runs: where each pixel looks in the prompt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
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
    maps: dict[str, Tensor] = {}

    def write_down(name: str, layer: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = layer.get_attention_scores(query, key, mask)
        maps[name] = found.float().unflatten(0, (-1, layer.heads)).mean(1)
        return found

    with _scores_by(denoiser, write_down):
        yield maps


@contextmanager
def reweighted(denoiser: Any, tokens: Tensor, begin: float) -> Iterator[None]:
    """Let calls inside look at the first `tokens` of each prompt only, its first one with its logit times `begin`.

    Args:
        denoiser: A `UNet2DConditionModel`.
        tokens: How many tokens of each row are its prompt's, begin and end included, (N,).
        begin: The factor on the logit of the token that begins a prompt.
    """

    def change(name: str, layer: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        # The logit is query . key, so the factor may as well be on the key.
        changed = torch.cat([begin * key[:, :1], key[:, 1:]], dim=1)
        padding = torch.arange(key.shape[1], device=key.device) >= tokens.to(key.device).view(-1, 1)
        hidden = torch.zeros(padding.shape, dtype=key.dtype, device=key.device).masked_fill(padding, -torch.inf)
        hidden = hidden.repeat_interleave(layer.heads, dim=0).unsqueeze(1)
        found: Tensor = layer.get_attention_scores(query, changed, hidden if mask is None else mask + hidden)
        return found

    with _scores_by(denoiser, change):
        yield


Scores = Callable[[str, Any, Tensor, Tensor, Tensor | None], Tensor]
"""(name of the layer, layer, query, key, mask) -> attention probabilities, (N heads) x pixels x tokens."""


@contextmanager
def _scores_by(denoiser: Any, scores: Scores) -> Iterator[None]:
    """Let the cross-attention of calls inside have its probabilities from a function."""
    from diffusers.models.attention_processor import Attention

    layers = {
        name: part for name, part in denoiser.named_modules() if isinstance(part, Attention) and part.is_cross_attention
    }
    before = {name: part.processor for name, part in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Processor(name, scores))
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


class _Processor:
    """diffusers' plain attention processor with other probabilities."""

    def __init__(self, name: str, scores: Scores) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self._name, self._scores, self._plain = name, scores, AttnProcessor()

    def __call__(self, attn: Any, *given: Any, **options: Any) -> Any:
        return self._plain(_Layer(attn, self._name, self._scores), *given, **options)


class _Layer:
    """An attention layer with probabilities from a function; everything else is the layer's own."""

    def __init__(self, layer: Any, name: str, scores: Scores) -> None:
        self._layer, self._name, self._scores = layer, name, scores

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the probabilities, (N heads) x pixels x tokens."""
        return self._scores(self._name, self._layer, query, key, mask)
