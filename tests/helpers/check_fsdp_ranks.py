"""One process of two, or of four, that check models under FSDP2 in the ways in which they are used."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module
from torch.nn.utils.parametrizations import weight_norm

from tests.helpers.check_ranks import alike, check, findings, learn_alike, sharded
from tests.helpers.networks import Mlp, vectors
from tests.helpers.processes import join
from zeta.base.distributed import fsdp_groups
from zeta.errors import TargetError


class Blocks(nn.Module):
    def __init__(self, width: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def each_block(model: nn.Module, mesh: DeviceMesh, **options: Any) -> nn.Module:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def twins(model: nn.Module, shard: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return shard(copy.deepcopy(model)), shard(copy.deepcopy(model))


# -- what is seen ------------------------------------------------------------------------------------------------------


def layers_that_feed_each_other(mesh: DeviceMesh, rank: int) -> None:
    model, x = Mlp(8, 16, 4, depth=8), vectors(8)
    for layer in model[::2]:
        layer.weight.data.mul_(2.5)
    whole = check(model, x, level="full")
    assert "Z801" in {one.rule for finding in whole.findings for one in finding.consequences}, "of Z402"
    alike(whole, check(sharded(model, mesh), x, level="full"))


def channels_before_activations(mesh: DeviceMesh, rank: int) -> None:
    convolutions = [nn.Sequential(nn.ReLU(), nn.Conv1d(6, 6, 3, padding=1)) for _ in range(2)]
    model, x = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), *convolutions), torch.randn(8, 3, 10)
    nn.init.constant_(model[0].bias[:3], -20.0)
    shard = copy.deepcopy(model)
    for layer in shard:
        fully_shard(layer, mesh=mesh)
    dead = [[layer.dead for layer in check(one, x).layers] for one in (model, fully_shard(shard, mesh=mesh))]
    assert dead[0] == dead[1]
    assert 0.5 in dead[0]


def parametrized_layers(mesh: DeviceMesh, rank: int) -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    weight_norm(model[0])
    alike(check(model, x), check(sharded(model, mesh), x))


def wrapped_blocks(mesh: DeviceMesh, rank: int) -> None:
    model, x = Blocks(), vectors(8)
    wrapped = copy.deepcopy(model)
    for number, block in enumerate(wrapped.blocks):
        wrapped.blocks[number] = torch.compile(checkpoint_wrapper(block), backend="eager")
    each_block(wrapped, mesh)
    for level in ("fast", "full"):
        alike(check(model, x, level=level), check(wrapped, x, level=level))


def wrapped_roots(mesh: DeviceMesh, rank: int) -> None:
    model, x, classes = Blocks(), vectors(8), torch.randint(0, 3, (64,))
    for wrap in (checkpoint_wrapper, torch.compile):
        wrapped = fully_shard(wrap(copy.deepcopy(model)), mesh=mesh)
        alike(check(model, (x, classes)), check(wrapped, (x, classes)))


def resharded_to_fewer(mesh: DeviceMesh, rank: int) -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    shard = copy.deepcopy(model)
    for layer in (shard[0], shard[2], shard):
        fully_shard(layer, mesh=mesh, reshard_after_forward=2)
    alike(check(model, x), check(shard, x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def encode(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class ByMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoder.encode(x)))


def other_methods(mesh: DeviceMesh, rank: int) -> None:
    model, x = ByMethod(), vectors(8)
    shard = copy.deepcopy(model)
    register_fsdp_forward_method(fully_shard(shard.encoder, mesh=mesh), "encode")
    alike(check(model, x), check(fully_shard(shard, mesh=mesh), x))


def logits_that_are_sharded(mesh: DeviceMesh, rank: int) -> None:
    model, x, classes = Mlp(8, 16, 4), vectors(8), torch.randint(0, 4, (64,))
    head = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    shard = parallelize_module(copy.deepcopy(model), mesh, {"2": head})
    for batch in (x, (x, classes)):
        whole, report = check(model, batch), check(shard, batch)
        assert findings(report) == findings(whole)
        assert report.loss.value == pytest.approx(whole.loss.value, rel=1e-5)
    with loss_parallel():
        report = check(shard, (x, classes), lambda output, batch: F.cross_entropy(output, batch[1]))
    assert report.loss.classes == 4
    assert report.loss.expected == pytest.approx(whole.loss.expected, rel=1e-5)


# -- what stays as it was ----------------------------------------------------------------------------------------------


def gradients_not_yet_reduced(mesh: DeviceMesh, rank: int) -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    shard, twin = twins(model, lambda one: sharded(one, mesh))
    for one in (shard, twin):
        one.set_requires_gradient_sync(False)
        one.set_is_last_backward(False)
        one(x[:8]).square().mean().backward()
    context, seen = shard._get_fsdp_state()._state_ctx, []

    def loss(output: Tensor, batch: Tensor) -> Tensor:
        seen.append(context.is_last_backward)  # else nobody waits for the reduction
        return output.square().mean()

    alike(check(model, x, lambda output, batch: output.square().mean()), check(shard, x, loss))
    assert (seen, context.is_last_backward) == ([True], False)
    for one in (shard, twin):
        one.set_requires_gradient_sync(True)
        one.set_is_last_backward(True)
    learn_alike(shard, twin, x)


def gradients_reduced_in_part(mesh: DeviceMesh, rank: int) -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    replicas = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    shard, twin = twins(model, lambda one: sharded(one, replicas))
    for one in (shard, twin):
        one.set_requires_all_reduce(False)
        one(x[:8]).square().mean().backward()
    alike(check(model, x), check(shard, x))
    for one in (shard, twin):
        one.set_requires_all_reduce(True)
    learn_alike(shard, twin, x)


def hooks_of_gradients(mesh: DeviceMesh, rank: int) -> None:
    model, x, calls = Mlp(8, 16, 4), vectors(8), []
    shard = sharded(model, mesh)
    for parameter in shard.parameters():
        parameter.register_post_accumulate_grad_hook(calls.append)
    alike(check(model, x), check(shard, x))
    assert not calls
    shard(x).square().mean().backward()
    assert len(calls) == 4


def gradients_of_the_loss(mesh: DeviceMesh, rank: int) -> None:
    model, x, scale = Mlp(8, 16, 4), vectors(8), nn.Parameter(torch.ones(()))
    scale.grad = grad = torch.full((), 7.0)
    check(sharded(model, mesh), x, lambda output, batch: (output * scale).square().mean())
    assert scale.grad is grad
    assert float(grad) == 7.0


def options(mesh: DeviceMesh, rank: int) -> None:
    model, x = Blocks(), vectors(8)
    shard = each_block(model, mesh)
    shard(x).sum().backward()
    states = [module._get_fsdp_state() for module in (shard, *shard.blocks)]

    def seen() -> list[Any]:
        groups = [vars(group) for module in (shard, *shard.blocks) for group in fsdp_groups(module)]
        return [{k: v for k, v in one.items() if isinstance(v, bool | list)} for one in (*groups, *map(vars, states))]

    before = seen()
    check(shard, x, level="full")
    assert seen() == before


def refuse(*_: object) -> NoReturn:
    raise ValueError("not today")


def a_pass_that_breaks_off(mesh: DeviceMesh, rank: int) -> None:
    model, x = Blocks(), vectors(8)

    def no_root(one: nn.Module) -> nn.Module:
        for block in one.blocks:
            fully_shard(block, mesh=mesh)
        return one

    for shard in (lambda one: each_block(one, mesh), no_root):
        for register in ("register_forward_pre_hook", "register_forward_hook", "register_full_backward_hook"):
            checked, twin = twins(model, shard)
            handle = getattr(checked.blocks[1], register)(refuse)
            with pytest.raises(ValueError, match="not today"):
                check(checked, x)
            handle.remove()
            learn_alike(checked, twin, x)
            alike(check(model, x), check(checked, x))


def a_pass_that_breaks_off_while_values_are_on_their_way(mesh: DeviceMesh, rank: int) -> None:
    checked, twin = twins(Blocks(), lambda one: each_block(one, mesh))
    x = vectors(8)
    for one in (checked, twin):
        one.blocks[1].set_modules_to_forward_prefetch([one.blocks[2]])
    handle = checked.blocks[1].register_forward_pre_hook(refuse)
    with pytest.raises(ValueError, match="not today"):
        check(checked, x)
    handle.remove()
    for one in (checked, twin):
        for parameter in one.parameters():
            parameter.data.mul_(2)
    learn_alike(checked, twin, x)


# -- ranks that see different things, and models that cannot be checked ------------------------------------------------


class Aside(nn.Module):
    """The second layer keeps the gradient of the first at zero. One rank has an infinite output beside."""

    def __init__(self, aside: float) -> None:
        super().__init__()
        self.first, self.second, self.aside = nn.Linear(8, 8), nn.Linear(8, 4), aside
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.second(self.first(x)), x * self.aside


def one_rank_is_not_finite(mesh: DeviceMesh, rank: int) -> None:
    shard = fully_shard(Aside(math.inf if rank else 1.0), mesh=mesh)
    report = check(shard, vectors(8), lambda output, batch: output[0].square().mean())
    assert ("Z302", "the output or the loss is not finite") in report.skipped


def one_rank_of_rows_and_columns_is_not_finite(mesh: DeviceMesh, rank: int) -> None:
    """The first layer lies on the rows of the mesh, the second on its columns: all four go the same way."""
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = Aside(math.inf if rank == 3 else 1.0)
    parallelize_module(model, square["tensor"], {"first": ColwiseParallel(output_layouts=Replicate())})
    fully_shard(model.second, mesh=square["data"])
    report = check(model, vectors(8), lambda output, batch: output[0].square().mean())
    assert ("Z302", "the output or the loss is not finite") in report.skipped


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x) + self.gate(x * (x > 0).all()))


def one_rank_sees_zeros(mesh: DeviceMesh, rank: int) -> None:
    """The gate is of each rank alone, and on the second one its gradient is exactly zero."""
    model = Gated()
    shard = fully_shard(model, mesh=mesh, ignored_params={model.gate.weight})
    report = check(shard, torch.rand(64, 8) + (0 if not rank else -1))
    assert ("gate.weight" in {f.parameter for f in report.findings if f.rule.id == "Z506"}) is bool(rank)


def models_on_meta(mesh: DeviceMesh, rank: int) -> None:
    with torch.device("meta"):
        shard = sharded(Mlp(8, 16, 4), mesh)
    with pytest.raises(TargetError, match=r"FSDP2 models cannot be copied.*:\n  - 0\.weight"):
        check(shard, vectors(8), initialize=lambda one: None)


CASES = {
    2: (
        *(layers_that_feed_each_other, channels_before_activations, parametrized_layers, wrapped_blocks, wrapped_roots),
        *(other_methods, logits_that_are_sharded, gradients_not_yet_reduced, hooks_of_gradients, gradients_of_the_loss),
        *(options, a_pass_that_breaks_off, a_pass_that_breaks_off_while_values_are_on_their_way),
        *(one_rank_is_not_finite, one_rank_sees_zeros, models_on_meta),
    ),
    4: (resharded_to_fewer, gradients_reduced_in_part, one_rank_of_rows_and_columns_is_not_finite),
}


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    mesh = init_device_mesh("cpu", (ranks,))
    for case in CASES[ranks]:
        torch.manual_seed(0)
        case(mesh, rank)
