"""PixArt-alpha and PixArt-sigma (Chen et al. 2023, 2024, arXiv 2310.00426, 2403.04692): a transformer and a T5."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .text import TextModel

T5_LENGTH: Mapping[str, int] = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens of the T5 encoder by pipeline class, as diffusers' pipelines take them unless they are told otherwise."""


class PixArtModel(TextModel):
    """The transformer is given T5's hidden states and which of them are words.

    Prompts are put in lower case and stripped. The pipeline's further cleaning of captions (links, markup) is left out,
    which it leaves out itself where beautifulsoup4 is not installed.
    """

    def load_denoiser(self) -> Any:
        """Load the transformer; older folders call its class by the name that it had."""
        from diffusers import PixArtTransformer2DModel

        return self.network(PixArtTransformer2DModel, "transformer")

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return T5's hidden states, 1 x L x D, and the attention mask, 1 x L."""
        tokens = self.tokens_of("text_encoder", prompt.lower().strip(), T5_LENGTH[self.pipeline])
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return {"prompt": states, "mask": tokens.attention_mask}

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the transformer."""
        output: Tensor = self.denoiser(
            x,
            encoder_hidden_states=parts["prompt"].to(self.dtype),
            encoder_attention_mask=parts["mask"],
            timestep=time,
            added_cond_kwargs=self._sizes(len(x)),
            return_dict=False,
        )[0]
        return output

    def _sizes(self, rows: int) -> dict[str, Tensor | None]:
        """Return the image's size as a condition, where the transformer takes it."""
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = self.image_shape[1:]
        row = torch.tensor([[height, width, height / width]], dtype=self.dtype, device=self.device).expand(rows, 3)
        return {"resolution": row[:, :2], "aspect_ratio": row[:, 2:]}
