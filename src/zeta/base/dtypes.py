"""The supported floating-point dtypes, their largest values, their rounding, and bounds rounded inwards."""

from __future__ import annotations

import functools
import math
from typing import Final

import torch
from torch import Tensor

from zeta.errors import SpecError

_FP8: Final = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
#: dtypes of real weights that zeta draws values for
REAL: Final[tuple[torch.dtype, ...]] = (torch.float64, torch.float32, torch.bfloat16, torch.float16, *_FP8)
#: complex dtypes and the real dtype of their parts
COMPLEX: Final[dict[torch.dtype, torch.dtype]] = {
    torch.complex128: torch.float64,
    torch.complex64: torch.float32,
    torch.complex32: torch.float16,
}
#: dtypes of weights that zeta draws values for
DRAWABLE: Final = frozenset([*REAL, *COMPLEX])
#: the names of dtypes in safetensors files, as every supported version of that library reads them
SAFETENSORS: Final[dict[torch.dtype, str]] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
#: those that only later versions know; they are read and not written
NEWER_SAFETENSORS: Final[dict[torch.dtype, str]] = {
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}
_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def name_of(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """The dtype called ``name``; ``SpecError`` if torch has none.

    >>> dtype_named("bfloat16")
    torch.bfloat16
    """
    dtype = _named().get(name) if isinstance(name, str) else None
    if dtype is None:
        raise SpecError(f"unknown dtype {name!r}; expected a torch dtype such as float32, bfloat16 or float16")
    return dtype


@functools.cache
def _named() -> dict[str, torch.dtype]:
    """A table instead of ``getattr(torch, name)``, which imports modules for some names."""
    return {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def is_drawable(dtype: torch.dtype) -> bool:
    """Whether random values can be drawn in ``dtype``."""
    return dtype in DRAWABLE


def real_part(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the real and imaginary parts of ``dtype``, or ``dtype`` itself."""
    return COMPLEX.get(dtype, dtype)


def largest(dtype: torch.dtype) -> float:
    """The largest finite number of ``dtype``."""
    return float(torch.finfo(real_part(dtype)).max)


def relative_rounding(dtype: torch.dtype) -> float:
    """The largest relative change of a normal number by rounding to ``dtype``."""
    # measured, as torch.finfo is wrong for float8_e5m2fnuz
    one = torch.ones(1, dtype=real_part(dtype), device="cpu")
    above = (one.view(_BITS[one.itemsize]) + 1).view(one.dtype)
    return float(above.double() - 1.0) / 2


def rounded(value: float, dtype: torch.dtype) -> float:
    """``value`` rounded to ``dtype``, through fp32 unless that is wider; unchanged if ``dtype`` is not drawable.

    >>> rounded(0.1, torch.float8_e4m3fn), rounded(1e-9, torch.float16)
    (0.1015625, 0.0)
    """
    if value == 0 or (part := real_part(dtype)) is torch.float64 or not is_drawable(dtype):
        return value
    return float(torch.tensor(value, dtype=torch.float32, device="cpu").to(part))


def integer_of(nbytes: int) -> torch.dtype:
    """The signed integer of 1, 2, 4 or 8 bytes."""
    return _BITS[nbytes]


def bits(values: Tensor) -> Tensor:
    """The bits of each element as an integer; a complex element gives two, in an additional last dimension.

    >>> bits(torch.tensor([1.0, -0.0], dtype=torch.float16)).tolist()
    [15360, -32768]
    """
    values = values.resolve_conj().resolve_neg()
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.view(_BITS[values.itemsize])


def numbers(low: float, high: float, dtype: torch.dtype, *, most: int) -> Tensor | None:
    """All numbers of ``dtype`` from ``low`` to ``high`` (inclusive), in fp64; ``None`` if more than ``most``.

    >>> numbers(0.0, 0.01, torch.float8_e4m3fn, most=9)
    tensor([0.0000, 0.0020, 0.0039, 0.0059, 0.0078, 0.0098], dtype=torch.float64)
    """
    first, last = (_rank(value, dtype) for value in (low, high))
    if last - first >= most:
        return None
    ranks = torch.arange(first, last + 1, device="cpu")
    magnitudes = ranks.abs().to(_BITS[dtype.itemsize]).view(dtype).double()
    return torch.where(ranks < 0, -magnitudes, magnitudes)


def _rank(value: float, dtype: torch.dtype) -> int:
    """The position of a number among those of its dtype: zero has 0, the smallest positive number 1."""
    bits = torch.tensor(abs(value), dtype=torch.float64, device="cpu").to(dtype).reshape(1).view(_BITS[dtype.itemsize])
    return int(bits) if value > 0 else -int(bits)


def inward(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The smallest number of ``dtype`` that is at least ``low``, and the largest that is at most ``high``.

    A bound beyond the range of ``dtype`` becomes infinite. Zeros are positive.

    Raises ``SpecError`` if no number of ``dtype`` lies between.
    """
    limit = largest(dtype)
    inner_low = -math.inf if low < -limit else _at_least(low, dtype)
    inner_high = math.inf if high > limit else -_at_least(-high, dtype)
    if inner_low > inner_high:
        raise SpecError(f"no {name_of(dtype)} number lies between {low!r} and {high!r}")
    return inner_low + 0.0, inner_high + 0.0


def below(value: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is less than ``value``; ``value`` must lie in the range of ``dtype``.

    >>> below(1.0, torch.bfloat16)
    0.99609375
    """
    nearest = -_at_least(-value, dtype)
    if nearest < value:
        return nearest
    bits = torch.tensor(nearest, dtype=torch.float64, device="cpu").to(dtype).reshape(1).view(_BITS[dtype.itemsize])
    if nearest == 0:
        return -float(bits.fill_(1).view(dtype).double())
    return float((bits + (-1 if nearest > 0 else 1)).view(dtype).double())


def _at_least(value: float, dtype: torch.dtype) -> float:
    """The smallest number of ``dtype`` that is at least ``value``; ``value`` must lie in the range of ``dtype``."""
    tensor = torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype).reshape(1)
    nearest = float(tensor.double())
    if nearest >= value:
        return nearest
    bits = tensor.view(_BITS[dtype.itemsize])
    if nearest == 0:
        return float(bits.fill_(1).view(dtype).double())  # the smallest subnormal
    if nearest < 0 and int(bits & (2 ** (8 * dtype.itemsize - 1) - 1)) == 1:
        return 0.0  # from the smallest negative subnormal upwards
    return float((bits + (1 if nearest > 0 else -1)).view(dtype).double())
