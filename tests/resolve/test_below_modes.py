"""Functions that torch does not dispatch as operations, or skips on meta, in a recorded constructor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.sharded import fake_mesh
from tests.helpers.twin import twin
from zeta import RecordingError


class Weight(nn.Module):
    weight: Tensor

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("weight", make())


def table() -> Tensor:
    return torch.arange(6.0).reshape(2, 3)


def row() -> Tensor:
    made = table()
    made[1].apply_(lambda x: -x)
    return made


#: ``apply_`` and its kin call a Python function of each number; torch returns from them at once on meta
EACH_NUMBER: dict[str, Callable[[], Tensor]] = {
    "apply_": lambda: table().apply_(lambda x: x * 2 + 1),
    "a view": row,
    "transposed": lambda: table().t().apply_(lambda x: x + 0.5),
    "whole numbers": lambda: torch.arange(4).apply_(lambda x: x * 3),
    "map_": lambda: table().map_(table() + 1, lambda x, y: x * y),
    "map_ by name": lambda: table().map_(callable=lambda x, y: x * y, other=torch.tensor([1.0, 2.0, 3.0])),
    "map2_": lambda: table().map2_(table() + 1, table() + 2, lambda x, y, z: x + y * z),
    "no numbers": lambda: torch.empty(0).apply_(lambda x: x + 1),
}


@pytest.mark.parametrize("name", EACH_NUMBER)
def test_functions_of_each_number_are_called(name: str) -> None:
    outcome = twin(lambda: Weight(EACH_NUMBER[name]))
    assert (outcome.equal, outcome.different) == (["weight"], [])
    model, plan = zeta.record(Weight, EACH_NUMBER[name])
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, EACH_NUMBER[name]())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(3).apply_(lambda x: x * 2),
        lambda: torch.ones(3).map_(torch.randn(3), lambda x, y: y),
        lambda: torch.ones(3).apply_(lambda x: float(torch.rand(()))),
    ],
)
def test_functions_of_random_numbers_are_refused(make: Callable[[], Tensor]) -> None:
    with pytest.raises(RecordingError, match=r"test_below_modes.py:\d+ in .* reads a value that depends on random"):
        zeta.record(Weight, make)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracing_is_refused_by_line() -> None:
    with pytest.raises(RecordingError, match=r"test_below_modes.py:\d+ in .*: torch.jit.trace cannot be recorded"):
        zeta.record(Weight, lambda: torch.jit.trace(lambda x: x * 2, torch.ones(3))(torch.ones(3)))


def test_lazy_buffers_become_real() -> None:
    def build() -> nn.Module:
        norm = nn.LazyBatchNorm1d()
        norm.initialize_parameters(torch.ones(2, 3))  # type: ignore[no-untyped-call]
        return norm

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=0)
    assert {name: tensor.tolist() for name, tensor in model.named_buffers()} == {
        name: tensor.tolist() for name, tensor in build().named_buffers()
    }


def test_a_lazy_layer_that_the_model_drops_does_not_matter() -> None:
    dropped = []

    def build() -> nn.Module:
        dropped.append(nn.LazyLinear(4))
        return Weight(lambda: torch.ones(3))

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.get_buffer("weight"), torch.ones(3))


def test_a_lazy_layer_out_of_sight_is_an_error() -> None:
    def build() -> nn.Module:
        model = Weight(lambda: torch.ones(3))
        model.hidden = [nn.LazyLinear(4)]
        return model

    with pytest.raises(RecordingError, match="is lazy and has no shape yet"):
        zeta.record(build)


def test_a_constructor_that_shards_is_refused_by_name() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    def build() -> nn.Module:
        layer = nn.Linear(3, 8, bias=False)
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)], src_data_rank=None))
        return layer

    with (
        fake_mesh((2,), (1,)) as mesh,
        pytest.raises(
            RecordingError, match=r"weight: was sharded by the constructor; shard the model that zeta.record"
        ),
    ):
        zeta.record(build)


@pytest.mark.parametrize("make", [lambda: torch.randn(3), lambda: torch.ones(3)])
def test_saving_by_safetensors_is_refused_by_line(make: Callable[[], Tensor]) -> None:
    from safetensors.torch import load, save

    with pytest.raises(RecordingError, match=r".*: safetensors saves values, and inside a recording there are none"):
        zeta.record(Weight, lambda: load(save({"a": make()}))["a"])  # it ended the process
