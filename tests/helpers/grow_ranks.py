"""One of several real processes: tables and layers that grow, sharded in several ways, have the unsharded bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zeta
from tests.helpers.adapt_ranks import compare
from tests.helpers.processes import join
from zeta import Average, Mean, Rows, Split
from zeta.initializers import Normal, Zeros

SEED, OLD_WORDS, OLD_WIDTH = 5, 13, 5


class Net(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.table, self.up, self.norm = nn.Embedding(words, 6), nn.Linear(6, width), nn.BatchNorm1d(width)
        self.down, self.head = nn.Linear(width, 6), nn.Linear(6, words)


#: with sizes that no number of processes divides
GROWTHS: list[tuple[dict[str, Any], int, int]] = [
    ({"table.weight": Rows(Mean())}, 17, OLD_WIDTH),
    ({"table.weight": Rows(Average({13: [0, 1], 15: [2, 2, 12]}, rest=Mean(0.1)))}, 17, OLD_WIDTH),
    ({"table.weight": Rows(Zeros(), keep=[12, -1, 3, 0, 5])}, 7, OLD_WIDTH),
    ({"table.weight": Rows(Normal(0.2))}, 16, OLD_WIDTH),
    ({"up.weight": Rows(Split())}, OLD_WORDS, 11),
]
PARALLEL: dict[str, Any] = {"table": RowwiseParallel, "up": ColwiseParallel, "down": RowwiseParallel}


def fsdp(model: nn.Module, ranks: int) -> None:
    fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))


def tensor_parallel(model: nn.Module, ranks: int) -> None:
    parallelize_module(model, init_device_mesh("cpu", (ranks,)), {name: way() for name, way in PARALLEL.items()})


def both(model: nn.Module, ranks: int) -> None:
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], {name: way() for name, way in PARALLEL.items()})
    fully_shard(model, mesh=mesh["dp"])


def replicated_in_part(model: nn.Module, ranks: int) -> None:
    fully_shard(model, mesh=init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard")))


def made(words: int, width: int, *, on_meta: bool) -> nn.Module:
    with torch.device("meta" if on_meta else "cpu"):
        return Net(words, width)


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    torch.manual_seed(0)
    old: dict[str, Tensor] = Net(OLD_WORDS, OLD_WIDTH).state_dict()
    ways = [fsdp, tensor_parallel, *([both, replicated_in_part] if ranks >= 4 else [])]
    for grow, words, width in GROWTHS:
        whole = Net(words, width)
        zeta.adapt_(whole, old, seed=SEED, grow=grow)
        expected = {name: tensor.detach() for name, tensor in whole.state_dict().items()}
        for shard in ways:
            for on_meta in (False, True):
                model = made(words, width, on_meta=on_meta)
                shard(model, ranks)
                report = zeta.adapt_(model, old, seed=SEED, grow=grow, confirm=True)
                assert report.confirmed
                compare(model, expected)
    with torch.no_grad():
        old["table.weight"][12] = torch.nan
    model = made(17, OLD_WIDTH, on_meta=True)
    fsdp(model, ranks)
    errors = (zeta.CheckpointError, zeta.RankError)  # where the new rows are, and elsewhere
    with pytest.raises(errors, match="of which mean and noise are not finite"):
        zeta.adapt_(model, old, seed=SEED, grow={"table.weight": Rows(Mean())}, confirm=True)
    assert all(parameter.is_meta for parameter in model.parameters())
    dist.barrier()
