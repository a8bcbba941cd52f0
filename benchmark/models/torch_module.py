"""A torch module of somebody's own as a model under audit: what it was trained with is said once, in `from_torch`.

model = sidebench.from_torch(net, schedule=("linear", 1000, 1e-4, 0.02), image_shape=(3, 32, 32))
"""

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..candidates import Candidates
from ..contracts import Conditioning, Model, ModelSpec, PredictionType
from ..data.pipeline_folder import SCHEDULERS
from ..errors import BadInput
from .flops import of_one_call
from .pipeline import prediction_type
from .schedule import DiscreteSchedule, StraightPath, alphas_cumprod, with_known_betas
from .sigmas import stated_by_sigma
from .try_model import shape_asked

Schedule = Any
"""A diffusers scheduler or its configuration, ("linear", T, first beta, last beta), or a tensor of betas or of their
cumulative products."""


def from_torch(
    module: nn.Module,
    *,
    schedule: Schedule,
    image_shape: tuple[int, int, int],
    prediction: PredictionType | None = None,
    conditioning: Conditioning = "none",
    num_classes: int | None = None,
    null_class: int | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    image_range: tuple[float, float] = (-1.0, 1.0),
) -> "TorchModel":
    """Make a model under audit of a module that is called as `module(x_t, t)` or `module(x_t, t, classes)`.

    The module returns a tensor shaped like x_t, or an object with one as `.sample`; of twice as many channels, which
    learned variances have, the first half counts. A copy of it is taken, in evaluation mode.

    Args:
        module: The denoiser, with its trained weights.
        schedule: The noise levels it was trained with: ("linear", T, first beta, last beta); a tensor of T betas, or of
            their cumulative products (the products of 1 - beta, which fall); a diffusers scheduler, or its
            configuration. A flow needs one of the last two, of a FlowMatch scheduler.
        image_shape: (C, H, W) of an image.
        prediction: What the module returns: epsilon, v_prediction, sample or flow_prediction. By default what the
            scheduler's configuration says, otherwise epsilon.
        conditioning: none, or class: then the module is given one class index per row.
        num_classes: With conditioning class: indices are below this.
        null_class: The index that stands for no class, where the module was trained with one.
        time: Makes of timesteps 0 .. T - 1, a tensor of shape (N,), what the module takes as its time, such as
            `lambda t: (t + 1) / 1000`. By default it is given the timesteps (a flow its T s, and 0.25 log sigma
            where the schedule says `timestep_type: continuous`).
        image_range: Values of x_0 that stand for black and white.

    Raises:
        BadInput: an argument cannot be used; the message names it.

    Examples:
        >>> import torch
        >>> class Network(torch.nn.Conv2d):
        ...     def forward(self, x_t, t):
        ...         return super().forward(x_t)
        >>> model = from_torch(Network(1, 1, 3, padding=1), schedule=("linear", 100, 1e-4, 0.02), image_shape=(1, 8, 8))
        >>> model.prediction_type, model.num_train_timesteps, model.flops_per_sample()
        ('epsilon', 100, 1152)
    """
    if not isinstance(module, nn.Module):
        raise BadInput(f"from_torch takes a torch.nn.Module, was given a {type(module).__name__}")
    shape = _shape(image_shape)
    if conditioning not in ("none", "class"):
        raise BadInput(f"conditioning {conditioning!r}: from_torch knows none and class; else subclass sidebench.Model")
    low, high = _range(image_range)
    return TorchModel(
        module,
        _config(schedule),
        shape,
        prediction,
        classes=_classes(conditioning, num_classes, null_class),
        time=time,
        image_range=(low, high),
    )


