"""FLUX.1 (Black Forest Labs 2024): a flow whose latents are given to the transformer as packed 2 x 2 squares."""

from typing import Any

import torch
from torch import Tensor

from ..data import pipeline_folder
from ..data.text_pipelines import TEXT_PIPELINES
from .text import GUIDANCE, TextModel

T5_LENGTH = 512
"""Tokens of the T5 encoder, as diffusers' pipeline takes them unless it is told otherwise."""


class FluxModel(TextModel):
    """The transformer is given T5's hidden states and CLIP's pooled state.

    FLUX.1 [dev] takes the scale of guidance as an input, so that a guided step is one call. Others (schnell) are guided
    by two calls like any model, the empty prompt being the second.
    """

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return T5's hidden states, 1 x 512 x D, CLIP's pooled state, 1 x P, and the scale of guidance, if any."""
        pooled = self.text_encoder(self.tokens_of("text_encoder", prompt).input_ids).pooler_output
        states = self.text_encoder_2(self.tokens_of("text_encoder_2", prompt, T5_LENGTH).input_ids)[0]
        scale = {GUIDANCE: torch.ones(1, 1, device=self.device)} if self.denoiser.config.guidance_embeds else {}
        return {"prompt": states, "pooled": pooled, **scale}

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the transformer on the packed latents."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)
        states = parts["prompt"].to(self.dtype)
        options: dict[str, Any] = {"guidance": parts[GUIDANCE].flatten()} if GUIDANCE in parts else {}
        output: Tensor = self.denoiser(
            hidden_states=packed_squares(x),
            timestep=time.to(self.dtype) / 1000,
            encoder_hidden_states=states,
            pooled_projections=parts["pooled"].to(self.dtype),
            txt_ids=torch.zeros(states.shape[1], 3, dtype=self.dtype, device=self.device),
            img_ids=places.to(self.device, self.dtype),
            return_dict=False,
            **options,
        )[0]
        return unpacked_squares(output, height, width)

    def tokens(self) -> int:
        """Return how many squares of 2 x 2 the latents have."""
        height, width, _ = pipeline_folder.sample_size(self.folder)
        return height * width // TEXT_PIPELINES[self.pipeline].patch ** 2

    def levels(self, steps: int) -> list[float]:
        """Return even levels from 1 to 1 / steps."""
        found: list[float] = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
        return found


def packed_squares(x: Tensor) -> Tensor:
    """Make each square of 2 x 2 latents a token: N x C x H x W to N x (H W / 4) x 4 C."""
    n, channels, height, width = x.shape
    cut = x.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(n, height * width // 4, channels * 4)


def unpacked_squares(tokens: Tensor, height: int, width: int) -> Tensor:
    """Put tokens back as squares, `height` rows of `width` of them."""
    n, _, channels = tokens.shape
    cut = tokens.view(n, height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(n, channels // 4, height * 2, width * 2)
