"""Restore a live model after a function was recorded on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeta.base.modules import tensors_of
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.tensors import SavedAttributes
from zeta.errors import RecordingError, listed
from zeta.resolve.recording.holding import TABLES, Restore, held_tensors, modules_held, restorers, things_in


@dataclass(frozen=True, kw_only=True, eq=False)
class _Saved:
    """A module's class, its dictionary, and functions that restore what is in it."""

    module: nn.Module
    kind: type[nn.Module]
    table: dict[str, Any]
    restorers: list[Restore]

    def restore(self) -> None:
        """Give the module what it had."""
        for restore in self.restorers:
            restore()
        table = vars(self.module)
        table.clear()
        table.update(self.table)
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind

    def restore_properties(self) -> None:
        """Give the class of a parametrized module its properties again, which a removal takes away."""
        if parametrize.is_parametrized(self.module):
            for name, _ in self.module.get_submodule("parametrizations").named_children():
                if name not in vars(self.kind):
                    parametrize._inject_property(self.module, name)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore afterwards what each module holds, and the attributes and hooks of its tensors; check plain tensors.

    Raises ``RecordingError`` for real tensors outside of parameters and buffers to which the block writes: they get
    their values back.
    """
    saved = [_saved(name, module) for name, module in modules_held(model).items()]
    tensors = {id(tensor): tensor for tensor in tensors_of(model)}
    own = [SavedAttributes(tensor) for tensor in tensors.values()]
    plain = [
        (place, tensor) for place, tensor in held_tensors(model) if id(tensor) not in tensors and _is_plain(tensor)
    ]
    before = [_memory_of(tensor).clone() for _, tensor in plain]
    written: list[str] = []

    def restore() -> None:
        for one in saved:
            one.restore()
        for one in saved:
            one.restore_properties()
        for kept in own:
            kept.restore()
        for (place, tensor), memory in zip(plain, before, strict=True):
            if not torch.equal(_memory_of(tensor), memory):
                _memory_of(tensor).copy_(memory)
                written.append(f"{place} {tuple(tensor.shape)}")

    with undone_on_error(restore), undone(restore):
        yield
    if written:
        raise RecordingError(
            listed(
                "the function writes to these, which are neither parameters nor buffers, so that no plan could give "
                "them values; register_buffer makes them buffers:",
                written,
            )
        )


def _saved(name: str, module: nn.Module) -> _Saved:
    tables = [table for key, table in vars(module).items() if key in TABLES]
    held = (value for _, value in things_in(name, module))
    return _Saved(
        module=module,
        kind=type(module),
        table=dict(vars(module)),
        restorers=[restore for value in (*tables, *held) for restore in restorers(value)],
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        not tensor.is_meta
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and type(tensor) in (Tensor, nn.Parameter)
    )


def _memory_of(tensor: Tensor) -> Tensor:
    """The whole memory that a tensor looks into, as bytes."""
    with torch.no_grad():
        return torch.empty(0, dtype=torch.uint8, device="cpu").set_(tensor.untyped_storage())
