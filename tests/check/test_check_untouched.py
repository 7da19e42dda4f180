"""What a forward pass can do to a model beside writing values, and that a check undoes it."""

from __future__ import annotations

import random
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.networks import vectors
from zeta.check import check
from zeta.errors import TargetError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


class Position(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8))

    def forward(self) -> Tensor:
        return self.table


class Remembering(Net):
    """Whatever is in containers and generators changes."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = [1.0]
        self.cache: dict[str, Any] = {"deep": [1, {2}]}
        self.steps = Counter({"a": 1})
        self.draws = (torch.Generator().manual_seed(3), np.random.default_rng(0), random.Random(1))
        self.older = (np.random.RandomState(2), np.random.PCG64(3))

    def forward(self, x: Tensor) -> Tensor:
        self.losses.append(float(x.mean()))
        self.cache["new"] = x
        self.cache["deep"][1].add(3)
        self.cache["deep"].reverse()
        self.steps["a"] += 1
        torch.randn(1, generator=self.draws[0]), self.draws[1].normal(), self.draws[2].random()
        self.older[0].normal(), self.older[1].random_raw()
        return super().forward(x)

    def remembered(self) -> list[Any]:
        draws = (self.draws[0].get_state().tolist(), self.draws[1].bit_generator.state, self.draws[2].getstate())
        draws += (self.older[0].get_state(legacy=False), self.older[1].state)
        return [repr(self.losses), repr(self.cache), repr(self.steps), *map(repr, draws)]


def test_what_modules_keep_in_containers_and_generators_comes_back() -> None:
    model = Remembering()
    lists = model.losses, model.cache["deep"]
    before = model.remembered()
    check(model, vectors(8))
    assert model.remembered() == before
    assert model.losses is lists[0]
    assert model.cache["deep"] is lists[1]


class Statistics:
    """An object with state of its own, which is no module."""

    def __init__(self) -> None:
        self.calls, self.history, self.mean = 0, [0], torch.zeros(8)

    def update(self, x: Tensor) -> None:
        self.calls += 1
        self.history.append(self.calls)
        self.mean += x.detach().mean(0)


class Hiding(Net):
    """Whatever is out of torch's sight changes."""

    def __init__(self) -> None:
        super().__init__()
        self.array = np.zeros(8)
        self.bytes = bytearray(b"old")
        self.numbers = array("i", [1])
        self.deep = [[[[[[[np.ones(3)]]]]]]]
        self.recent = deque([torch.zeros(8)], maxlen=2)
        self.statistics = [Statistics()]
        self.teacher = [nn.BatchNorm1d(8)]

    def forward(self, x: Tensor) -> Tensor:
        self.array += x.detach().double().mean(0).numpy()
        self.bytes[:] = b"newer"
        self.numbers.append(2)
        self.deep[0][0][0][0][0][0][0][1] = 7
        self.recent[0] += x.detach().mean(0)
        self.recent.append(x)
        self.statistics[0].update(x)
        self.teacher[0](x)
        return super().forward(x)

    def state(self) -> dict[str, str]:
        kept = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return {key: repr(value) for key, value in kept.items()} | {
            "object": repr(vars(self.statistics[0])),
            "teacher": repr((self.teacher[0].state_dict(), self.teacher[0].training)),
        }


@pytest.mark.parametrize("level", ["fast", "full"])
def test_arrays_objects_and_modules_out_of_sight_come_back(level: Any) -> None:
    model = Hiding()
    before, array_before, teacher = model.state(), model.array, model.teacher[0]
    model(vectors(8))
    changed = model.state()
    assert [key for key in before if key != "training" and before[key] == changed[key]] == ["statistics"]
    model = Hiding()
    before, array_before, teacher = model.state(), model.array, model.teacher[0]
    check(model, vectors(8), level=level)
    assert model.state() == before
    assert model.array is array_before
    assert model.teacher[0] is teacher


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_parameter_that_a_module_returns_keeps_no_hook(level: Any) -> None:
    class Model(Net):
        def __init__(self) -> None:
            super().__init__()
            self.position = Position()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + self.position())

    model = Model()
    report = check(model, vectors(8), level=level)
    assert not model.position.table._backward_hooks
    assert {layer.name: layer for layer in report.layers}["position"].gradient is not None


