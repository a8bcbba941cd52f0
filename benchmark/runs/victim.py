"""The model under attack, with its defences and with what an attack may know of the data."""

from typing import TYPE_CHECKING

from ..errors import BadInput, TooFew
from ..sampling.defended import defend
from .plan import RunPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ..contracts import Model
    from ..data.references import References
    from ..measures.output_path import OutputPath


def load_victim(plan: RunPlan) -> "Model":
    """Load the plan's model and put its defences around it.

    Raises:
        BadInput: a defence does not fit the model.
    """
    from ..models import load_model

    model: Model = load_model(plan.attacked())
    model.prompts = fitting(model, captions(plan), plan.pair.name)
    model.planted = fitting(model, planted(plan), plan.pair.name)
    defended = defend(model, plan.defences, plan.protocol.sampler.name, lambda: _training_images(plan))
    # On the outside: a defence passes on what an attack may see, and this an oracle alone may.
    oracles = [unit.attack for unit in plan.units if unit.attack.access == "oracle"]
    if any(not attack.is_shown() for attack in oracles):
        defended.labelled = _labelled(plan)
    if any(attack.is_shown() for attack in oracles):
        defended.shown = _images_of(plan, model.prompts)
    return defended


def load_tuned(plan: RunPlan) -> "Model":
    """Load the model that `tune` attacks, with its defences; a tuning block's images are those that a defender has.

    Raises:
        BadInput: a defence does not fit the model.
    """
    from ..data.references import load_references
    from ..models import load_model

    def training() -> "Tensor":
        return load_references(plan.pair, tuning=plan.pair.data.tuning_block is not None).training.floats()

    return defend(load_model(plan.model), plan.defences, plan.protocol.sampler.name, training)


def _images_of(plan: RunPlan, prompts: "Sequence[str]") -> "Tensor":
    """Load an image of each caption, the first one that has it, uint8 N x C x H x W."""
    import numpy as np
    import torch

    from ..data.references import load_references

    references = load_references(plan.pair)
    found: dict[str, np.ndarray] = {}
    for part in (references.training, references.held_out):
        for place, text in enumerate(part.captions or ()):
            found.setdefault(text, part.images[place])
    return torch.from_numpy(np.stack([found[text] for text in prompts]))


def output_path(
    plan: RunPlan, references: "References", load: "Callable[[], Model] | None" = None
) -> "OutputPath | None":
    """Return what images of the plan's model go through at the end; None where that leaves them as they are.

    `load` returns the model where it is in memory already; defences inside the sampling loop do not matter.
    """
    from .. import environment
    from ..data.fits import Fits
    from ..measures.output_path import OutputPath
    from ..models import WITH_AUTOENCODER, load_model
    from ..registry import code_of

    around = [defence for defence in plan.defences if defence.level == "output"]
    autoencoder = plan.model.family in WITH_AUTOENCODER
    if not around and not autoencoder:
        return None

    def loaded() -> "Model":
        return defend(load_model(plan.model), around, plan.protocol.sampler.name, lambda: _training_images(plan))

    content = {
        "model": plan.model.content(),
        "dtype": plan.model.dtype,
        "device": environment.pick_device(plan.model.device).type,
        "defences": {d.name: [d.settings.model_dump(mode="json"), code_of(type(d))] for d in around},
    }
    names = [defence.name for defence in around]
    return OutputPath(load or loaded, content, autoencoder=autoencoder, defences=names, fits=Fits(references.content()))


def captions(plan: RunPlan) -> list[str]:
    """Load what an attack with access "prompts" knows, where one runs: the captions of both sides, sorted.

    Nothing of the images, nor of which side a caption is of.

    Raises:
        TooFew: every caption is of both sides.
    """
    from ..data.captions import captions_of
    from ..data.references import load_references

    who = [unit.attack.name for unit in plan.units if unit.attack.replayed() == "captions"]
    if not who:
        return []
    found = captions_of(load_references(plan.pair))
    if found is None or not found.texts:
        raise TooFew(f"{who[0]} has nothing to replay: pair {plan.pair.name} has no caption of one side alone")
    return found.texts


def planted(plan: RunPlan) -> list[str]:
    """Load what an attack that replays canaries is given, where one runs: planted strings and others, sorted.

    Raises:
        TooFew: the run has fewer candidates than such an attack has strings to send.
    """
    from .canaries import canaries_of

    attacks = [unit.attack for unit in plan.units if unit.attack.replayed() == "canaries"]
    if not attacks:
        return []
    texts = canaries_of(plan.pair, plan.image_size).texts
    for attack in attacks:
        each = rated.images if (rated := attack.caption_filter()) is not None else 1
        if plan.candidates < each * len(texts):
            raise TooFew(
                f"{plan.candidates:,} candidates are too few for {attack.name}: it sends {len(texts):,} strings, "
                f"{each} each; give --candidates {each * len(texts)}"
            )
    return texts


def fitting(model: "Model", prompts: list[str], pair: str) -> list[str]:
    """Return the prompts.

    Raises:
        BadInput: the model would cut some of them, so that their ends say nothing to it.
    """
    if cut := model.too_long(prompts):
        shown = max(cut, key=len)
        raise BadInput(
            f"pair {pair}: {len(cut)} of {len(prompts)} captions are longer than the text encoder takes, "
            f"{shown[:60]!r}{'...' if len(shown) > 60 else ''} for one; shorten them, or leave these images out"
        )
    return prompts


def _labelled(plan: RunPlan) -> "tuple[Tensor, Tensor] | None":
    """Load the training images with their classes, which only an oracle has; None where the pair has no classes."""
    import torch

    from ..data.references import load_references

    training = load_references(plan.pair).training
    if training.labels is None:
        return None
    return training.floats(), torch.from_numpy(training.labels).long()


def _training_images(plan: RunPlan) -> "Tensor":
    """Load what a defender has; attacks see the defended model only."""
    from ..data.references import load_references

    return load_references(plan.pair).training.floats()
