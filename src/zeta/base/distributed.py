"""Tensors and modules of several processes: DTensor and FSDP2, found without importing them."""

from __future__ import annotations

import sys
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from zeta.base.modules import modules_of, named_modules_of, tensors_of


def is_sharded(tensor: Tensor) -> TypeGuard[Any]:
    """Whether the tensor is a ``DTensor``; its ``shape`` is that of the whole tensor."""
    # not imported here: that takes a second, and no DTensor exists before its module is imported
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(model: nn.Module) -> bool:
    """Whether a parameter or buffer of the model is a ``DTensor``."""
    return "torch.distributed.tensor" in sys.modules and any(map(is_sharded, tensors_of(model)))


def is_fsdp(module: nn.Module) -> TypeGuard[Any]:
    """Whether ``fully_shard`` was applied to the module itself."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # as above
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def any_fsdp(model: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to the model or to a part of it."""
    return any(is_fsdp(module) for module in modules_of(model))


def gathered(model: nn.Module) -> list[str]:
    """The modules whose parameters FSDP2 has temporarily gathered; values written to these would be lost."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []
    return [
        f"{name or type(module).__name__}: FSDP has gathered its parameters, and would drop what is written to them; "
        "call its reshard() first"
        for name, module in named_modules_of(model)
        if is_fsdp(module) and any(not group.is_sharded for group in fsdp_groups(module))
    ]


def fsdp_groups(module: Any) -> list[Any]:
    """The groups of parameters of an FSDP2 module that are gathered together."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)  # torch 2.11 has one at most
    return [group for group in ([state._fsdp_param_group] if groups is None else groups) if group is not None]


def local(tensor: Tensor) -> Tensor:
    """The local shard of a ``DTensor``, or a plain tensor itself."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[no-any-return]
