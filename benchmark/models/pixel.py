"""Pixel-space diffusers pipelines: a UNet2DModel and the scheduler it was trained with."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import hub, layout
from ..contracts import Conditioning, Model, ModelSpec, PredictionType
from ..errors import BadInput
from ..operations import OperationCount
from .schedule import DiscreteSchedule


class PixelModel(Model):
    """A DDPM / DDIM pipeline in diffusers' folder layout, weights as safetensors.

    x_t is the image scaled to [-1, 1]. A UNet with class embeddings takes a class index per row.
    """

    def __init__(self, spec: ModelSpec) -> None:
        folder = hub.locate(spec.location)
        hub.check_files(folder, spec.sha256, spec.variant, spec.allow_pickle)
        scheduler = layout.read_json(layout.component(folder, "scheduler") / "scheduler_config.json")
        self.spec = spec
        self.device = hub.pick_device(spec.device)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.network = _load_unet(folder, spec, self.dtype)
        config: Any = self.network.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.sample_shape = self.image_shape = (int(config.in_channels), int(height), int(width))
        self.conditioning: Conditioning = "none" if config.num_class_embeds is None else "class"
        self.prediction_type = _prediction_type(scheduler.get("prediction_type", "epsilon"), folder.name)
        self.scheduler_config: Mapping[str, Any] = scheduler
        self.schedule = DiscreteSchedule(_alphas_cumprod(scheduler))
        self.num_train_timesteps = self.schedule.num_train_timesteps

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.schedule.noise_level(t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the UNet; x_t and the answer are float32 whatever the network's dtype."""
        labels = {} if self.conditioning == "none" else {"class_labels": condition}
        output: Tensor = self.network(x_t.to(self.dtype), t, **labels, return_dict=False)[0]
        return output.float()

    def encode(self, images: Tensor) -> Tensor:
        """Scale [0, 1] to [-1, 1]."""
        return images.to(self.device) * 2 - 1

    def decode(self, x_0: Tensor) -> Tensor:
        """Scale [-1, 1] to [0, 1] and clip."""
        return ((x_0 + 1) / 2).clamp(0, 1)

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        flops: int = self._flops
        return flops

    @cached_property
    def _flops(self) -> int:
        x = torch.zeros(1, *self.sample_shape, device=self.device)
        t = torch.zeros(1, dtype=torch.long, device=self.device)
        condition = None if self.conditioning == "none" else t
        with OperationCount() as counter, torch.no_grad():
            self.predict(x, t, condition)
        return int(counter.total)


def _load_unet(folder: Path, spec: ModelSpec, dtype: torch.dtype) -> torch.nn.Module:
    from diffusers import UNet2DModel

    return load_network(UNet2DModel, folder, "unet", spec, dtype)


def load_network(cls: Any, folder: Path, name: str, spec: ModelSpec, dtype: torch.dtype) -> torch.nn.Module:
    """Load one network of a pipeline folder, frozen and in evaluation mode, on the model's device.

    Raises:
        BadInput: the files cannot be loaded.
    """
    place = layout.component(folder, name)
    layout.read_json(place / "config.json")
    try:
        network: torch.nn.Module = cls.from_pretrained(
            place,
            use_safetensors=not spec.allow_pickle,
            variant=spec.variant,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=dtype,
        )
    except Exception as error:  # whatever diffusers finds wrong with the files, they are the user's
        raise BadInput(f"{hub.owner_of(folder)}/{name} cannot be loaded: {error}") from error
    return network.to(spec.device).eval().requires_grad_(False)


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    from diffusers import DDPMScheduler

    cumulative: Tensor = DDPMScheduler.from_config(dict(config)).alphas_cumprod
    return cumulative


def _prediction_type(name: str, owner: str) -> PredictionType:
    if name == "epsilon":
        return "epsilon"
    if name == "v_prediction":
        return "v_prediction"
    if name == "sample":
        return "sample"
    raise BadInput(f"{owner}: prediction type {name!r} is not supported (epsilon, v_prediction, sample)")
