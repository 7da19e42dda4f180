"""One process of four that initialize a model together, of which one does something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from msgspec.structs import replace
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import zeta
from tests.helpers.processes import join
from tests.helpers.sharded import Awkward
from tests.helpers.sharded_ranks import SEED, both, fsdp
from zeta import Plan, PlanError, RankError, Rule, Rules, SpecError
from zeta.initializers import Normal, Ones
from zeta.report import digests

OTHER = 2  # the rank that does something else


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """How often each collective call of ``zeta.report.ranks`` is made."""
    counts = {"all_gather_object": 0, "broadcast_object_list": 0}
    with contextlib.ExitStack() as stack:
        for name in counts:
            real = getattr(dist, name)

            def counting(*args: Any, name: str = name, real: Any = real, **options: Any) -> Any:
                counts[name] += 1
                return real(*args, **options)

            stack.enter_context(mock.patch.object(dist, name, counting))
        yield counts


def built(mesh: DeviceMesh) -> tuple[nn.Module, Plan]:
    model, plan = zeta.record(Awkward)
    return fsdp(model, mesh), plan


def differs(model: nn.Module, plan: Plan, seed: int, text: str) -> None:
    """``materialize_`` writes nothing, and says why."""
    with pytest.raises(RankError, match=r"the processes do not agree; nothing was changed:") as caught:
        zeta.materialize_(model, plan, seed, confirm=True)
    assert text in str(caught.value), caught.value
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


# -- what agrees -------------------------------------------------------------------------------------------------------


def all_the_same(rank: int) -> None:
    for make, mesh in (
        (fsdp, init_device_mesh("cpu", (4,))),
        (fsdp, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))),
        (both, init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))),
    ):
        model, plan = zeta.record(Awkward)
        make(model, mesh)
        with counted() as counts:
            report = zeta.materialize_(model, plan, SEED, confirm=True)
        assert counts == {"all_gather_object": 1, "broadcast_object_list": 0}
        assert report.confirmed
        assert report.summary.endswith("; all as planned, and the processes agree")
        found: list[Any] = [None] * 4
        dist.all_gather_object(found, report.as_dict()["digest"])
        assert [one["plan"] for one in found] == [plan.digest] * 4
        assert all(each["held"] for each in found)
        assert zeta.apply_(model, plan, SEED, only="*.bias", confirm=True).ok
        assert zeta.verify(model, plan, SEED, reduce=True).ok


def stages(rank: int) -> None:
    """Two stages, each sharded over two ranks, with other parts of the plan under names that may be the same."""
    lines = [DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [2, 3])]
    model: Any = zeta.record(Awkward)[0]
    plan = zeta.record(Awkward)[1]
    if rank < 2:
        del model.blocks[1], model.norm, model.head, model.conv
        names = {}
    else:
        del model.embed, model.blocks[0], model.mix
        names = {"blocks.0": "blocks.1"}
    model = fsdp(model, lines[rank // 2])
    zeta.materialize_(model, plan, SEED, name_map=names, confirm=True)
    assert zeta.verify(model, plan, SEED, name_map=names, reduce=True).ok


def groups_by_themselves(rank: int) -> None:
    """Ensembles: each pair of ranks has a seed of its own."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("members", "shards"))["shards"]
    model, plan = built(mesh)
    seed = SEED + rank // 2
    zeta.materialize_(model, plan, seed, confirm=mesh.get_group())
    assert zeta.verify(model, plan, seed, reduce=mesh.get_group()).ok
    found = zeta.verify(model, plan, seed, reduce=True)
    assert found.problems == ("the processes do not agree: seed: 5 on ranks 0-1, but 6 on ranks 2-3",)
    with pytest.raises(RankError, match="seed: 5 on ranks 0-1, but 6 on ranks 2-3"):
        zeta.apply_(model, plan, seed, confirm=True)
    for wrong in ("yes", 1, None, [0, 1]):
        with pytest.raises(SpecError, match=r"confirm must be True for all processes, or the process group of some"):
            zeta.apply_(model, plan, seed, confirm=wrong)  # type: ignore[arg-type]


