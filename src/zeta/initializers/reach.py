"""Whether a dtype can represent the values of a solved law."""

from __future__ import annotations

import functools
import math

import torch

from zeta.base import dtypes
from zeta.errors import SpecError
from zeta.initializers.base import Initializer
from zeta.initializers.blocks import Blocks
from zeta.initializers.elementwise import LARGEST_SIGMA, Constant, Normal, TruncatedNormal, Uniform
from zeta.initializers.matrix import DeltaOrthogonal, Orthogonal, Sparse

#: products of reflections, which have up to 2^24 elements below 7, are less than this times the gain
_SUMS = 2**32


@functools.lru_cache(maxsize=4096)
def check_law(initializer: Initializer, dtype: torch.dtype) -> None:
    """Raise ``SpecError`` if ``dtype`` cannot represent the values of a solved law."""
    if isinstance(initializer, Blocks):
        for part in initializer.parts:
            check_law(part, dtype)
        return
    name = dtypes.name_of(dtype)
    if not dtypes.is_drawable(dtype):
        if isinstance(initializer, Constant) and not dtype.is_floating_point and initializer.value.is_integer():
            first, last = _whole_numbers(dtype)
            if first <= initializer.value <= last:
                return  # counters and masks; integer parameters are refused when written
            raise SpecError(f"{initializer!r} is none of the whole numbers of {name}, {first} to {last}")
        raise SpecError(
            f"{name} is not a floating-point dtype that weights are drawn in; initialize before quantizing, or use "
            "Keep()"
        )
    reach = _reach(initializer)
    if reach > dtypes.largest(dtype):
        raise SpecError(f"{initializer!r} reaches {reach:.3g}, but {name} ends at {dtypes.largest(dtype):.3g}")
    computed = torch.float64 if dtypes.real_part(dtype) is torch.float64 else torch.float32
    if isinstance(initializer, Orthogonal | DeltaOrthogonal) and reach > dtypes.largest(computed) / _SUMS:
        raise SpecError(
            f"{initializer!r} is computed in {dtypes.name_of(computed)} by sums that may be 2^32 times as large, and "
            f"end at {dtypes.largest(computed):.3g}; give a smaller gain"
        )
    if isinstance(initializer, Uniform | TruncatedNormal):
        low, high = initializer.bounds()
        what, scale = ("std", initializer.std) if isinstance(initializer, TruncatedNormal) else ("width", high - low)
        if scale > dtypes.largest(computed):
            raise SpecError(
                f"{initializer!r} has a {what} of {scale:.3g}, but {name} is drawn in {dtypes.name_of(computed)}, "
                f"which ends at {dtypes.largest(computed):.3g}"
            )
        if dtype in dtypes.REAL:
            dtypes.inward(low, high, dtype)
        elif isinstance(initializer, TruncatedNormal) and sum(initializer.sigmas()) != 0:
            raise SpecError(f"{initializer!r} is not symmetric about its mean, which a complex dtype needs")


def _whole_numbers(dtype: torch.dtype) -> tuple[int, int]:
    if dtype is torch.bool:
        return 0, 1
    try:
        info = torch.iinfo(dtype)
    except TypeError:  # of 4 bits, or of nothing but bits
        return 0, 0
    return info.min, info.max


def _reach(initializer: Initializer) -> float:
    """The largest magnitude that a solved initializer can give."""
    # fp64 draws reach 8.2 sigma, but its range is always large enough
    reach = max(abs(bound) for bound in initializer.bounds())
    if isinstance(initializer, Normal):
        reach = abs(initializer.mean) + LARGEST_SIGMA * initializer.std
    elif isinstance(initializer, TruncatedNormal):
        low, high = initializer.sigmas()
        # the farthest of 2^32 values from a on has the tail Q(z) >= Q(a) / 2^33, and Q(z) <= Q(a) exp((a^2 - z^2) / 2)
        farthest = math.hypot(max(low, -high, 0.0), math.sqrt(66 * math.log(2)))
        reach = min(reach, abs(initializer.mean) + farthest * initializer.std)
    elif isinstance(initializer, Sparse):
        reach = LARGEST_SIGMA * initializer.std
    return reach
