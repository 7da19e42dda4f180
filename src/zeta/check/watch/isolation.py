"""Restore a model after it was run: bit by bit, even if something raises in the middle."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zeta.base.generators import apart, foreign_apart
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import Modes
from zeta.base.tensors import SavedAttributes, content_of, inside, refill, storage_of, swap
from zeta.check.watch.fsdp import undisturbed
from zeta.check.watch.memory import parts, saved
from zeta.errors import TargetError, listed
from zeta.resolve.recording.holding import TABLES, Restore, modules_held, restorers, tensors_held, things_in

_SEED: Final = 0
# how often a step is begun that is interrupted: after that, it is the step itself that raises
_TRIES: Final = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedTensor:
    tensor: Tensor
    memory: Tensor | None  #: the same memory, with the original shape and dtype; None for a tensor that wraps others
    twin: Tensor | None  #: for a view, another view of the same tensor
    parts: tuple[Tensor, ...]  #: of a tensor that wraps others: these
    grad: Tensor | None
    requires_grad: bool
    leaf: bool
    attributes: SavedAttributes

    def restore(self) -> None:
        if self.leaf and not self.tensor.is_leaf:  # a tensor with a graph was written into it
            if self.twin is None:
                self.tensor.detach_()
            else:  # torch cannot detach a view
                swap(self.tensor, self.twin)
        if self.tensor.is_leaf and self.tensor.requires_grad and not self.requires_grad:
            self.tensor.requires_grad_(False)  # first: not every dtype can require a gradient
        if self.memory is not None:
            self.tensor.data = self.memory
        if self.tensor.is_leaf and self.requires_grad:
            self.tensor.requires_grad_(True)

    def restore_moved(self) -> None:
        for before, now in zip(self.parts, parts(self.tensor) if self.parts else (), strict=True):
            if now is not before:
                now.detach().copy_(before)

    def restore_grad(self) -> None:
        if self.tensor.is_leaf and self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedModule:
    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    tables: dict[str, list[Any]]

    def restore_kind(self) -> None:
        if type(self.module) is not self.kind:  # a lazy module becomes another in its first pass
            self.module.__class__ = self.kind

    def restore(self) -> None:
        current = vars(self.module)
        for name in current.keys() - self.attributes.keys():
            del current[name]
        for name, value in self.attributes.items():
            if name not in current or current[name] is not value:
                current[name] = value
        for name, entries in self.tables.items():
            refill(current[name], entries)


@contextlib.contextmanager
def preserved(model: nn.Module, *, seed: int | None = _SEED, copied: bool = True) -> Iterator[None]:
    """Restore ``model`` after the block, whatever the block does to it.

    Args:
        model: the model.
        seed: that of torch's private generators; ``None``: they start from the present state of torch's.
        copied: whether parameters' values are saved too, which takes as much memory as they have. ``False`` for a block
            that runs the model and does not train it.

    This covers values, dtypes, gradients, ``requires_grad``, train and eval mode, hooks, classes and plain attributes
    of every module, the contents of their lists, sets, dictionaries and arrays, the attributes of objects that they
    hold, and the states of their generators.
    Inside, gradients are on, and random numbers come from private generators; the shared generators of torch, Python
    and NumPy do not move. A tensor that did not change is not written.

    Raises:
        TargetError: if something could not be restored; everything else was.
    """
    modules = modules_held(model)
    modes, steps = Modes.now(), _Steps(_steps(modules, tensors_held(modules), copied=copied))

    def restore() -> None:
        modes.restore_all()
        steps.take()

    with (
        undone_on_error(restore),
        undone(restore),
        undisturbed(model),
        apart(seed),
        foreign_apart(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


@contextlib.contextmanager
def unchanged(loss: Any, model: nn.Module) -> Iterator[None]:
    """Restore after the block what a loss keeps, such as running statistics, as ``preserved`` does for ``model``.

    This covers a module, another object, and the modules that a function, a method or a partial function has, but for
    those of the model.
    """
    holder = nn.Module()
    vars(holder)["held"] = list(_held_by(loss, set()))
    known = {id(module) for module in modules_held(model).values()} if vars(holder)["held"] else set()
    modules = {place: one for place, one in modules_held(holder).items() if id(one) not in known}
    own = {place: one for place, one in modules.items() if one is not holder}
    steps = _Steps(_steps(modules, tensors_held(own)))
    with undone_on_error(steps.take), undone(steps.take):
        yield


def _held_by(value: Any, seen: set[int]) -> Iterator[Any]:
    """The object that a callable is or is a method of, and the modules that it has otherwise."""
    if id(value) in seen or value is None:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        yield from _held_by(value.func, seen)
        yield from _modules_in((value.args, value.keywords), seen)
    elif isinstance(value, MethodType):
        yield value.__self__
        yield from _held_by(value.__func__, seen)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty one
                yield from _modules_in(cell.cell_contents, seen)
    else:
        yield value


def _modules_in(value: Any, seen: set[int]) -> Iterator[Any]:
    """The modules in a container, among the attributes of an object, and of a function.

    Lists and dictionaries stay as the loss leaves them: a function may note there what it sees.
    """
    for _, part in inside(value):
        if isinstance(part, nn.Module):
            yield part
        elif isinstance(part, functools.partial | MethodType | FunctionType):
            yield from _held_by(part, seen)
        elif not isinstance(part, type) and type(getattr(part, "__dict__", None)) is dict:
            yield from (one for one in vars(part).values() if isinstance(one, nn.Module))


class _Steps:
    """Steps that restore a model, each of which may be taken again if it was interrupted."""

    def __init__(self, steps: Iterable[tuple[str, Restore]]) -> None:
        self._pending = deque(steps)
        self._failed: dict[str, None] = {}
        self._tries = 0  #: of the first one
        self._grad = torch.is_grad_enabled()  # and not in take, which may have been interrupted with gradients off

    def take(self) -> None:
        """Take all steps that were not taken to their end, even if one of them fails, and raise then."""
        try:
            torch._C._set_grad_enabled(False)
            while self._pending:
                name, step = self._pending[0]
                self._tries += 1
                try:
                    if self._tries <= _TRIES:
                        step()
                except Exception as error:
                    first = str(error).partition("\n")[0]
                    self._failed[f"{name}: {type(error).__name__}: {first}"] = None
                self._pending.popleft()
                self._tries = 0
        finally:
            torch._C._set_grad_enabled(self._grad)
        if self._failed:
            raise TargetError(
                listed(
                    "these could not be restored after the model was run, everything else was; build the model again:",
                    self._failed,
                )
            )


def _steps(
    modules: dict[str, nn.Module], named: dict[int, tuple[str, Tensor]], *, copied: bool = True
) -> Iterator[tuple[str, Restore]]:
    """What restores modules and tensors, in order, with the names of their parts."""
    for name, module in modules.items():
        tables = {str(table): content_of(vars(module)[table]) for table in TABLES if table in vars(module)}
        kept = _SavedModule(module=module, kind=type(module), attributes=dict(vars(module)), tables=tables)
        yield name or "the model", kept.restore_kind
        yield name or "the model", kept.restore
    for name, module in modules.items():
        for place, value in things_in(name, module):
            yield from ((str(place), restore) for restore in restorers(value))
    # what views were taken from comes first: it may have a graph, which each view has then too
    viewed = ((name, view._base) for name, view in named.values())
    bases = {id(base): (f"the base of {name}", base) for name, base in viewed if base is not None}
    tensors = [(name, _saved(tensor)) for name, tensor in (bases | named).values()]
    yield from ((name, tensor.restore) for name, tensor in tensors)
    contents = [(name, each) for name, each in named.values() if copied or not isinstance(each, nn.Parameter)]
    yield from ((name, content.restore) for name, content in saved(contents))
    yield from ((name, tensor.restore_moved) for name, tensor in tensors)
    yield from ((f"the gradient of {name}", tensor.restore_grad) for name, tensor in tensors)
    yield from ((f"the attributes of {name}", tensor.attributes.restore) for name, tensor in tensors)


def _saved(tensor: Tensor) -> _SavedTensor:
    wraps = is_traceable_wrapper_subclass(tensor)
    known = not wraps and (tensor.layout is not torch.strided or storage_of(tensor) is not None)
    viewed = known and tensor.is_leaf and tensor._is_view() and not tensor.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        twin = torch.ops.aten.alias(tensor) if viewed else None
    return _SavedTensor(
        tensor=tensor,
        memory=tensor.data if known else None,
        twin=twin,
        parts=tuple(parts(tensor)) if wraps else (),
        grad=tensor.grad if tensor.is_leaf else None,
        requires_grad=tensor.requires_grad,
        leaf=tensor.is_leaf,
        attributes=SavedAttributes(tensor),
    )
