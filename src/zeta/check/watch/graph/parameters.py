"""How the calls of a forward pass use the parameters: with or without a graph, whole or in part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from zeta.check.watch.graph.nodes import leaf_of
from zeta.check.watch.streaming.source import DEVICE

#: calls whose result has some of the elements of their tensor
_PICKS: Final = frozenset(
    (
        *("__getitem__", "select", "narrow", "index_select", "gather", "take", "take_along_dim", "embedding"),
        *("split", "chunk", "unbind", "split_with_sizes", "tensor_split", "slice"),
    )
)
#: calls whose result has all of them, in another shape or dtype
_VIEWS: Final = frozenset(
    (
        *("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "t", "transpose", "permute"),
        *("movedim", "swapaxes", "swapdims", "expand", "expand_as", "contiguous", "clone", "to", "type", "type_as"),
        *("float", "half", "bfloat16", "double", "detach", "detach_", "requires_grad_", "__iter__"),
    )
)


class ParameterUses:
    """The uses of parameters, as :meth:`take` sees them.

    Args:
        names: canonical names by ``id``; read at each call, because FSDP2 adds some.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._attached: dict[str, bool] = {}
        self._whole: set[int] = set()
        self._picked: dict[int, list[Callable[[], list[Tensor]]]] = {}

    @property
    def attached(self) -> Mapping[str, bool]:
        """For each parameter that a call took: whether the result of any of these calls had a graph."""
        return self._attached

    def take(self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Look at one call of torch."""
        if name == "__get__" or not (isinstance(result, Tensor | tuple | list)):
            return
        for item in _flat(args, kwargs):
            known = self._names.get(id(item))
            if known is not None:
                first = result if isinstance(result, Tensor) else next(_tensors(result), None)
                if first is not None:
                    self._attached[known] = self._attached.get(known, False) or first.requires_grad
                if name not in _PICKS and name not in _VIEWS:
                    self._whole.add(id(item))
        if name in _PICKS and args:
            self._pick(name, func, args, kwargs)

    def _pick(self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        at = 1 if name == "embedding" else 0
        if len(args) <= at or not isinstance(args[at], Tensor):
            return
        source = args[at]
        base = source if id(source) in self._names else source._base
        if base is None and source.grad_fn is not None:
            base = leaf_of(source.grad_fn)
        if base is None or id(base) not in self._names:
            return
        shape, stride = tuple(source.shape), source.stride()
        offset = source.storage_offset() - base.storage_offset() if source._is_view() else None
        before, after = args[:at], args[at + 1 :]

        def places() -> list[Tensor]:
            """The numbers of the picked elements: the same call, on the numbers of all."""
            numbers = _numbered(base)
            if offset is not None:
                numbers = numbers.as_strided(shape, stride, offset)
            elif numbers.shape != shape:  # a copy: in order, as its elements are
                numbers = numbers.reshape(shape)
            picked = func(*before, numbers, *after, **kwargs)
            return [picked] if isinstance(picked, Tensor) else list(_tensors(picked))

        self._picked.setdefault(id(base), []).append(places)

    def reached(self, parameter: Tensor) -> Tensor | None:
        """Which elements some call took; ``None`` if one took all, or if it is not known."""
        picks = self._picked.get(id(parameter))
        if picks is None or id(parameter) in self._whole:
            return None
        reached = torch.zeros(parameter.numel(), dtype=torch.bool, device=_place(parameter))
        for places in picks:
            for picked in places():
                reached[picked.flatten()] = True
        return reached.view(parameter.shape)


def _numbered(tensor: Tensor) -> Tensor:
    """The number of each element, in memory that is laid out as that of ``tensor``."""
    numbers = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.int64, device=_place(tensor))
    return numbers.copy_(torch.arange(tensor.numel(), device=_place(tensor)).view(tensor.shape))


def _place(tensor: Tensor) -> torch.device:
    """The device of a parameter's values."""
    return DEVICE if tensor.is_meta else tensor.device


def _flat(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for item in (*args, *kwargs.values()):
        if type(item) in (list, tuple):
            yield from item
        else:
            yield item


def _tensors(items: Any) -> Iterator[Tensor]:
    return (item for item in items if isinstance(item, Tensor))
