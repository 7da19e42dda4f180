"""Models as they are sharded in practice, one rank after the other in one process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import zeta
from tests.helpers.sharded import Awkward, fake_mesh
from zeta import Rule, Rules, SpecError, TargetError
from zeta.compute.stream.random import draw_seed
from zeta.initializers import Identity, Normal, Orthogonal, Zeros
from zeta.utils import init_kaiming_normal_, init_zero_
from zeta.write.shards import held

ROOT = Path(__file__).parents[2]
MESH = (2, 3)
EVERYWHERE = list(itertools.product(*map(range, MESH)))


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, Tensor], zeta.Plan]:
    model, plan = zeta.record(Awkward)
    zeta.materialize_(model, plan, seed=1)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}, plan


def shard(model: Any, mesh: DeviceMesh) -> None:
    """FSDP over tensor parallelism, with experts cut along their own dimension."""
    assert mesh.mesh_dim_names is not None
    data, tensor = (mesh[name] for name in mesh.mesh_dim_names)
    for block in model.blocks:
        styles = {"norm": SequenceParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(block, tensor, styles)
        block.experts = nn.Parameter(distribute_tensor(block.experts, tensor, [Shard(0)], src_data_rank=None))
        fully_shard(block, mesh=data)
    fully_shard(model, mesh=data)


def check(model: nn.Module, whole: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict(keep_vars=True).items():
        here = held(tensor)
        for part in here.parts:
            assert torch.equal(here.local[part.index], whole[name][part.region.slices].to(here.local)), name


@pytest.mark.parametrize("coordinate", EVERYWHERE)
def test_what_is_on_meta_gets_its_part_of_the_whole(
    coordinate: tuple[int, int], reference: tuple[dict[str, Tensor], zeta.Plan]
) -> None:
    whole, plan = reference
    with fake_mesh(MESH, coordinate) as mesh:
        model, _ = zeta.record(Awkward)
        shard(model, mesh)
        again = zeta.plan(model, lambda m: m.init_weights())  # type: ignore[attr-defined]
        assert [e.initializer for e in again.parameters] == [e.initializer for e in plan.parameters]
        before = [id(parameter) for parameter in model.parameters()]
        report = zeta.materialize_(model, plan, seed=1)
        assert [id(parameter) for parameter in model.parameters()] == before
        assert report.ok, report
        assert report.partial
        assert "of this process's part" in report.summary
        check(model, whole)
        assert zeta.verify(model, plan, seed=1).ok


def test_a_failure_leaves_everything_on_meta(reference: tuple[dict[str, Tensor], zeta.Plan]) -> None:
    _, plan = reference

    def fail(*_: object) -> None:
        raise RuntimeError("no more")

    with fake_mesh(MESH, (1, 1)) as mesh:
        model, _ = zeta.record(Awkward)
        shard(model, mesh)
        with pytest.raises(RuntimeError, match="no more"):
            zeta.materialize_(model, plan, seed=1, progress=fail)
        assert all(p.is_meta and p.to_local().is_meta for p in model.parameters())  # type: ignore[attr-defined]


def test_a_dtype_changes_the_local_tensor_and_its_specification(
    reference: tuple[dict[str, Tensor], zeta.Plan],
) -> None:
    whole, plan = reference
    with fake_mesh(MESH, (0, 1)) as mesh:
        model, _ = zeta.record(Awkward)
        shard(model, mesh)
        zeta.materialize_(model, plan, seed=1, dtype=torch.bfloat16)
        assert {(p.dtype, p.to_local().dtype, p._spec.tensor_meta.dtype) for p in model.parameters()} == {  # type: ignore[attr-defined]
            (torch.bfloat16,) * 3
        }
        check(model, whole)


def test_what_is_real_is_written_and_a_changed_element_is_found(
    reference: tuple[dict[str, Tensor], zeta.Plan],
) -> None:
    whole, plan = reference
    with fake_mesh((3,), (2,)) as mesh:
        model = Awkward()
        fully_shard(model, mesh=mesh)
        zeta.apply_(model, plan, seed=1)
        check(model, whole)
        with torch.no_grad():
            model.mix.weight.to_local()[0, 4] += 1  # type: ignore[attr-defined]
        [difference] = zeta.verify(model, plan, seed=1).differences
        assert (difference.name, difference.first) == ("mix.weight", (6, 4))


KAIMING = Rules([Rule("*.bias", Zeros()), Rule("*", zeta.initializers.kaiming_normal())])


@pytest.mark.parametrize("how", [KAIMING, "torch", lambda model: model.reset_parameters()])
@pytest.mark.parametrize("style", [ColwiseParallel(), RowwiseParallel()])
def test_the_plan_is_that_of_the_whole_model(how: Any, style: Any) -> None:
    """With the fans of the whole weight, and not of what is here of it."""
    with torch.device("meta"):
        plain, model = nn.Linear(8, 12), nn.Linear(8, 12)
    with fake_mesh((4,), (1,)) as mesh:
        parallelize_module(model, mesh, style)
        assert zeta.plan(model, how) == zeta.plan(plain, how)


def test_a_recorded_function_sees_the_attributes_of_parameters() -> None:
    def initialize(model: Any) -> None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=parameter.my_std)

    with fake_mesh((2,), (1,)) as mesh:
        model = nn.Linear(3, 4, bias=False)
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)], src_data_rank=None))
        model.weight.my_std = 0.25  # type: ignore[attr-defined]
        assert zeta.plan(model, initialize)["weight"].initializer == Normal(0.25)


def test_the_layer_functions_write_what_is_here() -> None:
    plain = init_kaiming_normal_(nn.Linear(6, 10), bias=0.5, seed=4)
    for rank in range(4):
        with fake_mesh((4,), (rank,)) as mesh:
            model = nn.Linear(6, 10)
            fully_shard(model, mesh=mesh)
            assert init_kaiming_normal_(model, bias=0.5, seed=4) is model
            check(model, plain.state_dict())


def test_a_seed_that_each_process_draws_is_refused() -> None:
    """Replicas would start from different values, and nobody would notice."""
    rules = Rules([Rule("*", Normal(1.0))])
    plan = zeta.plan(nn.Linear(6, 10), rules)
    with fake_mesh((4,), (1,)) as mesh:
        model = nn.Linear(6, 10)
        replicated = nn.parallel.DistributedDataParallel(nn.Linear(6, 10))
        fully_shard(model, mesh=mesh)
        for draw in (
            lambda: zeta.init_(model, rules),
            lambda: zeta.apply_(model, plan),
            lambda: zeta.apply_(replicated, plan, seed=None),
            lambda: init_kaiming_normal_(model),
        ):
            with pytest.raises(SpecError, match=r"no seed was given.* give all of them the same number"):
                draw()
        init_zero_(model)
        init_kaiming_normal_(model, generator=torch.Generator().manual_seed(3))  # the caller's, as for torch's own
        seed = draw_seed(torch.Generator().manual_seed(3))
        check(model, init_kaiming_normal_(nn.Linear(6, 10), seed=seed).state_dict())


_PEAK = """
import resource
import torch
import zeta
from torch import nn
from torch.distributed.fsdp import fully_shard
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules
from zeta.initializers import Normal

