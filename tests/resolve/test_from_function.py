"""``zeta.from_function``: functions of torch operations as the initializers of rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules, from_function
from zeta.initializers import Constant, Normal, Ones, Program, Uniform, Zeros


def zero_row(tensor: Tensor) -> None:
    tensor.normal_(0, 0.5)
    tensor[2] = 0


def forget_bias(tensor: Tensor) -> None:
    quarter = tensor.shape[0] // 4
    tensor.zero_()
    tensor[quarter : 2 * quarter] = 1


def inverse_softplus(tensor: Tensor) -> Tensor:
    """Mamba's: dt is log-uniform, and the bias the inverse of softplus."""
    dt = torch.exp(tensor.uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "in place": lambda t: t.normal_(0.1, 0.3),
    "returned": lambda t: torch.rand(t.shape) * 2 - 1,
    "a constant": lambda t: t.fill_(0.25),
    "of torch.nn.init": nn.init.kaiming_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "logarithm": lambda t: torch.log(t.uniform_(1, 16)),
    "a row of zeros": zero_row,
    "gates": forget_bias,
    "cast": lambda t: torch.arange(t.numel()).view(t.shape),
    "no draw of torch's": lambda t: t.copy_(torch.linspace(0, 1, t.numel()).view(t.shape)),
    "signs": lambda t: t.bernoulli_(0.5).mul_(2).sub_(1),
    "log-uniform": inverse_softplus,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(8, 5), (8, 2, 3)], ids=str)
def test_the_values_are_those_of_a_constructor(name: str, shape: tuple[int, ...]) -> None:
    """The recorder is held against real runs elsewhere; a rule must give what a constructor gives."""
    function = FUNCTIONS[name]

    class Built(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(shape))
            with torch.no_grad():
                result = function(self.weight)
                if result is not None and result is not self.weight:
                    self.weight.copy_(result)

    built, recorded = zeta.record(Built)
    zeta.materialize_(built, recorded, 3)
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.empty(shape))
    plan = zeta.plan(holder, Rules([Rule("weight", from_function(function))]))
    assert zeta.apply_(holder, plan, 3).ok
    assert torch.equal(holder.weight, built.weight)  # type: ignore[arg-type]
    assert zeta.verify(holder, zeta.Plan.from_json(plan.to_json()), 3).ok


def test_known_laws_are_recognized() -> None:
    layer = nn.Linear(50, 40)

    def initializer(function: Callable[[Tensor], Any], name: str = "weight") -> zeta.Initializer:
        return zeta.plan(layer, Rules([Rule(name, from_function(function)), Rule("*", Zeros())]))[name].initializer

    assert initializer(lambda t: t.normal_(0, 0.3)) == Normal(0.3)
    assert initializer(lambda t: torch.randn(t.shape) * 0.3) == Normal(0.3)
    assert initializer(nn.init.xavier_normal_) == Normal(math.sqrt(2 / 90))
    assert initializer(nn.init.ones_, "bias") == Ones()
    assert initializer(lambda t: t.fill_(0.5), "bias") == Constant(0.5)
    bound = 1 / math.sqrt(50)
    assert initializer(lambda t: nn.init.uniform_(t, -bound, bound), "bias") == Uniform(-bound, bound)


def test_the_values_are_the_functions_of_the_stream() -> None:
    layer = nn.Module()
    layer.A_log = nn.Parameter(torch.empty(64))
    layer.dt_bias = nn.Parameter(torch.empty(64))
    law = {"A_log": Uniform(1, 16), "dt_bias": Uniform(math.log(1e-3), math.log(1e-1))}
    drawn = {name: zeta.fill_(torch.empty(64), initializer, 5, name=name).clone() for name, initializer in law.items()}
    rules = Rules(
        [
            Rule("A_log", from_function(lambda t: torch.log(t.uniform_(1, 16)))),
            Rule("dt_bias", from_function(inverse_softplus)),
        ]
    )
    zeta.init_(layer, rules, 5)
    assert torch.equal(layer.A_log, torch.log(drawn["A_log"]))  # type: ignore[arg-type]
    dt = nn.functional.softplus(layer.dt_bias.double())  # type: ignore[operator]
    torch.testing.assert_close(dt, drawn["dt_bias"].double().exp(), rtol=1e-5, atol=0)


def test_it_is_called_once_for_each_parameter_on_the_parameters_shape_and_dtype() -> None:
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def function(tensor: Tensor) -> None:
        seen.append((tuple(tensor.shape), tensor.dtype))
        tensor.normal_()

    layer = nn.Linear(3, 2, dtype=torch.bfloat16)
    state, before = torch.get_rng_state(), layer.weight.clone()
    plan = zeta.plan(layer, Rules([Rule("*", from_function(function))]))
    assert seen == [((2, 3), torch.bfloat16), ((2,), torch.bfloat16)]
    assert torch.equal(layer.weight, before), "a plan writes nothing"
    assert torch.equal(torch.get_rng_state(), state)
    assert [entry.dtype for entry in plan] == [torch.bfloat16] * 2


