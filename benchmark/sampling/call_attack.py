"""Call an attack, count what it costs, and check what it returned."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..candidates import Candidates
from ..contracts import Attack, AttackState, Budget, Checkpoints, Generated
from ..errors import AttackFailed
from ..protocol import Sampling
from .sampler import quantise
from .views import AuditedModel, Shown, in_order_of, order_of, view_for

if TYPE_CHECKING:
    from ..contracts import Model

_SLACK = 1e-3
"""How far outside [0, 1] an attack's images may lie from rounding."""


class Prepared(NamedTuple):
    """What `prepare` made, and what it took."""

    state: AttackState
    cost: dict[str, Any]
    counted: bool
    """Whether it read the number of candidates, so that the state is of that number alone."""


class Made(NamedTuple):
    """Candidates as an attack made them."""

    images: torch.Tensor
    """uint8, N x C x H x W."""
    nan: torch.Tensor
    """(N,) bool: a value was not finite."""
    columns: dict[str, torch.Tensor]
    """What the attack says of each candidate."""
    cost: dict[str, Any]
    captions: torch.Tensor | None = None
    """(N,) int64, the number of the caption that each is sampled from, -1 for none; None where none were given."""


class _WatchedBudget(Budget):
    """A budget that notes whether the number of candidates was read."""

    was_read = False

    def __getattribute__(self, name: str) -> Any:
        if name == "candidates":
            object.__setattr__(self, "was_read", True)
        return super().__getattribute__(name)


def prepare_attack(
    attack: Attack, model: "Model", sampling: Sampling, budget: Budget, kept: Checkpoints | None = None
) -> Prepared:
    """Call an attack's `prepare` and return its state, with its logical cost by phase and the samples it asked for.

    `kept` is where plain samples are shared between attacks and with a resumed run.

    Raises:
        AttackFailed: the attack returned something that its contract does not allow.
    """
    audited = AuditedModel(model, sampling.sampler, sampling.micro_batch, kept=kept, progress=budget.progress)
    watched = _WatchedBudget(budget.seed, budget.candidates, budget.checkpoints, budget.progress)
    with audited.ledger.during("prepare"):
        state = attack.prepare(view_of(attack, audited, model, budget.seed), watched)
    if not isinstance(state, AttackState):
        raise AttackFailed(f"{attack.name}: prepare returned a {type(state).__name__}, not an AttackState")
    cost = {**audited.ledger.as_dict(), "samples": audited.kept_keys}
    return Prepared(state, cost, counted=watched.was_read)


def make_candidates(
    attack: Attack, model: "Model", state: AttackState, candidates: Candidates, sampling: Sampling
) -> Made:
    """Generate candidates and check what the attack returned.

    Raises:
        AttackFailed: the attack returned something that its contract does not allow.
    """
    audited = AuditedModel(model, sampling.sampler, sampling.micro_batch)
    with audited.ledger.during("generate"):
        made = attack.generate(view_of(attack, audited, model, candidates.seed), state, candidates)
    _check_generated(attack.name, made, len(candidates), model.image_shape)
    columns = {name: torch.as_tensor(values) for name, values in made.columns.items()}
    nan = ~torch.isfinite(made.images.flatten(1)).all(1)
    images = made.images.cpu().clone()
    # Not of an attack that is given none: whether others of the run are must not show in its files.
    sent = audited.captions_of(candidates, attack.replayed())
    images[nan.cpu()] = 0
    return Made(quantise(images), nan.cpu(), columns, audited.ledger.as_dict(), sent)


def view_of(attack: Attack, audited: AuditedModel, model: "Model", seed: int) -> Any:
    """Return what an attack may see of a model, captions in the order that the run's seed draws."""
    known = {"none": (), "captions": model.prompts, "canaries": model.planted}[attack.replayed()]
    # Not of an oracle that replays nothing, or canaries, beside one that replays captions.
    images = model.shown if attack.is_shown() else None
    shown = None if images is None else Shown(images, order_of(seed, len(known)))
    return view_for(attack.access, audited, in_order_of(seed, known), model.labelled, shown)


def _check_generated(name: str, made: Any, count: int, shape: tuple[int, int, int]) -> None:
    if not isinstance(made, Generated) or not isinstance(made.images, torch.Tensor):
        raise AttackFailed(f"{name}: generate must return Generated(images, columns)")
    if tuple(made.images.shape) != (count, *shape) or not made.images.is_floating_point():
        raise AttackFailed(
            f"{name}: generate returned {made.images.dtype} of shape {tuple(made.images.shape)}, "
            f"wanted float of shape {(count, *shape)}"
        )
    finite = made.images[torch.isfinite(made.images)]
    if finite.numel() and (finite.min() < -_SLACK or finite.max() > 1 + _SLACK):
        raise AttackFailed(f"{name}: images lie in [{finite.min():.3g}, {finite.max():.3g}], wanted [0, 1]")
    for column, values in made.columns.items():
        if len(values) != count:
            raise AttackFailed(f"{name}: column {column!r} has {len(values)} values for {count} images")
