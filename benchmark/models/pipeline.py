"""What models made of diffusers pipelines share: loading of networks, the noise schedule, counted operations."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import hub, layout
from ..contracts import Model, ModelSpec, PredictionType
from ..errors import BadInput
from ..operations import OperationCount
from ..streams import Candidates
from .schedule import DiscreteSchedule


class PipelineModel(Model):
    """A pipeline in diffusers' folder layout; a subclass loads its networks and says how they are called."""

    num_classes = 0
    """Class indices of class-conditional models are below this."""

    def __init__(self, spec: ModelSpec) -> None:
        self.folder = hub.locate(spec.location)
        hub.check_files(self.folder, spec.sha256, spec.variant, spec.allow_pickle)
        self.owner = hub.owner_of(self.folder)
        self.spec = spec
        self.device = hub.pick_device(spec.device)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        config = layout.read_json(layout.component(self.folder, "scheduler") / "scheduler_config.json")
        self.scheduler_config: Mapping[str, Any] = self.read_schedule(config)
        self.prediction_type = prediction_type(self.scheduler_config.get("prediction_type", "epsilon"), self.owner)
        self.schedule = DiscreteSchedule(_alphas_cumprod(self.scheduler_config))
        self.num_train_timesteps = self.schedule.num_train_timesteps

    def read_schedule(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration of the noise schedule in the form of diffusers' DDPM scheduler."""
        return config

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.schedule.noise_level(t)

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        """Return the condition; a class-conditional model that is given none draws each candidate's class uniformly."""
        if condition is None and self.conditioning == "class":
            return candidates.integers("class", self.num_classes).to(self.device)
        return condition

    def network(self, cls: Any, name: str, dtype: torch.dtype | None = None) -> Any:
        """Load one network, frozen and in evaluation mode, on the model's device.

        Raises:
            BadInput: the files cannot be loaded.
        """
        place = layout.component(self.folder, name)
        layout.read_json(place / "config.json")
        try:
            loaded = cls.from_pretrained(
                place,
                use_safetensors=not self.spec.allow_pickle,
                variant=_variant(place, self.spec.variant),
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=dtype or self.dtype,
            )
        except Exception as error:  # whatever diffusers finds wrong with the files, they are the user's
            raise BadInput(f"{self.owner}/{name} cannot be loaded: {error}") from error
        return loaded.to(self.device).eval().requires_grad_(False)

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        flops: int = self._flops
        return flops

    @cached_property
    def _flops(self) -> int:
        x = torch.zeros(1, *self.sample_shape, device=self.device)
        t = torch.zeros(1, dtype=torch.long, device=self.device)
        condition = t if self.conditioning == "class" else None
        with OperationCount() as counter, torch.no_grad():
            self.predict(x, t, condition)
        return int(counter.total)


def square(size: Any) -> tuple[int, int]:
    """Return (height, width) of a config's sample_size, one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def prediction_type(name: str, owner: str) -> PredictionType:
    """Return the name of a prediction type that sidebench knows.

    Raises:
        BadInput: it is another one.
    """
    known: dict[str, PredictionType] = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample"}
    if name not in known:
        raise BadInput(f"{owner}: prediction type {name!r} is not supported ({', '.join(known)})")
    return known[name]


def _variant(place: Path, variant: str | None) -> str | None:
    """Return the variant where this component has it; its plain weights are taken otherwise."""
    return variant if variant and any(f".{variant}." in file.name for file in place.iterdir()) else None


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    from diffusers import DDPMScheduler

    cumulative: Tensor = DDPMScheduler.from_config(dict(config)).alphas_cumprod
    return cumulative
