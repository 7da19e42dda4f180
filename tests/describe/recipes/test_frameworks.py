"""Keras's and Flax's defaults on torch's layers: numbers read off Keras 3.15 and Flax 0.12, and their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, Plain, assert_plan, constant, draw, normal, uniform
from zeta.errors import PlanError

#: the std of N(0, 1) cut at 2
CUT = 0.87962566103423978


def glorot(fan_in: int, fan_out: int) -> Plain:
    return uniform(math.sqrt(6 / (fan_in + fan_out)))


def lecun(fan_in: int) -> Plain:
    std = 1 / math.sqrt(fan_in) / CUT
    return ("truncated", std, -2 * std, 2 * std)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 20)
        self.dense = nn.Linear(200, 300)
        self.conv = nn.Conv2d(32, 64, 3)
        self.grouped = nn.Conv2d(32, 64, 3, groups=4)
        self.transposed = nn.ConvTranspose2d(32, 64, 3)
        self.batch_norm, self.layer_norm, self.rms_norm = nn.BatchNorm2d(64), nn.LayerNorm(8), nn.RMSNorm(8)
        self.act = nn.PReLU()


LAYERS: dict[str, tuple[Plain, Plain]] = {
    "embed.weight": (uniform(0.05), normal(0.22360679774997896)),
    "dense.weight": (uniform(0.10954451150103323), lecun(200)),
    "conv.weight": (uniform(0.08333333333333333), lecun(288)),
    "grouped.weight": (uniform(0.09622504486493763), lecun(72)),
    "transposed.weight": (uniform(0.08333333333333333), lecun(288)),
    **{
        f"{layer}.bias": (ZERO, ZERO)
        for layer in ("dense", "conv", "grouped", "transposed", "batch_norm", "layer_norm")
    },
    **{f"{layer}.weight": (ONE, ONE) for layer in ("batch_norm", "layer_norm", "rms_norm")},
    "act.weight": (ZERO, constant(0.01)),
}


@pytest.mark.parametrize("number", [0, 1], ids=["keras", "flax"])
def test_layers(number: int) -> None:
    assert_plan(zeta.plan(Net(), ("keras", "flax")[number]), {name: laws[number] for name, laws in LAYERS.items()})


#: layer, gates, what Keras has as the bound of the input kernel
RECURRENT: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "lstm": (lambda: nn.LSTM(32, 64), 4, 0.14433756729740643),
    "lstm cell": (lambda: nn.LSTMCell(32, 64), 4, 0.14433756729740643),
    "gru": (lambda: nn.GRU(32, 64), 3, 0.16366341767699427),
    "rnn": (lambda: nn.RNN(32, 64), 1, 0.25),
}


@pytest.mark.parametrize(("build", "gates", "bound"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_layers(build: Callable[[], nn.Module], gates: int, bound: float) -> None:
    model = build()
    names = [name for name, _ in model.named_parameters()]
    forget = ("blocks", 0, ZERO, ONE, ZERO, ZERO) if gates == 4 else ZERO
    laws = {"weight_ih": uniform(bound), "weight_hh": ("orthogonal", 1.0), "bias_ih": forget, "bias_hh": ZERO}
    plan = zeta.plan(model, "keras")
    assert_plan(plan, {name: laws[name.removesuffix("_l0")] for name in names})
    kernel = draw(model, "keras").get_parameter(names[1]).detach()
    assert torch.allclose(kernel.T @ kernel, torch.eye(64), atol=1e-5)  # all gates together, as Keras has them
    laws |= {"weight_ih": lecun(32), "bias_ih": ZERO}
    assert_plan(zeta.plan(build(), "flax"), {name: laws[name.removesuffix("_l0")] for name in names})
    for gate in draw(build(), "flax").get_parameter(names[1]).detach().chunk(gates):
        assert torch.allclose(gate @ gate.T, torch.eye(64), atol=1e-5)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 48, "vdim": 80}], ids=["packed", "separate"])
def test_attention(sizes: dict[str, int]) -> None:
    model = nn.MultiheadAttention(64, 4, **sizes)
    inputs = {"q": 64, "k": 48, "v": 80}
    for recipe, of in (("keras", lambda n: glorot(n, 64)), ("flax", lecun)):
        projections = (
            {f"{each}_proj_weight": of(n) for each, n in inputs.items()} if sizes else {"in_proj_weight": of(64)}
        )
        truth = {**projections, "in_proj_bias": ZERO, "out_proj.weight": of(64), "out_proj.bias": ZERO}
        assert_plan(zeta.plan(model, recipe), truth)


def test_a_transformer_of_torch() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
    truth = {}
    for n in range(2):
        layer = f"layers.{n}."
        truth |= {f"{layer}{name}": ZERO for name in ("self_attn.in_proj_bias", "self_attn.out_proj.bias")}
        truth |= {f"{layer}linear{i}.bias": ZERO for i in (1, 2)}
        truth |= {f"{layer}norm{i}.{part}": law for i in (1, 2) for part, law in (("weight", ONE), ("bias", ZERO))}
        truth |= {f"{layer}self_attn.{name}": lecun(32) for name in ("in_proj_weight", "out_proj.weight")}
        truth |= {f"{layer}linear1.weight": lecun(32), f"{layer}linear2.weight": lecun(64)}
    assert_plan(zeta.plan(model, "flax"), truth)


def test_layers_of_transformers() -> None:
    """Its Conv1D is a dense layer with the weight as inputs x outputs."""
    layers = pytest.importorskip("transformers.pytorch_utils")
    model = nn.ModuleDict({"c_attn": layers.Conv1D(48, 16)})
    assert_plan(zeta.plan(model, "keras"), {"c_attn.weight": glorot(16, 48), "c_attn.bias": ZERO})
    assert_plan(zeta.plan(model, "flax"), {"c_attn.weight": lecun(16), "c_attn.bias": ZERO})


@pytest.mark.parametrize("recipe", ["keras", "flax"])
def test_what_has_no_layer_needs_a_rule(recipe: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_parameter("token", nn.Parameter(torch.zeros(1, 1, 2)))
    with pytest.raises(PlanError, match=r"(?s)no rule matches these parameters.*token 1 x 1 x 2"):
        zeta.plan(model, recipe)


@pytest.mark.parametrize("recipe", ["keras", "flax"])
def test_drawn_values(recipe: str) -> None:
    model = draw(nn.Sequential(nn.Linear(200, 300), nn.Embedding(300, 64)), recipe)
    weight, table = (layer.weight.detach() for layer in model)
    if recipe == "keras":
        assert 0.1090 < float(weight.abs().max()) <= 0.1095446
        assert 0.0499 < float(table.abs().max()) <= 0.05
    else:
        assert float(weight.std()) == pytest.approx(200**-0.5, rel=0.02)
        assert 0.1600 < float(weight.abs().max()) <= 0.160785  # as in Flax, 2 std of the parent
        assert float(table.std()) == pytest.approx(0.125, rel=0.03)
        assert float(table.abs().max()) > 0.4  # not cut
