"""What a model whose parameters are computed one at a time cannot do, as its report would not be that of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.networks import vectors
from zeta.check import check, supply
from zeta.check.watch.streaming import source
from zeta.errors import TargetError


class Net(nn.Module):
    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.head, self.way = nn.Linear(8, 16), nn.Linear(16, 4), way

    def rest(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def both(way: Callable[[Any, Tensor], Tensor]) -> list[Any]:
    """What a check finds of the model in memory, and of the streamed one."""
    (model, plan), batch = zeta.record(Net, way), vectors(8)
    reports = [check(model, batch, plan=plan, seed=3, streamed=streamed) for streamed in (False, True)]
    return [[*map(str, one.findings), *map(repr, one.parameters)] for one in reports]


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "LARGE", 0)
    monkeypatch.setattr(source, "_SPAN", 24)


def _of_data(net: Any, x: Tensor) -> Tensor:
    net.fc.weight.data.clamp_(-0.01, 0.01)
    return net.rest(x)


def _of_a_detached_one(net: Any, x: Tensor) -> Tensor:
    net.fc.weight.detach().mul_(0)
    return net.rest(x)


def _of_a_small_one(net: Any, x: Tensor) -> Tensor:
    net.fc.bias.data.add_(5)
    return net.rest(x)


@torch.no_grad()
def _by_a_view(net: Any, x: Tensor) -> Tensor:
    net.fc.weight.view(-1)[:64] = 0
    return net.rest(x)


@torch.no_grad()
def _to_out(net: Any, x: Tensor) -> Tensor:
    torch.mul(net.fc.weight, 2, out=net.fc.weight)
    return net.rest(x)


@torch.no_grad()
def _to_several(net: Any, x: Tensor) -> Tensor:
    torch._foreach_mul_([net.fc.weight, net.head.weight], 2.0)
    return net.rest(x)


def _by_a_norm(net: Any, x: Tensor) -> Tensor:
    return net.rest(x) + F.embedding(torch.tensor([1]), net.head.weight, max_norm=0.1)[:, :4]


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(
    "way", [_of_data, _of_a_detached_one, _of_a_small_one, _by_a_view, _to_out, _to_several, _by_a_norm]
)
def test_writes_by_another_tensor_are_refused(way: Any, tiles: bool, request: pytest.FixtureRequest) -> None:
    if tiles:
        request.getfixturevalue("tiny_tiles")
    model, plan = zeta.record(Net, way)
    with pytest.raises(TargetError, match=r"the forward pass writes to (fc|head)\.\w+ \(\w+\), .*streamed=False"):
        check(model, vectors(8), plan=plan, streamed=True)


def _penalty(net: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    y = net.rest(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y + slope.square().sum(1, keepdim=True)


def _slope(net: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.rest(x).sum(), x)
    return net.rest(x + slope)


def test_gradients_that_the_forward_pass_takes() -> None:
    for way in (_penalty, _slope):
        held, streamed = both(way)
        assert held == streamed


@pytest.mark.usefixtures("tiny_tiles")
def test_a_gradient_of_parts_is_not_differentiated_again() -> None:
    with pytest.raises(TargetError, match=r"the gradient of head\.weight is differentiated again .*streamed=False"):
        both(_penalty)


@pytest.mark.usefixtures("tiny_tiles")
def test_the_gradients_of_parts_are_those_of_the_loss_alone() -> None:
    (model, plan), batch = zeta.record(Net, _slope), vectors(8)
    held, streamed = (check(model, batch, plan=plan, seed=3, streamed=way) for way in (False, True))
    for one, other in zip(held.parameters, streamed.parameters, strict=True):
        assert one.gradient is not None
        assert other.gradient is not None
        assert other.gradient.std == pytest.approx(one.gradient.std, rel=1e-4)


def _of_a_parameter(net: Any, x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(net.rest(x).sum(), [net.fc.weight], create_graph=True)
    return net.rest(x) + slope.sum()


def _mapped(net: Any, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: net.head.weight @ torch.tanh(net.fc.weight @ row))(x)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


def _by_hand(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.tanh(Product.apply(x, net.fc.weight)))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (_of_a_parameter, r"the forward pass takes a gradient of fc\.weight; pass streamed=False"),
        (_mapped, r"a transform of torch\.func takes fc\.weight; pass streamed=False"),
        (_by_hand, r"torch says: .* such as an autograd\.Function; pass streamed=False"),
    ],
)
def test_what_cannot_be_given_values_is_said(way: Any, said: str) -> None:
    model, plan = zeta.record(Net, way)
    assert check(model, vectors(8), plan=plan, streamed=False).parameters
    with pytest.raises(TargetError, match=said):
        check(model, vectors(8), plan=plan, streamed=True)


@pytest.mark.usefixtures("tiny_tiles")
def test_products_of_parts_have_the_dtype_of_autocast() -> None:
    seen: list[torch.dtype] = []

    def way(net: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen.append(net.fc(x).dtype)
            return net.rest(x).float()

    model, plan = zeta.record(Net, way)
    check(model, vectors(8), plan=plan, streamed=True)
    assert set(seen) == {torch.bfloat16}
