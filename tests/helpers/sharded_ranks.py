"""One of several real processes: shards a model in every way, initializes it, and compares with the unsharded one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

import zeta
from tests.helpers.processes import join, leave
from tests.helpers.sharded import Awkward
from zeta.write.shards import held

SEED = 5
TOKENS = torch.tensor([[1, 4, 12, 0]])
COLLECTIVES = [
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier", "broadcast"),
    *(
        "broadcast_object_list",
        "gather",
        "reduce",
        "reduce_scatter_tensor",
        "scatter",
        "send",
        "recv",
        "isend",
        "irecv",
    ),
    *("monitored_barrier", "new_group", "reduce_scatter", "all_to_all_single", "gather_object"),
]


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is communicated in here."""

    def speak(*_: object, **__: object) -> None:
        raise AssertionError("a collective call")

    before = {(module, name): getattr(module, name) for module in (dist, dist.distributed_c10d) for name in COLLECTIVES}
    for module, name in before:
        setattr(module, name, speak)
    try:
        with CommDebugMode() as counted:
            yield
        assert counted.get_total_counts() == 0, counted.get_comm_counts()
    finally:
        for (module, name), function in before.items():
            setattr(module, name, function)


# -- ways to shard ---------------------------------------------------------------------------------------------------


def fsdp(model: Any, mesh: DeviceMesh, **options: Any) -> nn.Module:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model  # type: ignore[no-any-return]


def tensor_parallel(model: Any, mesh: DeviceMesh) -> nn.Module:
    for block in model.blocks:
        parallelize_module(
            block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel(), "norm": SequenceParallel()}
        )
        block.experts = nn.Parameter(distribute_tensor(block.experts, mesh, [Shard(0)]))
    return model  # type: ignore[no-any-return]


def both(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp(tensor_parallel(model, mesh["tensor"]), mesh["data"])


def offloaded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp(model, mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))