def test_hooks_on_parameters_come_back() -> None:
    class Model(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.head.weight.register_hook(lambda gradient: gradient * 2)
            kept.remove()
            return super().forward(x)

    model = Model()
    kept = model.fc.weight.register_hook(lambda gradient: gradient * 3)
    model.fc.bias.register_post_accumulate_grad_hook(lambda parameter: None)
    check(model, vectors(8))
    assert not model.head.weight._backward_hooks
    model(vectors(8)).sum().backward()


def test_gradients_that_a_forward_pass_adds_to_come_back() -> None:
    class Model(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            y.sum().backward(retain_graph=True)
            return y

    model = Model()
    model.fc.weight.grad = torch.ones(8, 8)
    grad = model.fc.weight.grad
    check(model, vectors(8))
    assert model.fc.weight.grad is grad
    assert torch.equal(grad, torch.ones(8, 8))
    assert model.head.weight.grad is None


def test_dtype_shape_and_memory_come_back() -> None:
    class Model(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(24.0).view(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.double()
            self.fc.bias.data = torch.zeros(8, dtype=torch.float64)
            self.table.resize_(5, 8).fill_(7)
            return super().forward(x.double())

    model = Model()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    check(model, vectors(8))
    for name, tensor in model.state_dict().items():
        where, values = before[name]
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, values), name
        assert name == "table" or tensor.data_ptr() == where, name


def test_models_that_a_factory_keeps_are_not_trained() -> None:
    kept = {size: Net() for size in (4, 8)}
    before = {size: [p.clone() for p in model.parameters()] for size, model in kept.items()}
    check(
        kept[4], vectors(8), level="full", width=kept.__getitem__, widths=(4, 8), depth=kept.__getitem__, depths=(4, 8)
    )
    for size, model in kept.items():
        for parameter, values in zip(model.parameters(), before[size], strict=True):
            assert torch.equal(parameter, values)
            assert parameter.grad is None


def test_inference_mode() -> None:
    model = Net()
    with torch.inference_mode():
        inside = Net()
        assert check(model, vectors(8)).layers[0].gradient is not None
    with pytest.raises(TargetError, match=r"made under torch\.inference_mode\(\) and get no gradient"):
        check(inside, vectors(8))


def test_parameters_with_attributes_that_forward_reads() -> None:
    class Scaled(nn.Linear):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            self.weight.scale = 2.0  # type: ignore[attr-defined]

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight * self.weight.scale, self.bias)  # type: ignore[attr-defined]

    model = nn.Sequential(Scaled(8, 16), nn.ReLU(), Scaled(16, 3))
    nn.init.zeros_(model[2].weight)  # so that further steps are taken
    assert check(model, (vectors(8), torch.arange(len(vectors(8))) % 3)).ok


class Slotted:
    __slots__ = ("__hidden", "count", "late", "tensor")

    def __init__(self) -> None:
        self.count, self.tensor, self.__hidden = 0, torch.zeros(2), [1]

    def step(self) -> None:
        self.count += 1
        self.late = self.count
        self.tensor += 1
        self.__hidden.append(2)

    def state(self) -> list[Any]:
        return [self.count, self.tensor.tolist(), list(self.__hidden), hasattr(self, "late")]


class Named(OrderedDict[str, int]):
    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key.lower(), value)


class Doubling(list[int]):
    def __iter__(self) -> Any:
        return (2 * item for item in super().__iter__())


def test_slots_and_containers_of_other_classes_come_back() -> None:
    class Model(Net):
        def __init__(self) -> None:
            super().__init__()
            self.slotted, self.named, self.doubling = Slotted(), Named(a=1, b=2), Doubling([1, 2])
            self.ordered = OrderedDict(a=1, b=2)

        def forward(self, x: Tensor) -> Tensor:
            self.slotted.step()
            self.named["C"] = 3
            self.named.move_to_end("a")
            self.ordered.move_to_end("a")
            self.doubling.append(3)
            return super().forward(x)

        def state(self) -> list[Any]:
            return [self.slotted.state(), list(self.named.items()), list(self.doubling), list(self.ordered)]

    model = Model()
    before = model.state()
    check(model, vectors(8))
    assert model.state() == before


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: torch.vmap(lambda row: net.head(torch.relu(net.fc(row))))(x),
        lambda net, x: torch.vmap(lambda row: net.head.weight @ torch.tanh(net.fc.weight @ row))(x),
        lambda net, x: torch.func.vmap(torch.func.jacrev(lambda row: net.head(torch.tanh(net.fc(row)))))(x).flatten(1),
    ],
)
def test_transforms_of_torch_func(forward: Any) -> None:
    class Model(Net):
        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    report = check(Model(), vectors(8))
    assert {one.name for one in report.parameters if one.gradient is not None} >= {"fc.weight", "head.weight"}


class Setting(nn.Module):
    """Changes a setting of the whole process in its forward pass."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.change = [change]

    def forward(self, x: Tensor) -> Tensor:
        self.change[0]()
        return self.layer(x)


@pytest.mark.parametrize(
    ("change", "undo", "name"),
    [
        (lambda: torch.use_deterministic_algorithms(True), lambda: torch.use_deterministic_algorithms(False),
         "torch.use_deterministic_algorithms"),
        (lambda: torch.set_float32_matmul_precision("medium"), lambda: torch.set_float32_matmul_precision("highest"),
         "torch.set_float32_matmul_precision"),
        (lambda: setattr(torch.backends.cudnn, "benchmark", True),
         lambda: setattr(torch.backends.cudnn, "benchmark", False), "torch.backends.cudnn"),
        (lambda: precision(torch.backends.cudnn.rnn, "ieee"), lambda: precision(torch.backends.cudnn.rnn, "tf32"),
         "torch.backends.cudnn"),
    ],
)  # fmt: skip
def test_settings_of_the_process_that_a_model_changes_are_said(
    change: Callable[[], object], undo: Callable[[], object], name: str
) -> None:
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    try:
        with pytest.warns(zeta.ZetaNotice, match=f"changed settings of the whole process, .*: {name};"):
            zeta.check(Setting(change), batch)
    finally:
        undo()
    zeta.check(Setting(lambda: None), batch)  # a notice would be an error


def precision(backend: Any, value: str) -> None:
    backend.fp32_precision = value


@pytest.mark.parametrize(
    "backend",
    [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.cudnn.rnn],  # type: ignore[attr-defined]
    ids=["cuda", "mkldnn", "cudnn"],
)
def test_the_precision_of_one_backend_may_be_set_before(backend: Any) -> None:
    """torch's older functions for it raise where the precisions of backends differ."""
    before = backend.fp32_precision
    precision(backend, {torch.backends.mkldnn.matmul: "bf16", torch.backends.cuda.matmul: "tf32"}.get(backend, "ieee"))  # type: ignore[attr-defined]
    try:
        zeta.check(Setting(lambda: None), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    finally:
        precision(backend, before)


def test_the_precision_that_is_there_may_be_set_in_forward() -> None:
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    zeta.check(Setting(lambda: torch.set_float32_matmul_precision("highest")), batch)  # a notice would be an error
