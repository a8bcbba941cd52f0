"""Pixel-space diffusers pipelines: a U-Net and the scheduler it was trained with."""

from typing import Any

import torch
from torch import Tensor

from ..contracts import Conditioning, ModelSpec
from ..data import pipeline_folder
from ..errors import BadInput
from .pipeline import PipelineModel, square


class PixelModel(PipelineModel):
    """A DDPM, DDIM, PNDM or consistency pipeline, or a flow in the same layout, weights as safetensors.

    x_t is the image scaled to [-1, 1]. A UNet with class embeddings takes a class index per row. A UNet2DConditionModel
    is called without a text to attend to.
    """

    def __init__(self, spec: ModelSpec) -> None:
        import diffusers

        super().__init__(spec)
        cls = pipeline_folder.read_folder(self.folder, self.owner)[0].components["unet"][1]
        self.unet = self.network(getattr(diffusers, cls), "unet")
        self.without_text = {"encoder_hidden_states": None} if cls == "UNet2DConditionModel" else {}
        self.adaptable = {"unet": "unet"}
        config: Any = self.unet.config
        self.sample_shape = self.image_shape = (int(config.in_channels), *square(config.sample_size))
        self.num_classes = int(config.num_class_embeds or 0)
        self.conditioning: Conditioning = "class" if self.num_classes else "none"

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the UNet; x_t and the answer are float32 whatever the network's dtype."""
        labels = {} if self.conditioning == "none" else {"class_labels": self._classes(condition)}
        output = self.unet(*self.as_trained(x_t, t), **labels, **self.without_text, return_dict=False)[0]
        return self.as_predicted(output, x_t, t)

    def encode(self, images: Tensor) -> Tensor:
        """Scale [0, 1] to [-1, 1]."""
        return images.to(self.device) * 2 - 1

    def decode(self, x_0: Tensor) -> Tensor:
        """Scale [-1, 1] to [0, 1] and clip."""
        return ((x_0 + 1) / 2).clamp(0, 1)

    def _classes(self, condition: Tensor | None) -> Tensor:
        if condition is None:
            raise BadInput(f"{self.owner} has no unconditional branch: give it a class for each row")
        return condition


class ScoreSdeModel(PixelModel):
    """A variance-exploding score model (Song et al. 2021, arXiv 2011.13456), seen in variance-preserving scaling.

    Such a model has x = x_0 + s n with x_0 in [0, 1] and s geometric between sigma_min and sigma_max, and predicts
    the score -n / s. With alpha = (1 + s^2)^(-1/2), x_t = alpha x is variance-preserving with sigma = s alpha, and
    epsilon = -s * score.
    """

    def read_schedule(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the variance-preserving schedule with alpha_bar = 1 / (1 + s^2) at the model's own s."""
        steps = int(config["num_train_timesteps"])
        edges = torch.tensor([config["sigma_min"], config["sigma_max"]], dtype=torch.float64).log()
        s = torch.linspace(float(edges[0]), float(edges[1]), steps, dtype=torch.float64).exp()
        alpha_bar = 1 / (1 + s**2)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        betas = (1 - alpha_bar / before).tolist()
        return {"num_train_timesteps": steps, "trained_betas": betas, "clip_sample": False}

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return epsilon = -s * score."""
        alpha, sigma = self.noise_level(t)
        s = sigma / alpha
        # The noise level stays float32: bfloat16 has 8 bits, which two neighbouring levels of 1,000 share.
        score: Tensor = self.unet((x_t / alpha.view(-1, 1, 1, 1)).to(self.dtype), s, return_dict=False)[0]
        return -s.view(-1, 1, 1, 1) * score.float()

    def encode(self, images: Tensor) -> Tensor:
        """Return the images: this family works on [0, 1]."""
        return images.to(self.device)

    def decode(self, x_0: Tensor) -> Tensor:
        """Clip to [0, 1]."""
        return x_0.clamp(0, 1)
