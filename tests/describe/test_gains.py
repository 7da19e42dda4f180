"""Gains of callables: what a module is when it is evaluated, and clear errors for what has none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zeta import SpecError, gain


@pytest.mark.parametrize(
    ("module", "slope"),
    [(nn.RReLU(0.1, 0.3), 0.2), (nn.RReLU(), (1 / 8 + 1 / 3) / 2), (nn.PReLU(), 0.25), (nn.LeakyReLU(0.2), 0.2)],
)
def test_a_module_has_the_gain_of_its_evaluation(module: nn.Module, slope: float) -> None:
    state = torch.get_rng_state()
    assert gain(module) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-6)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_whose_parameters_change_has_another_gain() -> None:
    prelu = nn.PReLU()
    first = gain(prelu)
    with torch.no_grad():
        prelu.weight.fill_(1.0)
    assert gain(prelu) == pytest.approx(1.0, rel=1e-6)
    assert first > 1.3


def drawn(x: Tensor) -> Tensor:
    return nn.functional.rrelu(x, training=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nn.GLU(), r"fails on a tensor of fp64 values .* elementwise"),
        (nn.PReLU(4), "fails on a tensor of fp64 values"),
        (nn.Softmax(-1), "is not elementwise: a value depends on the others"),
        (lambda x: x - x.mean(), "is not elementwise"),
        (lambda x: x.sum(), "must map a tensor to one of the same shape"),
        (drawn, "draws random numbers"),
        (nn.Dropout, "fails on a tensor"),
        (torch.zeros_like, r"has second moment 0\.0 under"),
        (lambda x: torch.exp(x**4), "has second moment inf under"),
        (3, "must be a name or an elementwise callable"),
    ],
)
def test_what_has_no_gain_is_a_clear_error(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        gain(function)


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("no fp64\nat all"), "no fp64"), (ValueError(" "), "ValueError")]
)
def test_why_a_function_fails_is_said_in_one_line(error: Exception, reason: str) -> None:
    def function(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(SpecError, match=rf"fails on a tensor of fp64 values \({reason}\); it must"):
        gain(function)
