"""Neural fields against torch code that draws by the papers' formulas, and against the numbers, on several models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ZERO, assert_plan, draw, uniform
from zeta.errors import PlanError, SpecError


class Sine(nn.Module):
    """A layer that knows whether it is the first, and draws as section 3.2 of the paper says."""

    def __init__(self, inputs: int, outputs: int, *, is_first: bool = False, omega: float = 30.0) -> None:
        super().__init__()
        self.omega, self.is_first = omega, is_first
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if is_first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


class Field(nn.Module):
    """The output layer is registered before the others."""

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.out = nn.Linear(64, 3)
        self.layers = nn.ModuleList(
            Sine(2 if first else 64, 64, is_first=first, omega=omega) for first in (True, False, False)
        )
        nn.init.uniform_(self.out.weight, -math.sqrt(6 / 64) / omega, math.sqrt(6 / 64) / omega)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


class Plain(nn.Module):
    """Names as in the released code, where the first layer is the first of the list; all of it in a wrapper."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 32), (32, 32), (32, 1)]
        self.net = nn.Sequential(*(nn.Sequential(nn.Linear(*width), nn.Identity()) for width in widths))


@pytest.mark.parametrize("omega", [30.0, 10.0])
def test_siren_is_what_layers_of_the_paper_draw(omega: float) -> None:
    _, recorded = zeta.record(Field, omega)
    difference = zeta.diff(recorded, zeta.plan(Field(), "siren", omega=omega))
    assert difference.same, str(difference)


def test_siren_of_plain_layers() -> None:
    model = Plain()
    truth = {
        "net.0.0.weight": uniform(1 / 3),
        "net.0.0.bias": uniform(1 / math.sqrt(3)),
        **{f"net.{n}.0.weight": uniform(math.sqrt(6 / 32) / 30) for n in (1, 2)},
        **{f"net.{n}.0.bias": uniform(1 / math.sqrt(32)) for n in (1, 2)},
    }
    assert_plan(zeta.plan(model, "siren"), truth)
    renamed = nn.ModuleDict({"last": nn.Linear(32, 1), "body": model})
    others = {f"body.{name}": law for name, law in truth.items()}
    truth = {**others, "last.weight": truth["net.1.0.weight"], "last.bias": truth["net.1.0.bias"]}
    assert_plan(zeta.plan(renamed, "siren", first="body.net.0.0"), truth)


def test_activations_of_a_siren_are_alike_in_all_layers() -> None:
    """Section 3.2: inputs of the sines are N(0, 1) after the first layer, and outputs have variance 1/2."""
    layers = [Sine(2, 256, is_first=True), *(Sine(256, 256) for _ in range(4))]
    model = draw(nn.Sequential(*layers), "siren")
    x = torch.rand(2000, 2) * 2 - 1
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            assert float(x.var()) == pytest.approx(0.5, abs=0.05)


def test_siren_refuses() -> None:
    with pytest.raises(SpecError, match=r"first='net\.7' names no layer; the layers are net\.0\.0, net\.1\.0"):
        zeta.plan(Plain(), "siren", first="net.7")
    with pytest.raises(SpecError, match="omega must be a positive number, got 0"):
        zeta.plan(Plain(), "siren", omega=0)
    with pytest.raises(PlanError, match="no rule matches these parameters"):
        zeta.plan(nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "siren")


class Radiance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pts_linears = nn.ModuleList([nn.Linear(63, 64), nn.Linear(64, 64), nn.Linear(64 + 63, 64)])
        self.views_linears = nn.ModuleList([nn.Linear(27 + 64, 32)])
        self.feature_linear, self.alpha_linear = nn.Linear(64, 64), nn.Linear(64, 1)
        self.rgb_linear = nn.Linear(32, 3)


FIELDS = {"names of a port": Radiance, "other names": lambda: nn.Sequential(nn.Linear(39, 48), nn.Linear(48, 4))}


@pytest.mark.parametrize("build", FIELDS.values(), ids=FIELDS)
def test_nerf(build: Callable[[], nn.Module]) -> None:
    def reset(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    difference = zeta.diff(zeta.plan(build(), reset), zeta.plan(build(), "nerf"))
    assert difference.same, str(difference)
    layers = {name: module for name, module in build().named_modules() if isinstance(module, nn.Linear)}
    assert_plan(zeta.plan(build(), "nerf"), {
        **{f"{name}.bias": ZERO for name in layers},
        **{f"{n}.weight": uniform(math.sqrt(6 / (m.in_features + m.out_features))) for n, m in layers.items()},
    })  # fmt: skip


class Encoded(nn.Module):
    def __init__(self, bare: str | None) -> None:
        super().__init__()
        if bare is None:
            self.encoder = nn.ModuleDict({"levels": nn.ModuleList(nn.Embedding(512, 2) for _ in range(4))})
        else:
            self.encoder = nn.Module()
            self.encoder.register_parameter(bare, nn.Parameter(torch.empty(2048, 2)))
        self.sigma_net = nn.ModuleList([nn.Linear(8, 64, bias=False), nn.Linear(64, 16)])


@pytest.mark.parametrize("bare", [None, "embeddings", "hash_table", "grid"])
def test_instant_ngp(bare: str | None) -> None:
    model = Encoded(bare)
    tables = [f"encoder.levels.{n}.weight" for n in range(4)] if bare is None else [f"encoder.{bare}"]
    assert_plan(zeta.plan(model, "instant_ngp"), {
        **{name: uniform(1e-4) for name in tables},
        "sigma_net.0.weight": uniform(math.sqrt(6 / 72)),
        "sigma_net.1.weight": uniform(math.sqrt(6 / 80)),
        "sigma_net.1.bias": ZERO,
    })  # fmt: skip
    draw(model, "instant_ngp")


def test_instant_ngp_refuses_fused_parameters() -> None:
    model = Encoded("grid")
    model.mlp = nn.Module()
    model.mlp.params = nn.Parameter(torch.empty(4096))
    with pytest.raises(PlanError, match=r"mlp\.params 4096.*holds table and weights of tiny-cuda-nn in one vector"):
        zeta.plan(model, "instant_ngp")
    with pytest.raises(PlanError, match=r"(?s)never win.*hash tables"):
        zeta.plan(Radiance(), "instant_ngp")
