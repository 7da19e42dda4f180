"""The model after its recording: what is not in parameters and buffers, and what was there before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recorded import recorded
from zeta import Rule, Rules
from zeta.base.tensors import attributes
from zeta.initializers import Normal

Make = Callable[[int, int], Tensor]


def _every_second_row(s: Any, make: Make) -> None:
    w = make(8, 6)
    s.even, s.odd = nn.Parameter(w[::2]), w[1::2]


def _two_slices(s: Any, make: Make) -> None:
    w = make(8, 6)
    s.first, s.rest = nn.Parameter(w[:3]), {"rest": w[3:]}


def _in_a_list(s: Any, make: Make) -> None:
    w = make(8, 6)
    s.left = nn.Parameter(w[:, :3])
    s.hidden = [nn.Parameter(w[:, 3:])]


APART = [_every_second_row, _two_slices, _in_a_list]


def _built(fill: Callable[[Any, Make], None], make: Make) -> nn.Module:
    module = nn.Module()
    fill(module, make)
    return module


def _spoilt_memory() -> None:
    """So that memory which nobody writes most likely has these values."""
    spoilt = [torch.full((size,), 9.9) for size in range(1, 200) for _ in range(5)]
    del spoilt


def _plain(model: nn.Module) -> list[Tensor]:
    return [tensor for _, tensor in attributes(model)]


@pytest.mark.parametrize("fill", APART)
def test_what_is_left_of_registered_memory_has_its_values(fill: Callable[[Any, Make], None]) -> None:
    _spoilt_memory()
    model, _, _ = recorded(_built, fill, torch.ones)
    real = _built(fill, torch.ones)
    assert len(_plain(model)) == 1
    for mine, other in zip(_plain(model), _plain(real), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("fill", APART)
def test_what_is_left_of_registered_random_memory_is_refused(fill: Callable[[Any, Make], None]) -> None:
    with pytest.raises(zeta.RecordingError, match="neither parameters nor buffers"):
        zeta.record(_built, fill, torch.randn)


@pytest.mark.parametrize("make", [torch.ones, torch.randn])
@pytest.mark.parametrize("part", [lambda t: t[2:], lambda t: t[:, ::2], lambda t: t.t()[1:4]])
def test_a_tensor_of_which_a_part_is_registered_is_refused(part: Callable[[Tensor], Tensor], make: Make) -> None:
    def fill(s: Any, make: Make) -> None:
        s.table = make(8, 6)
        s.register_buffer("part", part(s.table))

    with pytest.raises(zeta.RecordingError, match=r"share a part of their memory(.|\n)*table \(8, 6\)"):
        zeta.record(_built, fill, make)


def test_a_tensor_of_which_all_is_registered_shares_its_memory() -> None:
    def fill(s: Any, make: Make) -> None:
        s.table = make(8, 6)
        s.upper, s.lower = nn.Parameter(s.table[:3]), nn.Parameter(s.table[3:])

    model, _, _ = recorded(_built, fill, torch.randn)
    assert torch.equal(model.table, torch.cat([model.upper, model.lower]))
    assert model.table.data_ptr() == model.upper.data_ptr()


def test_rules_leave_no_raw_memory_beside_a_parameter() -> None:
    module = nn.Module()
    with torch.device("meta"):
        w = torch.empty(8, 6)
    module.even, module.odd = nn.Parameter(w[::2]), w[1::2]
    plan = zeta.plan(module, Rules([Rule("even", Normal(1.0))]))
    with pytest.raises(zeta.TargetError, match=r"odd \(4, 6\): is a tensor on meta outside"):
        zeta.materialize_(module, plan, seed=0)
    assert module.even.is_meta


def test_what_was_there_before_keeps_its_memory_when_it_is_given_data() -> None:
    layer, alone, plain = nn.Linear(2, 2), nn.Parameter(torch.zeros(2, 2)), torch.zeros(2, 2)

    def fill(s: Any, make: Make) -> None:
        for tensor in (layer.weight, alone, plain):
            tensor.data = torch.eye(2)
        s.weight, s.alone = layer.weight, alone
        s.register_buffer("plain", plain)

    model, _, _ = recorded(_built, fill, torch.ones)
    for name, before in {"weight": layer.weight, "alone": alone, "plain": plain}.items():
        assert torch.equal(before, torch.eye(2))
        assert getattr(model, name) is not before
        assert torch.equal(getattr(model, name), torch.eye(2))


def test_a_view_that_was_made_without_gradients() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.weight = nn.Parameter(torch.empty(6))
                self.first = self.weight[:2]
                nn.init.normal_(self.weight)

    model, _, _ = recorded(Model)
    assert torch.equal(model.first, model.weight[:2])


THERE = torch.arange(12.0).view(4, 3)


def _buffer_of_the_memory_that_a_parameter_is_given(s: Any, t: Tensor) -> None:
    s.weight = nn.Parameter(torch.zeros(3))
    s.weight.data = t
    s.register_buffer("average", t)


def _two_parameters(s: Any, t: Tensor) -> None:
    s.first, s.second = nn.Parameter(t), nn.Parameter(torch.zeros(3))
    s.second.data = t[1:]


def _plain_attribute(s: Any, t: Tensor) -> None:
    s.weight = nn.Parameter(torch.zeros(3))
    s.weight.data = t
    s.average = [t]


@pytest.mark.parametrize("fill", [_buffer_of_the_memory_that_a_parameter_is_given, _two_parameters, _plain_attribute])
def test_memory_of_real_and_recorded_tensors_of_one_model_is_refused(fill: Callable[[Any, Tensor], None]) -> None:
    def build() -> nn.Module:
        module = nn.Module()
        fill(module, THERE.clone())
        return module

    with pytest.raises(zeta.RecordingError, match="which would come apart"):
        zeta.record(build)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(3.0).expand(4, 3),
        lambda: torch.arange(9.0).unfold(0, 4, 2),
        lambda: torch.ones(1, 2).expand(3, 2).t(),
    ],
)
def test_plain_tensors_of_which_elements_share_memory(make: Callable[[], Tensor]) -> None:
    def build() -> nn.Module:
        module: Any = nn.Module()
        module.table = make()
        return module

    model, _ = zeta.record(build)
    assert torch.equal(model.table, make())
    assert model.table.stride() == make().stride()


@pytest.mark.parametrize("part", [lambda t: t[2:], lambda t: t[:, 2]])
def test_own_real_memory_that_is_registered_in_part(part: Callable[[Tensor], Tensor]) -> None:
    def build() -> nn.Module:
        module: Any = nn.Module()
        t = THERE.clone()
        module.weight, module.rest = nn.Parameter(t[:2, :2]), part(t)
        return module

    model, _, _ = recorded(build)
    if model.rest.ndim == 2:
        assert torch.equal(model.rest, THERE[2:])
    assert torch.equal(model.rest, build().rest)
    assert torch.equal(model.weight, build().weight)
