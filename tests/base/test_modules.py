"""Modules and tensors in torch's order, and models that are nested deeper than Python calls itself."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeta
from tests.helpers.layers import LAYERS
from tests.helpers.models import Bottleneck, ResNet
from zeta import Rule, Rules
from zeta.base.modules import (
    buffers_of,
    copy_of,
    modules_of,
    named_modules_of,
    named_parameters_of,
    parameters_of,
    tensors_of,
)
from zeta.errors import RecordingError, TargetError
from zeta.initializers import Normal, Zeros

RULES = Rules([Rule("*.weight", Normal(0.02)), Rule("*.bias", Zeros())])


def tangled() -> nn.Module:
    """Shared modules and parameters, missing children, a module that contains itself."""
    shared = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.Sequential(nn.Linear(3, 3), shared)), "b": shared})
    model["c"] = nn.Linear(3, 3)
    model["c"].weight = shared.weight
    model.register_module("gone", None)
    model.register_parameter("empty", None)
    model["d"] = nn.BatchNorm1d(3, affine=False)
    model["d"].register_buffer("again", model["d"].running_mean)
    model["a"].append(model)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    **LAYERS,
    "resnet": lambda: ResNet(Bottleneck, 4),
    "tangled": tangled,
    "parametrized": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))),
    "compiled": lambda: torch.compile(nn.Sequential(nn.Linear(3, 3))),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3))),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("factory", MODELS.values(), ids=MODELS)
def test_names_and_order_are_torchs(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    assert list(named_modules_of(model)) == list(model.named_modules())
    assert [*map(id, modules_of(model))] == [*map(id, model.modules())]
    if isinstance(model, torch.jit.ScriptModule):
        return  # it makes its tensors anew each time
    assert [(n, id(p)) for n, p in named_parameters_of(model)] == [(n, id(p)) for n, p in model.named_parameters()]
    assert [*map(id, parameters_of(model))] == [*map(id, model.parameters())]
    assert [*map(id, buffers_of(model))] == [*map(id, model.buffers())]
    assert [*map(id, tensors_of(model))] == [*map(id, (*model.parameters(), *model.buffers()))]


def test_a_copy_is_that_of_deepcopy() -> None:
    model = tangled()
    mine, theirs = copy_of(model), copy.deepcopy(model)
    assert [name for name, _ in mine.named_modules()] == [name for name, _ in theirs.named_modules()]
    assert mine["a"][0] is mine["b"] is mine["a"][1][1]
    assert mine["c"].weight is mine["b"].weight
    assert mine["a"][-1] is mine
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(mine), tensors_of(model), strict=True))
    assert not {*map(id, tensors_of(mine))} & {*map(id, tensors_of(model))}


# -- deep models -------------------------------------------------------------------------------------------------------


class Level(nn.Module):
    """A layer, and what is below it."""

    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        if inner is not None:
            self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.inner(x) if "inner" in self._modules else x


class Deep(nn.Module):
    """As many levels inside each other, which are called from here, one after the other."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        level = None
        for _ in range(depth):
            level = Level(level)
        self.top = level

    def forward(self, x: Tensor) -> Tensor:
        level = self.top
        while level is not None:
            x = x + 0.01 * level.fc(x)
            level = level._modules.get("inner")  # type: ignore[assignment]
        return x


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A limit of calls within calls that a model need not be as deep for as for Python's own, of 1,000."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(450)
    yield 450
    sys.setrecursionlimit(before)


def randomize(model: nn.Module) -> None:
    for parameter in parameters_of(model):
        nn.init.normal_(parameter, 0.0, 0.02)


