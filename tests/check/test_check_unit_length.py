"""Queries and keys of unit length: by each way of computing it, through rotary positions, but not through layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zeta.check.watch.graph.heads import scales_cosines

WEIGHT = torch.ones(16, requires_grad=True)
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.normalize": lambda x: F.normalize(x, dim=-1),
    "x / x.norm()": lambda x: x / x.norm(dim=-1, keepdim=True),
    "rsqrt of the mean square": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * WEIGHT,
    "power of the mean square": lambda x: x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5) * WEIGHT,
    "power without a small number": lambda x: x * x.pow(2).mean(-1, keepdim=True).pow(-0.5),
}


def rotary(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    angle = torch.arange(x.shape[-2])[:, None] * torch.linspace(0, 1, x.shape[-1])
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


def projected(norm: Callable[[Tensor], Tensor]) -> Tensor:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 16), torch.randn(16, 16, requires_grad=True)
    return norm(x @ weight)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("turned", [False, True])
def test_scores_of_normalized_queries_and_keys(norm: str, turned: bool) -> None:
    query, key = projected(NORMS[norm]), projected(NORMS[norm])
    if turned:
        query, key = rotary(query), rotary(key)
    assert scales_cosines((query @ key.mT).grad_fn)
    assert scales_cosines((query @ key.mT * 3).softmax(-1).grad_fn)


def test_a_norm_before_the_projection_and_a_power_of_something_else_are_none() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 16, requires_grad=True), torch.randn(16, 16, requires_grad=True)
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))
    assert not scales_cosines((normed @ weight @ (normed @ weight).mT).grad_fn)
    assert not scales_cosines((projected(lambda y: y.pow(2)) @ projected(lambda y: y.pow(3)).mT).grad_fn)
    assert not scales_cosines((projected(NORMS["F.normalize"]) @ projected(lambda y: y).mT).grad_fn)
