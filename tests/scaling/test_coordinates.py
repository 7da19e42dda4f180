"""The coordinate check of scaled models: with the laws, groups and multipliers of muP, activations do not grow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.scaled import Cnn, Mlp
from zeta.check.measure.slopes import log_slope
from zeta.check.measure.sweeps import Sweeps

BASE, WIDTHS = 32, (64, 128, 256)


def batch_of(build: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if build is Mlp:
        return torch.randn(32, 32, generator=generator), torch.randint(10, (32,), generator=generator)
    if build is Cnn:
        return torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    tokens = torch.randint(64, (8, 17), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def scaled(build: Callable[..., nn.Module], how: str, width: int) -> tuple[nn.Module, list[dict[str, Any]]]:
    scaling = zeta.scale(build, {"width": BASE}, {"width": width}, how)
    model = build(width=width)
    zeta.init_(model, scaling, seed=0)
    scaling.apply_multipliers_(model)
    return model, scaling.param_groups(model, "adam", lr=1e-2)


def loss(output: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(output.flatten(0, -2), batch[1].flatten())


@pytest.mark.slow
@pytest.mark.parametrize("build", [Mlp, Cnn])
def test_activations_grow_in_the_standard_parametrization_and_not_in_mup(build: Any) -> None:
    """The largest slope of ln rms over ln width of any layer after a step; Z803 begins at 0.25."""
    largest = {}
    for how in ("sp", "mup"):
        sweeps = Sweeps(width=partial(scaled, build, how), widths=WIDTHS, depth=None, depths=(2, 4))
        points = [each for each in sweeps.points(batch_of(build), loss, None) if each.step == 1 and each.value > 0]
        layers = {each.layer: [point for point in points if point.layer == each.layer] for each in points}
        largest[how] = max(log_slope(each) for each in layers.values())
    assert largest["sp"] > 0.4
    assert largest["mup"] < 0.2


def test_what_is_no_model_with_groups_is_an_error() -> None:
    sweeps = Sweeps(width=lambda n: (Mlp(n), [{"lr": 0.1}]), widths=(32, 64), depth=None, depths=(2, 4))
    with pytest.raises(zeta.SpecError, match=r"width\(32\) must return a model and groups with params"):
        sweeps.points(batch_of(Mlp), loss, None)
