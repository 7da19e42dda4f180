"""What torch does below the modes, or skips on meta: other sizes, other memory, functions of single numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from zeta.base.language.state import outside_of_modes
from zeta.errors import RecordingError
from zeta.resolve.recording.sources import source_here
from zeta.resolve.recording.tracing.arguments import on_meta, zeros_for


def resized(func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Resize a tensor within its memory. A larger size is refused: torch leaves new elements without values."""
    tensor = args[0]
    before = tensor.untyped_storage().nbytes()
    if tensor.is_meta:
        on_meta(func, args, kwargs)
    else:  # like one on meta, of which it takes the size
        func(*zeros_for(args), **kwargs)
    if tensor.untyped_storage().nbytes() > before:
        raise RecordingError(
            f"{source_here()}: {name} makes a tensor larger, and torch leaves the new elements without values; "
            "make it of that size"
        )
    return tensor


def check_untraced() -> None:
    """Raise ``RecordingError`` under ``torch.jit.trace``, whose values are not those of a recording."""
    if torch._C._is_tracing():
        raise RecordingError(
            f"{source_here()}: torch.jit.trace cannot be recorded; call the function itself, or trace the model when "
            "it has values"
        )


def check_memory_given(name: str, args: tuple[Any, ...]) -> None:
    """Raise ``RecordingError`` where a real tensor is given memory that has no values yet."""
    if name.startswith("aten.set_.source") and not args[0].is_meta and args[1].device.type == "meta":
        raise RecordingError(
            f"{source_here()}: set_ would give a real tensor that was there before the recording, or a copy of it, "
            "the memory of a tensor that is recorded; make both inside the constructor"
        )


def each_number(target: Tensor, others: list[Tensor], function: Callable[..., Any]) -> Tensor:
    """``apply_``, ``map_``, ``map2_``: write what a function makes of each number. torch skips these on meta.

    ``others`` are further operands, one number of each for each of ``target``; all are real.
    """
    with outside_of_modes():
        numbers = [tensor.detach().expand(target.shape).flatten().tolist() for tensor in others]
    made = [function(*each) for each in zip(*numbers, strict=True)]
    return target.copy_(torch.tensor(made, dtype=target.dtype, device="cpu").reshape(target.shape))
