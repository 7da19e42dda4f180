"""One process of two, or of four, that check a model together, until one of them raises or asks for something else."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zeta
from tests.helpers.check_fsdp_ranks import Blocks, each_block
from tests.helpers.check_ranks import learn_alike, parallel, sharded
from tests.helpers.networks import Mlp, vectors
from tests.helpers.processes import join, leave
from zeta import Plan, RankError, Rule, Rules, SpecError, Thresholds
from zeta.check import check
from zeta.initializers import Normal, Ones, Zeros

RULES = [Rule("*.weight", Normal(0.3)), Rule("*", Zeros())]


def both(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    """FSDP over tensor parallelism, of the first two layers; the others lie on rows of the mesh."""
    model = copy.deepcopy(model)
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model[4], mesh=mesh["data"])
    return fully_shard(model, mesh=mesh["data"])


def raises_everywhere(
    call: Callable[[bool], object], kind: type[Exception], text: str, rank: int, bad: int, others: str
) -> None:
    """One rank has its own error, and the others one that names it."""
    with pytest.raises(kind if rank == bad else RankError, match=text) as caught:
        call(rank == bad)
    if rank != bad:
        assert str(caught.value).startswith(f"another process failed{others}:\n  - rank {bad}: {kind.__name__}: ")


NOTHING, AFTER = "; nothing was checked", ", and the check of a sharded model needs all of them"


def refuse(*_: object, **__: object) -> NoReturn:
    raise ValueError("not today")


def mean_square(output: Tensor, batch: object) -> Tensor:
    return output.square().mean()


# -- before anything ran -----------------------------------------------------------------------------------------------


def arguments(shard: Any, mesh: DeviceMesh, rank: int, bad: int) -> None:
    """Whatever is wrong with a rank's arguments, the others learn of it."""
    model, x = shard(Mlp(8, 16, 4, depth=3), mesh), vectors(8)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"level": "half"}, SpecError, "level must be one of"),
        ({"batch": x[:0]}, SpecError, "this batch has no values"),
        ({"plan": "gpt2"}, SpecError, "plan must be a Plan"),
        ({"loss": lambda output: output}, SpecError, "loss must be a function of two arguments"),
        ({"optimizer": 3}, SpecError, "optimizer must be"),
        ({"thresholds": 3}, SpecError, "thresholds must be"),
        ({"seed": "0"}, SpecError, "seed must be"),
        ({"suppress": ["nonsense"]}, SpecError, "nonsense"),
        ({"width": Mlp}, SpecError, "belong to the full level"),
    ]
    for wrong, kind, text in cases:
        raises_everywhere(
            lambda this, wrong=wrong: check(model, **{"batch": x, **(wrong if this else {})}),
            kind,
            text,
            rank,
            bad,
            NOTHING,
        )
    check(model, x)


def requests_that_differ(shard: Any, mesh: DeviceMesh, rank: int, bad: int) -> None:
    network, x = Mlp(8, 16, 4, depth=3), vectors(8)
    model, plan = shard(network, mesh), zeta.plan(network, Rules(RULES))
    other = Plan(tuple(zeta.plan(network, Rules([Rule("2.weight", Ones()), *RULES]))))
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"seed": 5}, {"seed": 6}, r"  - seed: 5 on ranks? [-0-9, ]+, but 6 on rank {}"),
        ({}, {"seed": 6}, r"  - seed: None on ranks? [-0-9, ]+, but 6 on rank {}"),
        ({}, {"level": "full"}, r"  - level: fast on ranks? [-0-9, ]+, but full on rank {}"),
        ({"plan": plan}, {"plan": other}, r"  - plan: \w+ on ranks? [-0-9, ]+, but \w+ on rank {}"),
        ({"plan": plan}, {}, r"  - plan: \w+ on ranks? [-0-9, ]+, but none on rank {}"),
        ({}, {"loss": mean_square}, r"  - loss: none on ranks? [-0-9, ]+, but given on rank {}"),
        ({}, {"thresholds": Thresholds(patience=7)}, r"  - thresholds: .* on ranks? [-0-9, ]+, but .*patience=7.* {}"),
    ]  # fmt: skip
    for usual, unusual, text in cases:
        with pytest.raises(RankError, match=r"the processes do not agree; nothing was checked:") as caught:
            check(model, x, **(unusual if rank == bad else usual))
        assert re.search(text.format(bad), str(caught.value)), caught.value
    check(model, x, plan=plan, seed=5)


