"""What each side may see of the other: Model, Attack, Defence, Measure.

Images are float tensors in [0, 1], N x C x H x W, at every boundary. An attack sees a model and a
budget, never a reference image; that isolation is by interface, not a sandbox: attacks run in process
and are trusted code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from .candidates import Candidates
from .errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
Conditioning = Literal["none", "class", "text"]
Access = Literal["samples", "queries", "prompts", "white box", "oracle"]
Replays = Literal["none", "captions", "canaries"]
Side = Literal["training", "held_out"]
Progress = Callable[[str, int, int], None]
"""Called as (phase, done, total)."""


class Settings(BaseModel):
    """Base of every settings object: frozen, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class SamplerSettings(Settings):
    """How images are drawn from a model: the diffusers scheduler and its steps."""

    name: Literal["ddim", "ddpm", "euler", "dpm-solver++"] = "ddim"
    steps: int = Field(50, ge=1, le=1000)
    eta: float = Field(0.0, ge=0.0, le=1.0)
    """Stochasticity of DDIM (0: deterministic)."""


# ---- Models -----------------------------------------------------------------------------------------


class ImageForm(Settings):
    """What images of a folder or table are decoded to."""

    size: int = Field(ge=1)
    """Height and width."""
    channels: Literal[1, 3]
    crop: Literal["centre", "squash", "none"]
    """centre: the largest square in the middle, then resize. squash: resize whatever the shape. none: refuse images
    of another size."""


class LoraSpec(Settings):
    """A LoRA on top of a model, as a worker finds it."""

    location: str
    """The safetensors file. Never stored in a run."""
    sha256: str
    scale: float = 1.0


class ModelSpec(Settings):
    """Everything from which a worker in another process builds the same model."""

    family: str
    location: str
    """Where the files are: `zoo:NAME` for an embedded model, a folder, or a model of somebody's own, as `FILE.py:NAME`
    or by the name that an installed package registers. Never stored in a run."""
    sha256: dict[str, str] = {}
    """Pinned SHA-256 by file name relative to the location; a file that differs is refused."""
    variant: str | None = None
    """Which set of weights where a folder holds several (`fp16`)."""
    allow_pickle: bool = False
    """Load pickled weights where there are no safetensors; whoever made them can run code here."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compiled: bool = False
    """Run the denoiser through `torch.compile`, which rounds otherwise."""
    lora: LoraSpec | None = None
    form: ImageForm | None = None
    """Of images that exist already (family images): what they are decoded to; none: what the first of them is."""
    live: Any = Field(None, exclude=True, repr=False)
    """The `Model` itself where it is an object of this process: no other process can build it, no record holds it."""

    def content(self) -> dict[str, Any]:
        """Return what the model is, wherever its files lie: its family, and SHA-256 by file name, the LoRA's too."""
        adapter = {} if self.lora is None else {f"lora:{self.lora.scale!r}": self.lora.sha256}
        live = {} if self.live is None else {"live": True}
        return {"family": self.family, "sha256": {**self.sha256, **adapter}, **live}