def program(model):
    model.weight.data.normal_().mul_(0.5).clamp_(-1, 1)

def materialized(width, how):
    with torch.device("meta"):
        model = nn.Linear(width, width, bias=False)
    fully_shard(model, mesh=mesh)
    zeta.materialize_(model, zeta.plan(model, how), seed=0)
    return model

both = Rules([Rule("*", Normal(0.02))]), program
with fake_mesh((16,), (3,)) as mesh:
    small = [materialized(256, how) for how in both]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = [materialized(16384, how) for how in both]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_is_needed_for_what_is_here_alone() -> None:
    """64 MiB of a weight of 1 GiB by a rule, and as much of another by a recorded program."""
    done = subprocess.run([sys.executable, "-c", _PEAK], cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 128 + 32


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("initializer", [Identity(), Orthogonal()])
def test_a_part_of_a_matrix_is_not_held_against_the_whole(initializer: Any, dim: int) -> None:
    """A quarter of an oblong identity is all zeros, and that of an orthogonal matrix has no exact std."""
    for coordinate in range(4):
        with fake_mesh((4,), (coordinate,)) as mesh:
            model = nn.Linear(256, 64, bias=False)
            model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(dim)]))
            assert zeta.init_(model, Rules([Rule("*", initializer)]), seed=0).ok


