"""From (initializer, key, region, dtype, device) to values: one function per initializer.

Elementwise initializers compute any region alone. The others look at whole matrices: they compute the whole
tensor, on the CPU in fp64, and cut the region out of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from zeta import dtypes, matrices
from zeta.fans import Axes
from zeta.initializers import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Site,
    Sparse,
    TruncatedNormal,
    Uniform,
    matrix_shape,
)
from zeta.random import (
    fma32,
    fp32,
    interval,
    normal32,
    normal64,
    uniform32,
    uniform64,
    word53,
    words_at,
    words_of_run,
)
from zeta.regions import Region

#: elements computed at once by the reference: its fp64 temporaries stay in a core's cache
TILE: Final = 2**16
_CONSTANT_TILE: Final = 2**22

# Draw numbers, the upper 64 bits of the counter. fp64 takes its lower 32 bits from the draw with the top bit set.
REAL_DRAW: Final = 0
IMAGINARY_DRAW: Final = 1
MASK_DRAW: Final = 2
_LOW_WORD: Final = 1 << 63

ELEMENTWISE: Final = (Constant, Uniform, Normal, TruncatedNormal)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where values are wanted: the parameter's key and axes, a region of it, dtype and device."""

    key: int
    region: Region
    dtype: torch.dtype
    device: torch.device
    axes: Axes | None = None
    draw: int = 0

    def words(self, draw: int) -> Tensor:
        """The 32-bit words of the region's elements, in its shape; draw numbers count from the target's own."""
        draw += self.draw
        if self.region.is_run:
            run = words_of_run(self.key, self.region.start, self.region.numel, draw=draw, device=self.device)
            return run.view(self.region.sizes)
        return words_at(self.key, self.region.indices(self.device), draw=draw)


def sample(
    initializer: Initializer,
    *,
    key: int,
    region: Region,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    axes: Axes | None = None,
    draw: int = 0,
) -> Tensor:
    """Return the values of ``region``, as a contiguous tensor of its sizes.

    Args:
        initializer: a solved one (see ``Initializer.solve``).
        key: the parameter's key, of :func:`zeta.random.parameter_key`.
        region: which elements; row-major position in the whole tensor decides each value.
        dtype: any real or complex floating dtype; constants also integers.
        device: where to compute. Elementwise values have the same bits on every device.
        axes: the roles of the dimensions; needed by the matrix initializers.
        draw: the first draw number; those of one key are independent.

    >>> sample(Normal(0.02), key=1, region=Region.whole((2, 2)))
    tensor([[0.0246, 0.0250],
            [0.0043, 0.0111]])
    """
    target = Target(key=key, region=region, dtype=dtype, device=torch.device(device), axes=axes, draw=draw)
    return _sample(initializer, target)


