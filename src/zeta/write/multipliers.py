"""Multipliers in the forward pass: hooks that are objects of classes, so that models with them can be pickled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zeta.base.modules import check_module, modules_of
from zeta.errors import PlanError, TargetError, listed, notice
from zeta.resolve.scaling.multipliers import INPUTS, Multiplier
from zeta.resolve.slots import named_modules


class _Scaled:
    """``used``: whether it has multiplied anything, outside of ``torch.compile``, whose graphs do not note it."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.used = False

    def _note(self) -> None:
        if not torch.compiler.is_compiling():
            self.used = True


class ScaledInput(_Scaled):
    """Multiplies the first tensor that a module gets."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The hook: the arguments with the first tensor multiplied."""
        for place, value in enumerate(args):
            if isinstance(value, Tensor):
                self._note()
                return (*args[:place], value * self.factor, *args[place + 1 :]), kwargs
        for key in ("query", *kwargs):  # of an attention, the queries, in whatever order they are given
            if isinstance(value := kwargs.get(key), Tensor):
                self._note()
                return args, {**kwargs, key: value * self.factor}
        return args, kwargs


class ScaledOutput(_Scaled):
    """Multiplies the first tensor that a module returns, or the first ``end`` elements of its last dimension."""

    def __init__(self, factor: float, end: int | None = None) -> None:
        super().__init__(factor)
        self.end = end

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The hook: the output, multiplied."""
        self._note()
        if isinstance(output, tuple):
            return (self._scaled(output[0]), *output[1:])
        return self._scaled(output)

    def _scaled(self, value: Tensor) -> Tensor:
        if self.end is None:
            return value * self.factor
        first, rest = value.tensor_split([self.end], dim=-1)
        return torch.cat([first * self.factor, rest], dim=-1)


class FirstPass:
    """At the end of a model's first forward pass, names the multipliers that multiplied nothing in it.

    ``forward`` may use a weight without calling its module, as by ``F.linear(x, weight)`` or ``module.forward(x)``. No
    hook runs then, and not everything that does so can be known from the source.
    """

    def __init__(self, hooks: Sequence[tuple[str, _Scaled]]) -> None:
        self.hooks: list[tuple[str, _Scaled]] = [*hooks]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook."""
        if torch.compiler.is_compiling() or not self.hooks:
            return
        idle = [name for name, hook in self.hooks if not hook.used]
        self.hooks.clear()
        if idle:
            notice(
                listed(
                    "the first forward pass did not call the modules of these multipliers, so that nothing was "
                    "multiplied. If it used their weights otherwise, as by F.linear(x, weight) or module.forward(x), "
                    "call the modules, or pass multipliers=False to zeta.scale; if it did not use them, all is well:",
                    idle,
                )
            )


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
        return len(self.multipliers) if self._handles else 0

    def __repr__(self) -> str:
        state = f"{len(self.multipliers)}" if self._handles or not self.multipliers else "removed"
        return f"Multiplied({state}: {'; '.join(map(str, self.multipliers[:3]))})"


def has_multipliers(model: nn.Module) -> bool:
    """Whether multipliers are applied to a model, or to a part of it."""
    return any(
        isinstance(hook, _Scaled)
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
    hooks: list[tuple[str, _Scaled]] = []
    for each in multipliers:
        module = modules[each.module]
        if each.where in INPUTS:
            before = ScaledInput(each.factor)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append((str(each), before))
        else:
            after = ScaledOutput(each.factor, each.end)
            handles.append(module.register_forward_hook(after))
            hooks.append((str(each), after))
    if hooks:
        handles.append(model.register_forward_hook(FirstPass(hooks)))
    return Multiplied(multipliers, handles)
