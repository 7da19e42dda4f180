"""A model that is looked at stays as it is: bit by bit, also when something raises in the middle."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta import dtypes
from zeta.names import is_fsdp
from zeta.recording import attributes
from zeta.shards import local

_SEED: Final = 0
# what a module keeps in dictionaries of its own, which a forward may change in place
_TABLES: Final = (
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"),
    *("_backward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_non_persistent_buffers_set"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedTensor:
    tensor: Tensor
    values: Tensor
    grad: Tensor | None
    grad_values: Tensor | None
    requires_grad: bool
    leaf: bool

    def restore(self) -> None:
        if self.leaf and not self.tensor.is_leaf:
            self.tensor.detach_()  # something with a graph was written into it
        if self.tensor.is_leaf and self.tensor.requires_grad is not self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        _write_back(self.tensor, self.values)
        if self.grad is not None and self.grad_values is not None:
            _write_back(self.grad, self.grad_values)
        if self.tensor.is_leaf and self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad


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
    """Whatever the block does to ``model``, afterwards everything is as before.

    Values, gradients, ``requires_grad``, train and eval mode, hooks and plain attributes of every module, and the
    random states of torch, Python and NumPy. Inside, torch's generators start from one seed, and gradients are on. A
    tensor that did not change is not written to.
    """
    modules = [
        _SavedModule(
            module=module,
            attributes=dict(vars(module)),
            tables={name: vars(module)[name].copy() for name in _TABLES if name in vars(module)},
        )
        for module in model.modules()
    ]
    tensors = [_saved(tensor) for tensor in _tensors(model)]
    try:
        with _generators(tensors), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        _reshard(model)
        for module in modules:
            module.restore()
        with torch.no_grad():
            for tensor in tensors:
                tensor.restore()


def _saved(tensor: Tensor) -> _SavedTensor:
    grad = tensor.grad if tensor.is_leaf else None
    return _SavedTensor(
        tensor=tensor,
        values=tensor.detach().clone(),
        grad=grad,
        grad_values=None if grad is None else grad.detach().clone(),
        requires_grad=tensor.requires_grad,
        leaf=tensor.is_leaf,
    )


def _tensors(model: nn.Module) -> list[Tensor]:
    """Every tensor with values that the model holds, once."""
    found = [*model.parameters(), *model.buffers(), *(tensor for _, tensor in attributes(model))]
    unique = {id(tensor): tensor for tensor in found}
    return [tensor for tensor in unique.values() if not nn.parameter.is_lazy(tensor) and not tensor.is_meta]


def _write_back(tensor: Tensor, values: Tensor) -> None:
    if not same_bits(tensor, values):
        tensor.detach().copy_(values)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same bits, NaN and signed zeros included."""
    if first.shape != second.shape or first.dtype is not second.dtype or first.device != second.device:
        return False
    return torch.equal(_bits(first), _bits(second))


def _bits(tensor: Tensor) -> Tensor:
    tensor = local(tensor.detach())
    return dtypes.bits(tensor) if tensor.layout is torch.strided else tensor


def _same_entries(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    return all(first[key] is value for key, value in second.items())


def _reshard(model: nn.Module) -> None:
    """FSDP2 keeps the root gathered after a forward pass that no backward pass followed."""
    for module in model.modules():
        if is_fsdp(module):
            module.reshard()


@contextlib.contextmanager
def _generators(tensors: list[_SavedTensor]) -> Iterator[None]:
    """Every generator's state is given back; torch's start from one seed, so that a check repeats itself."""
    python, numpy = sys.modules.get("random"), sys.modules.get("numpy")
    states = python.getstate() if python else None, numpy.random.get_state() if numpy else None
    devices = sorted({saved.tensor.device.index or 0 for saved in tensors if saved.tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_SEED)
            yield
    finally:
        if python:
            python.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
