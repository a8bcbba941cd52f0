"""Count floating-point operations as they are dispatched, forward and backward.

torch's own FlopCounterMode follows modules with hooks that refuse `torch.autograd.grad` on a leaf, which
is what guidance does; its table of formulas is used without the hooks.
"""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCount(TorchDispatchMode):
    """A context manager; `total` is the number of operations of products and convolutions inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
        return result
