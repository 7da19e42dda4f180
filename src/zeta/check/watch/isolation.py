"""Restore a model after it was run: bit by bit, even if something raises in the middle."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.distributed import local
from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import modules_of, tensors_of
from zeta.base.tensors import attributes
from zeta.check.watch.fsdp import undisturbed

_SEED: Final = 0
# a module's own dictionaries, which forward may change in place
_TABLES: Final = (
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"),
    *("_backward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_non_persistent_buffers_set"),
)
# the attributes of a tensor with its hooks
_HOOKS: Final = ("_backward_hooks", "_post_accumulate_grad_hooks")
_CONTAINERS: Final = (list, set, dict, deque, OrderedDict, defaultdict, Counter)
# types that are not searched for generators and containers: a vocabulary may have hundreds of thousands of them
_PLAIN: Final = (str, int, float, bytes, type(None), Tensor)
# levels of nested containers that are saved
_DEPTH: Final = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedTensor:
    tensor: Tensor
    memory: Tensor | None  #: the same memory, with the original shape and dtype; None for shards
    values: Tensor
    grad: Tensor | None
    grad_values: Tensor | None
    requires_grad: bool
    leaf: bool
    hooks: tuple[tuple[str, Any, dict[Any, Any]], ...]  #: attribute, its original object, and that object's content

    def restore(self) -> None:
        if self.leaf and not self.tensor.is_leaf:
            self.tensor.detach_()  # a tensor with a graph was written into it
        if self.memory is not None and not _same_memory(self.tensor, self.memory):
            self.tensor.data = self.memory
        if self.tensor.is_leaf and self.tensor.requires_grad is not self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        _write_back(self.tensor, self.values)
        if self.grad is not None and self.grad_values is not None:
            _write_back(self.grad, self.grad_values)
        if self.tensor.is_leaf and self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad
        for name, table, entries in self.hooks:
            if table is not None and dict(table) != entries:
                table.clear()
                table.update(entries)
            if getattr(self.tensor, name) is not table:
                setattr(self.tensor, name, table)


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedModule:
    module: nn.Module
    attributes: dict[str, Any]
    tables: dict[str, Any]

    def restore(self) -> None:
        current = vars(self.module)
        for name in current.keys() - self.attributes.keys():
            del current[name]
        for name, value in self.attributes.items():
            if name not in current or current[name] is not value:
                current[name] = value
        for name, entries in self.tables.items():
            table = current[name]
            if list(table) != list(entries) or (isinstance(entries, dict) and not _same_entries(table, entries)):
                table.clear()
                table.update(entries)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` after the block, whatever the block does to it.

    This covers values, dtypes, gradients, ``requires_grad``, train and eval mode, hooks and plain attributes of every
    module, the contents of their lists, sets and dictionaries, and the states of generators that a module has. Inside,
    gradients are on, and random numbers come from private generators, torch's with a fixed seed; the shared generators
    of torch, Python and NumPy do not move. A tensor that did not change is not written.
    """
    modules = [
        _SavedModule(
            module=module,
            attributes=dict(vars(module)),
            tables={name: vars(module)[name].copy() for name in _TABLES if name in vars(module)},
        )
        for module in modules_of(model)
    ]
    tensors = [_saved(tensor) for tensor in _tensors(model)]
    held = list(_held(model))
    try:
        with undisturbed(model), apart(_SEED), foreign_apart(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in modules:
            module.restore()
        for restore in held:
            restore()
        with torch.no_grad():
            for tensor in tensors:
                tensor.restore()


def _saved(tensor: Tensor) -> _SavedTensor:
    grad = tensor.grad if tensor.is_leaf else None
    hooks = ((name, getattr(tensor, name, None)) for name in _HOOKS)
    return _SavedTensor(
        tensor=tensor,
        memory=tensor.data if type(tensor) in (Tensor, nn.Parameter) else None,
        values=tensor.detach().clone(),
        grad=grad,
        grad_values=None if grad is None else grad.detach().clone(),
        requires_grad=tensor.requires_grad,
        leaf=tensor.is_leaf,
        hooks=tuple((name, table, dict(table or {})) for name, table in hooks) if tensor.is_leaf else (),
    )


def _same_memory(tensor: Tensor, memory: Tensor) -> bool:
    return (
        tensor.dtype is memory.dtype
        and tensor.shape == memory.shape
        and tensor.layout is memory.layout
        and (tensor.layout is not torch.strided or tensor.stride() == memory.stride())
        and (tensor.layout is not torch.strided or tensor.data_ptr() == memory.data_ptr())
    )


def _held(model: nn.Module) -> Iterator[Callable[[], object]]:
    """Functions that restore each list, set, dictionary and generator among the modules' attributes."""
    for module in modules_of(model):
        for name, value in vars(module).items():
            if name not in _TABLES:
                yield from _contents(value, _DEPTH)


def _contents(value: Any, depth: int) -> Iterator[Callable[[], object]]:
    if isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif _is(value, "random", "Random"):
        drawn = value.getstate()
        yield lambda: value.setstate(drawn)
    elif _is(value, "numpy.random", "Generator"):
        bits = value.bit_generator
        counted = copy.deepcopy(bits.state)
        yield lambda: setattr(bits, "state", counted)
    elif depth and type(value) in (tuple, *_CONTAINERS):
        if not isinstance(value, tuple):
            yield _refilled(value)
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            if not isinstance(item, _PLAIN):
                yield from _contents(item, depth - 1)


def _is(value: Any, module: str, kind: str) -> bool:
    """Whether it is an instance of a class whose module may not have been imported."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)


def _refilled(value: Any) -> Callable[[], object]:
    entries = value.copy()

    def restore() -> None:
        if len(value) == len(entries) and all(a is b for a, b in zip(_flat(value), _flat(entries), strict=True)):
            return
        value.clear()
        (value.extend if isinstance(value, list | deque) else value.update)(entries)

    return restore


def _flat(value: Any) -> list[Any]:
    return [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Every tensor of the model that has values, once."""
    found = [*tensors_of(model), *(tensor for _, tensor in attributes(model))]
    unique = {id(tensor): tensor for tensor in found}
    return [tensor for tensor in unique.values() if not nn.parameter.is_lazy(tensor) and not tensor.is_meta]


def _write_back(tensor: Tensor, values: Tensor) -> None:
    if not same_bits(tensor, values):
        tensor.detach().copy_(values)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same bits, NaN and signed zeros included."""
    if first.shape != second.shape or first.dtype is not second.dtype or first.device != second.device:
        return False
    return torch.equal(_bits(first), _bits(second))


def _bits(tensor: Tensor) -> Tensor:
    tensor = local(tensor.detach())
    return dtypes.bits(tensor) if tensor.layout is torch.strided else tensor


def _same_entries(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    return all(first[key] is value for key, value in second.items())