def mixed(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp(model, mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def compiled(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return torch.compile(fsdp(model, mesh), backend="eager")  # type: ignore[return-value]


# -- what is compared ------------------------------------------------------------------------------------------------


def check(model: nn.Module, whole: dict[str, Tensor], plan: zeta.Plan, **names: Any) -> None:
    """Every element that is here is that of the whole; so is torch's own idea of the whole."""
    with silence():
        found = zeta.verify(model, plan, SEED, **names)
    assert found.ok, found
    for name, tensor in model.state_dict(keep_vars=True).items():
        name = name.removeprefix("_orig_mod.").removeprefix("module.")
        here = held(tensor)
        for part in here.parts:
            assert torch.equal(here.local[part.index], whole[name][part.region.slices]), name


def check_full(model: nn.Module, whole: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        assert torch.equal(full, whole[name.removeprefix("_orig_mod.").removeprefix("module.")]), name


def scenario(
    name: str, shard: Callable[[nn.Module, DeviceMesh], nn.Module], mesh: DeviceMesh, whole: dict[str, Tensor],
    plan: zeta.Plan, output: Tensor, *, meta: bool = True, runs: bool = True, full: bool = True,
) -> None:  # fmt: skip
    if mesh.get_coordinate() is None:
        return
    try:
        model = shard(zeta.record(Awkward)[0] if meta else Awkward(), mesh)
        with silence():
            report = zeta.materialize_(model, plan, SEED) if meta else zeta.apply_(model, plan, SEED)
        assert report.ok, report
        check(model, whole, plan)
        if full:
            check_full(model, whole)
        if runs:
            got = model(TOKENS)
            torch.testing.assert_close(got.full_tensor() if isinstance(got, DTensor) else got, output)
            for module in model.modules():
                if hasattr(module, "reshard"):
                    module.reshard()
            check(model, whole, plan)
    except Exception as error:
        raise AssertionError(f"scenario {name} on rank {dist.get_rank()}") from error


def reduction(rank: int, world: int, mesh: DeviceMesh, plan: zeta.Plan) -> None:
    """What one process alone would find, all of them tell."""
    model: Any = fsdp(zeta.record(Awkward)[0], mesh)
    zeta.materialize_(model, plan, SEED)
    assert zeta.verify(model, plan, SEED, reduce=True).ok
    if rank == world - 1:
        with torch.no_grad():
            model.embed.weight.to_local()[0, 3] = 1.0
    first = -(-13 // world) * (world - 1)
    [difference] = zeta.verify(model, plan, SEED, reduce=True).differences
    assert str(difference).startswith(f"rank {world - 1}: embed.weight: 1 element(s) differ, first at [{first}, 3]")
    # a process that cannot compare says so, and keeps nobody waiting
    if rank == world - 1:
        with pytest.raises(zeta.PlanError, match="only= names nothing"):
            zeta.verify(model, plan, SEED, only="nothing", reduce=True)
    else:
        [problem] = zeta.verify(model, plan, SEED, reduce=True).problems
        assert problem.startswith(f"rank {world - 1}: PlanError: only= names nothing in the plan")


def stages(rank: int, whole: dict[str, Tensor], plan: zeta.Plan) -> None:
    """Each process has a half of the model, and the tied head without the embedding."""
    model: Any = zeta.record(Awkward)[0]
    if rank % 2:
        del model.embed, model.blocks[0], model.mix
        names = {"blocks.0": "blocks.1"}
    else:
        del model.blocks[1], model.norm, model.head, model.conv
        names = {}
    with silence():
        zeta.materialize_(model, plan, SEED, name_map=names)
    renamed = zeta.resolve.submodels.Naming(name_map=names)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole[renamed(name)]), name
    with silence():
        assert zeta.verify(model, plan, SEED, name_map=names).ok


def checkpoint(
    folder: str, shard: Callable[[nn.Module, DeviceMesh], nn.Module], mesh: DeviceMesh, whole: dict[str, Tensor],
    plan: zeta.Plan,
) -> None:  # fmt: skip
    """What ``save`` writes, torch's own reader loads into a sharded model; it is what ``materialize_`` gives."""
    if dist.get_rank() == 0:
        zeta.save(zeta.record(Awkward)[0], plan, folder, SEED, force=True)
    dist.barrier()
    model = shard(Awkward(), mesh)
    state = model.state_dict()
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(folder))
    model.load_state_dict(state)
    check(model, whole, plan)


def main(rank: int, world: int, folder: Path) -> None:
    join(rank, world, folder, seconds=20)
    reference, plan = zeta.record(Awkward)
    zeta.materialize_(reference, plan, SEED)
    whole = {name: tensor.detach().clone() for name, tensor in reference.state_dict().items()}
    with torch.no_grad():
        output = reference(TOKENS)
    common = (whole, plan, output)
    for size in range(1, world + 1):
        line = DeviceMesh("cpu", list(range(size)), mesh_dim_names=("data",))
        scenario(f"FSDP {size}", fsdp, line, *common)
        scenario(f"TP {size}", tensor_parallel, line, *common, runs=size == 1)
    scenario("offload", offloaded, line, *common)
    scenario("mixed", mixed, line, *common, runs=False)
    scenario("compiled", compiled, line, *common, runs=False)
    scenario("real", fsdp, line, *common, meta=False)
    if world == 4:
        square = DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("data", "tensor"))
        scenario("FSDP x TP", both, square, *common, runs=False)
        scenario("HSDP", fsdp, square, *common)
        checkpoint(str(folder / "saved"), both, square, whole, plan)
    checkpoint(str(folder / "saved"), fsdp, line, whole, plan)
    model = nn.parallel.DistributedDataParallel(Awkward())
    with silence():
        zeta.apply_(model, plan, SEED)
    check(model, whole, plan)
    stages(rank, whole, plan)
    reduction(rank, world, line, plan)
    dist.barrier()
    one_dies(rank, world, line, plan)
    leave(folder, rank, meet=False)  # without a word to the others, one of whom is dead


def one_dies(rank: int, world: int, mesh: DeviceMesh, plan: zeta.Plan) -> None:
    """The last process is killed in the middle of it; the others do not notice, and finish."""

    def die(*_: object) -> None:
        if rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model = fsdp(zeta.record(Awkward)[0], mesh)
    zeta.materialize_(model, plan, SEED, progress=die)
    assert zeta.verify(model, plan, SEED).ok
