"""What one rank holds of a plan, what it computes for that, and how much temporary memory it needs."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from msgspec import structs
from torch import nn

from zeta.base import dtypes, html
from zeta.base.distributed import any_sharded
from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.base.text import bytes_text
from zeta.compute import programs
from zeta.compute.stream import kernels
from zeta.errors import PlanError, SpecError, TargetError
from zeta.initializers import Blocks, Dirac, Identity, Initializer, Program, Sparse
from zeta.initializers.blocks import is_elementwise, laws_of
from zeta.resolve.plans import Cost, Entry, Plan
from zeta.resolve.slots import walk
from zeta.write.shards import Part, held, parts_of

#: one placement for each mesh dimension, as ``DTensor.placements``
Placements = Sequence[Any]
#: the same for all tensors, or one for each: a function of the entry, or a dictionary of name globs (first match wins)
Placing = Placements | Mapping[str, Placements] | Callable[[Entry], Placements]

# Peak temporary memory per element of the whole tensor, measured on 4096 x 4096 matrices.
_ORTHOGONAL_COPIES: Final = 4  # the Gaussian, its copy, its reflections and the result
_DIAGONAL_BYTES: Final = 8  # fp64
_SPARSE_BYTES: Final = 32  # a Gaussian in fp64, and sorted words with their order


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a rank holds of one entry, and its cost."""

    entry: Entry
    parts: tuple[Part, ...]
    cost: Cost

    @property
    def numel(self) -> int:
        """The number of elements that the rank holds."""
        return sum(part.region.numel for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What one rank of a mesh holds of a plan. ``print`` shows it as a table."""

    mesh_shape: tuple[int, ...]
    rank: int
    coordinate: tuple[int, ...]
    shares: tuple[Share, ...]

    def __iter__(self) -> Iterator[Share]:
        return iter(self.shares)

    def __getitem__(self, name: str) -> Share:
        for share in self.shares:
            if name == share.entry.name or name in share.entry.ties:
                return share
        close = did_you_mean(name, (share.entry.name for share in self.shares))
        raise KeyError(f"the plan has no parameter or buffer named {shown(name)}{close}")

    @property
    def cost(self) -> Cost:
        """The cost of all entries, written one after the other."""
        return functools.reduce(Cost.__add__, (share.cost for share in self.shares), Cost())

    def __repr__(self) -> str:
        mesh = " x ".join(map(str, self.mesh_shape))
        return f"ShardPlan(rank {self.rank} of a mesh of {mesh}, {bytes_text(self.cost.held)} held)"

    @property
    def _plan(self) -> Plan:
        """The plan with the costs of this rank."""
        costs = {share.entry.name: share.cost for share in self.shares}
        return Plan(tuple(share.entry for share in self.shares), costs=costs)

    @property
    def summary(self) -> str:
        """One line: the rank and its place in the mesh."""
        return f"rank {self.rank} of a mesh of {' x '.join(map(str, self.mesh_shape))}, at {self.coordinate}"

    def __str__(self) -> str:
        return f"{self._plan}\n{self.summary}"

    def _repr_html_(self) -> str:
        return html.page(self._plan._repr_html_(), html.lines([self.summary]))


def shard_plan(plan: Plan, mesh_shape: Sequence[int], placements: Placing, rank: int) -> ShardPlan:
    """Return what one rank of a mesh would hold of a plan. Needs no cluster and allocates nothing.

    Args:
        plan: any plan; a model on meta is enough to make one.
        mesh_shape: ranks along each mesh dimension, as of ``init_device_mesh``.
        placements: torch's, one for each mesh dimension; or for each parameter its own: a function of the entry, or a
            dictionary of name globs, of which the first that matches is used.
        rank: in row-major order of the mesh.

    Raises:
        SpecError: a rank or placements that the mesh does not have.
        PlanError: a parameter for which there is no placement.

    >>> from torch.distributed.tensor import Shard
    >>> from zeta import Rule, Rules
    >>> from zeta.initializers import Normal
    >>> from zeta.resolve.planning import plan
    >>> made = plan(nn.Linear(4096, 8192, bias=False, device="meta"), Rules([Rule("*", Normal(0.02))]))
    >>> shard_plan(made, (128, 8), (Shard(0), Shard(1)), rank=9)["weight"].parts[0].region
    Region(shape=(8192, 4096), offsets=(64, 512), sizes=(64, 512))
    """
    if not isinstance(plan, Plan):
        raise SpecError(f"expected a Plan, got {shown(plan)}")
    if not isinstance(mesh_shape, Sequence) or not all(isinstance(size, int) and size > 0 for size in mesh_shape):
        raise SpecError(f"mesh_shape must be whole numbers of at least 1, such as (128, 8), got {shown(mesh_shape)}")
    mesh_shape = tuple(mesh_shape)
    if not isinstance(rank, int) or not 0 <= rank < math.prod(mesh_shape):
        raise SpecError(
            f"rank must be from 0 to {math.prod(mesh_shape) - 1} on a mesh of {mesh_shape}, got {shown(rank)}"
        )
    strides = [math.prod(mesh_shape[dim + 1 :]) for dim in range(len(mesh_shape))]
    coordinate = tuple(rank // stride % size for stride, size in zip(strides, mesh_shape, strict=True))
    shares = []
    for entry in plan:
        try:
            parts = parts_of(entry.shape, mesh_shape, _placements(placements, entry), coordinate)
        except (SpecError, TargetError) as error:
            raise type(error)(f"{entry.name}: {error}") from None
        shares.append(Share(entry=entry, parts=parts, cost=cost_of(entry, parts)))
    return ShardPlan(mesh_shape=mesh_shape, rank=rank, coordinate=coordinate, shares=tuple(shares))


def _placements(placing: Placing, entry: Entry) -> Placements:
    found: Any = placing
    if callable(placing):
        found = placing(entry)
    elif isinstance(placing, Mapping):
        matching = (placed for pattern, placed in placing.items() if fnmatch.fnmatchcase(entry.name, pattern))
        found = next(matching, None)
        if found is None:
            raise PlanError(f"{visible(entry.name)}: no placement is given; '*' as the last pattern matches the rest")
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise SpecError(
            f"placements must be one for each mesh dimension, such as (Shard(0), Replicate()), got {shown(found)}"
        )
    return found


def with_costs(plan: Plan, model: nn.Module) -> Plan:
    """The plan with the costs of this process's shards, if the model is sharded."""
    if not any_sharded(model):
        return plan
    tensors = {slot.name: slot.tensor for slot in walk(model)}
    costs = {}
    for entry in plan:
        try:
            costs[entry.name] = cost_of(entry, held(tensors[entry.name]).parts)
        except TargetError as error:
            raise TargetError(f"{visible(entry.name)}: {error}") from None
    return replace(plan, costs=costs)


# -- costs -----------------------------------------------------------------------------------------------------------


def cost_of(entry: Entry, parts: Sequence[Part]) -> Cost:
    """The cost for a rank that holds these parts of an entry."""
    here = sum(part.region.numel for part in parts) * entry.dtype.itemsize
    regions = [part.region for part in parts]
    if entry.section is not None:
        regions = [each for region in regions for each in region.along(entry.section.dim, entry.section.spans)]
    drawn = sum(region.numel for region in regions) * entry.dtype.itemsize
    if entry.kept or not drawn:
        return Cost(held=here)
    if _is_whole(entry.initializer):
        # each block with a matrix in it computes the whole tensor
        times = sum(_is_whole(law) for law in laws_of(entry.initializer))
        return Cost(held=here, computed=entry.nbytes * len(regions) * times, temporary=_temporary(entry))
    most = max(region.numel for region in regions)
    if isinstance(entry.initializer, Program):
        steps = len(entry.initializer.steps)
        return Cost(held=here, computed=drawn, temporary=min(most, programs.TILE) * entry.dtype.itemsize * steps)
    direct = entry.dtype in kernels.backend().dtypes or entry.dtype.is_complex or not dtypes.is_drawable(entry.dtype)
    return Cost(held=here, computed=drawn, temporary=0 if direct else min(most, kernels.STAGE) * 4)


def _is_whole(initializer: Initializer) -> bool:
    """Whether the whole tensor must be computed to get any region of it."""
    if isinstance(initializer, Program):
        return not programs.is_regional(initializer)
    return not is_elementwise(initializer)


def _temporary(entry: Entry) -> int:
    if isinstance(entry.initializer, Program):
        return _peak(entry.initializer)
    if isinstance(entry.initializer, Blocks):
        laws = [law for law in entry.initializer.parts if not is_elementwise(law)]
        return max(_temporary(structs.replace(entry, initializer=law)) for law in laws)
    if isinstance(entry.initializer, Identity | Dirac):
        return entry.numel * _DIAGONAL_BYTES
    if isinstance(entry.initializer, Sparse):
        return entry.numel * _SPARSE_BYTES
    wide = entry.dtype in (torch.float64, torch.complex128)
    itemsize = (8 if wide else 4) * (2 if entry.dtype.is_complex else 1)
    return entry.numel * itemsize * _ORTHOGONAL_COPIES


def _peak(program: Program) -> int:
    """The peak memory of a program's results, in bytes; each result lives from its step to its last use."""
    sizes = [math.prod(step.shape) * step.dtype.itemsize for step in program.steps]
    last = {ref: number for number, step in enumerate(program.steps) for ref in step.refs}
    freed: dict[int, int] = {}
    for ref, number in last.items():
        freed[number + 1] = freed.get(number + 1, 0) + sizes[ref]
    alive = itertools.accumulate(size - freed.get(number, 0) for number, size in enumerate(sizes))
    return max(alive)