# -- what does not -----------------------------------------------------------------------------------------------------


def another_seed(rank: int) -> None:
    model, plan = built(init_device_mesh("cpu", (4,)))
    seed = SEED + (rank == OTHER)
    differs(model, plan, seed, "  - seed: 5 on ranks 0-1, 3, but 6 on rank 2")
    report = zeta.materialize_(model, plan, seed)  # nobody asks, and nobody knows
    assert report.ok
    assert not report.confirmed
    found = zeta.verify(model, plan, seed, reduce=True)
    assert not found.ok
    assert found.problems == ("the processes do not agree: seed: 5 on ranks 0-1, 3, but 6 on rank 2",)


def another_plan(rank: int) -> None:
    model, plan = built(init_device_mesh("cpu", (4,)))
    if rank == OTHER:
        plan = Plan(tuple(replace(e, initializer=Ones()) if e.name == "norm.weight" else e for e in plan))
        plan = Plan(tuple(replace(e, initializer=Normal(0.3)) if e.name == "embed.weight" else e for e in plan))
    first = next(entry for entry in zeta.record(Awkward)[1] if entry.name == "embed.weight")
    text = f"plan of embed.weight: {first.initializer} "
    differs(model, plan, SEED, text)
    zeta.materialize_(model, plan, SEED)
    with counted() as counts:
        found = zeta.verify(model, plan, SEED, reduce=True)
    assert counts == {"all_gather_object": 1, "broadcast_object_list": 2}
    assert not found.ok
    assert found.problems[0].startswith("the processes do not agree: plan: ")
    assert found.problems[0].endswith(" on rank 2")
    assert text in found.problems[1]


def another_dtype(rank: int) -> None:
    model, plan = built(init_device_mesh("cpu", (4,)))
    with pytest.raises(RankError, match=r"plan: \w+ on ranks 0-1, 3, but \w+ on rank 2"):
        zeta.materialize_(model, plan, SEED, dtype=torch.bfloat16 if rank == OTHER else None, confirm=True)