@pytest.mark.parametrize("depth", [500, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2000, 5000))])
def test_deep_models_are_planned_written_saved_and_verified(depth: int, low_limit: int, tmp_path: Path) -> None:
    assert depth > low_limit
    model = Deep(depth)
    plan = zeta.plan(model, RULES)
    assert len(plan) == 2 * depth
    assert len(plan.entries[-1].name) > 6 * depth - 10
    report = zeta.init_(model, RULES, seed=3)
    assert report.ok
    assert zeta.verify(model, plan, seed=3).ok
    meta, recorded = zeta.record(Deep, depth)
    assert zeta.diff(recorded, zeta.plan(meta, "torch")).same
    assert zeta.diff(zeta.plan(model, randomize), plan).parameters == 2 * depth
    assert zeta.materialize_(meta, recorded, seed=3).ok
    assert zeta.save(meta, plan, tmp_path, seed=3, max_shard_size="20KB").ok
    assert zeta.verify(tmp_path).ok
    part = zeta.apply_(model.top, plan, seed=3, name_map={"inner": "top.inner", "fc": "top.fc"})
    assert part.ok
    assert zeta.verify(model, plan, seed=3).ok


def test_texts_of_deep_models_leave_out_the_middle_of_names() -> None:
    report = zeta.init_(Deep(400), RULES, seed=0)
    texts = str(report), str(zeta.plan(Deep(400), RULES))
    for text in texts:
        assert "top.inner.inner" in text
        assert "characters)..." in text
        assert ".inner.fc.weight" in text
        assert max(map(len, text.splitlines())) < 600


def test_deep_models_are_checked(low_limit: int) -> None:
    x = torch.randn(16, 2)
    model = Deep(low_limit + 50)
    checked = zeta.check(model, x)
    assert len(checked.parameters) == 2 * (low_limit + 50)
    assert len(checked.layers) == low_limit + 50
    assert str(checked)
    assert checked.to_json()


@pytest.mark.parametrize("how", ["plan", "initialize"])
def test_deep_models_on_meta_are_checked(how: str, low_limit: int) -> None:
    x = torch.randn(16, 2)
    model, plan = zeta.record(Deep, low_limit + 50)
    checked = zeta.check(model, x, plan=plan) if how == "plan" else zeta.check(model, x, initialize=randomize)
    assert len(checked.parameters) == 2 * (low_limit + 50)
    assert all(parameter.is_meta for parameter in parameters_of(model))


def test_calls_that_are_too_deep_are_one_clear_error(low_limit: int) -> None:
    model = Deep(low_limit + 50).top
    before = [parameter.clone() for parameter in parameters_of(model)]
    with pytest.raises(RecursionError):
        model(torch.randn(4, 2))
    with pytest.raises(
        TargetError, match=r"forward pass ends at Python's recursion limit of [\d,]+ .*setrecursionlimit"
    ):
        zeta.check(model, torch.randn(4, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, parameters_of(model), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules_of(model))
    with pytest.raises(TargetError, match="initialize= ends at Python's recursion limit"):
        zeta.check(model, torch.randn(4, 2), initialize=lambda m: m.apply(lambda _: None))
    with pytest.raises(RecordingError, match="the function ends at Python's recursion limit"):
        zeta.plan(model, lambda m: m.apply(lambda _: None))

    def factory() -> nn.Module:
        return Deep(low_limit + 50).apply(lambda _: None)

    with pytest.raises(RecordingError, match="the constructor ends at Python's recursion limit"):
        zeta.record(factory)


def test_a_higher_limit_lets_deep_calls_be_checked(low_limit: int) -> None:
    """In a thread with a stack that is large enough for them."""
    model, x = Deep(low_limit // 3).top, torch.randn(16, 2)
    zeta.init_(model, "torch", seed=0)
    with pytest.raises(RecursionError):
        model(x)
    found: list[int] = []
    limit, size = sys.getrecursionlimit(), threading.stack_size(2**29)
    try:
        sys.setrecursionlimit(20_000)
        thread = threading.Thread(target=lambda: found.append(len(zeta.check(model, x).layers)))
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)
    assert found
    assert found[0] >= low_limit // 3
