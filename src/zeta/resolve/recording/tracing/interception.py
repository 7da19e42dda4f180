"""torch.nn.init under recording: functions that read values, or do nothing on meta, are replaced; and swap_tensors.

They may have been imported under any name, so their code (``__code__``) is replaced while a recording runs in any
thread; in other threads the new code does what the original does. Needed as long as these functions have no operation
that a mode could intercept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.process.exchange import Exchanged
from zeta.errors import SpecError
from zeta.fans import Axes, torch_axes
from zeta.initializers import Dirac, Initializer, Normal, Orthogonal, Sparse, TruncatedNormal
from zeta.resolve.recording.active import ACTIVE


def intercepted(name: str, tensor: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Do what torch's function ``name`` does: record it in a recording, else call the original."""
    recorder = ACTIVE.recorder
    with torch._C.DisableTorchFunction():  # the recording's mode would answer is_meta with False
        recorded = recorder is not None and tensor.is_meta
    if recorder is None or not recorded:
        written: Tensor = INTERCEPTION.originals[name](tensor, **arguments)
        return written
    generator = arguments.pop("generator", None)
    with torch._C.DisableTorchFunction():
        called = "trunc_normal_" if name == "_no_grad_trunc_normal_" else name
        try:
            initializer, axes = _SPECS[name](tensor, **arguments)
        except SpecError as error:  # only this parameter has no value; it may get a fallback
            return recorder.spoil(tensor, f"was filled by {called} with invalid arguments: {error}", called)
        return recorder.draw_into(tensor, initializer, axes, called, generator)


def swapped(first: Tensor, second: Tensor) -> None:
    """Swap two tensors, which torch refuses for what something refers to weakly, as a recorder does."""
    recorder = ACTIVE.recorder
    with contextlib.nullcontext() if recorder is None else recorder.unnoted(first, second):
        INTERCEPTION.originals["swap_tensors"](first, second)


def _trunc_normal(tensor: Tensor, mean: float, std: float, a: float, b: float) -> tuple[Initializer, None]:
    low, high = (None if math.isinf(bound) else float(bound) for bound in (a, b))
    if low is None and high is None:
        return Normal(float(std), float(mean)), None
    return TruncatedNormal(float(std), float(mean), low=low, high=high), None


def _orthogonal(tensor: Tensor, gain: float) -> tuple[Initializer, Axes]:
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    return Orthogonal(float(gain)), torch_axes(tensor.ndim)


def _sparse(tensor: Tensor, sparsity: float, std: float) -> tuple[Initializer, Axes]:
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return Sparse(float(sparsity), float(std)), torch_axes(2)


def _dirac(tensor: Tensor, groups: int) -> tuple[Initializer, Axes]:
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    axes = torch_axes(tensor.ndim)
    return Dirac(), Axes(fan_in=axes.fan_in, fan_out=axes.fan_out, blocks=((0, groups),) if groups > 1 else ())


_SPECS: Final[dict[str, Callable[..., tuple[Initializer, Axes | None]]]] = {
    "_no_grad_trunc_normal_": _trunc_normal,
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "dirac_": _dirac,
}


# This code runs with the globals of torch.nn.init, so it must import zeta's names itself.
def _code_of_trunc_normal(tensor, mean, std, a, b, generator=None):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.interception import intercepted

    arguments = {"mean": mean, "std": std, "a": a, "b": b, "generator": generator}
    return intercepted("_no_grad_trunc_normal_", tensor, arguments)


def _code_of_orthogonal(tensor, gain=1, generator=None):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.interception import intercepted

    return intercepted("orthogonal_", tensor, {"gain": gain, "generator": generator})


def _code_of_sparse(tensor, sparsity, std=0.01, generator=None):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.interception import intercepted

    return intercepted("sparse_", tensor, {"sparsity": sparsity, "std": std, "generator": generator})


def _code_of_dirac(tensor, groups=1):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.interception import intercepted

    return intercepted("dirac_", tensor, {"groups": groups})


def _code_of_swap(t1, t2):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.interception import swapped

    return swapped(t1, t2)


_CODES: Final[dict[str, CodeType]] = {
    "swap_tensors": _code_of_swap.__code__,
    "_no_grad_trunc_normal_": _code_of_trunc_normal.__code__,
    "orthogonal_": _code_of_orthogonal.__code__,
    "sparse_": _code_of_sparse.__code__,
    "dirac_": _code_of_dirac.__code__,
}

#: held while at least one recording runs
INTERCEPTION: Final = Exchanged(
    {name: getattr(torch.utils if name == "swap_tensors" else torch.nn.init, name) for name in _CODES}, _CODES
)
