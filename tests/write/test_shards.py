from __future__ import annotations

import contextlib
import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._dtensor_spec import ShardOrderEntry
from torch.distributed.tensor.placement_types import _StridedShard

import zeta
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules
from zeta.compute.stream.regions import Region
from zeta.errors import SpecError, TargetError
from zeta.initializers import Normal, kaiming_normal
from zeta.write.shards import Part, held, parts_of

RULES = Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Normal(0.1))])
Case = tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]


def strided(mesh: tuple[int, ...], placements: list[Any]) -> tuple[Any, ...]:
    """What FSDP makes of it: the first mesh dimension cuts what the later ones have left."""
    first = placements[0]
    factor = math.prod(size for size, other in zip(mesh[1:], placements[1:], strict=True) if other == first)
    if isinstance(first, Shard) and factor > 1:
        return _StridedShard(first.dim, split_factor=factor), *placements[1:]
    return tuple(placements)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = tuple(draw(st.lists(st.integers(0, 19), min_size=1, max_size=3)))
    mesh = tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=3)))
    kinds = st.one_of(st.just(Replicate()), st.integers(0, len(shape) - 1).map(Shard))
    placements = [draw(kinds) for _ in mesh]
    return shape, mesh, strided(mesh, placements) if draw(st.booleans()) else tuple(placements)


def coordinates(mesh: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, mesh)))


def elements(parts: tuple[Part, ...], local_shape: tuple[int, ...]) -> Tensor:
    """The row-major index, in the whole tensor, of each element of the local one."""
    local = torch.full(local_shape, -1)
    for part in parts:
        assert local[part.index].shape == part.region.sizes
        assert (local[part.index] == -1).all()
        local[part.index] = part.region.indices()
    assert (local >= 0).all()
    return local


def local_shape(parts: tuple[Part, ...]) -> tuple[int, ...]:
    return tuple(max(stops) for stops in zip(*([s.stop for s in part.index] for part in parts), strict=True))


@given(cases())
def test_all_ranks_together_hold_each_element_as_often_as_it_is_replicated(case: Case) -> None:
    shape, mesh, placements = case
    counts = torch.zeros(shape, dtype=torch.int64)
    for coordinate in coordinates(mesh):
        for part in parts_of(shape, mesh, placements, coordinate):
            assert part.region.shape == shape
            counts[part.region.slices] += 1
    copies = math.prod(size for size, p in zip(mesh, placements, strict=True) if isinstance(p, Replicate))
    assert (counts == copies).all()


@given(cases(), st.randoms(use_true_random=False))
def test_a_rank_holds_what_torch_gives_it(case: Case, chance: random.Random) -> None:
    shape, mesh_shape, placements = case
    if any(isinstance(p, _StridedShard) for p in placements):
        return  # FSDP's own order, which distribute_tensor does not follow where shards are uneven
    coordinate = chance.choice(coordinates(mesh_shape))
    whole = torch.arange(math.prod(shape)).view(shape)
    with fake_mesh(mesh_shape, coordinate) as mesh:
        tensor = distribute_tensor(whole, mesh, placements, src_data_rank=None)
        here = held(tensor)
        assert here.local.data_ptr() == tensor.to_local().data_ptr()
        assert torch.equal(elements(here.parts, tuple(here.local.shape)), here.local)


@given(
    extent=st.integers(1, 23),
    mesh_shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dim=st.integers(0, 1),
    rank=st.integers(0, 24),
)
# where torch's reading of its own placements is another: an element on another rank, or another element
@example(extent=9, mesh_shape=(4, 2), dim=0, rank=7)
@example(extent=27, mesh_shape=(3, 4), dim=0, rank=10)
def test_fsdp_of_a_tensor_parallel_weight(extent: int, mesh_shape: tuple[int, int], dim: int, rank: int) -> None:
    """FSDP cuts the local tensor of tensor parallelism, however uneven."""
    coordinate = coordinates(mesh_shape)[rank % math.prod(mesh_shape)]
    model = nn.Linear(3, extent, bias=False)
    whole = torch.arange(3.0 * extent).view(extent, 3)
    with fake_mesh(mesh_shape, coordinate) as mesh:
        assert mesh.mesh_dim_names is not None
        data, tensor = mesh.mesh_dim_names
        weight = distribute_tensor(whole, mesh[tensor], [Shard(dim)], src_data_rank=None)
        model.weight = nn.Parameter(weight)
        fully_shard(model, mesh=mesh[data])
        assert isinstance(model.weight, DTensor)
        here = held(model.weight)
        assert torch.equal(elements(here.parts, tuple(here.local.shape)), here.local.long())


@pytest.mark.parametrize(
    "experts", [(Shard(0), Shard(0)), (Shard(1), Shard(0)), (Shard(0), Shard(1)), (Shard(0), Replicate())]
)
def test_hsdp_of_expert_and_tensor_parallel_weights(experts: Any) -> None:
    mesh_shape = (2, 2, 3, 2)
    for extent, coordinate in itertools.product((7, 13), coordinates(mesh_shape)[::3]):
        model = nn.Linear(3, extent, bias=False)
        whole = torch.arange(3.0 * extent).view(extent, 3)
        with fake_mesh(mesh_shape, coordinate) as mesh:
            assert mesh.mesh_dim_names is not None
            weight = distribute_tensor(whole, mesh[mesh.mesh_dim_names[2:]], experts, src_data_rank=None)
            model.weight = nn.Parameter(weight)
            fully_shard(model, mesh=mesh[mesh.mesh_dim_names[:2]])
            here = held(model.weight)
            assert torch.equal(elements(here.parts, tuple(here.local.shape)), here.local.long())


