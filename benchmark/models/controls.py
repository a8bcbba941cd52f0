"""Controls with known truth: closed-form models made of a pair's own images.

    control:copycat      every sample is a training image, by the exact denoiser of X through the sampler
    control:heldout      replays the pool F, images of neither side: its excess must be 0
    control:mixture:P    a coin drawn exactly by seed per candidate: from X with probability P, else from F
    control:density:P    the same mixture as a density through the sampler, which shows the sampler's own bias

The truth of mixture:P is P + (1 - P) b_X, with b_X the share of F that lies in the band of some training image.
"""

from pathlib import Path

import torch

from ..contracts import ModelSpec
from ..data.pair import Pair
from ..data.references import load_references
from ..errors import BadInput, TooFew, UnknownName
from .analytic import MixtureModel

NAMES = ("copycat", "heldout", "mixture:P", "density:P")


def make_control(name: str, pair: Pair, folder: Path) -> ModelSpec:
    """Build a control of this pair, store it in `folder` and return its specification.

    Raises:
        UnknownName: there is no such control.
        BadInput: P is not a probability.
        TooFew: the pair has no pool.
    """
    kind, _, share = name.removeprefix("control:").partition(":")
    if kind not in ("copycat", "heldout", "mixture", "density") or (bool(share) != (kind in ("mixture", "density"))):
        raise UnknownName("control", name, [f"control:{known}" for known in NAMES])
    model = _build(kind, _probability(name, share), pair)
    return model.save(folder / f"{pair.name}-{kind}{'-' + share if share else ''}.safetensors")


def _probability(name: str, share: str) -> float:
    try:
        value = float(share or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadInput(f"{name}: {share!r} is not a probability between 0 and 1")
    return value


def _build(kind: str, share: float, pair: Pair) -> MixtureModel:
    references = load_references(pair)
    training, pool = references.training.floats() * 2 - 1, references.pool.floats() * 2 - 1
    if kind == "copycat":
        return MixtureModel(training, std=0.0)
    if not len(pool):
        raise TooFew(f"pair {pair.name} has no pool, so control:{kind} has nothing to replay")
    if kind == "heldout":
        return MixtureModel(pool, std=0.0, exact=True)
    weights = torch.cat(
        [torch.full((len(training),), share / len(training)), torch.full((len(pool),), (1 - share) / len(pool))]
    )
    return MixtureModel(torch.cat([training, pool]), std=0.0, weights=weights, exact=kind == "mixture")
