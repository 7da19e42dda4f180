"""Weights that are computed from other tensors: torch's parametrizations, and the deprecated hooks before them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def parametrized_shape(plist: parametrize.ParametrizationList) -> tuple[int, ...]:
    """The shape of a parametrized weight, computed on meta tensors: no value is read, no buffer changes."""
    state = {**dict(plist.named_parameters()), **dict(plist.named_buffers())}
    # plain tensors: some operations of DTensor communicate even on meta
    on_meta = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in state.items()}
    try:
        with torch.no_grad():
            weight = torch.func.functional_call(plist, on_meta, ())
    except Exception:  # a parametrization that cannot run on meta; almost all of them keep the shape
        return tuple(originals(plist)[-1].shape)
    return tuple(weight.shape)


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