def test_fsdp_over_tensor_parallelism_gives_one_part() -> None:
    placements = (_StridedShard(0, split_factor=2), Shard(0))
    [part] = parts_of((8, 8), (2, 2), placements, (0, 1))
    assert (part.region.offsets, part.region.sizes) == ((4, 0), (2, 8))


def test_a_rank_may_hold_separate_stretches() -> None:
    """Packed projections: each of 3 blocks is cut alone."""
    parts = parts_of((12, 2), (2,), (_StridedShard(0, split_factor=3),), (1,))
    assert [part.region.offsets[0] for part in parts] == [2, 6, 10]
    assert local_shape(parts) == (6, 2)
    assert elements(parts, (6, 2))[:, 0].tolist() == [4, 6, 12, 14, 20, 22]


@pytest.mark.parametrize(("number", "rows"), [(0, [2, 3, 6]), (1, [7, 10, 11])])
def test_separate_stretches_are_cut_again(number: int, rows: list[int]) -> None:
    parts = parts_of((12, 1), (2, 2), (_StridedShard(0, split_factor=3), Shard(0)), (1, number))
    assert elements(parts, (3, 1)).flatten().tolist() == rows


def test_an_empty_shard_has_no_part() -> None:
    assert parts_of((3, 4), (5,), (Shard(0),), (4,)) == ()


@pytest.mark.parametrize("placement", [Partial(), Partial("avg")])
def test_a_partial_sum_is_refused(placement: Any) -> None:
    with pytest.raises(TargetError, match=r"placement P.*redistribute it to Replicate\(\) or Shard\(dim\) first"):
        parts_of((4,), (2,), (placement,), (0,))


def test_wrong_numbers_are_told() -> None:
    with pytest.raises(SpecError, match=r"needs as many placements"):
        parts_of((4,), (2, 2), (Shard(0),), (0, 0))
    with pytest.raises(SpecError, match=r"has no coordinate \(2,\)"):
        parts_of((4,), (2,), (Shard(0),), (2,))
    with pytest.raises(SpecError, match="names a dimension"):
        parts_of((4,), (2,), (Shard(1),), (0,))


def test_a_local_tensor_that_does_not_fit_is_refused() -> None:
    with fake_mesh((2,), (0,)) as mesh:
        tensor = DTensor.from_local(torch.zeros(3), mesh, [Shard(0)], shape=torch.Size([4]), stride=(1,))
        with pytest.raises(TargetError, match=r"local tensor of shape \(3,\)"):
            held(tensor)


def test_another_order_of_cuts_is_refused() -> None:
    """As private functions of torch make it; the placements are the same as in the default order."""
    with fake_mesh((2, 2), (0, 1)) as mesh:
        tensor = distribute_tensor(torch.arange(4), mesh, [Shard(0), Shard(0)], src_data_rank=None)
        order = (ShardOrderEntry(tensor_dim=0, mesh_dims=(1, 0)),)
        spec = replace(tensor._spec, shard_order=order, use_strided_shard_as_shard_order=False)
        assert held(tensor).numel == 1
        tensor._spec = spec
        with pytest.raises(TargetError, match=r"cut in the order \[\(1, 0\)\]"):
            held(tensor)


def test_a_rank_outside_the_mesh_holds_nothing() -> None:
    with fake_mesh((4,), (3,)):
        mesh = torch.distributed.device_mesh.DeviceMesh("cpu", [0, 1], _init_backend=False)
        tensor = distribute_tensor(torch.arange(4), mesh, [Shard(0)], src_data_rank=None)
        assert held(tensor).parts == ()


def test_apply_writes_every_ranks_part_of_the_same_values() -> None:
    plain = nn.Linear(5, 7)
    zeta.init_(plain, RULES, seed=3)
    for coordinate in coordinates((2, 3)):
        with fake_mesh((2, 3), coordinate) as mesh:
            model = nn.Linear(5, 7)
            placements = {"weight": (Shard(0), Shard(1)), "bias": (Replicate(), Shard(0))}
            for name, placed in placements.items():
                empty = torch.full_like(getattr(plain, name), math.nan)
                setattr(model, name, nn.Parameter(distribute_tensor(empty, mesh, placed, src_data_rank=None)))
            report = zeta.init_(model, RULES, seed=3)
            assert report.nbytes == sum(held(p).local.nbytes for p in model.parameters())
            for name, placed in placements.items():
                expected = distribute_tensor(getattr(plain, name).detach(), mesh, placed, src_data_rank=None)
                assert torch.equal(held(getattr(model, name)).local, held(expected).local)
            plan = zeta.plan(model, RULES)
            assert plan == zeta.plan(plain, RULES)
            assert zeta.verify(model, plan, seed=3).ok
            assert not zeta.verify(model, plan, seed=4).ok


@pytest.mark.parametrize(
    ("offset", "size", "fits"),
    [(0, 5, True), (2, 3, True), (5, 0, True), (2, 4, False), (0, 6, False), (-1, 2, False), (3, -1, False)],
)
def test_a_region_lies_within_its_tensor(offset: int, size: int, *, fits: bool) -> None:
    with contextlib.nullcontext() if fits else pytest.raises(AssertionError):
        assert Region(shape=(7, 5), offsets=(3, offset), sizes=(2, size)).start == 15 + offset
