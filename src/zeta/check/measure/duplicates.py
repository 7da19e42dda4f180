"""Find equal rows of a matrix by exact integer hashes, and compare their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.check.facts.evidence import Rows, Units
from zeta.fans import Axes

_TILE: Final = 2**22
# the constants of SplitMix64 (Steele et al. 2014), as signed integers
_STEP: Final = -7046029254386353131
_MIX: Final = -4658895280553007687
#: rows whose hashes are kept; equal hashes of so many rows are no coincidence
_FIRST: Final = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Both:
    """The values and the gradient of one tensor."""

    values: Tensor
    gradient: Tensor | None


def units_of(axes: Axes | None, weight: Both, bias: Both | None, tolerance: float) -> Units | None:
    """Compare the units of a weight; ``None`` if the dimensions of its units are unknown.

    Args:
        axes: the roles of the weight's dimensions.
        weight: the weight, with a gradient of its shape.
        bias: one number for each unit; compared too.
        tolerance: gradients that differ by less, relative to their norm, count as equal.
    """
    rows = rows_of(axes, weight.values)
    gradient = weight.gradient
    if rows is None or gradient is None or gradient.shape != weight.values.shape or rows.shape[0] < 2:
        return None
    gradients = rows_of(axes, gradient)
    assert gradients is not None
    keys = hashes(rows)
    if bias is not None and bias.values.shape == keys.shape:
        keys = keys * _MIX + hashes(bias.values[:, None])
        if bias.gradient is not None and bias.gradient.shape == keys.shape:
            gradients = torch.cat([gradients, bias.gradient[:, None].to(gradients.dtype)], dim=1)
    _, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    chosen = (counts[inverse] > 1).nonzero().flatten()
    if not len(chosen):
        return Units(count=len(keys), same=0, idle=0, apart=0, example=None)
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
    mine = gradients[chosen].float()
    direction = torch.arange(1, mine.shape[1] + 1, device=mine.device, dtype=torch.float64).square().cos().float()
    order = torch.argsort(mine @ direction, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    return chosen[order], mine[order]


def rows_in(values: Tensor) -> Rows:
    """The rows of a weight along dimension 0."""
    keys = hashes(values.reshape(values.shape[0], -1)).tolist()
    return Rows(count=len(keys), distinct=len(set(keys)), first=tuple(keys[:_FIRST]))


def still_zeros(axes: Axes | None, weight: Both) -> Tensor | None:
    """Which units of a weight are zero and have a zero gradient, while others do not; ``None`` if fewer than two.

    Experts and embeddings are excluded: their units get a gradient only from samples that select them.
    """
    if axes is None or axes.batch or axes.lookup or weight.gradient is None:
        return None
    rows = rows_of(axes, weight.values)
    if rows is None or weight.gradient.shape != weight.values.shape:
        return None
    gradients = rows_of(axes, weight.gradient)
    assert gradients is not None
    still = ~(rows.any(dim=1) | gradients.any(dim=1))
    return still if 1 < int(still.sum()) < len(still) else None


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


def hashes(rows: Tensor) -> Tensor:
    """A 64-bit hash for each row; equal rows have equal hashes, whatever the order of summation.

    >>> bool((hashes(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).diff() == 0).all())
    True
    """
    index = torch.arange(1, rows.shape[1] + 1, device=rows.device) * _STEP
    index = (index ^ (index >> 30)) * _MIX
    factors = (index ^ (index >> 27)) | 1
    step = max(1, _TILE // max(1, rows.shape[1]))
    parts = []
    for begin in range(0, rows.shape[0], step):
        part = (rows[begin : begin + step] + 0.0).contiguous()  # no negative zeros
        parts.append((dtypes.bits(part).to(torch.int64) * factors).sum(dim=1))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=rows.device)
