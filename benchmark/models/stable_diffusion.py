"""Stable Diffusion 1.x and 2.x, and latent consistency models distilled from them: one CLIP encoder, a UNet."""

from typing import Any

import torch
from torch import Tensor

from .text import GUIDANCE, TextModel


class StableDiffusionModel(TextModel):
    """The UNet is given the last hidden state of the text encoder, and the scale of guidance if it was distilled."""

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return the encoder's last hidden state, 1 x L x D."""
        return {"prompt": self.text_encoder(self.tokens_of("text_encoder", prompt).input_ids)[0], **self.scale()}

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the UNet."""
        output: Tensor = self.denoiser(
            x,
            time,
            encoder_hidden_states=parts["prompt"].to(self.dtype),
            timestep_cond=self.scale_embedding(parts),
            return_dict=False,
        )[0]
        return output

    def scale(self) -> dict[str, Tensor]:
        """Return the part that holds the scale of guidance, where the UNet takes one (Meng et al. 2023, 2210.03142)."""
        return {GUIDANCE: torch.ones(1, 1, device=self.device)} if self.denoiser.config.time_cond_proj_dim else {}

    def scale_embedding(self, parts: dict[str, Tensor]) -> Tensor | None:
        """Return the sinusoidal embedding of w = scale - 1 that the UNet takes, or None where it takes none."""
        if GUIDANCE not in parts:
            return None
        from diffusers import LatentConsistencyModelPipeline

        function: Any = LatentConsistencyModelPipeline.get_guidance_scale_embedding  # it reads nothing of the pipeline
        w = parts[GUIDANCE].flatten().cpu() - 1
        embedding: Tensor = function(None, w, embedding_dim=self.denoiser.config.time_cond_proj_dim)
        return embedding.to(self.device, self.dtype)
