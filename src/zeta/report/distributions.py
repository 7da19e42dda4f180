"""Whether two entries draw from the same distribution, even if they are written differently.

``Normal(0.02)`` is a ``VarianceScaling`` that solves to it, and ``TruncatedNormal(0.02, low=-2, high=2)``, whose bounds
lie 100 sigma away; it is not ``TruncatedNormal(0.02)``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

import torch
from msgspec.structs import replace
from torch import Tensor

from zeta.base import dtypes
from zeta.compute.values import values_of
from zeta.initializers import (
    FARTHEST_SIGMA,
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Draw,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Program,
    Site,
    Sparse,
    Step,
    TruncatedNormal,
    Uniform,
    matrix_shape,
)
from zeta.initializers.blocks import laws_of
from zeta.resolve.plans import Entry

#: Relative difference up to which numbers count as equal. It is far above rounding errors in fp64 or fp32. To detect a
#: smaller difference between two stds would take more than 5e11 values.
TOLERANCE: Final = 1e-6


def same_distribution(one: Entry, other: Entry) -> bool:
    """Whether the values of two entries have the same distribution, or are equal if nothing is random.

    Scales and locations must agree within ``TOLERANCE``, relative to the scale; locations may also differ by the
    rounding of the dtype. Programs with random numbers are compared step by step. Padding rows and dtypes are not
    compared.
    """
    first, second = one.initializer, other.initializer
    if one.kept or other.kept:
        return one.kept and other.kept
    if first == second and one.site == other.site:
        return True
    programs = isinstance(first, Program), isinstance(second, Program)
    if not any(programs):
        rounding = max(_rounding(one.dtype), _rounding(other.dtype))
        pairs = zip(_by_block(first, second, one.site), _by_block(second, first, other.site), strict=True)
        return _same_blocks(first, second) and all(a.is_close(b, rounding) for a, b in pairs)
    if all(programs) and _alike(first, second):
        return True
    return one.shape == other.shape and _is_fixed(first) and _is_fixed(second) and _same_values(one, other)


# -- known laws --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Canonical:
    """A distribution in canonical form: its family, a scale, and locations (numbers that shift with the values)."""

    family: tuple[Hashable, ...]
    scale: float = 0.0
    locations: tuple[float, ...] = ()

    def is_close(self, other: _Canonical, rounding: float) -> bool:
        """Whether two distributions are equal, for values with a relative rounding of ``rounding``."""
        if self.family != other.family or not math.isclose(self.scale, other.scale, rel_tol=TOLERANCE):
            return False
        return all(
            math.isclose(a, b, rel_tol=rounding, abs_tol=TOLERANCE * self.scale)
            for a, b in zip(self.locations, other.locations, strict=True)
        )


def _same_blocks(first: Initializer, second: Initializer) -> bool:
    """Whether both have equal blocks, as far as both have blocks."""
    forms = {(one.dim, len(one.parts)) for one in (first, second) if isinstance(one, Blocks)}
    return len(forms) < 2


def _by_block(initializer: Initializer, other: Initializer, site: Site) -> list[_Canonical]:
    """The distribution of each block of either; of an initializer without blocks, the same for each of them."""
    if isinstance(initializer, Blocks):
        within = Site(shape=site.shape, axes=initializer.axes_of(site.axes))
        return [_canonical(part, within) for part in initializer.parts]
    return [_canonical(initializer, site)] * len(laws_of(other))


def _canonical(initializer: Initializer, site: Site) -> _Canonical:
    match initializer.solve(site):
        case Constant(value=value) | Normal(std=0.0, mean=value):
            return _Canonical(family=("constant",), locations=(value,))
        case Normal(std=std, mean=mean):
            return _Canonical(family=("normal", -math.inf, math.inf), scale=std, locations=(mean,))
        case TruncatedNormal() as truncated:
            return _truncated(truncated)
        case Uniform(low=low, high=high):
            return _Canonical(family=("uniform",), scale=high - low, locations=(low, high))
        case Orthogonal(gain=gain):
            rows, columns, *rest = _roles(site)  # the transpose has the same distribution
            return _Canonical(family=("orthogonal", frozenset((rows, columns)), *rest), scale=abs(gain))
        case DeltaOrthogonal(gain=gain):
            return _Canonical(family=("delta orthogonal", *_roles(site)), scale=abs(gain))
        case Identity(gain=gain) | Dirac(gain=gain):
            return _Canonical(family=("identity", *_roles(site)), locations=(gain,))
        case Sparse(std=std) as sparse:
            zeros = sparse.zeros(matrix_shape(site).rows)
            return _Canonical(family=("sparse", zeros, *_roles(site)), scale=std)
    return _Canonical(family=(initializer,))


def _truncated(law: TruncatedNormal) -> _Canonical:
    """A truncated normal; a bound beyond ``FARTHEST_SIGMA`` cuts off less than 1e-15 and counts as infinite."""
    bounds = [
        bound if abs(sigma) < FARTHEST_SIGMA else math.copysign(math.inf, sigma)
        for bound, sigma in zip(law.bounds(), law.sigmas(), strict=True)
    ]
    finite = tuple(bound for bound in bounds if math.isfinite(bound))
    infinite = (bound if math.isinf(bound) else None for bound in bounds)
    return _Canonical(family=("normal", *infinite), scale=law.std, locations=(law.mean, *finite))


def _roles(site: Site) -> tuple[Hashable, ...]:
    """The dimensions that are rows, columns, kernel and batch of the matrices in a weight, and its blocks."""
    if site.axes is None:
        return (None, None)
    axes = site.axes.resolved(site.shape)
    kernel = {*axes.fan_in} & {*axes.fan_out}
    rows, columns = {*axes.fan_out} - kernel, {*axes.fan_in, *axes.lookup} - kernel
    blocks = frozenset(block for block in axes.blocks if block[1] > 1)
    return (frozenset(rows), frozenset(columns), frozenset(kernel), frozenset(axes.batch), blocks)


@functools.cache
def _rounding(dtype: torch.dtype) -> float:
    return dtypes.relative_rounding(dtype) if dtypes.is_drawable(dtype) else 0.0


# -- programs ----------------------------------------------------------------------------------------------------------


def _alike(one: Any, other: Any) -> bool:
    """Whether two programs, or parts of them, are equal; floats are compared within ``TOLERANCE``."""
    match one, other:
        case Program(), Program():
            return _alike(one.steps, other.steps)
        case Step(), Step() if (one.op, one.shape, one.dtype) != (other.op, other.shape, other.dtype):
            return False
        case Step(leaf=Draw() as first), Step(leaf=Draw() as second):
            laws = [_canonical(draw.initializer, Site(shape=one.shape, axes=draw.axes)) for draw in (first, second)]
            return (first.number, first.of) == (second.number, second.of) and laws[0].is_close(laws[1], 0.0)
        case Step(), Step():
            return one.leaf == other.leaf and _alike((one.operands, one.attributes), (other.operands, other.attributes))
        case tuple(), tuple():
            return len(one) == len(other) and all(map(_alike, one, other))
        case float(), float():
            return math.isclose(one, other, rel_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and bool(one == other)


def _is_fixed(initializer: Initializer) -> bool:
    """Whether an initializer is deterministic."""
    if isinstance(initializer, Program):
        return not initializer.draws
    return all(isinstance(law, Constant | Identity | Dirac) for law in laws_of(initializer))


def _same_values(one: Entry, other: Entry) -> bool:
    """Whether two deterministic entries give the same values, within ``TOLERANCE`` and the rounding."""
    a, b = (_values(entry) for entry in (one, other))
    if a.is_complex() != b.is_complex():
        return False
    if not any(values.is_floating_point() or values.is_complex() for values in (a, b)):
        return torch.equal(a.long(), b.long())  # indices and masks are equal, or others
    a, b = (values if values.is_complex() else values.double() for values in (a, b))
    finite = b[b.isfinite()].abs()
    part = max(TOLERANCE, _rounding(one.dtype), _rounding(other.dtype))
    largest = float(finite.max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=part * largest, equal_nan=True).all())


def _values(entry: Entry) -> Tensor:
    values = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    for index, tile in values_of(replace(entry, section=None), 0):
        values[index] = tile
    return values
