"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): two CLIP encoders, and sizes as a condition."""

import torch
from torch import Tensor

from ..contracts import ModelSpec
from ..data import pipeline_folder
from ..errors import BadInput
from .stable_diffusion import StableDiffusionModel


class StableDiffusionXLModel(StableDiffusionModel):
    """The UNet is given hidden states of both encoders, the pooled state of the second, and the image's size."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        index = pipeline_folder.read_json(self.folder / pipeline_folder.INDEX)
        self.zeros_for_none = bool(index.get("force_zeros_for_empty_prompt", True))
        if self.denoiser.config.addition_embed_type != "text_time":
            raise BadInput(
                f"{self.owner}/unet: addition_embed_type is {self.denoiser.config.addition_embed_type!r}; "
                f"a UNet of Stable Diffusion XL has 'text_time'"
            )

    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return the last but one hidden states, 1 x L x (D1 + D2), and the pooled state, 1 x P."""
        states, pooled = [], None
        for name, tokenizer in self.tokenizers.items():
            tokens = self.tokens_of(name, prompt, tokenizer.model_max_length)
            found = getattr(self, name)(tokens.input_ids, output_hidden_states=True)
            states.append(found.hidden_states[-2])
            pooled = found[0]  # the second encoder's, which is the last
        assert pooled is not None
        return {"prompt": torch.cat(states, dim=-1), "pooled": pooled, **self.scale()}

    def unconditional(self) -> dict[str, Tensor]:
        """Return zeros where the pipeline takes these for no prompt, as its model_index.json says."""
        parts = self.encoded("")
        if self.zeros_for_none:
            parts |= {name: torch.zeros_like(parts[name]) for name in ("prompt", "pooled")}
        return parts

    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the UNet for an image of its own size that was not cropped."""
        size = self.image_shape[1:]
        ids = torch.tensor([*size, 0, 0, *size], dtype=self.dtype, device=self.device)
        output: Tensor = self.denoiser(
            x,
            time,
            encoder_hidden_states=parts["prompt"].to(self.dtype),
            timestep_cond=self.scale_embedding(parts),
            added_cond_kwargs={"text_embeds": parts["pooled"].to(self.dtype), "time_ids": ids.expand(len(x), -1)},
            return_dict=False,
        )[0]
        return output

    def scaled(self, latents: Tensor) -> Tensor:
        """Map the autoencoder's latents to x_0, by mean and deviation where its configuration has them."""
        mean, deviation = self._moments(latents)
        scaled: Tensor = (latents - mean) * self.autoencoder.config.scaling_factor / deviation
        return scaled

    def unscaled(self, x_0: Tensor) -> Tensor:
        """Map x_0 to the autoencoder's latents."""
        mean, deviation = self._moments(x_0)
        latents: Tensor = x_0 * deviation / self.autoencoder.config.scaling_factor + mean
        return latents

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        stated = [self.autoencoder.config.get(f"latents_{name}") for name in ("mean", "std")]
        if None in stated:
            return like.new_zeros(1), like.new_ones(1)
        mean, deviation = (like.new_tensor(values).view(1, -1, 1, 1) for values in stated)
        return mean, deviation
