"""Count floating-point operations as they are dispatched, forward and backward.

torch's own FlopCounterMode follows modules with hooks that refuse `torch.autograd.grad` on a leaf, which
is what guidance does; its table of formulas is used without the hooks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from ..contracts import Model

_LIKE = {
    "_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_attention_math_for_mps": "_scaled_dot_product_flash_attention",
}
"""Attention that torch's table lacks, and what there is counted alike: what an attack costs must not depend on the
device. Forward calls begin with query, key and value; backward ones with the gradient before these."""


def _formulas() -> dict[Any, Any]:
    aten = torch.ops.aten
    more = {getattr(aten, name): flop_registry[getattr(aten, like)] for name, like in _LIKE.items()}
    return {**flop_registry, **more}


_wanted_share: ContextVar[float] = ContextVar("wanted_share", default=1.0)


@contextmanager
def only_share(share: float) -> Iterator[None]:
    """Let this share of the operations inside count: other rows only fill a batch up, and are nobody's cost."""
    token = _wanted_share.set(share)
    try:
        yield
    finally:
        _wanted_share.reset(token)


class OperationCount(TorchDispatchMode):
    """A context manager; `total` is the number of operations of products and convolutions inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0
        self._formulas = _formulas()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result)) * _wanted_share.get()
        return result


def of_one_call(model: "Model") -> int:
    """Return the operations of one call of a model's denoiser on one sample, of class 0 or the empty prompt."""
    x = torch.zeros(1, *model.sample_shape, device=model.device)
    t = torch.zeros(1, dtype=torch.long, device=model.device)
    # The prompt is embedded before counting begins: the number is the denoiser's alone.
    condition = model.embed([""]) if model.conditioning == "text" else t if model.conditioning == "class" else None
    with torch.no_grad():
        # What a model computes at its first call and keeps is no part of the others: text models encode no prompt.
        model.predict(x, t, condition)
        with OperationCount() as counter:
            model.predict(x, t, condition)
    return int(counter.total)
