"""One process of two that check a model which is sharded over both: findings and gradients are those of the whole."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.networks import Mlp, vectors
from zeta.check import CheckReport, check


def parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    model = copy.deepcopy(model)
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def sharded(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def findings(report: CheckReport) -> set[tuple[str, str, str]]:
    """Without those on activations, which tensor parallelism makes local."""
    return {(f.rule.id, f.parameter, f.message) for f in report.findings if f.parameter is not None}


def main(rank: int, store: str) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model, x = Mlp(8, 16, 4, depth=3), vectors(8)
    nn.init.zeros_(model[4].weight)  # the others get their gradients one step later
    nn.init.zeros_(model[0].weight[:8])  # the first process holds nothing else of this layer
    with torch.no_grad():
        model[2].weight[1], model[2].bias[1] = model[2].weight[0], model[2].bias[0]
    whole = check(model, x)
    assert ("Z302", "0.weight") in {(rule, name) for rule, name, _ in findings(whole)}
    for layout in (parallel, sharded):
        report = check(layout(model, mesh), x)
        applied = {f for f in findings(whole) if layout is parallel or f[0] not in ("Z302", "Z506")}
        assert findings(report) == applied, (layout.__name__, rank, findings(report) ^ applied)
        for one, other in zip(report.parameters, whole.parameters, strict=True):
            assert (one.shape, one.units, one.distinct) == (other.shape, other.units, other.distinct)
            assert one.values.rms == pytest.approx(other.values.rms, rel=1e-6)
            assert one.gradient.rms == pytest.approx(other.gradient.rms, rel=1e-5)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
