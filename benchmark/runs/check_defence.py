"""The checks that every defence must pass, built-in or not.

    from sidebench import check_defence, ModelSpec
    check_defence("./mine.py:MyDefence", {}, ModelSpec(family="pixel", location="zoo:digits"))

Each check raises `NotConformant` with what was seen. Training images and captions are made up: a check reads no data.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..candidates import Candidates, generator
from ..contracts import Access, Attack, AttackState, BlackBoxModel, Defence, Generated, Model, ModelSpec, PromptedModel
from ..models import load_model
from ..models.flops import OperationCount
from ..protocol import Sampling
from ..registry import make_defence
from ..sampling.call_attack import make_candidates
from ..sampling.defended import DefendedModel, defend
from ..sampling.views import AuditedModel, view_for
from .check_attack import COST_TOLERANCE, PROMPTS, NotConformant, check_grouping, quick_sampling

TRAINING_IMAGES = 64
_SAMPLING_HOOKS = (
    "predict", "noise_level", "add_noise", "encode", "embed", "token_of", "with_tokens", "prompted", "eta",
    "conditioned", "started", "guidance_scale", "guided", "timesteps", "steering", "corrected", "draw",
)  # fmt: skip


def check_defence(
    name: str, settings: dict[str, Any], spec: ModelSpec, sampling: Sampling | None = None, count: int = 11
) -> None:
    """Run every check for a defence (a registered name, or `file.py:Class`) on a model.

    Raises:
        NotConformant: a check failed; the message says which and what was seen.
        SidebenchError: the defence does not fit the model, raised, or returned what its contract does not allow.
    """
    sampling = sampling or quick_sampling()
    defence = make_defence(name, settings)
    training = made_up_images(load_model(spec))

    def build() -> Model:
        return defend(load_model(spec), [defence], sampling.sampler.name, lambda: training)

    model = build()
    check_level(defence, model)
    probe = _Prompted() if model.conditioning == "text" else _Plain()
    images = check_grouping(probe, model, AttackState(), sampling, count)
    again = check_grouping(probe, build(), AttackState(), sampling, count)
    if not torch.equal(images, again):
        raise NotConformant(f"{defence.name}: built a second time, it makes other images")
    check_hidden(defence, model, training, sampling)
    check_cost(defence, probe, model, sampling)


def made_up_images(model: Model) -> Tensor:
    """Return noise in [0, 1] that stands for the training images."""
    draw = generator(0, "conformance", 0, "training")
    return torch.rand(TRAINING_IMAGES, *model.image_shape, generator=draw)


def check_level(defence: Defence, model: Model) -> None:
    """A defence on the output leaves sampling alone: its reach could not be computed otherwise."""
    if defence.level != "output":
        return
    layer = getattr(model, "inside", None)  # below the guard that `defend` puts around every defence
    while isinstance(layer, DefendedModel):
        for hook in _SAMPLING_HOOKS:
            if getattr(type(layer), hook) is not getattr(DefendedModel, hook):
                raise NotConformant(f"{defence.name}: its level is output, and it changes {hook}")
        layer = layer.inside


def check_hidden(defence: Defence, model: Model, training: Tensor, sampling: Sampling) -> None:
    """No public attribute of what an attack is given leads to the training images."""
    view = view_for("white box", AuditedModel(model, sampling.sampler, sampling.micro_batch))
    forms = [training.flatten(1), model.encode(training).flatten(1).cpu()]
    for thing in _public([view, model]):
        if isinstance(thing, Tensor) and thing.numel() == training.numel():
            flat = thing.detach().reshape(len(training), -1).float().cpu()
            if any(torch.allclose(flat, form) for form in forms):
                raise NotConformant(f"{defence.name}: an attack can read the training images from the model")


def check_cost(defence: Defence, probe: Attack, model: Model, sampling: Sampling) -> None:
    """The model reports no less work than the operations that torch counts."""
    candidates = Candidates(0, range(sampling.micro_batch))
    with OperationCount() as counter:
        spent = make_candidates(probe, model, AttackState(), candidates, sampling)[3]
    reported = sum(spent["nfe"].values()) * model.flops_per_sample() + sum(spent["flops"].values())
    if counter.total > (1 + COST_TOLERANCE) * reported:
        raise NotConformant(
            f"{defence.name}: reports {reported:.3g} operations where torch counts {counter.total:.3g}; "
            "add what the hooks cost to flops_per_step(), or to flops_per_start() for what comes before the first step"
        )


class _Plain(Attack):
    """Plain sampling, so that a check needs no other package."""

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "plain sampling"
    paper: ClassVar[str] = "none"
    access: ClassVar[Access] = "samples"

    def generate(self, model: BlackBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample one image per candidate."""
        return Generated(model.sample(candidates))


class _Prompted(_Plain):
    """Guided samples of prompts, so that the hooks of text models are called."""

    access: ClassVar[Access] = "prompts"

    def generate(self, model: BlackBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Sample one image per candidate, candidate i from prompt i, over again where they run out."""
        assert isinstance(model, PromptedModel)
        prompts = [PROMPTS[number % len(PROMPTS)] for number in candidates.numbers]
        return Generated(model.sample_prompts(candidates, prompts, guidance_scale=2.0))


def _public(roots: list[object]) -> Iterator[object]:
    """Yield everything that public attributes lead to from `roots`, containers included."""
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, dict):
            pending += thing.values()
        elif isinstance(thing, list | tuple | set | frozenset):
            pending += thing
        elif not isinstance(thing, Tensor):
            pending += [value for key, value in getattr(thing, "__dict__", {}).items() if not key.startswith("_")]