def tiles(
    initializer: Initializer,
    *,
    key: int,
    region: Region,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    axes: Axes | None = None,
    zero_row: int | None = None,
    draw: int = 0,
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield ``region`` in consecutive tiles: (index inside the region, values). Temporaries stay bounded.

    ``zero_row`` is the global index along dimension 0 of a row that is zero (an embedding's padding).
    """
    if isinstance(initializer, ELEMENTWISE):
        most = _CONSTANT_TILE if isinstance(initializer, Constant) else TILE
        for index, tile in region.tiles(most):
            values = sample(initializer, key=key, region=tile, dtype=dtype, device=device, axes=axes, draw=draw)
            yield index, with_zero_row(values, tile, zero_row)
    elif region.numel:
        values = sample(initializer, key=key, region=region, dtype=dtype, device=device, axes=axes, draw=draw)
        yield tuple(slice(0, size) for size in region.sizes), with_zero_row(values, region, zero_row)


def with_zero_row(values: Tensor, region: Region, row: int | None) -> Tensor:
    """Set the global row ``row`` to zero, in place, where the region has it."""
    if row is not None and region.offsets[0] <= row < region.offsets[0] + region.sizes[0]:
        values[row - region.offsets[0]].zero_()
    return values


@functools.singledispatch
def _sample(initializer: Initializer, target: Target) -> Tensor:
    raise TypeError(f"{initializer!r} cannot be sampled: solve it for a parameter first")


@_sample.register
def _constant(initializer: Constant, target: Target) -> Tensor:
    # through fp32, as every value of the stream, so that a half-precision constant is rounded the same way
    exact = not dtypes.is_drawable(target.dtype) or dtypes.real_part(target.dtype) is torch.float64
    value = initializer.value if exact else fp32(initializer.value)
    return torch.full(target.region.sizes, value, dtype=target.dtype, device=target.device)


@_sample.register
def _uniform(initializer: Uniform, target: Target) -> Tensor:
    if target.dtype in dtypes.COMPLEX:
        centre, half = (
            (initializer.low + initializer.high) / 2,
            (initializer.high - initializer.low) / 2 * math.sqrt(0.5),
        )
        return _complex(Uniform(centre - half, centre + half), Uniform(-half, half), target)
    return _real_uniform(initializer, target, REAL_DRAW)


@_sample.register
def _normal(initializer: Normal, target: Target) -> Tensor:
    if target.dtype in dtypes.COMPLEX:
        std = initializer.std * math.sqrt(0.5)
        return _complex(Normal(std, initializer.mean), Normal(std), target)
    return _real_normal(initializer, target, REAL_DRAW)


@_sample.register
def _truncated_normal(initializer: TruncatedNormal, target: Target) -> Tensor:
    if target.dtype in dtypes.COMPLEX:
        real = _moved(initializer, -initializer.mean).scaled(math.sqrt(0.5))
        assert isinstance(real, TruncatedNormal)
        return _complex(_moved(real, initializer.mean), real, target)
    return _real_normal(initializer, target, REAL_DRAW)


def _moved(initializer: TruncatedNormal, by: float) -> TruncatedNormal:
    low, high = (None if bound is None else bound + by for bound in (initializer.low, initializer.high))
    return replace(initializer, mean=initializer.mean + by, low=low, high=high)


Scalar = Uniform | Normal | TruncatedNormal


def _complex(real: Scalar, imaginary: Scalar, target: Target) -> Tensor:
    """Independent parts that share the variance evenly, so that ``E|x - mean|^2`` is the real distribution's."""
    part = replace(target, dtype=dtypes.real_part(target.dtype))
    draw = _real_uniform if isinstance(real, Uniform) else _real_normal
    parts = draw(real, part, REAL_DRAW), draw(imaginary, part, IMAGINARY_DRAW)  # type: ignore[arg-type]
    return torch.complex(*parts)


def _real_uniform(initializer: Uniform, target: Target, draw: int) -> Tensor:
    low, width = initializer.low, initializer.high - initializer.low
    words = target.words(draw)
    if target.dtype is torch.float64:
        values = low + uniform64(words, target.words(draw | _LOW_WORD)) * width
    else:
        values = fma32(uniform32(words), fp32(width), fp32(low))
    return _rounded(values, initializer.bounds(), target.dtype)


def _real_normal(initializer: Normal | TruncatedNormal, target: Target, draw: int) -> Tensor:
    sigmas = initializer.sigmas() if isinstance(initializer, TruncatedNormal) else (-math.inf, math.inf)
    words = target.words(draw)
    if target.dtype is torch.float64:
        z = normal64(word53(words, target.words(draw | _LOW_WORD)), interval(*sigmas, bits=53))
        values = initializer.mean + z * initializer.std
    else:
        values = fma32(normal32(words, interval(*sigmas)), fp32(initializer.std), fp32(initializer.mean))
    return _rounded(values, initializer.bounds(), target.dtype)


def _rounded(values: Tensor, bounds: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """Round to ``dtype``, held within ``bounds``."""
    if any(math.isfinite(bound) for bound in bounds):
        values = values.clamp(*dtypes.inward(*bounds, dtype))
    return values.to(dtype) if dtype is torch.float64 else values.float().to(dtype)


# -- whole matrices --------------------------------------------------------------------------------------------------


def _whole(target: Target) -> tuple[Target, Axes]:
    """The same parameter, whole, on the CPU, in the precision that its Gaussian is drawn in."""
    assert target.axes is not None
    if target.dtype in dtypes.COMPLEX:
        dtype = torch.complex128 if target.dtype is torch.complex128 else torch.complex64
    else:
        dtype = torch.float64 if target.dtype is torch.float64 else torch.float32
    whole = replace(target, region=Region.whole(target.region.shape), dtype=dtype, device=torch.device("cpu"))
    return whole, target.axes


def _gaussian(whole: Target) -> Tensor:
    """Standard normal values of the whole parameter, in fp64 or complex128."""
    pieces = [
        values.reshape(-1)
        for _, values in tiles(Normal(), key=whole.key, region=whole.region, dtype=whole.dtype, draw=whole.draw)
    ]
    flat = torch.cat(pieces) if pieces else torch.empty(0, dtype=whole.dtype, device="cpu")
    return flat.view(whole.region.shape).to(torch.complex128 if whole.dtype.is_complex else torch.float64)


def _cut(weight: Tensor, target: Target) -> Tensor:
    """The target's region of a whole weight, rounded through fp32 and moved to its device."""
    single = torch.complex64 if weight.is_complex() else torch.float32
    region = weight[target.region.slices]
    if target.dtype not in (torch.float64, torch.complex128):
        region = region.to(single)
    return region.to(dtype=target.dtype).contiguous().to(target.device)


@_sample.register
def _orthogonal(initializer: Orthogonal, target: Target) -> Tensor:
    whole, axes = _whole(target)
    return _cut(matrices.orthogonal(_gaussian(whole), initializer.gain, axes), target)


@_sample.register
def _delta_orthogonal(initializer: DeltaOrthogonal, target: Target) -> Tensor:
    whole, axes = _whole(target)
    return _cut(matrices.delta_orthogonal(_gaussian(whole), initializer.gain, axes), target)


@_sample.register(Identity)
@_sample.register(Dirac)
def _diagonal(initializer: Identity | Dirac, target: Target) -> Tensor:
    whole, axes = _whole(target)
    return _cut(matrices.diagonal(whole.region.shape, initializer.gain, axes), target)


@_sample.register
def _sparse(initializer: Sparse, target: Target) -> Tensor:
    whole, axes = _whole(target)
    rows = matrix_shape(Site(shape=whole.region.shape, axes=axes)).rows
    values = _gaussian(whole) * initializer.std
    return _cut(matrices.sparse_columns(values, whole.words(MASK_DRAW), initializer.zeros(rows), axes), target)