class TorchModel(Model):
    """A module and what it was trained with; made by `from_torch`, which says what each argument means."""

    def __init__(
        self,
        module: nn.Module,
        config: Mapping[str, Any],
        image_shape: tuple[int, int, int],
        prediction: PredictionType | None,
        *,
        classes: tuple[int, int | None],
        time: Callable[[Tensor], Tensor] | None,
        image_range: tuple[float, float],
    ) -> None:
        self.owner = type(module).__name__
        self.module = _frozen_copy(module)
        self.prediction_type = _prediction(config, prediction)
        self.schedule: DiscreteSchedule
        self.scheduler_config: Mapping[str, Any]
        stated = stated_by_sigma({**config, "prediction_type": self.prediction_type})
        if self.prediction_type == "flow_prediction":
            self.schedule = StraightPath(config, "schedule")
            self.scheduler_config = self.schedule.scheduler_config()
        elif stated is not None:
            self.schedule, self.scheduler_config = stated, stated.scheduler_config()
        else:
            self.schedule = DiscreteSchedule(_checked_levels(config))
            largest = max(abs(end) for end in image_range)
            clipped = {} if largest == 1 else {"clip_sample_range": largest}
            self.scheduler_config = {**with_known_betas(config), "prediction_type": self.prediction_type, **clipped}
        self.num_train_timesteps = self.schedule.num_train_timesteps
        self.sample_shape = self.image_shape = image_shape
        self.num_classes, self.null_class = classes
        self.conditioning: Conditioning = "class" if self.num_classes else "none"
        self.time = time
        self.image_range = image_range
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.spec = ModelSpec(family="pixel", location="memory")
        self.put_on(self.device, self.dtype)

    def put_on(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the module to a device and a floating-point type."""
        floats = [tensor for tensor in self.module.state_dict().values() if tensor.is_floating_point()]
        if any(tensor.dtype != dtype for tensor in floats):
            self.module = self.module.to(dtype)
        self.module = self.module.to(device)
        self.device, self.dtype = device, dtype

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""
        return self.schedule.noise_level(t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the module; x_t and the answer are float32 whatever the module's dtype."""
        x, time = self.schedule.as_trained(x_t, t)
        time = time if self.time is None else self.time(time)
        labels = () if self.conditioning == "none" else (self._labels(x_t, condition),)
        output = self.module(x.to(self.dtype), time, *labels)
        found = output if isinstance(output, Tensor) else getattr(output, "sample", None)
        if not isinstance(found, Tensor):
            kind = type(output).__name__
            raise BadInput(f"{self.owner}: the module returned a {kind}, wanted a tensor or an object with .sample")
        rows, channels, *size = x_t.shape
        if found.shape == (rows, 2 * channels, *size):
            found = found[:, :channels]
        if found.shape != x_t.shape:
            raise BadInput(
                f"{self.owner}: the module returned shape {tuple(found.shape)} for x_t of shape {tuple(x_t.shape)}; "
                f"{shape_asked(self)}"
            )
        return found.float()

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        """Return the condition; a model with classes that is given none draws each candidate's class uniformly."""
        if condition is None and self.conditioning == "class":
            return candidates.integers("class", self.num_classes).to(self.device)
        return condition

    def encode(self, images: Tensor) -> Tensor:
        """Scale [0, 1] to the range that the module was trained on."""
        low, high = self.image_range
        return images.to(self.device) * (high - low) + low

    def decode(self, x_0: Tensor) -> Tensor:
        """Scale to [0, 1] and clip."""
        low, high = self.image_range
        return ((x_0 - low) / (high - low)).clamp(0, 1)

    def flops_per_sample(self) -> int:
        """Return the operations of one call of the module on one sample, at least 1."""
        flops: int = self._flops
        return flops

    @cached_property
    def _flops(self) -> int:
        return max(1, of_one_call(self))

    def _labels(self, x_t: Tensor, condition: Tensor | None) -> Tensor:
        if condition is not None:
            return condition
        if self.null_class is None:
            raise BadInput(f"{self.owner} has no unconditional branch (null_class): give it a class for each row")
        return torch.full((len(x_t),), self.null_class, device=x_t.device)


def _frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, so that training the original further changes no run."""
    try:
        return copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as error:  # whatever a stranger's module holds
        raise BadInput(f"{type(module).__name__} cannot be copied: {type(error).__name__}: {error}") from error


def _shape(given: Any) -> tuple[int, int, int]:
    sizes = tuple(given) if isinstance(given, tuple | list | torch.Size) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise BadInput(f"image_shape is (channels, height, width), three whole numbers above 0, was {given!r}")
    return sizes[0], sizes[1], sizes[2]


def _range(given: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (low < high and np.isfinite([low, high]).all()):
        raise BadInput(f"image_range is (black, white), two numbers in this order, was {given!r}")
    return low, high


def _classes(conditioning: str, num_classes: int | None, null_class: int | None) -> tuple[int, int | None]:
    """Return the number of classes, 0 without any, and the index that stands for none."""
    if conditioning == "none":
        if num_classes is not None or null_class is not None:
            raise BadInput("num_classes and null_class go with conditioning='class'")
        return 0, None
    if not isinstance(num_classes, int) or num_classes < 1:
        raise BadInput(f"conditioning='class' needs num_classes, at least 1, was {num_classes!r}")
    return num_classes, null_class


def _prediction(config: Mapping[str, Any], named: PredictionType | None) -> PredictionType:
    """Return what the module predicts.

    Raises:
        BadInput: there is no such type, it contradicts the configuration, or the schedule is none of this type.
    """
    known = get_args(PredictionType)
    if named is not None and named not in known:
        raise BadInput(f"prediction {named!r} is not one of {', '.join(known)}")
    states = "prediction_type" in config or str(config.get("_class_name", "")).startswith("FlowMatch")
    own = prediction_type(config, "schedule")
    kind = named or own
    if states and own != kind:
        raise BadInput(f"prediction {kind!r} contradicts the schedule's configuration, which says {own!r}")
    if kind == "flow_prediction" and not str(config.get("_class_name", "")).startswith("FlowMatch"):
        raise BadInput("prediction 'flow_prediction' needs the schedule of a flow: diffusers' FlowMatch schedulers")
    return kind


def _config(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as a diffusers configuration.

    Raises:
        BadInput: it is none, or a beta does not lie between 0 and 1.
    """
    if isinstance(schedule, Mapping):
        return _plain(schedule)
    if hasattr(schedule, "config"):
        name = type(schedule).__name__
        if name not in SCHEDULERS:
            raise BadInput(f"schedule: {name} is not a noise schedule that sidebench knows")
        return {**_plain(schedule.config), "_class_name": name}
    if isinstance(schedule, tuple) and schedule and isinstance(schedule[0], str):
        return _linear(schedule)
    try:
        values = torch.as_tensor(schedule, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(
            "schedule is a diffusers scheduler or its configuration, ('linear', T, first beta, last beta), or a tensor "
            f"of betas or of their cumulative products, was a {type(schedule).__name__}"
        ) from None
    if values.ndim != 1 or len(values) < 2:
        raise BadInput(f"schedule: betas are a tensor of shape (T,) with T of 2 or more, was {tuple(values.shape)}")
    if not ((values > 0) & (values < 1)).all():
        place = int((~((values > 0) & (values < 1))).nonzero()[0])
        raise BadInput(f"schedule: value {place} is {float(values[place]):g}, a beta lies between 0 and 1")
    if (values.diff() < 0).all():  # cumulative products fall, betas do not
        values = 1 - values / torch.cat([torch.ones(1, dtype=torch.float64), values[:-1]])
    return _ddpm(num_train_timesteps=len(values), trained_betas=values.tolist())


def _linear(schedule: tuple[Any, ...]) -> dict[str, Any]:
    said = f"schedule {schedule!r}: write it as ('linear', T, first beta, last beta)"
    if len(schedule) != 4 or schedule[0] != "linear":
        raise BadInput(f"{said}; give any other as a tensor of betas")
    _, steps, first, last = schedule
    if not isinstance(steps, int) or not all(isinstance(beta, int | float) for beta in (first, last)) or steps < 2:
        raise BadInput(f"{said}, T of 2 or more")
    if not (0 < first < 1 and 0 < last < 1):
        raise BadInput(f"{said}: a beta lies between 0 and 1")
    return _ddpm(num_train_timesteps=steps, beta_schedule="linear", beta_start=first, beta_end=last)


def _ddpm(**said: Any) -> dict[str, Any]:
    """Return the configuration that a folder with diffusers' DDPM scheduler would hold, but for what is predicted."""
    from diffusers import DDPMScheduler

    config = _plain(DDPMScheduler(**said).config)
    del config["prediction_type"]
    return config


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose arrays are lists."""
    return {
        key: value.tolist() if isinstance(value, np.ndarray | Tensor) else value
        for key, value in config.items()
        if key == "_class_name" or not key.startswith("_")
    }


def _checked_levels(config: Mapping[str, Any]) -> Tensor:
    """Return the cumulative products that a configuration states.

    Raises:
        BadInput: diffusers cannot make them, or they are none.
    """
    try:
        found = alphas_cumprod(config)
    except Exception as error:  # of a configuration that somebody wrote by hand
        raise BadInput(f"schedule: diffusers cannot make it: {type(error).__name__}: {error}") from None
    if not (found.isfinite().all() and (found >= 0).all() and (found < 1).all() and (found.diff() < 0).all()):
        raise BadInput(
            "schedule: the products of 1 - beta must fall from below 1 to 0 or above; is a beta not in 0 .. 1?"
        )
    return found
