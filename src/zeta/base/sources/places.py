"""A tensor's place in a file, and how a box of it is read.

Bytes that lie together are read into the result. Short runs are read together with what lies between them, in pieces of
at most ``PIECE`` bytes, and copied from there. Runs with wide gaps are read one by one. Files are not mapped: the pages
of a map count as memory of the process, and a file that becomes shorter would end it.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.reading import LARGEST_SIZE, shown
from zeta.base.sources.files import PIECE, File, Fill
from zeta.base.sources.source import Box
from zeta.base.tensors import bytes_view
from zeta.base.text import shape_text
from zeta.errors import CheckpointError, FormatError

#: bytes between two runs that are rather read than skipped, as a call of the system takes about as long
_GAP: Final = 2**15
#: elements that torch copies on one thread
_ALONE: Final = 2**15 - 1


class Place(msgspec.Struct, frozen=True):
    """Where a tensor's elements are: the offset of the first in bytes, and strides in elements, none negative."""

    file: File
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def read(self, box: Box) -> Tensor:
        """The values of a box, as a new contiguous tensor."""
        values = empty(tuple(cut.stop - cut.start for cut in box), self.dtype)
        if not values.numel():
            return values
        target, strides = dtypes.bits(values), self.strides
        if values.is_complex():
            strides = (*(2 * stride for stride in strides), 1)
        first = sum(cut.start * stride for cut, stride in zip(box, self.strides, strict=True))
        # in the order of the file, without dimensions of size 1
        order = sorted(range(target.ndim), key=lambda dim: (target.shape[dim] > 1, -strides[dim]))
        single = sum(size == 1 for size in target.shape)
        target = target.permute(order)[(0,) * single]
        with self.file.reading() as fill:
            start = self.start + first * self.dtype.itemsize
            _Pieces(fill).read(start, target, [strides[dim] for dim in order[single:]])
        return values


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for a tensor; ``CheckpointError`` if there is not so much."""
    try:
        return torch.empty(shape, dtype=dtype, device="cpu")
    except (RuntimeError, MemoryError) as error:
        name = f"{dtypes.name_of(dtype)}, {shape_text(shape)}"
        raise CheckpointError(f"a tensor ({name}) does not fit into memory; read it in parts") from error


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise ``FormatError`` for a shape that torch has no strides for; in a file, only an empty tensor can have it."""
    if math.prod(max(size, 1) for size in shape) > LARGEST_SIZE // 16:
        raise FormatError(f"tensor {shown(name)} has the shape {shape_text(shape)}, which is too large")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()


class _Pieces:
    """Reads boxes of integers, in memory that it keeps for the next piece."""

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self._memory: Tensor | None = None

    def read(self, first: int, target: Tensor, strides: list[int]) -> None:
        """Read elements with descending strides, from the byte ``first`` on."""
        sizes, unit = tuple(target.shape), target.itemsize
        if target.is_contiguous() and tuple(strides) == row_major(sizes):
            self._fill(bytes_view(target), first)
            return
        span = _span(sizes, strides)
        together = 1
        if _is_dense(sizes, strides, span, unit):
            if span * unit <= PIECE:
                piece = self._piece(span, target.dtype)
                self._fill(bytes_view(piece), first)
                _copy(piece.as_strided(sizes, strides), target)
                return
            if (inner := _span(sizes[1:], strides[1:])) * unit <= PIECE:
                together += (PIECE // unit - inner) // strides[0]
        for i in range(0, sizes[0], together):
            part = target[i] if together == 1 else target[i : i + together]
            self.read(first + i * strides[0] * unit, part, strides[1:] if together == 1 else strides)

    def _piece(self, size: int, dtype: torch.dtype) -> Tensor:
        if self._memory is None or len(self._memory) < size:
            self._memory = torch.empty(size, dtype=dtype, device="cpu")
        return self._memory[:size]


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy on this thread alone: waking others for each piece costs more, and callers read on several threads."""
    step = max(1, _ALONE // math.prod(source.shape[1:]))
    for i in range(0, len(source), step):
        target[i : i + step].copy_(source[i : i + step])


def _span(sizes: tuple[int, ...], strides: list[int]) -> int:
    """The elements from the first to the last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def _is_dense(sizes: tuple[int, ...], strides: list[int], span: int, unit: int) -> bool:
    """Whether the gaps are small, on average over all runs."""
    run = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if stride != run:
            break
        run *= size
    count = math.prod(sizes)
    return (span - count) * unit * run <= _GAP * count
