"""LSUV by hand: orthogonal weights, then each layer scaled so that its output has variance 1 on a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta.utils import init_orthogonal_


@torch.no_grad()
def lsuv_(model: nn.Module, batch: torch.Tensor) -> None:
    def rescale(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        layer.weight /= output.std()
        return layer.forward(*inputs)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(rescale) for layer in layers]
    model(batch)
    for handle in handles:
        handle.remove()


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def deep() -> nn.Module:
    return nn.Sequential(*(part for _ in range(5) for part in (nn.Linear(64, 64), nn.GELU())), nn.Linear(64, 10))


@pytest.mark.parametrize(("build", "shape"), [(images, (64, 3, 8, 8)), (deep, (256, 64))])
def test_every_layer_has_variance_one(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, batch = build(), torch.randn(shape)
    init_orthogonal_(model, seed=0)
    x = batch
    before = [x.std().item() for layer in model if isinstance((layer, x := layer(x))[0], nn.Linear | nn.Conv2d)]
    lsuv_(model, batch)
    x = batch
    after = [x.std().item() for layer in model if isinstance((layer, x := layer(x))[0], nn.Linear | nn.Conv2d)]
    assert before[-1] < 0.8
    assert after == pytest.approx([1.0] * len(after), rel=1e-4)


def test_the_check_agrees_and_verify_cannot_know_the_batch() -> None:
    torch.manual_seed(0)
    model, batch = deep(), torch.randn(256, 64)
    plan = zeta.plan(model, init_orthogonal_)
    zeta.apply_(model, plan, seed=0)
    assert zeta.verify(model, plan, seed=0).ok
    lsuv_(model, batch)
    assert not zeta.verify(model, plan, seed=0).ok
    assert zeta.check(model, (batch, torch.randint(10, (256,)))).ok
