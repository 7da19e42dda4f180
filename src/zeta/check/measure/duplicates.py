"""Find equal rows of a matrix by exact integer hashes, and compare their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.check.facts.evidence import Rows, Units
from zeta.fans import Axes

# products that are made at a time, in memory that is used again: as many as torch does not divide among threads, which
# would wait for each other after each operation; or enough for a device
_TILE: Final = 2**15
_TILE_OF_DEVICES: Final = 2**22
# the constants of SplitMix64 (Steele et al. 2014), as signed integers
_STEP: Final = -7046029254386353131
_MIX: Final = -4658895280553007687
#: rows whose hashes are kept; equal hashes of so many rows are no coincidence
_FIRST: Final = 64


class Tiles(Protocol):
    """The values and the gradient of one tensor, in parts along dimension 0, or in one piece."""

    @property
    def numel(self) -> int:
        """The number of its values."""

    def tiles(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Yield the first row of each part, its values and its gradient."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Both:
    """The values and the gradient of one tensor, in one piece."""

    values: Tensor
    gradient: Tensor | None

    @property
    def numel(self) -> int:
        """As the protocol says."""
        return self.values.numel()

    def tiles(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """As the protocol says."""
        yield 0, self.values, self.gradient


class UnitSums:
    """What is added up over the parts of a weight, to compare its units.

    Args:
        axes: the roles of the weight's dimensions; without units, nothing is added up.
        ndim: the number of its dimensions.
    """

    def __init__(self, axes: Axes | None, ndim: int) -> None:
        self._axes = axes
        self._dimensions = _unit_dimensions(axes, ndim)
        self._along = 0 in self._dimensions  #: each part has units of its own, else a part of every unit
        self._still = axes is not None and not axes.batch and not axes.lookup
        self._keys: list[Tensor] = []
        self._any: list[Tensor] = []

    def add(self, first: int, values: Tensor, gradient: Tensor, keys: Tensor | None, some_zero: bool) -> None:
        """Add a part.

        Args:
            first: its first row.
            values: its values.
            gradient: its gradient.
            keys: the hashes of the rows along dimension 0, if they are known.
            some_zero: whether any of its values may be zero.
        """
        rows = rows_of(self._axes, values)
        if rows is None or gradient.shape != values.shape:
            return
        if keys is None or self._dimensions != [0]:
            offset = 0 if self._along else first * (rows.shape[1] // max(1, values.shape[0]))
            keys = hashes(rows, offset, some_zero)
        _gather(self._keys, keys, self._along, torch.add)
        if self._still:
            some = rows.any(dim=1) if some_zero else torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            if some_zero and not bool(some.all()):
                gradients = rows_of(self._axes, gradient)
                assert gradients is not None
                some |= gradients.any(dim=1)
            _gather(self._any, some, self._along, torch.logical_or)

    def keys(self) -> Tensor | None:
        """A hash for each unit; ``None`` without a gradient, or if the dimensions of the units are unknown."""
        return torch.cat(self._keys) if self._keys else None

    def still(self) -> Tensor | None:
        """Which units are zero and have a zero gradient, while others do not; ``None`` if fewer than two.

        Experts and embeddings are excluded: their units get a gradient only from samples that select them.
        """
        return _some(~torch.cat(self._any)) if self._any else None

    def gradients(self, chosen: Tensor, weight: Tiles) -> Tensor:
        """The gradients of the chosen units, one row for each."""
        parts: list[Tensor] = []
        begin = 0
        for _, _, gradient in weight.tiles():
            assert gradient is not None
            rows = rows_of(self._axes, gradient)
            assert rows is not None
            mine = chosen[(chosen >= begin) & (chosen < begin + len(rows))] - begin if self._along else chosen
            parts.append(rows[mine])
            begin += len(rows)
        return torch.cat(parts, dim=0 if self._along else 1)


def _gather(found: list[Tensor], new: Tensor, along: bool, combined: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Add the numbers of more units, or combine those of all units with what was found of them before."""
    found[:] = [*found, new] if along or not found else [combined(found[0], new)]


def _some(still: Tensor) -> Tensor | None:
    return still if 1 < int(still.sum()) < len(still) else None


def taken(axes: Axes | None, still: Tensor, reached: Tensor | None) -> Tensor | None:
    """Which of some units calls of the forward pass took; ``None`` if fewer than two.

    Args:
        axes: the roles of the weight's dimensions.
        still: which units.
        reached: the elements of the weight that calls took, if not all.
    """
    rows = None if reached is None else rows_of(axes, reached)
    return still if rows is None else _some(still & rows.any(dim=1))


def can_be_in_tiles(axes: Axes | None, ndim: int) -> bool:
    """Whether the units of a weight can be compared part by part along dimension 0."""
    dimensions = _unit_dimensions(axes, ndim)
    return ndim >= 2 and (0 not in dimensions or dimensions[0] == 0)


