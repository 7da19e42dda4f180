"""One process of two that check a model which is sharded over both: findings and gradients are those of the whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from examples.gpt import gpt2
from tests.helpers.bits import same_bits
from tests.helpers.networks import Mlp, tokens, vectors
from tests.helpers.processes import join
from zeta import check as checks
from zeta.check import CheckReport
from zeta.check.facts.thresholds import Thresholds


def check(*args: Any, **options: Any) -> CheckReport:
    """Without the rules of wiring, which a sharded model leaves out."""
    return checks(*args, suppress=["Z9"], **options)


def parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    model = copy.deepcopy(model)
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def sharded(model: nn.Sequential, mesh: DeviceMesh, again: bool = True) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, reshard_after_forward=again)
    fully_shard(model, mesh=mesh, reshard_after_forward=again)
    model.set_reshard_after_backward(again)
    return model


def as_blocks(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The blocks by themselves, and the rest, in the root, gathered from the forward pass on."""
    model = copy.deepcopy(model)
    for block in model.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def kept_gathered(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    return sharded(model, mesh, again=False)


def last_unit(output: torch.Tensor, batch: object) -> torch.Tensor:
    return (output[:, -1] - 1).square().mean()


def findings(report: CheckReport) -> set[tuple[str, str, str]]:
    """Without those on activations, which tensor parallelism makes local."""
    return {(f.rule.id, f.parameter, f.message) for f in report.findings if f.parameter is not None}


def alike(whole: CheckReport, report: CheckReport) -> None:
    assert [str(finding) for finding in report.findings] == [str(finding) for finding in whole.findings]
    assert report.model == whole.model
    for one, other in zip(report.layers, whole.layers, strict=True):
        assert (one.name, one.kind, one.parameters) == (other.name, other.kind, other.parameters)
        assert (one.singular is None) is (other.singular is None), one.name
        assert one.singular is None or one.singular == pytest.approx(other.singular, rel=1e-4)


def learn_alike(model: nn.Module, twin: nn.Module, batch: torch.Tensor) -> None:
    """The next forward and backward pass gathers, lets go and reduces as if nobody had looked at the model."""
    held = []
    for one in (model, twin):
        losses = one(batch).square().mean()
        kinds = [type(parameter) for parameter in one.parameters()]
        losses.backward()
        held.append((kinds, [parameter.grad for parameter in one.parameters()]))
    assert held[0][0] == held[1][0]
    assert all(same_bits(first, second) for first, second in zip(held[0][1], held[1][1], strict=True))


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    mesh = init_device_mesh("cpu", (ranks,))
    torch.manual_seed(0)
    model, x = Mlp(8, 16, 4, depth=3), vectors(8)
    nn.init.zeros_(model[4].weight)  # the others get their gradients one step later
    nn.init.zeros_(model[0].weight[:8])  # the first process holds nothing else of this layer
    with torch.no_grad():
        model[2].weight[1], model[2].bias[1] = model[2].weight[0], model[2].bias[0]
    whole = check(model, x)
    assert ("Z302", "0.weight") in {(rule, name) for rule, name, _ in findings(whole)}
    deep = copy.deepcopy(model)
    nn.init.zeros_(deep[2].weight), nn.init.ones_(deep[2].bias)
    language, batch = gpt2(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16), tokens(64)
    for layout in (parallel, sharded, kept_gathered):
        # of the last weight, the second process alone takes a step, which must be seen at once; so must the one after
        moved = [check(one, x, last_unit, thresholds=Thresholds(patience=2)) for one in (deep, layout(deep, mesh))]
        assert findings(moved[0]) == findings(moved[1]), (layout.__name__, rank)
        full = check(layout(model, mesh), x, level="full")
        assert findings(full) == findings(check(model, x, level="full")), (layout.__name__, rank)
        laid = layout(model, mesh)
        before = {name: parameter.detach().clone() for name, parameter in laid.named_parameters()}
        report = check(laid, x)
        assert findings(report) == findings(whole), (layout.__name__, rank, findings(report) ^ findings(whole))
        for name, parameter in laid.named_parameters():
            assert parameter.grad is None
            assert same_bits(parameter, before[name])
        for one, other in zip(report.parameters, whole.parameters, strict=True):
            assert (one.shape, one.units, one.distinct) == (other.shape, other.units, other.distinct)
            assert one.values.rms == pytest.approx(other.values.rms, rel=1e-6)
            assert one.gradient.rms == pytest.approx(other.gradient.rms, rel=1e-5)
    in_blocks = as_blocks(language, mesh)
    unchecked = as_blocks(language, mesh)
    for one in (in_blocks, unchecked):
        one(batch)  # the root's parameters are gathered now
    for level in ("fast", "full"):
        alike(check(language, batch, level=level), check(in_blocks, batch, level=level))
    learn_alike(in_blocks, unchecked, batch)
