"""Recurrent recipes against torch code that draws gate by gate, and against the formulas, on cells of several names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, assert_plan, draw, normal, plain, uniform
from zeta import Plan
from zeta.errors import PlanError, SpecError

IN, HIDDEN = 24, 32


def glorot(fan_in: int, fan_out: int) -> float:
    return math.sqrt(6 / (fan_in + fan_out))


def gate_by_gate(gates: int, forget: float) -> Callable[[nn.Module], None]:
    """Each gate as a matrix of its own, with torch's functions."""

    def reset(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                if "weight" in name:
                    for gate in parameter.chunk(gates):
                        (nn.init.orthogonal_ if "_hh" in name else nn.init.xavier_uniform_)(gate)
                else:
                    parameter.zero_()
                    if "bias_ih" in name and forget:
                        parameter[HIDDEN : 2 * HIDDEN] = forget

    return reset


def assert_gate_by_gate(layer: Callable[[], nn.Module], plan: Plan, gates: int, forget: float) -> None:
    """All is equal but for the recurrent kernels, whose matrices the recording has as a program of their draws."""
    difference = zeta.diff(zeta.plan(layer(), gate_by_gate(gates, forget)), plan)
    recurrent = [entry.name for entry in plan.parameters if "weight_hh" in entry.name]
    assert [change.name for change in difference] == recurrent, str(difference)
    for name in recurrent:
        assert plain(plan[name].initializer) == ("orthogonal", 1.0)
        assert plan[name].axes.blocks == ((0, gates),)


@pytest.mark.parametrize("forget", [1.0, 2.5])
@pytest.mark.parametrize("layer", [
    lambda: nn.LSTM(IN, HIDDEN, 2),
    lambda: nn.LSTM(IN, HIDDEN, 2, bidirectional=True, batch_first=True),
    lambda: nn.LSTM(IN, HIDDEN, bias=False),
    lambda: nn.LSTMCell(IN, HIDDEN),
])  # fmt: skip
def test_lstm_of_torch(layer: Callable[[], nn.Module], forget: float) -> None:
    assert_gate_by_gate(layer, zeta.plan(layer(), "lstm", forget_bias=forget), 4, forget)


@pytest.mark.parametrize("layer", [lambda: nn.GRU(IN, HIDDEN, 2, bidirectional=True), lambda: nn.GRUCell(IN, HIDDEN)])
def test_gru_of_torch(layer: Callable[[], nn.Module]) -> None:
    assert_gate_by_gate(layer, zeta.plan(layer(), "gru"), 3, 0)


def test_lstm_draws_gates_that_are_orthogonal_and_forget_nothing() -> None:
    layer = draw(nn.LSTM(IN, HIDDEN, bidirectional=True), "lstm")
    for kernel in (layer.weight_hh_l0, layer.weight_hh_l0_reverse):
        for gate in kernel.detach().chunk(4):
            assert torch.allclose(gate @ gate.T, torch.eye(HIDDEN), atol=1e-5)
    bound = glorot(IN, HIDDEN)
    assert 0.99 * bound < float(layer.weight_ih_l0.detach().abs().max()) <= bound
    assert (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, HIDDEN).mean(1).tolist() == [0, 1, 0, 0]


def test_a_projection_is_glorot_uniform() -> None:
    assert_plan(zeta.plan(nn.LSTM(IN, HIDDEN, proj_size=8), "lstm"), {
        "weight_ih_l0": uniform(glorot(IN, HIDDEN)),
        "weight_hh_l0": ("orthogonal", 1.0),
        "weight_hr_l0": uniform(glorot(HIDDEN, 8)),
        "bias_ih_l0": ("blocks", 0, ZERO, ONE, ZERO, ZERO),
        "bias_hh_l0": ZERO,
    })  # fmt: skip


# -- other people's ----------------------------------------------------------------------------------------------------


class Cell(nn.Module):
    """Gates in one linear layer each; the recurrent one may have the only bias."""

    def __init__(self, gates: int, names: tuple[str, str], biases: tuple[bool, bool]) -> None:
        super().__init__()
        for name, inputs, bias in zip(names, (IN, HIDDEN), biases, strict=True):
            setattr(self, name, nn.Linear(inputs, gates * HIDDEN, bias=bias))


class Bare(nn.Module):
    """Kernels as inputs x outputs, with one bias."""

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.W_x = nn.Parameter(torch.empty(IN, gates * HIDDEN))
        self.W_h = nn.Parameter(torch.empty(HIDDEN, gates * HIDDEN))
        self.b = nn.Parameter(torch.empty(gates * HIDDEN))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return x @ self.W_x + h @ self.W_h + self.b


class Model(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, IN)
        self.cell = cell
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, 100)


def around(**cell: Any) -> dict[str, Any]:
    return {
        "embed.weight": uniform(0.05),
        "norm.weight": ONE,
        "norm.bias": ZERO,
        "head.weight": uniform(glorot(HIDDEN, 100)),
        "head.bias": ZERO,
        **{f"cell.{name.replace('__', '.')}": law for name, law in cell.items()},
    }


def packed(law: Any, gates: int, dim: int = 0) -> Any:
    return ("blocks", dim, *[law] * gates)


FORGET = ("blocks", 0, ZERO, ONE, ZERO, ZERO)
GLOROT, ORTHOGONAL = uniform(glorot(IN, HIDDEN)), ("orthogonal", 1.0)


