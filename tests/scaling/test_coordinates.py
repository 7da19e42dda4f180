"""The coordinate check of scaled models: with the laws, groups and multipliers of muP, activations do not grow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from benchmarks import coordinates
from tests.helpers.coordinates import slopes
from tests.helpers.scaled import Cnn, Mlp
from zeta.check.measure.sizes.slopes import log_slope
from zeta.check.measure.sizes.sweeps import Sweeps

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
        largest[how] = max(log_slope({point.size: point.value for point in each}) for each in layers.values())
    assert largest["sp"] > 0.4
    assert largest["mup"] < 0.2


class Overflows(nn.Module):
    """From a width of 256 on, in the last layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(32, width), nn.Linear(width, width), nn.Linear(width, 10)
        self.factor = 1.0 if width < 256 else 1e30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(self.inp(x)) * self.factor * self.factor)


def test_what_is_not_finite_in_the_widest_model_grows() -> None:
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    batch = x, torch.arange(8)
    report = zeta.check(Overflows(64), batch, level="full", width=Overflows, widths=(64, 128, 256))
    assert [(s.group, s.verdict, s.step) for s in report.slopes] == [
        ("input", "grows", 1), ("hidden", "grows", 1), ("output", "grows", 0)
    ]  # fmt: skip
    messages = {finding.layer: finding.message for finding in report.findings if finding.rule.id == "Z803"}
    assert messages["out"] == "its rms is not finite at width 256 at the start"
    assert messages["inp"] == "its rms is not finite at width 256 after 1 step"


class Power(nn.Module):
    """Returns size^0.7, and has the gradient 1, so that a step of Adam is its rate."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.value = nn.Parameter(torch.tensor([float(size) ** 0.7], dtype=torch.double))

    def forward(self) -> torch.Tensor:
        return self.part(self.value)


def test_slopes_of_powers() -> None:
    def make(size: int, seed: int) -> tuple[nn.Module, list[dict[str, Any]]]:
        model = Power(size)
        return model, [{"params": [model.value], "lr": 1e-6 * size**-0.3}]

    found = slopes(make, (2, 8, 64), lambda model: model().sum(), ["part"], steps=2, seeds=2)["part"]
    assert tuple(found) == pytest.approx((0.7, 0.7, -0.3), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", coordinates.CASES)
def test_slopes_over_width_are_0_in_mup_and_not_in_sp(name: str) -> None:
    """Of hidden states and logits, and of their changes; branches are smaller, and so noisier: see docs/scaling.md."""
    pytest.importorskip("transformers")
    case = coordinates.CASES[name]
    found = case.measured("mup")
    assert abs(coordinates.steepest(found, (*case.hidden, case.readout))) < 0.05
    assert abs(coordinates.steepest(found, case.hidden + case.branches)) < 0.06
    assert coordinates.steepest(case.measured("sp", seeds=1), case.hidden) > 0.5


@pytest.mark.slow
def test_the_first_logits_of_mup_fall_with_the_root_of_the_width_and_their_change_does_not_fall() -> None:
    """A sum of width terms of std 1/width has the slope -1/2; the change needs no read-out at zero."""
    found = coordinates.CASES["GPT"].measured("mup", zero=False)["lm_head"]
    assert found.start == pytest.approx(-0.5, abs=0.03)
    assert abs(found.change) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", coordinates.DEEP)
def test_slopes_over_depth_are_0_in_completep_and_not_in_sp(name: str) -> None:
    """Of the stream after the last block, of its norm and of the logits."""
    case = coordinates.DEEP[name]
    assert abs(coordinates.steepest(case.measured("completep"), (*case.hidden, case.readout))) < 0.05
    assert coordinates.steepest(case.measured("sp", seeds=1), case.hidden) > 0.5


@pytest.mark.slow
def test_u_mup_is_flat_over_both() -> None:
    """At a rate of its own; the embedding's rate falls with the width on purpose."""
    for case in (coordinates.CASES["GPT"], coordinates.DEEP["GPT"]):
        found = case._replace(rate=0.3).measured("umup")
        assert abs(coordinates.steepest(found, (*case.hidden[1:], case.readout))) < 0.05


class Narrow(nn.Module):
    """Residual blocks through four units, whatever the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.norm, self.out = nn.Linear(32, width), nn.LayerNorm(width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4, bias=False), nn.ReLU(), nn.Linear(4, width))
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(self.norm(x))


@pytest.mark.parametrize(("how", "grows"), [("mup", False), ("completep", False), ("megatron-mup", True)])
def test_what_leads_from_a_width_to_a_fixed_size_inside_does_not_grow_in_training(how: str, grows: bool) -> None:
    """With variance 1/fan_in, as Megatron has it, it does: its few rows become the direction of its own input."""

    def make(size: int, seed: int) -> tuple[nn.Module, list[dict[str, Any]]]:
        scaling = zeta.scale(Narrow, {"width": 32}, {"width": size}, how, roles={"blocks.*.1.weight": "hidden"})
        model = Narrow(size)
        zeta.init_(model, scaling, seed=seed)
        scaling.apply_multipliers_(model)
        return model, scaling.param_groups(model, "adam", lr=0.02)

    batch = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    found = slopes(make, (128, 512, 2048), lambda model: loss(model(batch[0]), batch), ["blocks.1.1"], steps=10)
    assert (found["blocks.1.1"].after > 0.25) is grows
    assert (found["blocks.1.1"].change < 0.05) is not grows


def test_what_is_no_model_with_groups_is_an_error() -> None:
    sweeps = Sweeps(width=lambda n: (Mlp(n), [{"lr": 0.1}]), widths=(32, 64), depth=None, depths=(2, 4))
    with pytest.raises(zeta.SpecError, match=r"width\(32\) must return a model and groups with params"):
        sweeps.points(batch_of(Mlp), loss, None)