def test_a_partial_sum_is_refused_by_name() -> None:
    with fake_mesh((2,), (0,)) as mesh:
        model = nn.Linear(3, 2)
        weight = DTensor.from_local(torch.zeros(2, 3), mesh, [Partial()])
        model.weight = nn.Parameter(weight)
        with pytest.raises(TargetError, match=r"weight: is a DTensor with the placement P.*mesh dimension 0"):
            zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)


def test_local_memory_is_not_written_twice() -> None:
    with fake_mesh((2,), (0,)) as mesh:
        model, memory = nn.Bilinear(2, 3, 4), torch.zeros(4)
        model.weight = nn.Parameter(DTensor.from_local(memory.view(2, 2), mesh, [Shard(0)]))
        model.bias = nn.Parameter(DTensor.from_local(memory, mesh, [Shard(0)]))
        with pytest.raises(TargetError, match=r"bias: shares the memory of weight|weight: shares the memory of bias"):
            zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)


def test_autograd_is_told_of_the_change() -> None:
    """As of any in-place one: a graph that has saved the values cannot be used any more."""
    with fake_mesh((2,), (0,)) as mesh:
        model = nn.Linear(3, 4)
        fully_shard(model, mesh=mesh)
        tensors = [tensor for p in model.parameters() for tensor in (p, held(p).local)]
        before = [tensor._version for tensor in tensors]
        zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
        assert all(tensor._version > version for tensor, version in zip(tensors, before, strict=True))


def test_a_parametrized_sharded_weight_is_refused() -> None:
    with fake_mesh((2,), (0,)) as mesh:
        model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        fully_shard(model, mesh=mesh)
        with pytest.raises(TargetError, match="weight: is parametrized, and its stored tensors are sharded"):
            zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
        half = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        stored = half.parametrizations.weight
        stored.original1 = nn.Parameter(distribute_tensor(stored.original1.detach(), mesh, [Shard(0)]))
        with pytest.raises(TargetError, match="weight: is parametrized, and its stored tensors are sharded"):
            zeta.init_(half, Rules([Rule("*", Normal(1.0))]), seed=0)


def test_gathered_parameters_are_not_written() -> None:
    """Until the model is resharded, its parameters are copies that FSDP drops."""
    rules = Rules([Rule("*", Normal(1.0))])
    with fake_mesh((2,), (0,)) as mesh:
        model: Any = nn.Sequential(nn.Linear(3, 4))
        fully_shard(model, mesh=mesh)
        model.unshard()
        with pytest.raises(TargetError, match=r"FSDPSequential: FSDP has gathered.*call its reshard\(\) first"):
            zeta.init_(model, rules, seed=0)
        model.reshard()
        assert zeta.init_(model, rules, seed=0).ok


def test_a_reduction_needs_a_process_group() -> None:
    model, plan = zeta.record(Awkward)
    zeta.materialize_(model, plan, seed=0)
    with pytest.raises(SpecError, match="reduce=True needs the process group"):
        zeta.verify(model, plan, seed=0, reduce=True)
    with pytest.raises(SpecError, match="reduce=True needs the process group"):
        zeta.verify("folder", reduce=True)
