"""What models made of diffusers pipelines share: loading of networks, the noise schedule, counted operations."""

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from .. import environment
from ..candidates import Candidates
from ..contracts import AdapterPlan, LoraSpec, Model, ModelSpec, PredictionType, TrainableModel
from ..data import model_files, pipeline_folder
from ..errors import BadInput
from . import lora
from .flops import of_one_call
from .load_network import load_whole, without_weights
from .schedule import DiscreteSchedule, StraightPath, alphas_cumprod, with_known_betas
from .sigmas import stated_by_sigma
from .trainable import CLASS_TABLE, LoraTraining, put_classes

OUTLINE = "meta"
"""The device of a model without weights, which tells whether its configurations make networks that fit each other."""


class PipelineModel(Model):
    """A pipeline in diffusers' folder layout; a subclass loads its networks and says how they are called."""

    num_classes = 0
    """Class indices of class-conditional models are below this."""
    adaptable: Mapping[str, str]
    """Networks that a LoRA may change: their attributes by component name, the denoiser first."""

    def __init__(self, spec: ModelSpec) -> None:
        self.folder = model_files.locate(spec.location)
        self.owner = model_files.owner_of(self.folder)
        layout = pipeline_folder.read_folder(self.folder, self.owner)[0]
        self.pipeline, self.parts = layout.pipeline, layout.components
        self.spec = spec
        self.is_outline = spec.device == OUTLINE
        if self.is_outline:
            self.device = torch.device(OUTLINE)
        else:
            model_files.check_files(self.folder, spec.sha256, spec.variant, spec.allow_pickle)
            self.device = environment.pick_device(spec.device)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        config = with_known_betas(pipeline_folder.scheduler_config(self.folder, self.owner))
        self.schedule: DiscreteSchedule
        self.scheduler_config: Mapping[str, Any]
        if (stated := stated_by_sigma(config)) is not None:
            self.schedule, self.prediction_type = stated, stated.prediction_type
            self.scheduler_config = stated.scheduler_config()
        elif (kind := prediction_type(config, self.owner)) == "flow_prediction":
            self.prediction_type = kind
            self.schedule = StraightPath(config, self.owner, self.tokens())
            self.scheduler_config = self.schedule.scheduler_config()
        else:
            self.prediction_type = kind
            self.scheduler_config = self.read_schedule(config)
            self.schedule = DiscreteSchedule(alphas_cumprod(self.scheduler_config))
        self.num_train_timesteps = self.schedule.num_train_timesteps

    def read_schedule(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration of the noise schedule in the form of diffusers' DDPM scheduler."""
        return config

    def tokens(self) -> int | None:
        """Return how many tokens an image is to a denoiser whose schedule goes by it."""
        return None

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.schedule.noise_level(t)

    def noise_levels(self, times: Tensor) -> list[tuple[float, float]]:
        """Return (alpha, sigma) at each of some timesteps as numbers, computed on the CPU."""
        both = [self.schedule.noise_level(t) for t in times.cpu()]
        return [(float(alpha), float(sigma)) for alpha, sigma in both]

    def as_trained(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t and its time as the network saw them in training: in its dtype, a flow's on the straight path."""
        x_t, t = self.schedule.as_trained(x_t, t)
        return x_t.to(self.dtype), t

    def as_predicted(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the prediction that a network's output for `as_trained` says, float32.

        Where a network of twice as many channels says variances too, these are left out.
        """
        return self.schedule.as_predicted(output[:, : x_t.shape[1]].float(), x_t, t)

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
        place = pipeline_folder.component(self.folder, name)
        config = pipeline_folder.read_json(place / "config.json")
        if self.is_outline:
            return without_weights(cls, config, f"{name}/config.json").eval().requires_grad_(False)
        loaded = load_whole(
            cls,
            place,
            f"{self.owner}/{name}",
            use_safetensors=not self.spec.allow_pickle,
            variant=self.variant(place),
            low_cpu_mem_usage=False,
            torch_dtype=dtype or self.dtype,
        )
        # Asked for a dtype, diffusers 0.42 leaves some classes (SD3Transformer2DModel) in that of their file. Its own
        # `to` warns of every change of dtype.
        moved: Any = torch.nn.Module.to(loaded, self.device, dtype or self.dtype)
        return moved.eval().requires_grad_(False)

    def variant(self, place: Path) -> str | None:
        """Return the variant where this component has it; its plain weights are taken otherwise."""
        wanted = self.spec.variant
        return wanted if wanted and any(f".{wanted}." in file.name for file in place.iterdir()) else None

    def put_lora(self) -> None:
        """Add the LoRA that the specification names to the networks.

        Raises:
            UnsafeFile: the file is not the pinned one.
            BadInput: it is no LoRA, or of another model.
        """
        assert self.spec.lora is not None
        file = Path(self.spec.lora.location)
        owner = f"LoRA {file.name}"
        model_files.check_pinned(file, self.spec.lora.sha256, owner)
        lora.put_on(self._networks(), lora.read_state(file, owner), self.spec.lora.scale, owner)

    def compile(self) -> None:
        """Let torch compile the denoiser when it is first called; copies that take adapters are not compiled."""
        # Counted before: torch counts operations as they are dispatched, and those of compiled code are fused.
        self.flops_per_sample()
        next(iter(self._networks().values())).compile()

    def adapted(self, state: Mapping[str, Tensor]) -> Model:
        """Return a copy of this model with LoRA weights added to its networks."""
        again = copy.copy(self)
        for attribute in self.adaptable.values():
            setattr(again, attribute, copy.deepcopy(getattr(self, attribute)))
        table = f"{next(iter(self.adaptable))}.{CLASS_TABLE}"
        if table in state:
            put_classes(again, next(iter(again._networks().values())), state[table])
        lora.put_on(again._networks(), {k: v for k, v in state.items() if k != table}, 1.0, "the adapter")
        before = "" if self.spec.lora is None else f"{self.spec.lora.sha256} {self.spec.lora.scale}"
        made = LoraSpec(location="memory", sha256=lora.digest(state, before))
        again.spec = self.spec.model_copy(update={"lora": made})
        for kept in ("_empty", "_flops"):  # what was computed with the networks as they were
            again.__dict__.pop(kept, None)
        return again

    def trainable(self, plan: AdapterPlan, seed: int) -> TrainableModel:
        """Return a copy of the denoiser with adapters to train."""
        return LoraTraining(self, *next(iter(self.adaptable.items())), plan, seed)

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {name: getattr(self, attribute) for name, attribute in self.adaptable.items()}

    def flops_per_sample(self) -> int:
        """Return the operations of one denoiser call on one sample."""
        flops: int = self._flops
        return flops

    @cached_property
    def _flops(self) -> int:
        return of_one_call(self)


def square(size: Any) -> tuple[int, int]:
    """Return (height, width) of a config's sample_size, one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def prediction_type(config: Mapping[str, Any], owner: str) -> PredictionType:
    """Return what a denoiser with this noise schedule predicts.

    Raises:
        BadInput: it is something that sidebench does not know.
    """
    known = get_args(PredictionType)
    flow = str(config.get("_class_name", "")).startswith("FlowMatch")
    found = config.get("prediction_type", "flow_prediction" if flow else "epsilon")
    if found not in known:
        raise BadInput(f"{owner}: prediction type {found!r} is not supported ({', '.join(known)})")
    kind: PredictionType = found
    return kind
