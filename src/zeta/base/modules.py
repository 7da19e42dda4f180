"""Every module and tensor of a model, in torch's order, at any depth.

``nn.Module.modules()`` and the methods built on it are recursive, and fail at Python's limit of a thousand levels.
These functions return the same, with a loop.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from zeta.base.reading import shown
from zeta.errors import LayerTypeError, ZetaError

Model = TypeVar("Model", bound=nn.Module)


def check_module(value: object, expected: str = "a torch.nn.Module") -> None:
    """Raise ``LayerTypeError`` if ``value`` is not a module; of a tensor or a class, the message says what to write."""
    if not isinstance(value, nn.Module):
        hint = "; zeta.fill_(tensor, initializer) fills one tensor" if isinstance(value, Tensor) else ""
        if isinstance(value, type) and issubclass(value, nn.Module):
            name = value.__name__
            hint = f", a class: write {name}(...), or zeta.record({name}, ...), which allocates nothing"
        raise LayerTypeError(f"expected {expected}, got {shown(value)}{hint}")


def named_modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module once, with its first name: ``model.named_modules()``.

    >>> [name for name, _ in named_modules_of(nn.Sequential(nn.Sequential(nn.Identity()), nn.Identity()))]
    ['', '0', '0.0', '1']
    """
    known: set[int] = set()
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        name, module = pending.pop()
        if id(module) in known:
            continue
        known.add(id(module))
        yield name, module
        children = [(local, child) for local, child in module._modules.items() if child is not None]
        pending += [(f"{name}.{local}" if name else local, child) for local, child in reversed(children)]


def modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """Each module once: ``model.modules()``."""
    known: set[int] = set()
    pending = [model]
    while pending:
        module = pending.pop()
        if id(module) not in known:
            known.add(id(module))
            yield module
            if module._modules:
                pending += reversed([child for child in module._modules.values() if child is not None])


def named_parameters_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter once, with its first name: ``model.named_parameters()``."""
    return _named(model, "_parameters")


def parameters_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """Each parameter once: ``model.parameters()``."""
    return (parameter for _, parameter in named_parameters_of(model))


def named_buffers_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each buffer once, with its first name: ``model.named_buffers()``."""
    return _named(model, "_buffers")


def buffers_of(model: nn.Module) -> Iterator[Tensor]:
    """Each buffer once: ``model.buffers()``."""
    return (buffer for _, buffer in named_buffers_of(model))


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Each parameter once, then each buffer once."""
    return [*parameters_of(model), *buffers_of(model)]


def _named(model: nn.Module, table: str) -> Iterator[tuple[str, Any]]:
    known: set[int] = set()
    for prefix, module in named_modules_of(model):
        for local, tensor in getattr(module, table).items():
            if tensor is not None and id(tensor) not in known:
                known.add(id(tensor))
                yield f"{prefix}.{local}" if prefix else local, tensor


def copy_of(model: Model) -> Model:
    """``copy.deepcopy(model)`` with inner modules copied first, so that the recursion stays shallow."""
    memo: dict[int, Any] = {}
    for module in _inner_first(model):
        copy.deepcopy(module, memo)
    return copy.deepcopy(model, memo)


def _inner_first(model: nn.Module) -> Iterator[nn.Module]:
    """Each module once, after its submodules."""
    known: set[int] = set()
    pending: list[tuple[nn.Module, bool]] = [(model, False)]
    while pending:
        module, finished = pending.pop()
        if finished:
            yield module
        elif id(module) not in known:
            known.add(id(module))
            pending.append((module, True))
            pending += [(child, False) for child in module._modules.values() if child is not None]


@contextlib.contextmanager
def within_reach(what: str, refused: type[ZetaError]) -> Iterator[None]:
    """Raise ``refused`` if the block, which runs a model's code, reaches Python's recursion limit."""
    try:
        yield
    except RecursionError as error:
        raise refused(
            f"{what} ends at Python's recursion limit of {sys.getrecursionlimit():,} calls inside each other. Modules "
            "that call the modules which they hold need several calls for each level: raise the limit with "
            "sys.setrecursionlimit(...), as the model needs it anyway; or look for a function that calls itself "
            "without end"
        ) from error
