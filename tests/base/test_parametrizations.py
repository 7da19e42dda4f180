"""The shape of a parametrized weight is found without touching the model, which other threads may be using."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import zeta
from zeta.base.parametrizations import parametrized_shape
from zeta.initializers import Normal

RULES = zeta.Rules([zeta.Rule("*", Normal(0.1), optional=True)])


class Wide(nn.Module):
    """Repeats the rows; has a buffer, a plain tensor, one in a list, and a module inside."""

    def __init__(self, look: Callable[[], object]) -> None:
        super().__init__()
        self.look = (look,)  # in a tuple, so that no module holds the model
        self.inner = nn.BatchNorm1d(4)
        self.plain = torch.ones(4)
        self.listed = [torch.ones(4)]
        self.calls = 0
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, weight: Tensor) -> Tensor:
        self.look[0]()
        self.calls += 1
        self.shapes.append(tuple(weight.shape))
        self.plain.mul_(2)
        self.listed[0].mul_(2)
        return self.inner(torch.cat([weight, weight])) * self.plain * self.listed[0]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_no_tensor_of_the_model_is_on_meta_while_the_shape_is_found() -> None:
    layer = nn.Linear(4, 3, bias=False)
    seen: list[bool] = []
    wide = Wide(lambda: seen.append(any(tensor.is_meta for tensor in [*layer.parameters(), *layer.buffers()])))
    parametrize.register_parametrization(layer, "weight", wide, unsafe=True)
    before, calls = state(layer), wide.calls
    seen.clear()
    wide.shapes.clear()
    assert zeta.plan(layer, RULES)["weight"].shape == (6, 4)
    assert seen
    assert not any(seen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert (wide.calls, wide.shapes) == (calls, [])
    assert torch.equal(wide.plain, wide.listed[0])


def test_a_plain_tensor_does_not_hide_the_shape() -> None:
    layer = nn.Linear(4, 3, bias=False)
    parametrize.register_parametrization(layer, "weight", Wide(lambda: None), unsafe=True)
    assert parametrized_shape(layer.parametrizations["weight"]) == (6, 4)  # type: ignore[arg-type, index]


def test_a_parametrization_of_a_parametrization_keeps_its_values() -> None:
    wide = Wide(lambda: None)
    wide.inner = parametrizations.weight_norm(nn.Linear(4, 5), dim=0)  # type: ignore[assignment]
    wide.plain, wide.listed = torch.ones(5), [torch.ones(5)]
    layer = nn.Linear(4, 3, bias=False)
    parametrize.register_parametrization(layer, "weight", wide, unsafe=True)
    before = state(layer)
    assert parametrized_shape(layer.parametrizations["weight"]) == (6, 5)  # type: ignore[arg-type, index]
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_threads_that_plan_one_model_leave_it(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(*[wrap(nn.Linear(4, 4)) for _ in range(4)])
    before = state(model)
    threads = [threading.Thread(target=lambda: [zeta.plan(model, RULES) for _ in range(8)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_second_thread_waits_before_it_looks_for_values() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    inside, go_on = threading.Event(), threading.Event()
    plans: list[Any] = []

    def first(model: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        nn.init.normal_(model[0].weight)

    threads = [
        threading.Thread(target=lambda: plans.append(zeta.plan(model, first))),
        threading.Thread(target=lambda: plans.append(zeta.plan(model, lambda m: nn.init.normal_(m[0].weight)))),
    ]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    threads[1].join(0.3)  # it waits for the first, which has the model on meta
    go_on.set()
    for thread in threads:
        thread.join()
    assert [plan["1.weight"].kept for plan in plans] == [True, True]