def units_of(sums: UnitSums, weight: Tiles, bias: Both | None, tolerance: float) -> Units | None:
    """Compare the units of a weight; ``None`` if the dimensions of its units are unknown.

    Args:
        sums: those of all parts of the weight.
        weight: the weight, with a gradient of its shape.
        bias: one number for each unit; compared too.
        tolerance: gradients that differ by less, relative to their norm, count as equal.
    """
    keys = sums.keys()
    if keys is None or len(keys) < 2:
        return None
    compared = bias is not None and bias.values.shape == keys.shape
    if bias is not None and compared:
        keys = keys * _MIX + hashes(bias.values[:, None])
    _, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    chosen = (counts[inverse] > 1).nonzero().flatten()
    if not len(chosen):
        return Units(count=len(keys), same=0, idle=0, apart=0, example=None)
    gradients = sums.gradients(chosen, weight)
    if bias is not None and compared and bias.gradient is not None and bias.gradient.shape == keys.shape:
        gradients = torch.cat([gradients, bias.gradient[chosen, None].to(gradients.dtype)], dim=1)
    chosen, gradients = _neighbours(inverse[chosen], chosen, gradients)
    earlier, later = chosen[:-1], chosen[1:]
    paired = inverse[earlier] == inverse[later]
    size = torch.maximum(gradients[:-1].norm(dim=1), gradients[1:].norm(dim=1))
    alike = gradients.diff(dim=0).norm(dim=1) <= tolerance * size
    same, idle, apart = paired & alike & (size > 0), paired & alike & (size == 0), paired & ~alike
    where = same.nonzero().flatten()
    example = None
    if len(where):
        one_unit, another = sorted((int(earlier[where[0]]), int(later[where[0]])))
        example = (one_unit, another)
    return Units(count=len(keys), same=int(same.sum()), idle=int(idle.sum()), apart=int(apart.sum()), example=example)


def _neighbours(groups: Tensor, chosen: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Sort units by group, and in a group by a projection of their gradients, so that similar ones are adjacent."""
    mine = gradients.float()
    direction = torch.arange(1, mine.shape[1] + 1, device=mine.device, dtype=torch.float64).square().cos().float()
    order = torch.argsort(mine @ direction, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    return chosen[order], mine[order]


def rows_in(keys: Tensor) -> Rows:
    """The rows of a weight along dimension 0, by their hashes."""
    known = keys.tolist()
    return Rows(count=len(known), distinct=len(set(known)), first=tuple(known[:_FIRST]))


def rows_of(axes: Axes | None, values: Tensor) -> Tensor | None:
    """The values with one row per unit: per output of a map, per feature of an embedding."""
    dimensions = _unit_dimensions(axes, values.ndim)
    if not dimensions:
        return None
    count = math.prod(values.shape[dim] for dim in dimensions)
    return values.movedim(dimensions, list(range(len(dimensions)))).reshape(count, -1)


def matrix_of(axes: Axes | None, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The shape of ``rows_of`` the values of a tensor."""
    dimensions = _unit_dimensions(axes, len(shape))
    count = math.prod(shape[dim] for dim in dimensions)
    return (count, math.prod(shape) // count) if dimensions and count else None


def _unit_dimensions(axes: Axes | None, ndim: int) -> list[int]:
    """The dimensions along which a tensor has its units; none if they are not known."""
    if axes is None or ndim < 2:
        return []
    dimensions = [dim for dim in (*axes.batch, *axes.fan_out) if dim not in axes.fan_in]
    return [] if len(dimensions) == ndim else dimensions


def hashes(rows: Tensor, offset: int = 0, some_zero: bool = True) -> Tensor:
    """A 64-bit hash for each row; equal rows have equal hashes, whatever the order of summation.

    Hashes of the parts of a row, each with the position of its first element as ``offset``, may be added: rows that are
    cut in the same way are compared by the sum.

    >>> bool((hashes(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).diff() == 0).all())
    True

    Args:
        rows: the rows.
        offset: the position of the first column.
        some_zero: whether any value may be zero, of which the sign must not matter.
    """
    count, width = rows.shape
    down = rows.stride(0) < rows.stride(1)  # the columns are what is consecutive in memory
    lines = rows.T if down else rows
    paired = rows.itemsize == 4 and not down and width % 2 == 0  # two numbers of 32 bits are one of 64
    factors = _factors(offset, width, rows.device)[:: 2 if paired else 1]
    found = factors.new_zeros(count)
    if not width:
        return found
    along = lines.shape[1] // 2 if paired else lines.shape[1]
    step = min(len(lines), max(1, (_TILE if rows.is_cpu else _TILE_OF_DEVICES) // max(1, along)))
    values, products = rows.new_empty(step, lines.shape[1]), factors.new_empty(step, along)
    for begin in range(0, len(lines), max(1, step)):
        part = lines[begin : begin + step]
        here = slice(len(part))
        if some_zero or not part.is_contiguous():
            part = torch.add(part, 0.0, out=values[here])  # no negative zeros
        bits = part.view(torch.int64) if paired else dtypes.bits(part)
        if down:
            found += torch.mul(bits, factors[begin : begin + step, None], out=products[here]).sum(dim=0)
        else:
            torch.sum(torch.mul(bits, factors, out=products[here]), dim=1, out=found[begin : begin + step])
    return found


def _factors(offset: int, count: int, device: torch.device) -> Tensor:
    index = torch.arange(offset + 1, offset + count + 1, device=device) * _STEP
    index = (index ^ (index >> 30)) * _MIX
    return (index ^ (index >> 27)) | 1