def layouts_that_differ(mesh: DeviceMesh, rank: int) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    full = torch.zeros(8, 8)
    model[0].weight = nn.Parameter(distribute_tensor(full, mesh, [Shard(rank)], src_data_rank=None))
    with pytest.raises(
        RankError, match=r"held of 0\.weight: \(8, 8\) float32 \(Shard\(dim=0\),\) on the mesh \[0, 1\] on"
    ):
        check(model, vectors(8))


# -- in the middle -----------------------------------------------------------------------------------------------------


def losses(mesh: DeviceMesh, rank: int) -> None:
    """The loss of one rank raises, in the first pass or in a later one; training goes on as if nobody had looked."""
    model, x = Mlp(8, 16, 4, depth=3), vectors(8)
    nn.init.zeros_(model[4].weight)
    for good in range(2):
        shard, twin = sharded(model, mesh), sharded(model, mesh)
        calls = itertools.count()

        def loss(output: Tensor, batch: object, good: int = good, calls: Any = calls) -> Tensor:
            if rank == 1 and next(calls) == good:
                refuse()
            return (output - 1).square().mean()

        raises_everywhere(
            lambda _, shard=shard, loss=loss: check(shard, x, loss),
            ValueError, "not today", rank, 1, AFTER,
        )  # fmt: skip
        learn_alike(shard, twin, x)


def functions(mesh: DeviceMesh, rank: int) -> None:
    """Whatever a user's function does on one rank alone."""
    model, x = Mlp(8, 16, 4, depth=3), vectors(8)

    def failing(bad: bool, function: Callable[..., Any]) -> Callable[..., Any]:
        return refuse if bad else function

    def adam(parameters: Any) -> Any:
        return torch.optim.Adam(parameters)

    def initialize(one: nn.Module) -> None:
        for parameter in one.parameters():
            nn.init.ones_(parameter)

    for shard in (parallel, sharded):
        laid = shard(model, mesh)
        for call in (
            lambda bad, laid=laid: check(laid, x, optimizer=failing(bad, adam)),
            lambda bad, laid=laid: check(laid, x, initialize=failing(bad, initialize)),
            lambda bad, laid=laid: check(
                laid, x, level="full", width=failing(bad, lambda n: Mlp(8, n, 4)), widths=(4, 8, 16)
            ),
        ):
            raises_everywhere(call, ValueError, "not today", rank, 1, AFTER)
        check(laid, x)


def an_error_of_all(mesh: DeviceMesh, rank: int) -> None:
    """Each rank has its own."""
    with pytest.raises(ValueError, match="not today"):
        check(sharded(Mlp(8, 16, 4), mesh), vectors(8), refuse)


def the_end_of_a_forward_pass(mesh: DeviceMesh, rank: int) -> None:
    shard, x = sharded(Mlp(8, 16, 4), mesh), vectors(8)
    handle = shard.register_forward_hook(refuse) if rank == 1 else None
    raises_everywhere(lambda _: check(shard, x), ValueError, "not today", rank, 1, AFTER)
    if handle is not None:
        handle.remove()
    check(shard, x)


def the_middle_of_a_forward_pass(mesh: DeviceMesh, rank: int, folder: Path) -> None:
    """The others wait for its part of the next block, until its process ends."""
    shard = each_block(Blocks(), mesh)
    if rank == 1:
        shard.blocks[1].register_forward_hook(refuse)
        with pytest.raises(ValueError, match="not today"):
            check(shard, vectors(8))
    else:
        with pytest.raises(RankError, match=r"another process failed.*:\n  - rank 1: ValueError: not today") as caught:
            check(shard, vectors(8))
        assert isinstance(caught.value.__cause__, RuntimeError)
    leave(folder, rank, meet=False)


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder, seconds=30)
    if ranks == 4:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        for case in (arguments, requests_that_differ):
            torch.manual_seed(0)
            case(both, mesh, rank, 2)
        return
    mesh = init_device_mesh("cpu", (2,))
    for shard in (sharded, parallel):
        arguments(shard, mesh, rank, 1)
    requests_that_differ(sharded, mesh, rank, 1)
    for one in (layouts_that_differ, losses, functions, an_error_of_all, the_end_of_a_forward_pass):
        torch.manual_seed(0)
        one(mesh, rank)
        dist.barrier()
    the_middle_of_a_forward_pass(mesh, rank, folder)
