"""Which elements of the whole tensor the local shard holds, and where: plain tensors and ``DTensor``.

Nothing here communicates. A placement cuts a dimension as ``torch.chunk`` does, one mesh dimension after the other, in
order. FSDP of a tensor-parallel weight is the exception: FSDP's mesh dimension comes first, but it cuts the pieces that
tensor parallelism has made. torch writes this as ``_StridedShard``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from zeta.base.distributed import is_sharded, local
from zeta.base.reading import shown
from zeta.compute.stream.regions import Region
from zeta.errors import SpecError, TargetError

#: consecutive elements along one dimension: (start, stop), ``stop`` excluded
Span = tuple[int, int]


class Part(Struct, frozen=True, kw_only=True):
    """A box of the whole tensor, and its index in the local tensor."""

    region: Region
    index: tuple[slice, ...]


class Held(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The local shard of a tensor, all of it if it is plain: its memory, and the parts of the tensor that fill it."""

    local: Tensor
    parts: tuple[Part, ...]
    sharded: bool = False

    @property
    def numel(self) -> int:
        """The number of elements of the parts."""
        return sum(part.region.numel for part in self.parts)

    @property
    def is_one(self) -> bool:
        """Whether all of the memory is one part."""
        return len(self.parts) == 1 and self.parts[0].region.numel == self.local.numel()

    def within(self, dim: int, spans: Sequence[Span]) -> Held:
        """What is here of these spans along one dimension."""
        parts = [
            Part(region=region, index=_moved(part, region))
            for part in self.parts
            for region in part.region.along(dim, spans)
        ]
        return replace(self, parts=tuple(parts))

    def places(self) -> list[tuple[Tensor, Region]]:
        """Each part's memory, and its region of the whole tensor."""
        if self.is_one:
            return [(self.local, self.parts[0].region)]
        return [(self.local[part.index], part.region) for part in self.parts]


def _moved(part: Part, region: Region) -> tuple[slice, ...]:
    """The index in the local tensor of a region inside of a part."""
    return tuple(
        slice(index.start + begin - offset, index.start + begin - offset + size)
        for index, offset, begin, size in zip(
            part.index, part.region.offsets, region.offsets, region.sizes, strict=True
        )
    )


def parts_of(
    shape: Sequence[int], mesh_shape: Sequence[int], placements: Sequence[Any], coordinate: Sequence[int]
) -> tuple[Part, ...]:
    """Return what the rank at ``coordinate`` of a mesh holds of a tensor of ``shape``.

    Almost always one part; none if the rank holds nothing; several if its elements along a dimension have gaps.

    Args:
        shape: of the whole tensor.
        mesh_shape: ranks along each mesh dimension.
        placements: torch's, one for each mesh dimension: ``Shard``, ``Replicate``, or the ``_StridedShard`` of FSDP.
        coordinate: which rank.

    Raises:
        SpecError: numbers of dimensions that differ, a coordinate outside the mesh, or not a placement.
        TargetError: a placement that assigns no elements to ranks, such as ``Partial``.

    >>> from torch.distributed.tensor import Replicate, Shard
    >>> [part] = parts_of((5, 6), (2, 3), (Replicate(), Shard(0)), (1, 2))
    >>> part.region.offsets, part.region.sizes
    ((4, 0), (1, 6))
    """
    shape, mesh_shape, coordinate = tuple(shape), tuple(mesh_shape), tuple(coordinate)
    if not len(mesh_shape) == len(placements) == len(coordinate):
        raise SpecError(
            f"a mesh of shape {mesh_shape} needs as many placements and coordinates, got {tuple(placements)} and "
            f"{coordinate}"
        )
    if not all(0 <= here < size for here, size in zip(coordinate, mesh_shape, strict=True)):
        raise SpecError(f"the mesh of shape {mesh_shape} has no coordinate {coordinate}")
    cuts = tuple(_cut(placement, dim, len(shape)) for dim, placement in enumerate(placements))
    return _parts(shape, mesh_shape, cuts, coordinate)


def held(tensor: Tensor) -> Held:
    """Return the local shard of a tensor; all of a plain one. ``TargetError`` if its placements do not determine it."""
    if not is_sharded(tensor):
        return Held(local=tensor, parts=_all(tensor.shape))
    mesh, placements, memory = tensor.device_mesh, tensor.placements, local(tensor)
    coordinate = mesh.get_coordinate()
    if coordinate is None:  # this rank is not in the mesh
        return Held(local=memory, parts=(), sharded=True)
    _check_order(tensor)
    parts = parts_of(tensor.shape, mesh.shape, placements, coordinate)
    count = sum(part.region.numel for part in parts)
    if memory.numel() != count or not all(_fits(part, memory.shape) for part in parts):
        raise TargetError(
            f"is a DTensor of shape {tuple(tensor.shape)} with a local tensor of shape {tuple(memory.shape)}, which is "
            f"not what {tuple(placements)} on a mesh of shape {tuple(mesh.shape)} give at {tuple(coordinate)}"
        )
    return Held(local=memory, parts=parts, sharded=True)


