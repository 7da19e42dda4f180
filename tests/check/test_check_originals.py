"""A model on meta is checked as a copy: what the copy computes is what the model with values computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import Plan, TargetError

INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, prepare: Callable[[Net], None] = lambda net: None) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)
        self.read: Callable[[Tensor], Tensor] | None = None
        prepare(self)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer((self.inner(x) if self.read is None else self.read(x)).relu())
        return result


def with_closure(net: Net) -> None:
    net.read = lambda x: nn.functional.linear(x, net.inner.weight)


def with_default(net: Net) -> None:
    net.read = lambda x, layer=net.inner: layer(x)


def with_view(net: Net) -> None:
    net.read = lambda x: x @ net.inner.weight.T


def with_hook(net: Net) -> None:
    net.inner.register_forward_hook(lambda module, given, result: result + net.inner.bias)


def with_device(net: Net) -> None:
    net.read = lambda x: net._modules["inner"](x.to(net.inner.weight.device))  # type: ignore[misc]


def recorded(prepare: Callable[[Net], None]) -> tuple[Net, Plan]:
    return zeta.record(Net, prepare)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("prepare", [with_closure, with_default, with_view, with_hook, with_device])
def test_functions_that_refer_to_the_model_itself_are_refused(prepare: Callable[[Net], None], streamed: bool) -> None:
    model, plan = recorded(prepare)
    with pytest.raises(TargetError, match=r"takes inner.(weight|bias) of the model on meta, and not of its copy"):
        zeta.check(model, INPUTS, plan=plan, seed=0, streamed=streamed)
    assert model.inner.weight.is_meta
    zeta.materialize_(model, plan, seed=0)
    zeta.check(model, INPUTS, plan=plan)


def test_a_loss_of_the_model_itself_is_refused() -> None:
    model, plan = recorded(lambda net: None)

    def loss(output: Tensor, batch: Any) -> Tensor:
        return output.square().mean() + model.inner.weight.square().mean()

    with pytest.raises(TargetError, match=r"the loss takes inner.weight of the model on meta"):
        zeta.check(model, INPUTS, loss, plan=plan, seed=0)


def test_what_is_no_value_may_be_asked() -> None:
    def prepare(net: Net) -> None:
        net.read = lambda x: x.repeat(1, net.inner.weight.shape[0] // net.inner.weight.size(1))

    model, plan = recorded(prepare)
    assert zeta.check(model, INPUTS, plan=plan, seed=0).parameters


def with_gradient_hook(net: Net) -> None:
    net.inner.weight.register_hook(lambda gradient: gradient * 3)


def test_hooks_on_gradients_act_as_in_the_model() -> None:
    model, plan = recorded(with_gradient_hook)
    found = zeta.check(model, INPUTS, plan=plan, seed=0, streamed=False)
    initialized = zeta.check(model, INPUTS, initialize=lambda net: zeta.apply_(net, plan, seed=0))
    real, _ = recorded(with_gradient_hook)
    zeta.materialize_(real, plan, seed=0)
    truth = zeta.check(real, INPUTS, plan=plan)
    plain, _ = recorded(lambda net: None)
    without = zeta.check(plain, INPUTS, plan=plan, seed=0)
    stds = [
        [one.gradient.std for one in report.parameters if one.gradient]
        for report in (found, truth, initialized, without)
    ]
    assert stds[0] == stds[1] == stds[2]
    assert stds[0][0] == pytest.approx(3 * stds[3][0])


def test_hooks_on_gradients_are_refused_where_parameters_are_computed() -> None:
    model, plan = recorded(with_gradient_hook)
    with pytest.raises(TargetError, match=r"cannot have hooks on their gradients; .*streamed=False:\n  - inner.weight"):
        zeta.check(model, INPUTS, plan=plan, seed=0, streamed=True)
