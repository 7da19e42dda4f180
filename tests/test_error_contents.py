"""Errors about an argument say what it is. None of them prints the content of a tensor, an array or a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zeta
from zeta import Axes, Rule, Rules, utils
from zeta.base.reading import shown, suggestion
from zeta.initializers import Constant, Normal, Sparse, TruncatedNormal, VarianceScaling, Zeros, kaiming_normal

CONTENT = "7654"
TENSORS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.full((3, 2), 7654.5),
    "parameter": lambda: nn.Parameter(torch.full((3,), 7654.5)),
    "array": lambda: np.full((3, 2), 7654.5),
    "list": lambda: [torch.full((2,), 7654.5), {"a": (torch.tensor(7654.5),)}],
    "object": lambda: _Holder(torch.full((2,), 7654.5)),
}
PLAN = zeta.plan(nn.Linear(2, 3), Rules([Rule("*", Normal())]))


class _Holder:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"Holder({self.tensor!r})"


def layer() -> nn.Module:
    return nn.Linear(2, 3)


CALLS: dict[str, Callable[[Any], Any]] = {
    **{
        f"zeta.utils.{name}": getattr(utils, name)
        for name in utils.__all__
        if name not in ("exists", "init_constant_", "init_sparse_")
    },
    "init_constant_": lambda x: utils.init_constant_(x, 0.5),
    "init_sparse_": lambda x: utils.init_sparse_(x, 0.5),
    "plan": lambda x: zeta.plan(x, "torch"),
    "plan: how": lambda x: zeta.plan(layer(), x),
    "apply_": lambda x: zeta.apply_(x, PLAN, seed=0),
    "apply_: plan": lambda x: zeta.apply_(layer(), x, seed=0),
    "apply_: seed": lambda x: zeta.apply_(layer(), PLAN, seed=x),
    "apply_: only": lambda x: zeta.apply_(layer(), PLAN, seed=0, only=x),
    "apply_: prefix": lambda x: zeta.apply_(layer(), PLAN, seed=0, prefix=x),
    "apply_: name_map": lambda x: zeta.apply_(layer(), PLAN, seed=0, name_map=x),
    "apply_: progress": lambda x: zeta.apply_(layer(), PLAN, seed=0, progress=x),
    "apply_: confirm": lambda x: zeta.apply_(layer(), PLAN, seed=0, confirm=x),
    "materialize_": lambda x: zeta.materialize_(x, PLAN, seed=0),
    "materialize_: dtype": lambda x: zeta.materialize_(layer().to("meta"), PLAN, seed=0, dtype=x),
    "init_": lambda x: zeta.init_(x, "torch", seed=0),
    "init_: how": lambda x: zeta.init_(layer(), x, seed=0),
    "save": lambda x: zeta.save(x, PLAN, "unused", seed=0),
    "save: plan": lambda x: zeta.save(layer(), x, "unused", seed=0),
    "save: path": lambda x: zeta.save(layer(), PLAN, x, seed=0),
    "save: size": lambda x: zeta.save(layer(), PLAN, "unused", seed=0, max_shard_size=x),
    "verify": lambda x: zeta.verify(x),
    "verify: plan": lambda x: zeta.verify(layer(), x, 0),
    "check": lambda x: zeta.check(x, torch.ones(1, 2)),
    "check: loss": lambda x: zeta.check(layer(), torch.ones(1, 2), loss=x),
    "check: thresholds": lambda x: zeta.check(layer(), torch.ones(1, 2), thresholds=x),
    "check: plan": lambda x: zeta.check(layer(), torch.ones(1, 2), plan=x),
    "check: suppress": lambda x: zeta.check(layer(), torch.ones(1, 2), suppress=x),
    "check: seed": lambda x: zeta.check(layer(), torch.ones(1, 2), seed=x),
    "Thresholds": lambda x: zeta.Thresholds(dead_fail=x),
    "record: result": lambda x: zeta.record(lambda: x),
    "record: fallback": lambda x: zeta.record(layer, fallback=x),
    "diff": lambda x: zeta.diff(PLAN, x),
    "shard_plan": lambda x: zeta.shard_plan(x, (2,), lambda *_: None, rank=0),
    "shard_plan: mesh": lambda x: zeta.shard_plan(PLAN, x, lambda *_: None, rank=0),
    "fans": lambda x: zeta.fans(layer(), "weight", axes=Axes(fan_in=x, fan_out=(0,))),
    "register_fans": lambda x: zeta.register_fans(x, {}),
    "register_fans: axes": lambda x: zeta.register_fans(nn.Bilinear, {"weight": x}),
    "gain": lambda x: zeta.gain("leaky_relu", x),
    "gain: param": lambda x: zeta.gain("relu", x),
    "gain: nonlinearity": lambda x: zeta.gain(x),
    "Normal": lambda x: Normal(x),
    "Constant": lambda x: Constant(x),
    "Sparse": lambda x: Sparse(x),
    "TruncatedNormal": lambda x: TruncatedNormal(1.0, low=x),
    "VarianceScaling": lambda x: VarianceScaling(1.0, x),
    "kaiming_normal": lambda x: kaiming_normal("fan_in", "leaky_relu", x),
    "Rule": lambda x: Rule("*", x),
    "Rule: condition": lambda x: Rule(x, Zeros()),
    "Rule: axes": lambda x: Rule("*", Zeros(), axes=x),
    "Rule: result": lambda x: zeta.plan(layer(), Rules([Rule("*", lambda match: x)])),
    "Rules": lambda x: Rules([x]),
    "fill_: initializer": lambda x: zeta.fill_(torch.ones(2), x),
    "fill_: seed": lambda x: zeta.fill_(torch.ones(2), Normal(), x),
    "fill_: name": lambda x: zeta.fill_(torch.ones(2), Normal(), name=x),
    "fill_: axes": lambda x: zeta.fill_(torch.ones(2), Normal(), axes=x),
    "fill_: generator": lambda x: zeta.fill_(torch.ones(2), Normal(), generator=x),
    "values": lambda x: zeta.values(x, "weight", 0),
    "values: name": lambda x: zeta.values(PLAN, x, 0),
    "values: seed": lambda x: zeta.values(PLAN, "weight", x),
    "values: dtype": lambda x: zeta.values(PLAN, "weight", 0, dtype=x),
    "values: region": lambda x: zeta.values(PLAN, "weight", 0, region=(x,)),
    "Plan[...]": lambda x: PLAN[x],
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", CALLS)
def test_the_content_of_a_tensor_is_not_shown(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((zeta.ZetaError, KeyError, TypeError, ValueError)) as caught:
        CALLS[name](TENSORS[kind]())
    assert CONTENT not in str(caught.value)
    assert len(str(caught.value).splitlines()[0]) < 600
    assert not list(tmp_path.iterdir())


#: what writes to its first argument, a module
VERBS = [
    *(name for name in CALLS if name.startswith(("zeta.utils.", "init_constant_", "init_sparse_"))),
    *("plan", "apply_", "materialize_", "init_", "save", "verify", "check"),
]


@pytest.mark.parametrize("name", VERBS)
def test_a_tensor_in_the_place_of_a_module_is_one_line(name: str) -> None:
    parameter = nn.Linear(10, 5).weight
    with pytest.raises(zeta.LayerTypeError) as caught:
        CALLS[name](parameter)
    text = str(caught.value)
    assert text.startswith("expected a torch.nn.Module")
    assert text.endswith("got a Parameter (float32, 5 x 10); zeta.fill_(tensor, initializer) fills one tensor")


def test_what_is_shown_of_values() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(torch.ones(2, 3, dtype=torch.bfloat16)) == "a Tensor (bfloat16, 2 x 3)"
    assert shown(torch.tensor(1.0)) == "a Tensor (float32, scalar)"
    assert shown(nn.LazyLinear(2).weight) == "an UninitializedParameter"
    assert shown([nn.Embedding(2, 2), 3]) == "[an Embedding, 3]"
    assert shown({"a": np.ones(2)}) == "{'a': a ndarray (float64, 2)}"
    assert shown(nn.Linear) == "<class 'torch.nn.modules.linear.Linear'>"
    assert "Odd" in shown(Odd())
    assert shown("x" * 500) == f"'{'x' * 57}...{'x' * 58}'"


def test_a_suggestion_is_the_nearest_name_or_some_of_them() -> None:
    assert suggestion("weigth", ["weight", "bias"]) == "; did you mean 'weight'?"
    assert suggestion("q", ["weight", "bias"]) == "; expected one of weight, bias"
    assert suggestion("q", ["weight", "bias", "scale"], most=2) == "; expected one of weight, bias, ..."
    assert suggestion(3, []) == ""