def whole(tensor: Tensor) -> Held:
    """A plain tensor, as a shard that holds all of it."""
    return Held(local=tensor, parts=_all(tensor.shape))


def _check_order(tensor: Any) -> None:
    """Raise ``TargetError`` if mesh dimensions cut in another order than theirs, which placements do not show."""
    orders = [tuple(entry.mesh_dims) for entry in getattr(tensor._spec, "shard_order", None) or ()]
    if any(order != tuple(sorted(order)) for order in orders):
        raise TargetError(
            f"is a DTensor whose {tuple(tensor.placements)} were cut in the order {orders} of mesh dimensions; "
            "redistribute it to the default order first"
        )


def _fits(part: Part, shape: Sequence[int]) -> bool:
    return all(along.stop <= size for along, size in zip(part.index, shape, strict=True))


# -- arithmetic ------------------------------------------------------------------------------------------------------

#: how a mesh dimension cuts: (dimension of the tensor, number of pieces that are cut separately); ``None``: replicates
_Cut = tuple[int, int] | None


def _cut(placement: Any, mesh_dim: int, ndim: int) -> _Cut:
    from torch.distributed.tensor.placement_types import Placement, Replicate, Shard, _StridedShard

    if isinstance(placement, Replicate):
        return None
    if not isinstance(placement, Placement):
        raise SpecError(
            f"expected a placement of torch.distributed.tensor along mesh dimension {mesh_dim}, got {shown(placement)}"
        )
    if not isinstance(placement, Shard | _StridedShard):
        raise TargetError(
            f"is a DTensor with the placement {placement} along mesh dimension {mesh_dim}, which leaves no rank with "
            "elements of its own; redistribute it to Replicate() or Shard(dim) first"
        )
    if not -ndim <= placement.dim < ndim:
        raise SpecError(f"{placement} names a dimension that a tensor of {ndim} dimensions does not have")
    return placement.dim % ndim, int(getattr(placement, "split_factor", 1))


@functools.lru_cache(maxsize=4096)
def _parts(
    shape: tuple[int, ...], mesh_shape: tuple[int, ...], cuts: tuple[_Cut, ...], coordinate: tuple[int, ...]
) -> tuple[Part, ...]:
    spans = [_spans(dim, extent, mesh_shape, cuts, coordinate) for dim, extent in enumerate(shape)]
    placed = [_placed(along) for along in spans]
    return tuple(
        Part(
            region=Region(
                shape=shape,
                offsets=tuple(start for (start, _), _ in corner),
                sizes=tuple(stop - start for (start, stop), _ in corner),
            ),
            index=tuple(index for _, index in corner),
        )
        for corner in itertools.product(*placed)
    )


def _spans(
    dim: int, extent: int, mesh_shape: tuple[int, ...], cuts: tuple[_Cut, ...], coordinate: tuple[int, ...]
) -> list[Span]:
    """The spans that the rank holds of one dimension, in the order in which they lie in the local tensor."""
    of_dim = [(mesh_dim, cut[1]) for mesh_dim, cut in enumerate(cuts) if cut is not None and cut[0] == dim]
    order: list[tuple[int, int]] = []
    for position, (mesh_dim, pieces) in reversed(list(enumerate(of_dim))):
        later = math.prod(mesh_shape[other] for other, _ in of_dim[position + 1 :])
        if pieces == later:
            order.append((mesh_dim, 1))  # FSDP after tensor parallelism: cuts the pieces of the later mesh dimensions
        else:
            order.insert(0, (mesh_dim, pieces))
    spans: list[Span] = [(0, extent)]
    for mesh_dim, pieces in order:
        number, count = coordinate[mesh_dim], mesh_shape[mesh_dim]
        spans = [span for piece in range(pieces) for span in _chunk(_chunk(spans, pieces, piece), count, number)]
    return spans


def _chunk(spans: list[Span], count: int, number: int) -> list[Span]:
    """Chunk ``number`` of the ``count`` chunks that ``torch.chunk`` makes."""
    step = -(-sum(stop - start for start, stop in spans) // count)
    begin, end = step * number, step * (number + 1)
    chosen: list[Span] = []
    for start, stop in spans:
        first, last = start + max(begin, 0), min(start + end, stop)
        if first < last:
            chosen.append((first, last))
        begin, end = begin - (stop - start), end - (stop - start)
    return chosen


def _placed(spans: list[Span]) -> list[tuple[Span, slice]]:
    """Each span with its place in the local tensor; adjacent spans are joined."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    ends = list(itertools.accumulate(stop - start for start, stop in joined))
    return [(span, slice(end - span[1] + span[0], end)) for span, end in zip(joined, ends, strict=True)]


@functools.lru_cache(maxsize=4096)
def _all(shape: tuple[int, ...]) -> tuple[Part, ...]:
    return (Part(region=Region.whole(shape), index=Region.whole(shape).slices),)