@pytest.mark.parametrize("names", [("x2h", "h2h"), ("i2h", "h2h"), ("W_x", "W_h"), ("input_to_hidden", "u")])
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True)])
def test_lstm_of_other_names(names: tuple[str, str], biases: tuple[bool, bool]) -> None:
    into, again = names
    kernels = {f"{into}__weight": packed(GLOROT, 4), f"{again}__weight": packed(ORTHOGONAL, 4)}
    first = {f"{into}__bias": FORGET} if biases[0] else {}
    second = {f"{again}__bias": ZERO if biases[0] else FORGET} if biases[1] else {}
    model = Model(Cell(4, names, biases))
    assert_plan(zeta.plan(model, "lstm"), around(**kernels, **first, **second))


def test_lstm_of_bare_parameters() -> None:
    model = Model(Bare(4))
    assert_plan(zeta.plan(model, "lstm", order="fiog"), around(
        W_x=packed(GLOROT, 4, 1), W_h=packed(ORTHOGONAL, 4, 1), b=("blocks", 0, ONE, ZERO, ZERO, ZERO),
    ))  # fmt: skip
    draw(model, "lstm")
    for gate in model.cell.W_h.detach().chunk(4, 1):
        assert torch.allclose(gate @ gate.T, torch.eye(HIDDEN), atol=1e-5)


def test_gru_of_other_names() -> None:
    assert_plan(zeta.plan(Model(Cell(3, ("x2h", "h2h"), (True, True))), "gru"), around(
        x2h__weight=packed(GLOROT, 3), h2h__weight=packed(ORTHOGONAL, 3), x2h__bias=ZERO, h2h__bias=ZERO,
    ))  # fmt: skip
    assert_plan(
        zeta.plan(Model(Bare(3)), "gru"), around(W_x=packed(GLOROT, 3, 1), W_h=packed(ORTHOGONAL, 3, 1), b=ZERO)
    )


class ByGate(nn.Module):
    """A parameter for each gate: ``W_h`` is that of the new state, and no recurrent kernel of all gates."""

    def __init__(self) -> None:
        super().__init__()
        for gate in "rzh":
            setattr(self, f"W_{gate}", nn.Linear(IN + HIDDEN, HIDDEN))


def test_what_is_not_packed_is_refused() -> None:
    with pytest.raises(PlanError, match="does not have 3 gates one after the other, with 56 inputs"):
        zeta.plan(ByGate(), "gru")
    for recipe, other, gates in (("lstm", nn.GRU(4, 4), 4), ("gru", nn.LSTM(4, 4), 3), ("lstm", nn.RNNCell(4, 4), 4)):
        with pytest.raises(PlanError, match=f"is of a {type(other).__name__}, which does not have {gates} gates"):
            zeta.plan(other, recipe)
    for recipe in ("lstm", "gru", "irnn"):
        with pytest.raises(PlanError, match=r"(?s)these rules of it never win.*\n.*recurrent kernels"):
            zeta.plan(nn.Linear(3, 3), recipe)
    with pytest.raises(SpecError, match=r"order must be one of.*got 'ifo'"):
        zeta.plan(nn.LSTM(2, 2), "lstm", order="ifo")


# -- irnn --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_irnn(scale: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(IN, HIDDEN, 2, nonlinearity="relu")
            self.out = nn.Linear(HIDDEN, 10)

    model = Net()
    assert_plan(zeta.plan(model, "irnn", scale=scale), {
        **{f"rnn.weight_ih_l{n}": normal(0.001) for n in range(2)},
        **{f"rnn.weight_hh_l{n}": ("identity", scale) for n in range(2)},
        **{f"rnn.bias_{which}_l{n}": ZERO for n in range(2) for which in ("ih", "hh")},
        "out.weight": normal(0.001),
        "out.bias": ZERO,
    })  # fmt: skip
    draw(model, "irnn", scale=scale)
    assert torch.equal(model.rnn.weight_hh_l1, scale * torch.eye(HIDDEN))


def test_irnn_of_other_names() -> None:
    model = Model(Cell(1, ("i2h", "h2h"), (True, False)))
    assert_plan(zeta.plan(model, "irnn"), {
        **around(i2h__weight=normal(0.001), h2h__weight=("identity", 1.0), i2h__bias=ZERO),
        "embed.weight": normal(0.001),
        "head.weight": normal(0.001),
    })  # fmt: skip


def test_irnn_refuses_what_is_none() -> None:
    with pytest.raises(PlanError, match=r"has ReLUs, and this layer has the nonlinearity 'tanh'"):
        zeta.plan(nn.RNN(4, 4), "irnn")
    with pytest.raises(PlanError, match=r"this layer|not square"):
        zeta.plan(nn.LSTM(4, 4), "irnn")


# -- cells that are not found ------------------------------------------------------------------------------------------


class Cells(nn.Module):
    """A layer of torch's, and a cell beside it whose kernels have other names."""

    def __init__(self, recipe: str, *names: str, own: str = "decoder_cell") -> None:
        super().__init__()
        gates = {"lstm": 4, "gru": 3}[recipe]
        self.encoder = {"lstm": nn.LSTM, "gru": nn.GRU}[recipe](5, 6)
        self.add_module(own, nn.ModuleDict({name: nn.Linear(6, gates * 6) for name in names}))
        self.head = nn.Linear(6, 2)


@pytest.mark.parametrize("recipe", ["lstm", "gru"])
@pytest.mark.parametrize("names", [("ih", "hh"), ("gates",)])
def test_a_cell_without_a_recurrent_kernel_is_refused(recipe: str, names: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="is of a cell in which no recurrent kernel is found by its name"):
        zeta.plan(Cells(recipe, *names), recipe)
    zeta.plan(Cells(recipe, "x2h", "h2h"), recipe)
