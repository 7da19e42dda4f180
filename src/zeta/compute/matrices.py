"""The matrices inside a weight, and initializers that need a whole matrix at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import Tensor

from zeta.base.language.state import full_precision, one_thread
from zeta.compute.orthogonal import orthonormal
from zeta.fans import Axes
from zeta.initializers import Site, matrix_shape

#: with a smaller gain or std, elements of a large matrix may be subnormal fp32 numbers
TINY: Final = 2.0**-90


def to_matrices(weight: Tensor, axes: Axes) -> Tensor:
    """Rearrange a weight into ``(count, rows, columns, kernel)``: outputs x inputs of each packed map.

    >>> to_matrices(torch.zeros(64, 4, 3, 3), Axes(fan_in=(1, 2, 3), fan_out=(0, 2, 3), blocks=((0, 8),))).shape
    torch.Size([8, 8, 4, 9])
    """
    split, order = _arrangement(weight.shape, axes)
    shape = matrix_shape(Site(shape=tuple(weight.shape), axes=axes))
    return weight.reshape(split).permute(order).reshape(shape.count, shape.rows, shape.columns, math.prod(shape.kernel))


def from_matrices(matrices: Tensor, shape: Sequence[int], axes: Axes) -> Tensor:
    """Undo ``to_matrices`` for a weight of ``shape``."""
    split, order = _arrangement(shape, axes)
    inverse = [order.index(position) for position in range(len(order))]
    return matrices.reshape([split[position] for position in order]).permute(inverse).reshape(tuple(shape))


def _arrangement(shape: Sequence[int], axes: Axes) -> tuple[list[int], list[int]]:
    """The shape with every block dimension split in two, and the order that brings count, rows, columns, kernel."""
    axes = axes.resolved(shape)
    blocks = dict(axes.blocks)
    split: list[int] = []
    place: dict[int, int] = {}
    numbers: list[int] = []
    for dim, extent in enumerate(shape):
        if dim in blocks:
            numbers.append(len(split))
            split.append(blocks[dim])
            extent //= blocks[dim]
        place[dim] = len(split)
        split.append(extent)
    kernel = [dim for dim in axes.fan_in if dim in axes.fan_out]
    rows = [dim for dim in axes.fan_out if dim not in kernel]
    columns = [dim for dim in (*axes.fan_in, *axes.lookup) if dim not in kernel]
    order = [place[dim] for dim in axes.batch] + numbers + [place[dim] for dim in (*rows, *columns, *kernel)]
    return split, order


def orthogonal(gaussian: Tensor, gain: float, axes: Axes) -> Tensor:
    """Orthogonal weights from a Gaussian weight: inputs times kernel are the columns."""
    g = to_matrices(gaussian, axes)
    with _arithmetic(gain):
        return from_matrices(orthonormal(g.flatten(2), gain), gaussian.shape, axes)


def _arithmetic(gain: float) -> AbstractContextManager[None]:
    """Full precision. With a tiny gain, one thread: torch's other threads may flush subnormal numbers to zero."""
    return one_thread() if abs(gain) < TINY else full_precision()


def delta_orthogonal(gaussian: Tensor, gain: float, axes: Axes) -> Tensor:
    """Orthogonal at the kernel's centre, zero elsewhere."""
    g = to_matrices(gaussian, axes)
    centre = kernel_centre(gaussian.shape, axes)
    result = torch.zeros_like(g)
    with _arithmetic(gain):
        result[..., centre] = orthonormal(g[..., centre], gain)
    return from_matrices(result, gaussian.shape, axes)


def diagonal(shape: Sequence[int], gain: float, axes: Axes) -> Tensor:
    """``gain`` on every matrix's main diagonal, at the kernel's centre; fp64."""
    sizes = matrix_shape(Site(shape=tuple(shape), axes=axes))
    result = torch.zeros(
        sizes.count, sizes.rows, sizes.columns, math.prod(sizes.kernel), dtype=torch.float64, device="cpu"
    )
    result[..., kernel_centre(shape, axes)].diagonal(dim1=-2, dim2=-1).fill_(gain)
    return from_matrices(result, shape, axes)


def sparse_columns(weight: Tensor, words: Tensor, zeros: int, axes: Axes) -> Tensor:
    """Set the ``zeros`` elements with the smallest words of every column to zero; ties go to the earlier row."""
    values, order = to_matrices(weight, axes), to_matrices(words, axes).argsort(dim=1, stable=True)
    return from_matrices(values.scatter(1, order[:, :zeros], 0.0), weight.shape, axes)


def kernel_centre(shape: Sequence[int], axes: Axes) -> int:
    """The position of the centre tap (``k // 2`` in every kernel dimension) in the flattened kernel."""
    kernel = matrix_shape(Site(shape=tuple(shape), axes=axes)).kernel
    position = 0
    for extent in kernel:
        position = position * extent + extent // 2
    return position
