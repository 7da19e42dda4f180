"""FSDP2 on two processes: recorded, sharded on meta, given memory and values where it lives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import zeta
from tests.helpers.processes import join, run


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    mesh = init_device_mesh("cpu", (ranks,))
    model, plan = zeta.record(Model)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with pytest.raises(zeta.SpecError, match="no seed was given"):  # each process would draw its own
        zeta.materialize_(model, plan)
    assert all(parameter.is_meta for parameter in model.parameters())

    report = zeta.materialize_(model, plan, seed=0, device="cpu", confirm=True)
    assert report.ok
    assert report.confirmed
    assert zeta.verify(model, plan, seed=0, reduce=True).ok
    assert model.head.weight.to_local().shape == ((3, 16) if rank == 0 else (2, 16))

    whole, plan = zeta.record(Model)
    zeta.materialize_(whole, plan, seed=0)
    for mine, expected in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine.full_tensor(), expected)
    model(torch.randn(4, 16)).square().mean().backward()  # it trains


def test_each_process_gets_its_part_of_the_same_model(tmp_path: Path) -> None:
    run("tests.journeys.test_fsdp2", 2, tmp_path)
