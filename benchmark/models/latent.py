"""Latent pipelines: a denoiser in the space of an autoencoder (LDM with VQ or KL, DiT with classes)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contracts import Conditioning, ModelSpec
from ..data import pipeline_folder
from .flops import only_share
from .pipeline import PipelineModel

DECODER_BATCH = 8
"""Rows that the autoencoder sees at a time, always padded to this number, as its arithmetic may depend on it."""


class LatentModel(PipelineModel):
    """x_t is the autoencoder's latent times its scaling factor; the autoencoder itself runs in float32.

    A DiT takes a class index per row, or None for its unconditional branch; where it predicts variances too, these
    are left out.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.autoencoder = self.load_autoencoder()
        self.is_dit = "transformer" in self.parts
        self.denoiser = self.load_denoiser()
        self.adaptable = {"transformer" if self.is_dit else "unet": "denoiser"}
        height, width, channels = pipeline_folder.sample_size(self.folder)
        self.sample_shape = (channels, height, width)
        height, width, channels = pipeline_folder.image_size(self.folder)
        self.image_shape = (channels, height, width)
        config: Any = self.denoiser.config
        self.num_classes = int(config.get("num_embeds_ada_norm" if self.is_dit else "num_class_embeds") or 0)
        self.conditioning: Conditioning = "class" if self.num_classes else "none"

    def read_schedule(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the schedule; latents are clipped only where it says so, for their range is not [-1, 1]."""
        return {"clip_sample": False, **config}

    def load_autoencoder(self) -> Any:
        """Load the network between images and latents, in float32."""
        import diffusers

        name = "vae" if "vae" in self.parts else "vqvae"
        return self.network(diffusers.AutoencoderKL if name == "vae" else diffusers.VQModel, name, torch.float32)

    def load_denoiser(self) -> Any:
        """Load the network that `predict` calls."""
        import diffusers

        if self.is_dit:
            return self.network(diffusers.DiTTransformer2DModel, "transformer")
        return self.network(diffusers.UNet2DModel, "unet")

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the denoiser; x_t and the answer are float32 whatever the network's dtype."""
        options: dict[str, Any] = {}
        if self.is_dit:
            options = {"class_labels": self._classes(condition, len(x_t))}
        elif condition is not None:
            options = {"class_labels": condition}
        x, time = self.as_trained(x_t, t)
        output: Tensor = self.denoiser(x, timestep=time, **options, return_dict=False)[0]
        return self.as_predicted(output, x_t, t)

    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to scaled latents, the mode of a KL autoencoder's posterior."""

        def latents(x: Tensor) -> Tensor:
            found = self.autoencoder.encode(x)
            for name in ("latents", "latent"):
                if hasattr(found, name):
                    mapped: Tensor = getattr(found, name)
                    return mapped
            mode: Tensor = found.latent_dist.mode()
            return mode

        return self.scaled(_in_batches(latents, images.to(self.device) * 2 - 1))

    def decode(self, x_0: Tensor) -> Tensor:
        """Map scaled latents to images, clipped to [0, 1]; rows with NaN stay NaN."""
        latents = self.unscaled(x_0.float())
        images = (_in_batches(lambda z: self.autoencoder.decode(z).sample, latents) / 2 + 0.5).clamp(0, 1)
        broken = ~torch.isfinite(x_0.flatten(1)).all(1)
        return images.masked_fill(broken.view(-1, 1, 1, 1), float("nan"))

    def scaled(self, latents: Tensor) -> Tensor:
        """Map the autoencoder's latents to x_0."""
        config = self.autoencoder.config
        found: Tensor = (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor
        return found

    def unscaled(self, x_0: Tensor) -> Tensor:
        """Map x_0 to the autoencoder's latents."""
        config = self.autoencoder.config
        found: Tensor = x_0 / config.scaling_factor + (config.get("shift_factor") or 0.0)
        return found

    def _classes(self, condition: Tensor | None, rows: int) -> Tensor:
        """Return the class of each row; one past the last stands for none."""
        return torch.full((rows,), self.num_classes, device=self.device) if condition is None else condition


@torch.no_grad()
def _in_batches(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    done = []
    for part in rows.split(DECODER_BATCH):
        padded = torch.cat([part, part[:1].expand(DECODER_BATCH - len(part), *part.shape[1:])])
        with only_share(len(part) / DECODER_BATCH):
            done.append(call(padded)[: len(part)])
    return torch.cat(done)
