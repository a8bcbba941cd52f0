"""Sana (Xie et al. 2024, arXiv 2410.10629): a flow with linear attention, a Gemma encoder, a deep autoencoder."""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..contracts import ModelSpec
from ..errors import BadInput
from .text import TextModel

LENGTH = 300
"""Tokens of a prompt that the transformer is given, as diffusers' pipeline takes them unless it is told otherwise."""


class SanaModel(TextModel):
    """The transformer is given Gemma's hidden states and which of them are words.

    A prompt follows the instruction that diffusers' pipeline puts before it, as it does by default; no prompt follows
    none. Of the tokens, the first and the last 299 are kept.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if self.prediction_type != "flow_prediction":
            raise BadInput(f"{self.owner}/scheduler: a {self.pipeline} is a flow, not {self.prediction_type}")
        self.tokenizers["text_encoder"].padding_side = "right"

    def load_autoencoder(self) -> Any:
        """Load the deep compression autoencoder, in float32."""
        from diffusers import AutoencoderDC

        return self.network(AutoencoderDC, "vae", torch.float32)

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return Gemma's hidden states, 1 x 300 x D, and the attention mask, 1 x 300."""
        before = len(self.tokenizers["text_encoder"].encode(self._instruction))
        return self._encoded(self._instruction + prompt.lower().strip(), before + LENGTH - 2)

    def unconditional(self) -> dict[str, Tensor]:
        """Return the same of the empty text without the instruction."""
        return self._encoded("", LENGTH)

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the transformer."""
        output: Tensor = self.denoiser(
            x,
            encoder_hidden_states=parts["prompt"].to(self.dtype),
            encoder_attention_mask=parts["mask"],
            timestep=time * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]
        return output

    def _encoded(self, text: str, length: int) -> dict[str, Tensor]:
        tokens = self.tokens_of("text_encoder", text, length)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        kept = [0, *range(length - LENGTH + 1, length)]
        return {"prompt": states[:, kept], "mask": tokens.attention_mask[:, kept]}

    @cached_property
    def _instruction(self) -> str:
        from diffusers import SanaPipeline

        lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        return "\n".join(lines)
