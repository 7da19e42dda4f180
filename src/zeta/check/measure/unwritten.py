"""Find values that an initialization never writes, by running it over memory with known content."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base.modules import copy_of, modules_of, tensors_of
from zeta.check.watch.isolation import preserved
from zeta.resolve.resolver import groups
from zeta.resolve.slots import Slot, walk

Initialize = Callable[[Any], object]

# Values for floating-point, integer and boolean tensors. Integers have no NaN, so two runs with different numbers are
# compared: values that are not written differ between the runs.
_FILLS: Final = ((math.nan, 91, False), (math.nan, 23, True))


def unwritten(model: nn.Module, initialize: Initialize) -> dict[str, float]:
    """The fraction of each parameter and buffer that depends on its values before ``initialize(model)``.

    Floating-point memory is filled with NaN, other memory with two different numbers in two runs. A value that is
    computed from the previous one counts as not written. The model is restored afterwards. Sparse and quantized
    tensors, and those of a dtype that torch cannot fill, are left alone.
    """
    found: dict[str, float] = {}
    if any(not _floating(tensor) for tensor in tensors_of(model) if _fillable(tensor)):
        first, second = (_run(model, initialize, fill) for fill in _FILLS)
        for name, (values, _) in first.items():
            if not _floating(values):
                found[name] = float((values != second[name][0]).double().mean()) if values.numel() else 0.0
    else:
        first = _run(model, initialize, _FILLS[0])
    for name, (values, _) in first.items():
        if _floating(values) and values.numel():
            found[name] = float(torch.isnan(values.float() if not values.is_complex() else values).double().mean())
    return {name: share for name, share in found.items() if share > 0}


def _run(model: nn.Module, initialize: Initialize, fill: tuple[float, int, bool]) -> dict[str, tuple[Tensor, Slot]]:
    """The values after one run over filled memory."""
    with preserved(model):
        with torch.no_grad():
            for tensor in filter(_fillable, tensors_of(model)):
                _fill(tensor, fill)
        initialize(model)
        slots = [group[0] for group in groups(walk(model))]
        return {slot.name: (slot.tensor.detach().clone(), slot) for slot in slots if _fillable(slot.tensor)}


def _fillable(tensor: Tensor) -> bool:
    plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return plain and _has_numbers(tensor.dtype)


@functools.cache
def _has_numbers(dtype: torch.dtype) -> bool:
    try:
        torch.empty(1, dtype=dtype, device="cpu").fill_(1)
    except NotImplementedError:
        return False
    return True


def _fill(tensor: Tensor, fill: tuple[float, int, bool]) -> None:
    if _floating(tensor):
        tensor.detach().fill_(fill[0])
    elif tensor.dtype is torch.bool:
        tensor.detach().fill_(fill[2])
    else:
        tensor.detach().fill_(fill[1])


def _floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def with_memory(model: nn.Module) -> nn.Module:
    """A copy of a model on meta with memory on the CPU and the same ties; its values are not initialized."""
    twin = copy_of(model)
    tied: dict[int, Tensor] = {}
    for module in modules_of(twin):
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    table[name] = tied.setdefault(id(tensor), _real(tensor))  # type: ignore[assignment]
    return twin


def _real(tensor: Tensor) -> Tensor:
    real = torch.zeros_like(tensor, device="cpu")
    return nn.Parameter(real, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else real
