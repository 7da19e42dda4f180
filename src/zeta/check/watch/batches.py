"""Move a batch to the model's device, and decide how it is passed to the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zeta.base.modules import tensors_of
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.resolve.slots import unwrap

#: the keys of a target in a batch that is a mapping
TARGETS: Final = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one forward pass; ``target`` is the part of the batch that the model does not take."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    batch: Any


def call_of(model: nn.Module, batch: Any) -> Call:
    """Decide how ``batch`` is passed to ``model``.

    A mapping becomes named arguments, a tuple or list positional ones, anything else the only argument. The target is
    the last element of a tuple if ``forward`` takes one argument less; or a mapping's ``labels`` (``label``,
    ``targets``, ``target``, ``y``) if ``forward`` has no such argument.

    Raises ``SpecError`` if ``forward`` accepts none of these forms, if all tensors are empty, or for a loader.
    """
    if isinstance(batch, DataLoader | Iterator):
        raise SpecError(f"check takes one batch, such as next(iter(loader)), got {shown(batch)}, which gives many")
    tensors = tensors_in(batch)
    if tensors and not any(tensor.numel() for _, tensor in tensors):
        raise SpecError(f"this batch has no values ({describe(batch)}); pass one of 16 samples or more")
    device = device_of(model)
    moved = move(batch, device)
    signature = inspect.signature(unwrap(model).forward)
    for args, kwargs, target in _ways(moved):
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            continue
        return Call(args=args, kwargs=kwargs, target=target, batch=moved)
    raise SpecError(
        f"{type(model).__name__}.forward{signature} cannot take this batch ({describe(batch)}); "
        "pass a tensor, a tuple of its arguments, or a dictionary of its named arguments"
    )


def _ways(batch: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    if isinstance(batch, Mapping):
        named = {str(key): value for key, value in batch.items()}
        target = next((key for key in TARGETS if key in named), None)
        ways: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = [((), named, None)]
        if target is not None:
            rest = {key: value for key, value in named.items() if key != target}
            ways.append(((), rest, named[target]))
            if len(rest) == 1:
                ways.append((tuple(rest.values()), {}, named[target]))
            ways.append(((rest,), {}, named[target]))
        return [*ways, ((batch,), {}, None)]
    if isinstance(batch, tuple | list):
        ways = [(tuple(batch), {}, None)]
        if len(batch) > 1:
            ways.append((tuple(batch[:-1]), {}, batch[-1]))
        return [*ways, ((batch,), {}, None)]
    return [((batch,), {}, None)]


def move(value: Any, device: torch.device) -> Any:
    """Copy every tensor in ``value`` to ``device``, also inside tuples, lists, mappings and dataclasses.

    Other objects with a method ``to``, such as batches of graphs, are copied shallowly and moved with it.
    """

    def moved(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.detach().to(device, copy=True)
        return copy.copy(item).to(device) if callable(getattr(item, "to", None)) else item

    return mapped(value, moved)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with ``change`` applied to every tensor and every other object that is not a container."""
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in fields(value):  # object.__setattr__, for frozen classes and fields that __init__ does not take
            object.__setattr__(twin, field.name, mapped(getattr(value, field.name), change))
        return twin
    return change(value)


def tensors_in(value: Any) -> list[tuple[str, Tensor]]:
    """Every tensor in an output or a batch with its place, also inside tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return [("", value)]
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        items = [(str(number), item) for number, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    return [(f"{key}.{place}".rstrip("."), tensor) for key, item in items for place, tensor in tensors_in(item)]


def device_of(model: nn.Module) -> torch.device:
    """The device of a model: that of its first tensor with memory; parameters on meta are computed on the CPU."""
    return next((tensor.device for tensor in tensors_of(model) if not tensor.is_meta), torch.device("cpu"))


def describe(batch: Any) -> str:
    """A short description of a batch, for errors."""
    found = tensors_in(batch)
    shapes = ", ".join(f"{place or 'tensor'} {tuple(tensor.shape)}" for place, tensor in found[:6])
    return f"{type(batch).__name__}: {shapes or 'no tensor'}"
