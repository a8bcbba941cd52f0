"""Stable Diffusion 1.x and 2.x: text to image in the latent space of a KL autoencoder."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..contracts import Conditioning, ModelSpec
from ..data import pipeline_folder
from ..errors import BadInput
from .latent import LatentModel
from .load_network import from_transformers, import_transformers


class TextModel(LatentModel):
    """The denoiser takes a prompt embedding per row, or None for the empty prompt, the unconditional branch.

    The safety checker is not loaded: it replaces images by black ones, and what it would have hidden is what an
    audit looks for. The manifest says so.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.conditioning: Conditioning = "text"
        self.tokenizer, self.text_encoder = self._load_text()
        self.adaptable = {**self.adaptable, "text_encoder": "text_encoder"}

    def load_denoiser(self) -> Any:
        """Load the UNet with cross-attention."""
        from diffusers import UNet2DConditionModel

        return self.network(UNet2DConditionModel, "unet")

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the UNet; x_t and the answer are float32 whatever the network's dtype."""
        embedding = self._empty.expand(len(x_t), -1, -1) if condition is None else condition
        given = {"encoder_hidden_states": embedding.to(self.dtype)}
        output: Tensor = self.denoiser(*self.as_trained(x_t, t), **given, return_dict=False)[0]
        return output.float()

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the last hidden state of the text encoder, N x L x D float32, prompts cut to its length."""
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        rows = []
        for prompt in prompts:  # one at a time: the result must not depend on which prompts go together
            tokens = self.tokenizer(
                [prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            rows.append(self.text_encoder(tokens.input_ids.to(self.device))[0].float())
        return torch.cat(rows)

    @cached_property
    def _empty(self) -> Tensor:
        return self.embed([""])

    def _load_text(self) -> tuple[Any, Any]:
        tokenizers = import_transformers(self.owner)
        place, owner = pipeline_folder.component(self.folder, "text_encoder"), f"{self.owner}/text_encoder"
        encoder = from_transformers("CLIPTextModel", place, owner, self.dtype, self.spec.allow_pickle)
        try:
            tokenizer = tokenizers.CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
        except Exception as error:  # whatever transformers finds wrong with the files, they are the user's
            raise BadInput(f"{self.owner}/tokenizer cannot be loaded: {error}") from error
        return tokenizer, encoder.to(self.device)
