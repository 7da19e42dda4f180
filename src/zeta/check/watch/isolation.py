"""Restore a model after it was run: bit by bit, even if something raises in the middle."""

from __future__ import annotations

import contextlib
import copy
import sys
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import named_modules_of
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import Modes
from zeta.base.tensors import SavedAttributes, attributes_here, inside, refill, storage_of, swap
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
_CONTAINERS: Final = (list, set, dict, deque, OrderedDict, defaultdict, Counter)
# types that are not searched for generators and containers: a vocabulary may have hundreds of thousands of them
_PLAIN: Final = (str, int, float, bytes, type(None), Tensor)
# how often a step is begun that is interrupted: after that, it is the step itself that raises
_TRIES: Final = 20
# the state of FSDP2, which ``undisturbed`` restores: a part of it alone would be initialized twice
_DISTRIBUTED: Final = "torch.distributed."
# what has attributes, but is saved in another way or does not change
_NO_OBJECTS: Final = (*_PLAIN, nn.Module, type, ModuleType, FunctionType, MethodType)


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
            refill(current[name], entries)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` after the block, whatever the block does to it.

    This covers values, dtypes, gradients, ``requires_grad``, train and eval mode, hooks, classes and plain attributes
    of every module, the contents of their lists, sets, dictionaries and arrays, the attributes of objects that they
    hold, and the states of their generators.
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
    modules = _modules(model)
    for name, module in modules.items():
        tables = {str(table): vars(module)[table].copy() for table in _TABLES if table in vars(module)}
        kept = _SavedModule(module=module, kind=type(module), attributes=dict(vars(module)), tables=tables)
        yield name or "the model", kept.restore_kind
        yield name or "the model", kept.restore
    for name, module in modules.items():
        for place, value in _things(name, module):
            yield from ((place, restore) for restore in _contents(value))
    named = _tensors(modules)
    # what views were taken from comes first: it may have a graph, which each view has then too
    viewed = ((name, view._base) for name, view in named.values())
    bases = {id(base): (f"the base of {name}", base) for name, base in viewed if base is not None}
    tensors = [(name, _saved(tensor)) for name, tensor in (bases | named).values()]
    yield from ((name, tensor.restore) for name, tensor in tensors)
    yield from ((name, content.restore) for name, content in saved(named.values()))
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


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The model's modules, and those that it keeps out of its sight, such as a teacher in a list, with their places."""
    found = dict(named_modules_of(model))
    known, pending = {id(module) for module in found.values()}, deque(found.items())
    while pending:
        prefix, module = pending.popleft()
        for name, value in _things(prefix, module):
            if isinstance(value, nn.Module) and id(value) not in known:
                inner = {f"{name}.{path}".strip("."): one for path, one in named_modules_of(value)}
                new = {path: one for path, one in inner.items() if id(one) not in known}
                known.update(id(one) for one in new.values())
                found |= new
                pending += new.items()
    return found


def _things(prefix: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What is in a module's attributes, in containers there at any depth, and in the attributes of objects there."""
    for key, value in vars(module).items():
        if key not in _TABLES and not isinstance(value, _PLAIN):
            yield from ((_place(prefix, key, path), found) for path, found in inside(value))
    yield from _objects(prefix, module)


def _objects(prefix: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What is in the attributes of objects that a module holds."""
    for key, value in vars(module).items():
        if key not in _TABLES and not isinstance(value, _PLAIN):
            for path, found in inside(value):
                if _is_object(found):
                    place = _place(prefix, key, path)
                    yield from ((_place("", place, inner), part) for inner, part in inside(vars(found)))


def _place(prefix: str, key: str, path: tuple[Any, ...]) -> str:
    """``blocks.layers[0]``: where a thing is in an attribute of a module."""
    return f"{prefix}.{key}".lstrip(".") + "".join(f"[{part!r}]" for part in path)


def held_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model's modules hold, also out of torch's sight, with its place."""
    return iter(_tensors(_modules(model)).values())


def _is_object(value: Any) -> bool:
    """Whether it is an object with attributes of its own, and none whose state is known otherwise."""
    if type(value).__module__.startswith(_DISTRIBUTED):
        return False
    return type(getattr(value, "__dict__", None)) is dict and not isinstance(value, _NO_OBJECTS)


def _contents(value: Any) -> Iterator[Restore]:
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
    elif _is(value, "numpy", "ndarray"):
        if value.flags.writeable:
            yield _rewritten(value)
    elif isinstance(value, bytearray | array):
        yield _rewritten(value)
    elif type(value) in _CONTAINERS:
        yield _refilled(value)


def _is(value: Any, module: str, kind: str) -> bool:
    """Whether it is an instance of a class whose module may not have been imported."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)


def _rewritten(value: Any) -> Restore:
    """Restores an array of NumPy, or of Python, which may have another length then."""
    kept = copy.copy(value)
    place = slice(None) if isinstance(value, bytearray | array) else ...

    def restore() -> None:
        value[place] = kept

    return restore


def _refilled(value: Any) -> Restore:
    entries = value.copy()
    return lambda: refill(value, entries)


def _tensors(modules: dict[str, nn.Module]) -> dict[int, tuple[str, Tensor]]:
    """Every tensor of the modules that has values, and its gradient, with a name, by ``id``."""
    own = [
        (f"{name}.{key}".lstrip("."), tensor)
        for table in ("_parameters", "_buffers")
        for name, module in modules.items()
        for key, tensor in vars(module)[table].items()
        if tensor is not None
    ]
    held = [
        found
        for name, module in modules.items()
        for part in (attributes_here(module, name), _objects(name, module))
        for found in part
        if isinstance(found[1], Tensor)
    ]
    tensors = [(name, one) for name, one in own + held if not nn.parameter.is_lazy(one) and not one.is_meta]
    gradients = [(f"the gradient of {name}", one.grad) for name, one in tensors if one.is_leaf and one.grad is not None]
    return {id(tensor): (name, tensor) for name, tensor in reversed(tensors + gradients)}
