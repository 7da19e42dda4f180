"""The model after its recording: what is not in parameters and buffers, and what was there before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

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


class Plain:
    """No module."""


class Slotted:
    __slots__ = ("weight",)


def _module_in_a_list(s: Any) -> Callable[[], Tensor]:
    s.teacher = [nn.Linear(3, 3)]
    return lambda: s.teacher[0].weight


def _module_in_a_dictionary(s: Any) -> Callable[[], Tensor]:
    s.teacher = {"ema": nn.Linear(3, 3)}
    return lambda: s.teacher["ema"].weight


def _module_past_setattr(s: Any) -> Callable[[], Tensor]:
    object.__setattr__(s, "teacher", nn.Linear(3, 3))
    return lambda: s.teacher.weight


def _module_in_an_object(s: Any) -> Callable[[], Tensor]:
    s.teacher = Plain()
    s.teacher.net = nn.Linear(3, 3)
    return lambda: s.teacher.net.weight


def _parameter_in_a_slot(s: Any) -> Callable[[], Tensor]:
    s.teacher = Slotted()
    s.teacher.weight = nn.Parameter(torch.empty(3, 3).normal_())
    return lambda: s.teacher.weight


def _parameter_in_a_closure(s: Any) -> Callable[[], Tensor]:
    weight = nn.Parameter(torch.empty(3, 3).normal_())
    s.teacher = lambda: weight
    return lambda: s.teacher()


def _copy_in_a_list(s: Any) -> Callable[[], Tensor]:
    s.teacher = [copy.deepcopy(s.layer)]
    return lambda: s.teacher[0].weight


def _attribute_of_a_parameter(s: Any) -> Callable[[], Tensor]:
    s.layer.weight.teacher = nn.Parameter(torch.empty(3, 3).normal_())
    return lambda: s.layer.weight.teacher


HIDDEN = [
    _module_in_a_list, _module_in_a_dictionary, _module_past_setattr, _module_in_an_object, _parameter_in_a_slot,
    _parameter_in_a_closure, _copy_in_a_list, _attribute_of_a_parameter,
]  # fmt: skip


@pytest.mark.parametrize("hide", HIDDEN)
@pytest.mark.parametrize("constant", [False, True])
def test_parameters_out_of_sight_have_values_or_are_refused(hide: Callable[[Any], Any], constant: bool) -> None:
    found: list[Callable[[], Tensor]] = []

    def build() -> nn.Module:
        module: Any = nn.Module()
        module.layer = nn.Linear(3, 3)
        found.append(hide(module))
        if constant:
            nn.init.constant_(found[-1](), 0.5)
            for other in (getattr(module, "teacher", None),):
                for layer in _linears(other):
                    nn.init.zeros_(layer.bias)
        return module

    if not constant:
        with pytest.raises(zeta.RecordingError, match=r"neither parameters nor buffers(.|\n)*\(3, 3\), made at"):
            zeta.record(build)
        return
    zeta.record(build)
    assert torch.equal(found[0](), torch.full((3, 3), 0.5))
    assert isinstance(found[0](), nn.Parameter)
    assert found[0]().requires_grad


def _linears(value: Any) -> list[nn.Linear]:
    inside = [value, *(value if isinstance(value, list) else ())]
    inside += value.values() if isinstance(value, dict) else ()
    inside += vars(value).values() if isinstance(value, Plain) else ()
    return [one for one in inside if isinstance(one, nn.Linear)]


def test_an_error_names_the_place_of_a_hidden_module() -> None:
    def build() -> nn.Module:
        module: Any = nn.Module()
        module.teachers = {"ema": [nn.Linear(3, 2)]}
        return module

    with pytest.raises(zeta.RecordingError, match=r"teachers\['ema'\]\[0\]\.weight \(2, 3\), made at test_leaving"):
        zeta.record(build)


def test_another_parameter_of_a_registered_memory_in_a_closure_is_refused() -> None:
    def build() -> nn.Module:
        module: Any = nn.Module()
        module.weight = nn.Parameter(torch.randn(3))
        other = nn.Parameter(module.weight)
        module.get = lambda: other
        return module

    with pytest.raises(zeta.RecordingError, match=r"kept where nothing finds them(.|\n)*a view \(3,\), made at"):
        zeta.record(build)


def test_what_a_cycle_alone_holds_is_not_the_models() -> None:
    def build() -> nn.Module:
        module = nn.Linear(3, 3)
        loop: list[Any] = [nn.Linear(3, 3)]
        loop.append(loop)
        return module

    model, _, _ = recorded(build)
    assert not model.weight.is_meta


class Cached(nn.Module):
    """Has a table that all models of a size share."""

    tables: ClassVar[dict[int, Tensor]] = {}

    def __init__(self, size: int, take: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if size not in self.tables:
            self.tables[size] = torch.arange(float(size)).cumsum(0)
        self.register_buffer("table", take(self.tables[size]))
        self.inner = nn.Module()
        self.inner.register_buffer("table", self.table)


@pytest.mark.parametrize("take", [lambda t: t, lambda t: t[:3]])
def test_a_table_in_a_cache_has_its_values(take: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cached, "tables", {})
    model, plan = zeta.record(Cached, 5, take)
    other, _ = zeta.record(Cached, 5, take)
    real = Cached(5, take)
    assert torch.equal(Cached.tables[5], torch.tensor([0.0, 1, 3, 6, 10]))
    assert all(one.table.is_meta and one.inner.table is one.table for one in (model, other))
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.table, real.table)
    assert model.inner.table is model.table
    model.table.zero_()
    assert torch.equal(Cached.tables[5], torch.tensor([0.0, 1, 3, 6, 10]))


def test_a_table_that_only_the_model_has_stays_the_same_object() -> None:
    made: list[int] = []

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(4, 4).tril().view(1, 1, 4, 4))
            self.register_buffer("count", torch.zeros(3))
            made.extend(id(buffer) for buffer in self.buffers())

    model, _ = zeta.record(Own)
    assert [id(buffer) for buffer in model.buffers()] == made


@pytest.mark.parametrize("inputs", [torch.ones, torch.randn])
def test_gradients_that_a_constructor_leaves_are_said(inputs: Any) -> None:
    def trained() -> nn.Module:
        layer = nn.Linear(2, 2)
        layer(inputs(1, 2)).sum().backward()
        return nn.Sequential(layer, layer)

    with pytest.warns(zeta.ZetaNotice, match=r"leaves gradients \(0\.weight, 0\.bias"):
        model, plan = zeta.record(trained)
    assert all(parameter.grad is None for parameter in model.parameters())
    zeta.materialize_(model, plan, seed=0)
    assert all(parameter.grad is None for parameter in model.parameters())