def test_tied_and_padded_and_buffers() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4, padding_idx=1)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("steps", torch.zeros(4, dtype=torch.long))

    model = Model()
    rules = Rules(
        [
            Rule("*weight", from_function(lambda t: t.normal_())),
            Rule("steps", from_function(lambda t: torch.arange(4)), buffers=True),
        ]
    )
    assert zeta.init_(model, rules, 0).ok
    assert model.steps.tolist() == [0, 1, 2, 3]  # type: ignore[operator]
    assert not model.embed.weight[1].any()
    assert model.embed.weight[0].any()


def test_a_shard_holds_its_rows() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    rules = Rules([Rule("weight", from_function(lambda t: torch.log(t.uniform_(1, 16))))])
    whole = nn.Linear(3, 8, bias=False)
    zeta.init_(whole, rules, 2)
    with fake_mesh((2,), (1,)) as mesh:
        part = nn.Linear(3, 8, bias=False)
        part.weight = nn.Parameter(distribute_tensor(torch.zeros(8, 3), mesh, [Shard(0)], src_data_rank=None))
        zeta.init_(part, rules, 2)
        assert torch.equal(part.weight.to_local(), whole.weight[4:])  # type: ignore[operator]


def partial(tensor: Tensor) -> None:
    tensor[:1] = 0


def peeking(tensor: Tensor) -> Tensor:
    return tensor.normal_() if tensor.uniform_().sum() > 0 else tensor


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: None, "cannot be recorded: it never gets a value"),
        (partial, "cannot be recorded: it never gets a value"),
        (lambda t: 3, "must write to the tensor or return one, it returned 3"),
        (lambda t: torch.zeros(2, 7), "returned a tensor 2 x 7, the parameter is 4 x 3"),
        (lambda t: 1 / 0, "its function fails for weight: ZeroDivisionError"),
        (peeking, "reads a value that depends on random values"),
        (lambda t, u: t, "its function fails for weight: TypeError"),
    ],
)
def test_what_cannot_be_recorded_is_an_error_of_the_plan(function: Any, message: str) -> None:
    layer = nn.Linear(3, 4, bias=False)
    before = layer.weight.clone()
    with pytest.raises(zeta.PlanError, match=message):
        zeta.init_(layer, Rules([Rule("weight", from_function(function))]), 0)
    assert torch.equal(layer.weight, before)


def test_what_numpy_writes_last_counts() -> None:
    def function(tensor: Tensor) -> None:
        tensor.zero_()
        np.fill_diagonal(tensor.numpy(), 2.0)

    layer = nn.Linear(6, 8, bias=False)
    zeta.init_(layer, Rules([Rule("weight", from_function(function))]), 0)
    assert torch.equal(layer.weight.detach(), 2 * torch.eye(8, 6))


@pytest.mark.parametrize(
    "function",
    [
        lambda t: setattr(t, "data", torch.randn(t.shape)),
        lambda t: t.resize_(2, 2).normal_(),
        lambda t: setattr(t, "data", torch.randn(7)),
    ],
)
def test_the_tensor_must_stay_what_it_is(function: Any) -> None:
    layer = nn.Linear(3, 4, bias=False, dtype=torch.complex64)
    with pytest.raises(zeta.PlanError, match=r"the function made of the tensor one of .*, the parameter is 4 x 3"):
        zeta.plan(layer, Rules([Rule("weight", from_function(function))]))


def test_orthogonal_matrices_agree_within_rounding_whatever_the_threads() -> None:
    table = nn.Embedding(300, 40)
    plan = zeta.plan(table, Rules([Rule("weight", from_function(nn.init.orthogonal_))]))
    assert isinstance(plan["weight"].initializer, Program)
    zeta.apply_(table, plan, 0)
    with torch.no_grad():
        table.weight += 1e-7
    assert zeta.verify(table, plan, 0).ok
    with torch.no_grad():
        table.weight += 1e-5
    assert not zeta.verify(table, plan, 0).ok


def test_wrong_arguments_and_places() -> None:
    with pytest.raises(zeta.SpecError, match="from_function takes a function of a tensor, got 3"):
        from_function(3)  # type: ignore[arg-type]

    def build() -> nn.Module:
        layer = nn.Linear(2, 2, bias=False)
        zeta.init_(layer, Rules([Rule("weight", from_function(lambda t: t.normal_()))]))
        return layer

    with pytest.raises(zeta.ZetaError, match="in a constructor that is recorded, call the function itself"):
        zeta.record(build)


def test_a_rule_shows_the_functions_name() -> None:
    rules = Rules([Rule("*", from_function(inverse_softplus), label="time steps"), Rule("b", Zeros(), optional=True)])
    text = str(rules)
    assert "from_function(inverse_softplus)" in text
    assert "time steps" in text
    plan = zeta.plan(nn.Linear(2, 2), rules)
    assert plan["bias"].rule == "time steps"
    assert isinstance(plan["bias"].initializer, Program)
