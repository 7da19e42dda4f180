"""Weights that are computed from other tensors: torch's parametrizations, and the deprecated hooks before them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from zeta.base.modules import modules_of
from zeta.base.process.interrupts import undone, undone_on_error


def parametrized_shape(plist: parametrize.ParametrizationList) -> tuple[int, ...]:
    """The shape of a parametrized weight, computed on meta tensors: no value is read, no tensor changes.

    Other threads may use the parametrization meanwhile, so a twin of it runs.
    """
    try:
        with torch.no_grad():
            weight = _Twins().of_module(plist)()
    except Exception:  # a parametrization that cannot run on meta; almost all of them keep the shape
        return tuple(originals(plist)[-1].shape)
    return tuple(weight.shape)


class _Twins:
    """Twins of modules, whose tensors are on meta, each made once.

    A twin has its own attributes, lists, sets and dictionaries. Other objects are those of the original: a module that
    is held outside of the tables of modules may be a whole model.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def of_module(self, module: nn.Module) -> nn.Module:
        """The twin of a module, with those of the modules in it."""
        found = self._made.get(id(module))
        if found is None:
            found = self._made[id(module)] = object.__new__(type(module))
            held = vars(module)
            inner = {name: child and self.of_module(child) for name, child in module._modules.items()}
            vars(found).update({name: self._of(value) for name, value in held.items() if name != "_modules"})
            vars(found)["_modules"] = inner
        return found

    def _of(self, value: Any) -> Any:
        if not isinstance(value, Tensor) and type(value) not in (list, tuple, set, dict, OrderedDict):
            return value
        found = self._made.get(id(value))
        if found is None:
            found = self._made[id(value)] = self._new(value)
        return found

    def _new(self, value: Any) -> Any:
        if isinstance(value, Tensor):  # plain ones: some operations of DTensor communicate even on meta
            return torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, dict):
            return type(value)((key, self._of(item)) for key, item in value.items())
        return type(value)(self._of(item) for item in value)


@contextlib.contextmanager
def _evaluation(plist: parametrize.ParametrizationList) -> Iterator[None]:
    """Evaluation mode, in which a parametrization changes no buffer."""
    modes = [(inner, inner.training) for inner in modules_of(plist)]

    def restore() -> None:
        for inner, training in modes:
            inner.training = training

    with undone_on_error(restore), undone(restore):
        plist.eval()
        yield


def evaluated(plist: parametrize.ParametrizationList) -> Tensor:
    """The weight as its parametrization computes it in evaluation mode."""
    with _evaluation(plist):
        return plist()  # type: ignore[no-any-return]


def is_rescaled(plist: parametrize.ParametrizationList) -> bool:
    """Whether the weight is under ``spectral_norm``: a plan gives values to what is divided, not to the quotient."""
    return any(isinstance(part, parametrizations._SpectralNorm) for part in plist)


def planned_weight(plist: parametrize.ParametrizationList) -> Tensor:
    """What a plan gives values to: the weight in evaluation mode, without the division of a ``spectral_norm``."""
    if not is_rescaled(plist):
        return evaluated(plist)
    with _evaluation(plist):
        values = tuple(originals(plist))
        for part in plist:
            if not isinstance(part, parametrizations._SpectralNorm):
                values = (part(*values),)
    return values[0]


def originals(plist: parametrize.ParametrizationList) -> list[torch.Tensor]:
    """The stored tensors behind a parametrized weight."""
    if plist.is_tensor:
        return [plist.original]
    return [getattr(plist, f"original{number}") for number in range(plist.ntensors)]


def following(plist: parametrize.ParametrizationList) -> list[torch.Tensor]:
    """The buffers that get a new value with each new weight: singular vectors, and the base of an orthogonal matrix."""
    kinds = parametrizations._SpectralNorm | parametrizations._Orthogonal
    return [buffer for part in plist if isinstance(part, kinds) for buffer in part.buffers()]


def hooked(module: nn.Module) -> dict[str, WeightNorm | SpectralNorm]:
    """The deprecated hooks of ``torch.nn.utils.weight_norm`` and ``spectral_norm``, by the name of the weight.

    With such a hook, the weight is a plain attribute. The hook computes it before each forward pass from the module's
    parameters (``weight_g`` and ``weight_v``; ``weight_orig``).
    """
    hooks = module._forward_pre_hooks
    return {hook.name: hook for hook in hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)} if hooks else {}


def stored_names(hook: WeightNorm | SpectralNorm) -> tuple[str, ...]:
    """The names of the parameters that a hook's weight is computed from."""
    return (f"{hook.name}_g", f"{hook.name}_v") if isinstance(hook, WeightNorm) else (f"{hook.name}_orig",)


def recompute(module: nn.Module) -> None:
    """Set the weights of deprecated hooks to the values that registering the hook now would give them."""
    for name, hook in hooked(module).items():
        if isinstance(hook, WeightNorm):
            setattr(module, name, hook.compute_weight(module))
        else:
            setattr(module, name, getattr(module, f"{name}_orig").data)
