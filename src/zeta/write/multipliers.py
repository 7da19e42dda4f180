"""Multipliers in the forward pass: hooks that are objects of classes, so that models with them can be pickled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zeta.base.modules import check_module, modules_of
from zeta.errors import PlanError, TargetError, listed
from zeta.resolve.scaling.multipliers import INPUTS, Multiplier
from zeta.resolve.slots import named_modules


class ScaledInput:
    """Multiplies the first tensor that a module gets."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The hook: the arguments with the first tensor multiplied."""
        for place, value in enumerate(args):
            if isinstance(value, Tensor):
                return (*args[:place], value * self.factor, *args[place + 1 :]), kwargs
        for key in ("query", *kwargs):  # of an attention, the queries, in whatever order they are given
            if isinstance(value := kwargs.get(key), Tensor):
                return args, {**kwargs, key: value * self.factor}
        return args, kwargs


class ScaledOutput:
    """Multiplies the first tensor that a module returns, or the first ``end`` elements of its last dimension."""

    def __init__(self, factor: float, end: int | None = None) -> None:
        self.factor = factor
        self.end = end

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The hook: the output, multiplied."""
        if isinstance(output, tuple):
            return (self._scaled(output[0]), *output[1:])
        return self._scaled(output)

    def _scaled(self, value: Tensor) -> Tensor:
        if self.end is None:
            return value * self.factor
        first, rest = value.tensor_split([self.end], dim=-1)
        return torch.cat([first * self.factor, rest], dim=-1)


class Multiplied:
    """The multipliers of one model; ``remove()`` takes them away."""

    def __init__(self, multipliers: Sequence[Multiplier], handles: Sequence[RemovableHandle]) -> None:
        self.multipliers = tuple(multipliers)
        self._handles = list(handles)

    def remove(self) -> None:
        """Remove the hooks; a second time does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __len__(self) -> int:
        return len(self._handles)

    def __repr__(self) -> str:
        state = f"{len(self.multipliers)}" if self._handles or not self.multipliers else "removed"
        return f"Multiplied({state}: {'; '.join(map(str, self.multipliers[:3]))})"


def has_multipliers(model: nn.Module) -> bool:
    """Whether multipliers are applied to a model, or to a part of it."""
    return any(
        isinstance(hook, ScaledInput | ScaledOutput)
        for module in modules_of(model)
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )


def multiply_(model: nn.Module, multipliers: Sequence[Multiplier]) -> Multiplied:
    """Register a hook for each multiplier.

    Raises:
        TargetError: they are applied already.
        PlanError: the model does not have all of the modules. Nothing is registered then.
    """
    check_module(model)
    if has_multipliers(model):
        raise TargetError("multipliers are applied to this model already; remove() of the result takes them away")
    modules = named_modules(model)
    absent = [str(each) for each in multipliers if each.module not in modules]
    if absent:
        raise PlanError(listed("this scaling is not for this model, which has no module for:", absent))
    handles: list[RemovableHandle] = []
    for each in multipliers:
        module = modules[each.module]
        if each.where in INPUTS:
            handles.append(module.register_forward_pre_hook(ScaledInput(each.factor), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(ScaledOutput(each.factor, each.end)))
    return Multiplied(multipliers, handles)
