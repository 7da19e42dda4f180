"""Operations that move elements of logical tensors; and strided views of row-major values, expressed as boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of row-major values.

    >>> strides_of((2, 3, 4))
    (12, 4, 1)
    """
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


# -- operations: the result may share memory with an operand; no operand changes (but in those that end in _) ----------


def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """The same elements, in row-major order, in another shape."""
    _check(all(extent >= 0 for extent in shape) and math.prod(shape) == x.numel(), f"{tuple(x.shape)} to {shape}")
    return x.reshape(shape)


def permute(x: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Dimension ``i`` of the result is dimension ``dims[i]``."""
    _check(sorted(dims) == list(range(x.ndim)), f"{dims} is no order of {x.ndim} dimensions")
    return x.permute(dims)


def expand(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """Broadcast to ``shape``: dimensions of extent 1, and new ones in front, repeat."""
    _check(all(extent >= 0 for extent in shape), f"{shape} has a negative extent")
    return x.expand(shape)


def cut(x: Tensor, *, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """Elements ``starts[d] + i * steps[d]`` along each dimension, ``sizes[d]`` of them."""
    return x[_box(x, starts, sizes, steps)]


def update(x: Tensor, value: Tensor, *, starts: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """``x`` with ``value`` in its elements ``starts[d] + i * steps[d]``."""
    return update_(x.clone(memory_format=torch.contiguous_format), value, starts=starts, steps=steps)


def update_(x: Tensor, value: Tensor, *, starts: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """As ``update``, in place."""
    _check(value.ndim == x.ndim and value.dtype is x.dtype, "value and target differ in dimensions or dtype")
    x[_box(x, starts, tuple(value.shape), steps)] = value
    return x


def strided(x: Tensor, *, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tensor:
    """Element ``i`` of the result is number ``offset + sum(i[d] * strides[d])`` of the elements in row-major order."""
    _check(len(shape) == len(strides), f"{len(shape)} extents and {len(strides)} strides")
    _check(all(n >= 0 for n in (*shape, *strides, offset)), "extents, strides and offset are not negative")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    _check(0 in shape or last < x.numel(), f"element {last} of {x.numel()}")
    flat = x.contiguous()
    return flat.as_strided(shape, strides, flat.storage_offset() + offset)


def strided_update(x: Tensor, value: Tensor, *, strides: tuple[int, ...], offset: int) -> Tensor:
    """``x`` with ``value`` in the elements that ``strided`` with the same arguments would return."""
    return strided_update_(x.clone(memory_format=torch.contiguous_format), value, strides=strides, offset=offset)


def strided_update_(x: Tensor, value: Tensor, *, strides: tuple[int, ...], offset: int) -> Tensor:
    """As ``strided_update``, in place; ``x`` is contiguous."""
    _check(value.dtype is x.dtype, "value and target differ in dtype")
    strided(x, shape=tuple(value.shape), strides=strides, offset=offset).copy_(value)
    return x


def bits(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """The bytes of the row-major values (little-endian), reinterpreted as another dtype along the last dimension."""
    _check(x.ndim > 0 and dtype is not torch.bool, "only tensors with dimensions can be taken as another dtype")
    return x.contiguous().view(dtype)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _box(x: Tensor, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> tuple[slice, ...]:
    _check(len(starts) == len(sizes) == len(steps) == x.ndim, f"a box of {len(starts)} dimensions in {x.ndim}")
    for extent, start, size, step in zip(x.shape, starts, sizes, steps, strict=True):
        inside = step >= 1 and size >= 0 and start >= 0 and start + step * (size - 1) < extent
        _check(inside or (size == 0 and 0 <= start <= extent), f"{size} elements from {start} in steps of {step}")
    return tuple(slice(a, a + n * s, s) for a, n, s in zip(starts, sizes, steps, strict=True))


# -- views as boxes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Box:
    """A strided view that is a box of the base: ``base[slices]``, permuted, without some dimensions of extent 1.

    ``order[i]`` is the base's dimension of the view's dimension ``i``; ``None`` if that has extent 1.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    order: tuple[int | None, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """All of a tensor."""
        return cls(
            starts=(0,) * len(shape), sizes=tuple(shape), steps=(1,) * len(shape), order=tuple(range(len(shape)))
        )

    @property
    def stops(self) -> tuple[int, ...]:
        """The end, exclusive, in each dimension."""
        return tuple(a + s * (n - 1) + 1 for a, n, s in zip(self.starts, self.sizes, self.steps, strict=True))

    @property
    def permutation(self) -> tuple[int, ...]:
        """The base's dimensions in the order of the view; those that the view does not have come last."""
        along = [dim for dim in self.order if dim is not None]
        return (*along, *(dim for dim in range(len(self.sizes)) if dim not in along))


def box_of(base: Sequence[int], shape: Sequence[int], strides: Sequence[int], offset: int) -> Box | None:
    """Express a strided view of row-major values as a box; ``None`` if it is not one.

    >>> box_of((10, 4), (4,), (1,), 12).starts, box_of((10, 4), (10, 2), (4, 2), 0).steps
    ((3, 0), (1, 2))
    """
    if math.prod(shape) == 0 or math.prod(base) == 0:
        return None
    unit = strides_of(base)
    starts = tuple(offset // stride % extent if extent > 1 else 0 for stride, extent in zip(unit, base, strict=True))
    if sum(start * stride for start, stride in zip(starts, unit, strict=True)) != offset:
        return None
    sizes, steps = [1] * len(base), [1] * len(base)
    order: list[int | None] = [None] * len(shape)
    for dim, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if size == 1:
            continue
        fits = [
            position
            for position, extent in enumerate(base)
            if sizes[position] == 1
            and stride >= unit[position] > 0
            and stride % unit[position] == 0
            and starts[position] + stride // unit[position] * (size - 1) < extent
        ]
        if not fits:
            return None
        chosen = min(fits, key=lambda position: stride // unit[position])
        sizes[chosen], steps[chosen], order[dim] = size, stride // unit[chosen], chosen
    return Box(starts=starts, sizes=tuple(sizes), steps=tuple(steps), order=tuple(order))


def shape_for(numel: int, shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """A shape for ``numel`` row-major values whose strides include the view's, so that the view may be a box in it.

    >>> shape_for(64, (2, 2, 4, 4), (32, 4, 8, 1))  # windows of 4 x 4 in 8 x 8
    (2, 4, 2, 4)
    """
    found = sorted({stride for size, stride in zip(shape, strides, strict=True) if size > 1} | {1}, reverse=True)
    extents = []
    whole = numel
    for stride in found:
        if stride == 0 or whole % stride:
            return None
        extents.append(whole // stride)
        whole = stride
    return tuple(extents)
