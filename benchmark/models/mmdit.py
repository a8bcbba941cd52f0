"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): a flow, an MMDiT, two CLIP encoders and a T5."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data import pipeline_folder
from .text import TextModel

T5_LENGTH = 256
"""Tokens of the T5 encoder, as diffusers' pipeline takes them unless it is told otherwise."""


class StableDiffusion3Model(TextModel):
    """The transformer is given one sequence of CLIP's and T5's hidden states, and CLIP's pooled states."""

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return the sequence, 1 x (L + 256) x D, and the pooled states of both CLIP encoders, 1 x (P1 + P2)."""
        length = self.tokenizers["text_encoder"].model_max_length
        states, pooled = [], []
        for name in ("text_encoder", "text_encoder_2"):
            found = getattr(self, name)(self.tokens_of(name, prompt, length).input_ids, output_hidden_states=True)
            states.append(found.hidden_states[-2])
            pooled.append(found[0])
        clip, t5 = torch.cat(states, dim=-1), self._t5(prompt)
        sequence = torch.cat([pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], dim=-2)
        return {"prompt": sequence, "pooled": torch.cat(pooled, dim=-1)}

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the transformer."""
        output: Tensor = self.denoiser(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=parts["prompt"].to(self.dtype),
            pooled_projections=parts["pooled"].to(self.dtype),
            return_dict=False,
        )[0]
        return output

    def tokens(self) -> int:
        """Return how many patches the latents are cut into."""
        height, width, _ = pipeline_folder.sample_size(self.folder)
        place = pipeline_folder.component(self.folder, "transformer")
        patch = int(pipeline_folder.read_json(place / "config.json").get("patch_size", 2))
        return (height // patch) * (width // patch)

    def _t5(self, prompt: str) -> Tensor:
        """Return T5's hidden states, 1 x 256 x D; zeros where the pipeline was saved without it."""
        if self.text_encoder_3 is None:
            width = int(self.denoiser.config.joint_attention_dim)
            return torch.zeros(1, T5_LENGTH, width, device=self.device, dtype=self.dtype)
        ids = self.tokens_of("text_encoder_3", prompt, T5_LENGTH).input_ids
        states: Tensor = self.text_encoder_3(ids)[0]
        return states
