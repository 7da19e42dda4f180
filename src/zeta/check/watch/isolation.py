"""Restore a model after it was run: bit by bit, even if something raises in the middle."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import named_buffers_of, named_modules_of, named_parameters_of
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import Modes
from zeta.base.tensors import attributes, storage_of, swap
from zeta.check.watch.fsdp import undisturbed
from zeta.check.watch.memory import parts, saved
from zeta.errors import TargetError, listed

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
# how often a step is begun that is interrupted: after that, it is the step itself that raises
_TRIES: Final = 20
# levels of nested containers that are saved
_DEPTH: Final = 4


Restore = Callable[[], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedTensor:
    tensor: Tensor
    memory: Tensor | None  #: the same memory, with the original shape and dtype; None for a tensor that wraps others
    twin: Tensor | None  #: for a view, another view of the same tensor
    parts: tuple[Tensor, ...]  #: of a tensor that wraps others: these
    grad: Tensor | None
    requires_grad: bool
    leaf: bool
    hooks: tuple[tuple[str, Any, dict[Any, Any]], ...]  #: attribute, its original object, and that object's content

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

    def restore_hooks(self) -> None:
        for name, table, entries in self.hooks:
            if table is not None and dict(table) != entries:
                table.clear()
                table.update(entries)
            if getattr(self.tensor, name) is not table:
                setattr(self.tensor, name, table)


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedModule:
    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    tables: dict[str, Any]

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
            table = current[name]
            if list(table) != list(entries) or (isinstance(entries, dict) and not _same_entries(table, entries)):
                table.clear()
                table.update(entries)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` after the block, whatever the block does to it.

    This covers values, dtypes, gradients, ``requires_grad``, train and eval mode, hooks, classes and plain attributes
    of every module, the contents of their lists, sets and dictionaries, and the states of generators that a module has.
    Inside, gradients are on, and random numbers come from private generators, torch's with a fixed seed; the shared
    generators of torch, Python and NumPy do not move. A tensor that did not change is not written.

    Raises:
        TargetError: if something could not be restored; everything else was.
    """
    modes, steps = Modes.now(), _Steps(_steps(model))

    def restore() -> None:
        modes.restore_all()
        steps.take()

    with (
        undone_on_error(restore),
        undone(restore),
        undisturbed(model),
        apart(_SEED),
        foreign_apart(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


class _Steps:
    """Steps that restore a model, each of which may be taken again if it was interrupted."""

    def __init__(self, steps: Iterable[tuple[str, Restore]]) -> None:
        self._pending = deque(steps)
        self._failed: dict[str, None] = {}
        self._tries = 0  #: of the first one

    def take(self) -> None:
        """Take all steps that were not taken to their end, even if one of them fails, and raise then."""
        grad = torch.is_grad_enabled()
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
            torch._C._set_grad_enabled(grad)
        if self._failed:
            raise TargetError(
                listed(
                    "these could not be restored after the check, everything else was; build the model again:",
                    self._failed,
                )
            )


def _steps(model: nn.Module) -> Iterator[tuple[str, Restore]]:
    """What restores the model, in order, with the names of its parts."""
    for name, module in named_modules_of(model):
        tables = {str(table): vars(module)[table].copy() for table in _TABLES if table in vars(module)}
        kept = _SavedModule(module=module, kind=type(module), attributes=dict(vars(module)), tables=tables)
        yield name or "the model", kept.restore_kind
        yield name or "the model", kept.restore
    yield from _held(model)
    named = _tensors(model)
    # what views were taken from comes first: it may have a graph, which each view has then too
    viewed = ((name, view._base) for name, view in named.values())
    bases = {id(base): (f"the base of {name}", base) for name, base in viewed if base is not None}
    tensors = [(name, _saved(tensor)) for name, tensor in (bases | named).values()]
    yield from ((name, tensor.restore) for name, tensor in tensors)
    yield from ((name, content.restore) for name, content in saved(named.values()))
    yield from ((name, tensor.restore_moved) for name, tensor in tensors)
    yield from ((f"the gradient of {name}", tensor.restore_grad) for name, tensor in tensors)
    yield from ((f"the hooks of {name}", tensor.restore_hooks) for name, tensor in tensors)


def _saved(tensor: Tensor) -> _SavedTensor:
    wraps = is_traceable_wrapper_subclass(tensor)
    known = not wraps and (tensor.layout is not torch.strided or storage_of(tensor) is not None)
    viewed = known and tensor.is_leaf and tensor._is_view() and not tensor.requires_grad
    hooks = ((name, getattr(tensor, name, None)) for name in _HOOKS)
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
        hooks=tuple((name, table, dict(table or {})) for name, table in hooks) if tensor.is_leaf else (),
    )


def _held(model: nn.Module) -> Iterator[tuple[str, Restore]]:
    """Functions that restore each list, set, dictionary and generator among the modules' attributes."""
    for prefix, module in named_modules_of(model):
        for name, value in vars(module).items():
            if name not in _TABLES:
                yield from ((f"{prefix}.{name}".lstrip("."), restore) for restore in _contents(value, _DEPTH))


def _contents(value: Any, depth: int) -> Iterator[Restore]:
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


def _refilled(value: Any) -> Restore:
    entries = value.copy()

    def restore() -> None:
        if len(value) == len(entries) and all(a is b for a, b in zip(_flat(value), _flat(entries), strict=True)):
            return
        value.clear()
        (value.extend if isinstance(value, list | deque) else value.update)(entries)

    return restore


def _flat(value: Any) -> list[Any]:
    return [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)


def _tensors(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """Every tensor of the model that has values, and its gradient, with a name, by ``id``."""
    found = [*named_parameters_of(model), *named_buffers_of(model), *attributes(model)]
    tensors = [(name, one) for name, one in found if not nn.parameter.is_lazy(one) and not one.is_meta]
    gradients = [(f"the gradient of {name}", one.grad) for name, one in tensors if one.is_leaf and one.grad is not None]
    return {id(tensor): (name, tensor) for name, tensor in reversed(tensors + gradients)}


def _same_entries(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    return all(first[key] is value for key, value in second.items())