class Model(ABC):
    """A diffusion model under audit, whatever its family.

    `x_t` lives in the space that the model denoises (pixels in [-1, 1], or latents), with the
    variance-preserving scaling alpha^2 + sigma^2 = 1.

    A model of your own is a subclass, or what `sidebench.from_torch` makes of a module (docs/add-a-model.md). A run
    puts the tensors and modules that are its attributes on a device, and sets `spec` and `device`.
    """

    weights: ClassVar[str | None] = None
    """For a model of your own: a file of tensors beside its source. The class is then called with them, as a dict by
    name, and otherwise without an argument."""
    spec: ModelSpec
    sample_shape: tuple[int, int, int]
    """(C, H, W) of x_t."""
    image_shape: tuple[int, int, int]
    """(C, H, W) of a decoded image."""
    conditioning: Conditioning
    num_train_timesteps: int
    prediction_type: PredictionType
    scheduler_config: Mapping[str, Any]
    """The diffusers configuration of the noise schedule that the model was trained with."""
    device: torch.device
    prompts: Sequence[str] = ()
    """Captions of both sides, each once and sorted, for attacks with access "prompts": a run puts them here, the model
    does not read them."""
    planted: Sequence[str] = ()
    """Canaries and strings that were never planted, sorted, for attacks that replay them; put here like captions."""
    labelled: tuple[Tensor, Tensor] | None = None
    """Training images and their classes for attacks with access "oracle": a run puts them here, no other view has
    them."""
    shown: Tensor | None = None
    """An image of each of `prompts`, uint8 N x C x H x W, for attacks with access "oracle" that replay captions; put
    here too."""
    defences: Mapping[str, Mapping[str, Any]] = {}
    """Settings of the defences around the denoiser, by name."""

    @abstractmethod
    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t` (any shape, integer or fractional), float32."""

    def noise_levels(self, times: Tensor) -> list[tuple[float, float]]:
        """Return (alpha, sigma) at each of some timesteps, (T,), as numbers; the device is read once."""
        import torch

        found = [torch.stack(self.noise_level(t)) for t in times.to(self.device)]
        return [(alpha, sigma) for alpha, sigma in torch.stack(found).tolist()]

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the denoiser's output for `x_t` (N x C x H x W) in its own prediction type.

        `t` has shape (N,). `condition` is one class index per row for class-conditional models, an
        embedding per row for text models, and None for unconditional ones.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to x_0 in the model's own space."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """Map x_0 to images, clipped to [0, 1]; NaN stays NaN."""

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise for timesteps `t` of shape (N,)."""
        alpha, sigma = self.noise_level(t)
        return alpha.view(-1, 1, 1, 1) * x_0 + sigma.view(-1, 1, 1, 1) * noise

    def adapted(self, state: Mapping[str, Tensor]) -> Model:
        """Return this model with LoRA weights on top (names as in models/lora.py); families without adapters refuse."""
        raise NotImplementedError(f"{type(self).__name__} takes no adapters")

    def trainable(self, plan: AdapterPlan, seed: int) -> TrainableModel:
        """Return a copy with adapters to train; families without adapters refuse."""
        raise BadInput(f"{type(self).__name__} takes no adapters")

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the embedding of each prompt, which `predict` takes as its condition; text models only."""
        raise NotImplementedError(f"{type(self).__name__} takes no prompts")

    def token_of(self) -> Tensor:
        """Return of which token each number of an embedding is a state, int64 in a row's shape; text models only.

        0 is the token that begins a prompt. `WHOLE`: of the prompt as a whole. `NO_STATE`: no state of a text at all,
        but an attention mask, a scale of guidance or a count, which nobody may change.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no prompts")

    def with_tokens(self, condition: Tensor, least: int) -> Tensor:
        """Return embeddings that count as of at least so many tokens, where the model reads how many there are."""
        return condition

    def too_long(self, prompts: Sequence[str]) -> Sequence[str]:
        """Return the prompts that `embed` would cut; text models only."""
        return ()

    def prompt_tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return how many tokens each prompt is to `attend`, begin and end token included, (N,) int64.

        Raises:
            BadInput: the model has no cross-attention to read.
        """
        raise BadInput(NO_ATTENTION)

    def attend(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Attended:
        """Call the denoiser as `predict` does, and return its cross-attention too.

        Raises:
            BadInput: the model has none that can be read, as transformers that mix text and image tokens.
        """
        raise BadInput(NO_ATTENTION)

    def reweighted(self, begin: float) -> Model:
        """Return this model with cross-attention to the padding of a prompt hidden, that to its begin changed.

        Args:
            begin: Factor on the attention logit of the token that begins a prompt.

        Raises:
            BadInput: the model has no cross-attention to change.
        """
        raise BadInput(NO_ATTENTION)

    def draw(self, candidates: Candidates) -> Tensor | None:
        """Return exact samples x_0, or None (the rule): only the sampling loop can draw from this model.

        Closed-form controls draw exactly where nothing steers, so that their truth is known.
        """
        return None

    def timesteps(self, steps: int) -> Tensor | None:
        """Return the timesteps at which the model's own pipeline samples in so many steps, highest first, (steps,).

        They may be fractional. None (the rule): the sampler takes them from `scheduler_config`.
        """
        return None

    def guided(self, condition: Tensor, scale: float) -> Tensor | None:
        """Return the condition with the scale of guidance in it, for a denoiser that takes the scale as an input.

        None (the rule): guidance is classifier-free, from a conditional and an unconditional call.
        """
        return None

    @abstractmethod
    def flops_per_sample(self) -> int:
        """Return the floating-point operations of one denoiser call on one sample."""

    # Hooks of the sampling loop, in the order in which they are called. An undefended model leaves them as they are.

    def prompted(self, prompts: Sequence[str], candidates: Candidates) -> Sequence[str]:
        """Return the prompts to embed, one per candidate; text models only."""
        return prompts

    def eta(self, eta: float) -> float:
        """Return the stochasticity of DDIM to sample with, given the protocol's."""
        return eta

    def conditioned(self, condition: Tensor | None, candidates: Candidates) -> Tensor | None:
        """Return the condition (classes or prompt embeddings, one per row) that the denoiser is given."""
        return condition

    def started(self, noise: Tensor, condition: Tensor | None, candidates: Candidates) -> Tensor:
        """Return the x_T to start from, standard normal as `noise` is; `condition` is what `conditioned` returned."""
        return noise

    def guidance_scale(self, t: Tensor, asked: float) -> float:
        """Return the scale of classifier-free guidance at timestep `t`, given the one that was asked for.

        1 is the conditional prediction alone, 0 the unconditional one.
        """
        return asked

    def steering(self, t: Tensor) -> float:
        """Return the factor at timestep `t` on the correction with which an attack steers; 0 holds it back."""
        return 1.0

    def corrected(self, step: Step, candidates: Candidates) -> Tensor:
        """Return the prediction to go on with, shaped like `step.prediction`; called last in each step.

        Draw noise from `candidates` (one per row), under a stream name that holds the timestep.
        """
        return step.prediction

    def flops_per_step(self) -> float:
        """Return the operations that the hooks add to one step of one sample."""
        return 0.0

    def flops_per_start(self) -> float:
        """Return the operations that the hooks add to one sample before its first step."""
        return 0.0


class Step(NamedTuple):
    """What a `steer` callable, or a defence, sees at one step of the sampling loop."""

    x_t: Tensor
    """Variance-preserving x_t, B x C x H x W (B is the padded micro-batch)."""
    t: Tensor
    """Timestep, a scalar tensor."""
    alpha: float
    sigma: float
    prediction: Tensor
    """The denoiser's output at this step, in the model's own prediction type."""
    rows: Tensor
    """For each row its position in the candidates that were asked for, (B,) int64, on the device of x_t."""
    time: float
    """The timestep as a number: to read `t` is to wait for the device."""
    real: int
    """Rows of candidates; those after them repeat the first one and only fill the batch up."""


Steer = Callable[[Step], "Tensor"]
"""Returns the correction to the score (a gradient with respect to x_t), shaped like x_t."""


class Attended(NamedTuple):
    """A denoiser's output, and where its pixels looked in the prompt."""

    prediction: Tensor
    """What `predict` returns, N x C x H x W."""
    maps: Mapping[str, Tensor]
    """Cross-attention by layer, in the order in which the network calls them: N x pixels x tokens, float32, the mean
    over the heads. Each pixel's numbers sum to 1."""


WHOLE, NO_STATE = -1, -2
"""What `Model.token_of` says of numbers that are no state of a single token."""

NO_ATTENTION = "this model has no cross-attention to read or change: choose what needs predictions alone"
"""What a model without a UNet between text and image says."""


class AdapterPlan(NamedTuple):
    """Which low-rank adapters an attack wants to train."""

    rank: int
    """r of W + B A, with alpha = r, so that rank is the only knob."""
    modules: Literal["auto", "attention", "attention+conv"] = "auto"
    """Projections of self- and cross-attention; with `conv` the two convolutions of every residual block too. auto:
    attention where the denoiser has any, otherwise the convolutions."""
    classes: int = 0
    """Give a denoiser without classes a table of so many: a vector each, from zero, added to its time embedding."""


class TrainableModel(ABC):
    """A copy of the denoiser whose adapters an attack trains; untrained, it predicts what the denoiser does."""

    parameters: Mapping[str, torch.nn.Parameter]
    """What is trained, by the names that `adapted` takes: `unet.LAYER.lora_A.weight` and so on."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the adapted denoiser; gradients reach the parameters.

        Rows are not padded, as rows that repeat would weigh twice in a loss. Every row is one NFE, and where gradients
        are on, two more calls' operations for the backward pass.
        """


class BlackBoxModel(ABC):
    """What an attack with access "samples" gets: images for candidates."""

    image_shape: tuple[int, int, int]
    conditioning: Conditioning

    @abstractmethod
    def sample(
        self,
        candidates: Candidates,
        *,
        condition: Tensor | None = None,
        guidance_scale: float = 1.0,
        sampler: SamplerSettings | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Sample one image per candidate, N x C x H x W in [0, 1] on the CPU.

        Args:
            candidates: Whose images are drawn.
            condition: A class or an embedding for each of them.
            guidance_scale: That of classifier-free guidance (1: off).
            sampler: Another than the protocol's; one of `Attack.samplers`, which are tried before any work.
            steps: A number of steps in place of the sampler's. They are spaced evenly and begin in pure noise: one step
                is the denoiser's first answer.
        """


class QueriedModel(BlackBoxModel):
    """What an attack with access "queries" gets: a text-to-image service. It sends prompts, and knows no caption."""

    device: torch.device
    """Where an attack's own networks may run."""

    @abstractmethod
    def sample_prompts(
        self,
        candidates: Candidates,
        prompts: Sequence[str],
        *,
        guidance_scale: float = 1.0,
        steps: int | None = None,
    ) -> Tensor:
        """Sample one image per candidate from its prompt, as `sample` does."""

    @abstractmethod
    def charge(self, flops: float) -> None:
        """Report work outside the denoiser (a classifier that scores images, say) in floating-point operations."""


class PromptedModel(QueriedModel):
    """What an attack with access "prompts" gets: samples, and captions that somebody knows, never their images."""

    prompts: Sequence[str]
    """Captions of training and of held-out images alike, each once, in an order drawn by the run's seed; nothing says
    which are which. Those of both sides are left out. Empty where the pair has no captions."""


class WhiteBoxModel(BlackBoxModel):
    """What an attack with white-box access gets: predictions, gradients and steered sampling too."""

    sample_shape: tuple[int, int, int]
    num_train_timesteps: int
    prediction_type: PredictionType
    device: torch.device
    prompts: Sequence[str] = ()
    """Captions, for an attack that says it `replays` them: those of both sides, as `PromptedModel.prompts`."""

    @abstractmethod
    def sample(
        self,
        candidates: Candidates,
        *,
        condition: Tensor | None = None,
        guidance_scale: float = 1.0,
        sampler: SamplerSettings | None = None,
        steps: int | None = None,
        steer: Steer | None = None,
    ) -> Tensor:
        """Sample as `BlackBoxModel.sample`; `steer` adds a correction to the score at every step."""

    @abstractmethod
    def sample_prompts(
        self,
        candidates: Candidates,
        prompts: Sequence[str],
        *,
        guidance_scale: float = 1.0,
        steps: int | None = None,
    ) -> Tensor:
        """Sample one image per candidate from its prompt, as `QueriedModel.sample_prompts`; text models only."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the denoiser; every row is counted as one NFE."""

    @abstractmethod
    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at timesteps `t`."""

    @abstractmethod
    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to x_0 in the model's own space."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """Map x_0 to images in [0, 1], N x C x H x W."""

    @abstractmethod
    def adapted(self, state: Mapping[str, Tensor]) -> WhiteBoxModel:
        """Return the view of this model with LoRA weights on top; both count into one ledger. See `Model.adapted`."""

    @abstractmethod
    def trainable(self, plan: AdapterPlan, seed: int) -> TrainableModel:
        """Return a copy of the denoiser with adapters to train, drawn from the seed; see `models/trainable.py`."""

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the embedding of each prompt, which `predict` and `sample` take as a condition; text models only."""

    @abstractmethod
    def token_of(self) -> Tensor:
        """Return of which token each number of an embedding is a state; see `Model.token_of`."""

    @abstractmethod
    def with_tokens(self, condition: Tensor, least: int) -> Tensor:
        """Return embeddings that count as of at least so many tokens; see `Model.with_tokens`."""

    @abstractmethod
    def prompt_tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return how many tokens each prompt is to `attend`, begin and end token included, (N,) int64."""

    @abstractmethod
    def attend(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Attended:
        """Call the denoiser and return its cross-attention too; every row is counted as one NFE. See `Model.attend`."""

    @abstractmethod
    def differentiate(self, x_t: Tensor, t: Tensor, along: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the derivative of `predict` with respect to x_t along a direction, shaped like x_t.

        One Jacobian-vector product in forward mode. Every row is counted as two NFE: the prediction and its derivative.
        """

    @abstractmethod
    def charge(self, flops: float) -> None:
        """Report work outside the denoiser (a classifier's gradient, say) in floating-point operations."""


class OracleModel(WhiteBoxModel):
    """What an attack with access "oracle" gets: the training images and their classes too. Never ranked."""

    training: Tensor
    """The training images, N x C x H x W in [0, 1]."""
    labels: Tensor
    """Their classes, (N,) int64."""


class TargetedModel(WhiteBoxModel):
    """What an attack with access "oracle" that replays captions gets: an image of each caption, of both sides.

    Which are of training images it never learns. Never ranked.
    """

    @abstractmethod
    def images_of(self, places: Sequence[int]) -> Tensor:
        """Return an image of each of these of `prompts`, N x C x H x W in [0, 1]."""

    @abstractmethod
    def asks_for(self, candidates: Candidates, prompts: Sequence[str]) -> None:
        """Say whose image each candidate is meant to be, so that the run can say how often that came."""


# ---- Attacks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttackState:
    """What `prepare` hands to `generate`: tensors and plain JSON values, nothing else."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints(Protocol):
    """Named places where a long `prepare` leaves its progress, so that a killed run goes on."""

    def load(self, name: str) -> AttackState | None:
        """Return what was last saved under this name, or None."""

    def save(self, name: str, state: AttackState) -> None:
        """Save atomically, in place of what was there."""


@dataclass(frozen=True)
class Budget:
    """What `prepare` may know of the run that it prepares for."""

    seed: int
    candidates: int
    """How many images the run asks for. A state whose `prepare` reads it is of that number alone: where the run grows,
    the attack starts over."""
    checkpoints: Checkpoints
    progress: Progress


@dataclass(frozen=True)
class Generated:
    """Images in [0, 1], N x C x H x W, and optional columns with one number per image."""

    images: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


class Ablation(NamedTuple):
    """An attack with something taken away: the settings that it changes, and the access that it then needs."""

    settings: Mapping[str, Any]
    access: Access | None = None


class CaptionFilter(NamedTuple):
    """How scoring rates the captions that an attack replayed, in order to call some memorised.

    The attack names the method alone: the threshold is set, and flags are counted, where the sides are known.
    """

    kind: Literal["cliques", "state", "canaries"]
    """cliques: by the distance at which `clique` of a caption's images agree, tile by tile. state: by the tensor
    "caption_scores" of the attack's state, one number for each of the captions that it was given, in their order;
    larger is more suspicious. canaries: by their rank among strings that were never planted."""
    images: int = 0
    """Of a caption, for cliques, or of a string, for canaries; captions with fewer are not rated."""
    clique: int = 0


class Attack(ABC):
    """A data-extraction attack.

    A subclass fills the class variables, may override `prepare`, and must define `generate`. Candidate
    i may depend on (attack, settings, seed, i) alone: draw from `candidates.normal("name", shape)` and
    its siblings, never from a global generator.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    access: ClassVar[Access]
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none"})
    """The kinds of model that the attack works on; others are refused before any work."""
    replays: ClassVar[Replays] = "none"
    """What texts the attack is given: captions of both sides, which one with access "prompts" gets in any case, or
    canaries, strings that were planted in training among others that were not."""
    version: ClassVar[int] = 1
    """Raised whenever what ships under this name may make other images than before; a run is of one version."""
    Settings: ClassVar[type[Settings]] = Settings
    generation_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that `prepare` does not read: changing one of them keeps the state."""

    later_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that came with a later version. A record that does not say them is of an earlier one, which did what
    their defaults say."""

    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """What `sidebench tune` tries when it is not told."""
    ablations: ClassVar[Mapping[str, Ablation]] = {}
    """What `sidebench ablate` takes away, by name. Each is an attack of its own, called `NAME--ABLATION`."""
    ablated_against: ClassVar[Sequence[str]] = ()
    """Other attacks that stand in the table of ablations."""

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings

    def check(self) -> None:
        """Raise `BadInput` where something that the attack needs cannot be loaded; called before any work."""

    def samplers(self) -> Sequence[SamplerSettings]:
        """Return the samplers that it asks for beside the protocol's; they are tried on a model before any work."""
        return ()

    @classmethod
    def prepares(cls) -> bool:
        """Return whether another run seed is another preparation, since the attack has a `prepare` of its own."""
        return cls.prepare is not Attack.prepare

    @classmethod
    def replayed(cls) -> Replays:
        """Return what texts the attack is given, in an order that says nothing of them."""
        return "captions" if cls.replays == "none" and cls.access == "prompts" else cls.replays

    @classmethod
    def is_shown(cls) -> bool:
        """Return whether the attack is an oracle that is given an image of each caption."""
        return cls.access == "oracle" and cls.replayed() == "captions"

    def caption_filter(self) -> CaptionFilter | None:
        """Return how captions are called memorised; None for an attack that calls none so."""
        return None

    def least_candidates(self) -> int:
        """Return the smallest number of candidates that the attack makes sense for."""
        return 1

    def prepare(self, model: Any, budget: Budget) -> AttackState:
        """Do the costly part once; the state is saved and may be loaded in another process."""
        return AttackState()

    @abstractmethod
    def generate(self, model: Any, state: AttackState, candidates: Candidates) -> Generated:
        """Make one image per candidate."""


# ---- Detectors --------------------------------------------------------------------------------------


class Detector(ABC):
    """A number for each prompt that says how likely the model has memorised the prompt's image.

    A detector sees the weights and prompts, never an image or a label. The number of a prompt may depend on (detector,
    settings, seed, prompt) alone, not on which prompts it is scored with: draw from `candidates`, one per prompt.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    attends: ClassVar[bool] = False
    """Whether it reads cross-attention, which not every model has; others are refused before any work."""
    version: ClassVar[int] = 1
    """Raised whenever what ships under this name may give other numbers than before."""
    Settings: ClassVar[type[Settings]] = Settings
    later_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that came with a later version, as `Attack.later_settings`."""

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings

    @abstractmethod
    def score(self, model: WhiteBoxModel, prompts: Sequence[str], candidates: Candidates) -> np.ndarray:
        """Return a finite number for each prompt, (N,) float64; larger is more likely memorised."""


# ---- Defences ---------------------------------------------------------------------------------------


class VictimFacts(NamedTuple):
    """What is known of the model under audit before it is loaded, so that misfits are said before any work."""

    family: str
    """pixel, latent, text, mixture or images."""
    conditioning: Conditioning
    image_shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    sampler: str
    """ddim, ddpm, euler or dpm-solver++."""
    training_images: int | None
    """How many there are; None where they were not counted."""


class Defence(ABC):
    """A sampling-time defence: a Model wrapped into a Model that leaks less.

    Attacks prepare and generate on the wrapped model, so each of them meets the defence. Several are put
    around one model by level, denoiser first and output last, and by name within a level; an order that
    the user could choose would be a setting that nobody reports.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    level: ClassVar[Literal["denoiser", "loop", "prompt", "output"]]
    """Where it acts. Direct denoiser calls of a white-box attack meet the level "denoiser" alone: the
    others guard the sampling loop of a service. One of the level "output" overrides `decode` and nothing else, so
    that any image can be sent through it."""
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"none", "class", "text"})
    uses_training: ClassVar[bool] = False
    """Whether `wrap` is given the training images, which a defender has and an attack must not see."""
    optimises: ClassVar[frozenset[str]] = frozenset()
    """Descriptor spaces in which the defence moves samples away from training images. It is never judged by
    measures of these spaces alone."""
    replaces: ClassVar[frozenset[str]] = frozenset()
    """Names of hooks whose value it sets outright ("eta"); two defences that set the same do not compose."""
    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings

    def check(self, victim: VictimFacts) -> None:
        """Raise `BadInput` where the defence does not fit this model, sampler or number of training images."""

    @abstractmethod
    def wrap(self, model: Model, training: Tensor | None) -> Model:
        """Return the defended model, as a rule a `DefendedModel`.

        `training` holds the training images in [0, 1], N x C x H x W, where the class says `uses_training`.
        No public attribute of the defended model may lead to them.
        """


# ---- Measures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """A range of scores. Distances use (low, high], the first band also its lower end; similarities [low, high).

    Edges are compared as float32, like scores: `measures/hits.py` says why.
    """

    name: str
    low: float
    high: float


class Neighbours(NamedTuple):
    """The nearest references of N candidates on one side, nearest first (NumPy arrays)."""

    ids: np.ndarray
    """N x k int32, positions in the side's images."""
    distances: np.ndarray
    """N x k float32, in the descriptor space of the measure."""
    representatives: np.ndarray
    """N x k float32, distances to the nearest duplicate-group representatives only."""


class Measure(ABC):
    """Images -> descriptors -> distances -> scores. `id` spells the whole preprocessing.

    Measures with the same `space` share descriptors and one nearest-neighbour search. The part after
    the search works on stored distances in NumPy, so that scores are recomputed without the model.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    space: ClassVar[str]
    """The id of the descriptor space."""
    distance: ClassVar[bool]
    """True: a smaller score is a closer match. False: a larger one is."""
    bands: tuple[Band, ...] = ()
    """Fixed bands, closest first; empty where only calibrated thresholds make sense."""
    floor: float = float("inf")
    """Pairs are stored as far out as this score; a band beyond it is refused."""
    bin_width: float = 0.05
    decides: bool = True
    """Whether both sides' scores are on one scale, so that a candidate has a nearest group of X and H together. False:
    the measure describes either side, and no excess, threshold or verdict is made of it."""
    parts: int = 1
    """Descriptors are this many pieces of equal length; their distance is the largest Euclidean one over the pieces.
    The same for all measures of a space."""
    neighbours: int = 1
    """Nearest representatives per side that a score reads; a run keeps at least as many."""
    round_trip_of: Measure | None = None
    """The measure that this one is, where its references are compared as they come back from the model's own
    autoencoder; None where they are compared as they are in the data."""

    def __init__(self, options: list[str] | None = None) -> None:
        if options:
            raise ValueError(f"takes no options, was given {':'.join(options)}")

    @property
    def id(self) -> str:
        """The name that spells the whole preprocessing."""
        return self.name

    def check(self, training: int, held_out: int, allow_dense: bool) -> None:
        """Raise `BadInput` where the measure cannot be used with sets of these sizes.

        `held_out` is 0 for pairs without held-out images; `scores` and `radius` then get no column of them.
        """

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 by name of the networks that it reads; raise `BadInput` where one cannot be loaded."""
        return {}

    def homes(self) -> dict[str, str]:
        """Return repositories of the Hub by the name of the network that `sidebench fetch` gets from there."""
        return {}

    @abstractmethod
    def descriptors(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] (N x C x H x W) to N x D float32 descriptors."""

    @abstractmethod
    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Turn distances to references of `side` (N x m, row i belongs to candidate i) into scores."""

    @abstractmethod
    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        """Return per candidate the distance at which the score reaches `floor`, (N,)."""