def another_choice(rank: int) -> None:
    model, plan = Awkward(), zeta.record(Awkward)[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RankError, match=r"only: None on ranks 0-1, 3, but \d+ tensors, \w+ on rank 2"):
        zeta.apply_(model, plan, SEED, only="*.bias" if rank == OTHER else None, confirm=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def another_version(rank: int) -> None:
    model, plan = built(init_device_mesh("cpu", (4,)))
    real = digests.Digest.as_dict
    for part, text in (("zeta", f"zeta version: {zeta.__version__}"), ("stream", "stream version: 1")):
        with (
            mock.patch.object(digests.Digest, "as_dict", lambda one, part=part: {**real(one), part: 0})
            if (rank == OTHER)
            else contextlib.nullcontext()
        ):
            differs(model, plan, SEED, f"{text} on ranks 0-1, 3, but 0 on rank 2")


def another_layout(rank: int) -> None:
    mesh = init_device_mesh("cpu", (4,))
    for placements, shown in (([Shard(1)], "(Shard(dim=1),) on the mesh [0, 1, 2, 3]"), (None, "nothing")):
        model, rules = nn.Linear(8, 8), Rules([Rule("*", Ones())])
        here = placements if rank == OTHER else [Shard(0)]
        if here is not None:
            full = torch.zeros(8, 8)
            model.weight = nn.Parameter(distribute_tensor(full, mesh, here, src_data_rank=None))
            assert isinstance(model.weight, DTensor)
        with pytest.raises(RankError) as caught:
            zeta.init_(model, rules, SEED, confirm=True)
        found = str(caught.value)
        assert "  - held on the mesh [0, 1, 2, 3]: 1 tensors laid out as" in found
        assert "  - held of weight: (8, 8) float32 (Shard(dim=0),) on the mesh [0, 1, 2, 3] on rank 0, but " in found
        assert found.endswith(f"{shown} on rank 2"), found


def copies_of_a_model(rank: int) -> None:
    """Without a DTensor too, as for DistributedDataParallel."""
    model, plan = nn.parallel.DistributedDataParallel(Awkward()), zeta.record(Awkward)[1]
    seed = SEED + (rank == OTHER)
    with pytest.raises(RankError, match="seed: 5 on ranks 0-1, 3, but 6 on rank 2"):
        zeta.apply_(model, plan, seed, confirm=True)


# -- what fails on one rank --------------------------------------------------------------------------------------------


def one_cannot(rank: int) -> None:
    """In every verb that meets, before it met: the rank has its own error, and the others one that names it."""
    model, plan = built(init_device_mesh("cpu", (4,)))
    real = Awkward()

    def refuse(module: nn.Module) -> None:
        raise ValueError("not today")

    rules = Rules([Rule("*", Ones())])
    cases = [
        (lambda bad: zeta.materialize_(model, plan, -1 if bad else SEED, confirm=True), SpecError),
        (lambda bad: zeta.materialize_(model, None if bad else plan, SEED, confirm=True), Exception),
        (lambda bad: zeta.materialize_(model, plan, SEED, device="no" if bad else "cpu", confirm=True), SpecError),
        (lambda bad: zeta.apply_(real, plan, SEED, only="nothing" if bad else None, confirm=True), PlanError),
        (lambda bad: zeta.apply_(real, plan, SEED, prefix=3 if bad else None, confirm=True), SpecError),
        (lambda bad: zeta.apply_(real, plan, SEED, progress=3 if bad else None, confirm=True), SpecError),
        (lambda bad: zeta.init_(real, refuse if bad else rules, SEED, confirm=True), Exception),
        (lambda bad: zeta.init_("model" if bad else real, rules, SEED, confirm=True), TypeError),
    ]  # fmt: skip
    for number, (call, kind) in enumerate(cases):
        with pytest.raises(kind if rank == OTHER else RankError) as caught:
            call(rank == OTHER)
        if rank != OTHER:
            expected = "another process failed; nothing was changed:\n  - rank 2: "
            assert str(caught.value).startswith(expected), (number, caught.value)
    assert all(tensor.is_meta for tensor in model.parameters())


def one_cannot_compare(rank: int) -> None:
    model, plan = built(init_device_mesh("cpu", (4,)))
    zeta.materialize_(model, plan, SEED)
    for bad in ({"seed": None}, {"only": "nothing"}, {"prefix": "none"}, {"target": None}, {"target": "folder"}):
        options: dict[str, Any] = {"target": model, "plan": plan, "seed": SEED, **(bad if rank == OTHER else {})}
        if rank == OTHER:
            with pytest.raises((SpecError, PlanError, TypeError)):
                zeta.verify(**options, reduce=True)
        else:
            [problem] = zeta.verify(**options, reduce=True).problems
            assert problem.startswith("rank 2: "), problem
    with (
        mock.patch("zeta.report.verifying.verification.values_of", side_effect=MemoryError("no room"))
        if rank == OTHER
        else (contextlib.nullcontext())
    ):
        if rank == OTHER:
            with pytest.raises(MemoryError):
                zeta.verify(model, plan, SEED, reduce=True)
        else:
            assert zeta.verify(model, plan, SEED, reduce=True).problems == ("rank 2: MemoryError: no room",)


CASES = (
    *(all_the_same, stages, groups_by_themselves),
    *(another_seed, another_plan, another_dtype, another_choice, another_version, another_layout, copies_of_a_model),
    *(one_cannot, one_cannot_compare),
)


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder, seconds=20)
    for case in CASES:
        case(rank)
        dist.barrier()  # else a rank that failed in one case is found in the next
