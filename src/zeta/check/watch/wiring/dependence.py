"""Follow which parameters each tensor depends on, also past operations that cut the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from zeta.check.facts.wiring import Break
from zeta.check.watch.batches import tensors_in
from zeta.check.watch.calls import EXITS, in_gradless_checkpoint, is_detach

_SPELLED: Final = {
    "__gt__": ">",
    "__ge__": ">=",
    "__lt__": "<",
    "__le__": "<=",
    "__eq__": "==",
    "__ne__": "!=",
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    **{name: f"{name}()" for name in ("argmax", "argmin", "argsort", "long", "int", "bool", "to", "type")},
    "__get__": ".data",
    "tensor": "torch.tensor()",
}
#: functions whose derivative is zero wherever there is one
_FLAT: Final = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside")

#: the name of a parameter, and where it was cut off, if it was
Source = tuple[str, Break | None]


class Places:
    """The canonical name of the module whose forward runs, by hooks."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._stack: list[str] = []

    @property
    def here(self) -> str | None:
        """The innermost module; ``None`` outside of all of them, in the loss."""
        return self._stack[-1] if self._stack else None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the forward passes of the block."""
        handles: list[Any] = []
        try:
            for name, module in self._modules.items():
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)))
                handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._stack.pop()


class Dependence(TorchFunctionMode):
    """A mode that keeps, for each tensor, the parameters that it depends on and the operation that cut each off.

    Args:
        names: the parameters to follow, by ``id``.
        places: where the model is.
    """

    def __init__(self, names: Mapping[int, str], places: Places) -> None:
        super().__init__()
        self.exits: dict[str, Break] = {}  #: the last hand-over of a parameter's values to Python
        self._names = names
        self._places = places
        self._known: Any = WeakTensorKeyDictionary()

    def sources(self, tensor: Tensor) -> frozenset[Source]:
        """What a tensor depends on."""
        own = self._names.get(id(tensor))
        known: frozenset[Source] = self._known.get(tensor, frozenset())
        return known if own is None else known | {(own, None)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        given = [tensor for _, tensor in tensors_in((args, kwargs or {}))]
        result = func(*args, **(kwargs or {}))
        sources = frozenset[Source]().union(*(self.sources(tensor) for tensor in given))
        if sources:
            if name in EXITS:
                self._leave(sources, EXITS[name])
            changed = args[:1] if name == "__setitem__" or (name.endswith("_") and name[:2] != "__") else ()
            for _, tensor in tensors_in((result, changed)):
                kept = tensor.requires_grad and name.strip("_") not in _FLAT
                self._known[tensor] = self.sources(tensor) | (sources if kept else self._cut(sources, name, func))
        return result

    def _leave(self, sources: frozenset[Source], operation: str) -> None:
        for parameter, cut in sources:
            self.exits[parameter] = (
                cut if cut is not None and not cut.explicit else self._break(operation, explicit=False)
            )

    def _cut(self, sources: frozenset[Source], name: str, func: Any) -> frozenset[Source]:
        if in_gradless_checkpoint():
            here = self._break("a reentrant checkpoint whose inputs need no gradient", explicit=False)
        elif not torch.is_grad_enabled():
            here = self._break("torch.no_grad()", explicit=True)
        elif is_detach(name, func):
            here = self._break(".data" if name == "__get__" else "detach()", explicit=True)
        else:
            here = self._break(_SPELLED.get(name) or f"{name.strip('_')}()", explicit=False)
        return frozenset((parameter, here if cut is None else cut) for parameter, cut in sources)

    def _break(self, operation: str, *, explicit: bool) -> Break:
        here = self._places.here
        module = "the loss" if here is None else here or "the model"
        return Break(operation=operation, module=module, explicit=explicit)
