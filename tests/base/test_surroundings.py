"""What surrounds a call does not matter: default devices, modes, inference, autocast, default dtypes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import zeta
from tests.helpers.networks import vectors
from zeta import utils
from zeta.base.process.surroundings import plain
from zeta.initializers import Constant, Normal, Orthogonal, Zeros


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Halving(TorchDispatchMode):
    """Whoever computes in here gets something else."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result / 2 if isinstance(result, Tensor) and result.is_floating_point() else result


class Refusing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "meta": lambda: torch.device("meta"),
    "default meta": lambda: default_device("meta"),
    "default cuda": lambda: default_device("cuda"),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "fake": FakeTensorMode,
    "dispatch mode": Halving,
    "function mode": Refusing,
    "autocast": lambda: torch.autocast("cpu"),
    "fp64": lambda: default_dtype(torch.float64),
    "bf16": lambda: default_dtype(torch.bfloat16),
}
#: what does not decide what a constructor makes
ASIDE = [name for name in AROUND if name not in ("fp64", "bf16")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(8, 12, padding_idx=0), nn.Linear(12, 8)
        self.norm, self.head = nn.BatchNorm1d(8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))
        nn.init.orthogonal_(self.layer.weight)
        with torch.no_grad():
            self.layer.bias.copy_(torch.linspace(-1, 1, 8).sin() @ torch.eye(8))
        self.positions = torch.arange(4.0)


RULES = zeta.Rules(
    [
        zeta.Rule("layer.weight", Orthogonal()),
        zeta.Rule("*.weight", Normal(0.02)),
        zeta.Rule("*.bias", Zeros()),
    ]
)


def same_values(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def recorded() -> tuple[nn.Module, zeta.Plan]:
    model, plan = zeta.record(Net)
    zeta.materialize_(model, plan, seed=1)
    return model, plan


@pytest.mark.parametrize("name", ASIDE)
def test_record_and_materialize(name: str, recorded: tuple[nn.Module, zeta.Plan]) -> None:
    with AROUND[name]():
        model, plan = zeta.record(Net)
        zeta.materialize_(model, plan, seed=1)
    assert plan == recorded[1]
    assert same_values(model, recorded[0])
    assert model.positions.tolist() == [0, 1, 2, 3]  # type: ignore[operator, union-attr]
    assert all(p.requires_grad and not p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_recording_holds_for_the_default_dtype_that_it_was_made_under(dtype: torch.dtype) -> None:
    with default_dtype(dtype):
        model, plan = zeta.record(Net)
        expected = zeta.record(Net)[0]
        zeta.materialize_(expected, plan, seed=1)
    zeta.materialize_(model, plan, seed=1)
    assert model.layer.weight.dtype is dtype  # type: ignore[union-attr]
    assert same_values(model, expected)


def written(name: str, write: Callable[[nn.Module], object]) -> None:
    """Whatever is around, the same values are written."""
    models = Net(), Net()
    models[1].load_state_dict(models[0].state_dict())
    write(models[0])
    with AROUND[name]():
        write(models[1])
    assert same_values(*models)
    assert all(p.requires_grad and not p.is_inference() for p in models[1].parameters())


def initialize(model: Any) -> None:
    nn.init.normal_(model.embed.weight)
    nn.init.orthogonal_(model.layer.weight)
    nn.init.uniform_(model.layer.bias)
    nn.init.ones_(model.norm.weight), nn.init.zeros_(model.norm.bias)
    nn.init.zeros_(model.head.bias)
    model.head.weight = nn.init.normal_(torch.empty(3, 8, device="cpu"))


WRITES: dict[str, Callable[[Any], object]] = {
    "init_": lambda model: zeta.init_(model, RULES, seed=2),
    "init_ by a function": lambda model: zeta.init_(model, initialize, seed=2),
    "apply_": lambda model: zeta.apply_(model, zeta.plan(model, RULES), seed=2),
    "apply_ of a recording": lambda model: zeta.apply_(model, zeta.record(Net)[1], seed=2),
    "init_orthogonal_": lambda model: utils.init_orthogonal_(model.layer, seed=3),
    "init_default_": lambda model: utils.init_default_(model.layer, seed=3),
}


@pytest.mark.parametrize("name", [name for name in AROUND if name not in ("fp64", "bf16")])
@pytest.mark.parametrize("write", WRITES)
def test_writing(name: str, write: str) -> None:
    written(name, WRITES[write])


@pytest.mark.parametrize("name", ["fp64", "bf16"])
@pytest.mark.parametrize("write", ["init_", "apply_", "init_orthogonal_", "init_default_"])
def test_writing_under_another_default_dtype(name: str, write: str) -> None:
    models = [Net() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    WRITES[write](models[0])
    with AROUND[name]():
        WRITES[write](models[1])
    assert same_values(*models)


@pytest.mark.parametrize("name", AROUND)
def test_save_verify_and_diff(name: str, tmp_path: Path) -> None:
    model, plan = zeta.record(lambda: Net().layer)
    zeta.materialize_(model, plan, seed=1)
    zeta.save(model, plan, tmp_path / "plain", seed=1)
    with AROUND[name]():
        assert zeta.verify(model, plan, seed=1).ok
        zeta.save(model, plan, tmp_path / "around", seed=1)
        assert zeta.verify(tmp_path / "around").ok
        assert not zeta.diff(plan, plan).changes
    contents = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("plain", "around")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["meta", "default meta", "default cuda", "inference", "no_grad", "fp64", "bf16"])
@pytest.mark.parametrize("level", ["fast", "full"])
def test_check(name: str, level: Any) -> None:
    model = utils.init_kaiming_normal_(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), seed=0)
    batch, labels = vectors(8), torch.arange(len(vectors(8))) % 3
    expected = zeta.check(model, (batch, labels), level=level)
    with AROUND[name]():
        found = zeta.check(model, (batch, labels), level=level)
    assert found.layers == expected.layers
    assert found.parameters == expected.parameters
    assert found.loss == expected.loss


def test_a_sweep_whose_models_come_out_on_meta_is_refused() -> None:
    model, batch = nn.Linear(8, 3), vectors(8)
    with torch.device("meta"), pytest.raises(zeta.SpecError, match=r"width\(64\) must return a model with memory"):
        zeta.check(model, batch, level="full", width=lambda width: nn.Linear(8, width))


# -- tensors without values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_fake_models_are_refused(inside: bool, tmp_path: Path) -> None:
    mode = FakeTensorMode()
    with mode:
        model = nn.Linear(4, 4)
    plan = zeta.plan(model, zeta.Rules([zeta.Rule("*", Normal(0.02))]))
    around = mode if inside else contextlib.nullcontext()
    calls: list[Callable[[], object]] = [
        lambda: zeta.apply_(model, plan, seed=0),
        lambda: zeta.materialize_(model, plan, seed=0),
        lambda: zeta.verify(model, plan, seed=0),
        lambda: utils.init_zero_(model),
    ]
    for call in calls:
        with around, pytest.raises(zeta.TargetError, match=r"weight(, bias)?: is a FakeTensor without memory"):
            call()
    expected = (zeta.SpecError, "leave the mode") if inside else (zeta.TargetError, "are FakeTensors and have no value")
    with around, pytest.raises(expected[0], match=expected[1]):
        zeta.check(model, torch.ones(3, 4))


def test_a_fake_tensor_cannot_be_recorded() -> None:
    fake = FakeTensorMode().from_tensor(torch.ones(4, 4))

    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            layer.weight.copy_(fake)
        return layer

    with pytest.raises(zeta.RecordingError, match=r"build: aten.copy_.default takes a FakeTensor"):
        zeta.record(build)


def test_autocast_in_a_constructor_is_refused_where_it_matters() -> None:
    def build(matters: bool) -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.autocast("cpu"), torch.no_grad():
            nn.init.orthogonal_(layer.weight).mul_(0.5)
            if matters:
                layer.weight.copy_(layer.weight @ layer.weight)
        return layer

    assert zeta.record(build, False)[1]["weight"].initializer == Orthogonal(0.5)
    with pytest.raises(zeta.RecordingError, match=r"build: aten.mm.default under torch.autocast"):
        zeta.record(build, True)


def test_inference_in_a_constructor_stays() -> None:
    def build() -> nn.Module:
        with torch.inference_mode():
            return nn.Linear(4, 4)

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=1)
    expected = zeta.record(nn.Linear, 4, 4)[0]
    zeta.materialize_(expected, plan, seed=1)
    assert same_values(model, expected)


def test_modes_hold_again_afterwards() -> None:
    class Counting(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def fail() -> None:
        assert not torch.is_inference_mode_enabled()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
        raise KeyError

    counting = Counting()
    with torch.device("meta"), counting, torch.autocast("cpu"), torch.inference_mode():
        with pytest.raises(KeyError), plain():
            fail()
        assert counting.calls == 0
        assert torch.ones(2).is_meta
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert counting.calls > 0


AUTOCAST: dict[str, Callable[[nn.Module], object]] = {
    "init_ with a function": lambda model: zeta.init_(model, lambda m: nn.init.constant_(m.weight, 2.0), 0),
    "init_ with rules": lambda model: zeta.init_(model, CONSTANT, 0),
    "apply_": lambda model: zeta.apply_(model, zeta.plan(model, CONSTANT), 0),
    "fill_": lambda model: zeta.fill_(model.weight, Constant(2.0)),
}
CONSTANT = zeta.Rules([zeta.Rule("weight", Constant(2.0))])


@pytest.mark.parametrize("inner", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("name", AUTOCAST)
def test_a_forward_pass_in_the_same_autocast_uses_the_new_weights(name: str, inner: bool) -> None:
    layer = nn.Linear(4, 3, bias=False)
    with torch.autocast("cpu"):
        layer(torch.ones(1, 4))  # autocast keeps what it has cast, and refers to the weight
        with torch.autocast("cpu", enabled=inner):
            AUTOCAST[name](layer)
        assert layer(torch.ones(1, 4)).tolist() == [[8.0] * 3]


def test_a_function_is_planned_after_a_forward_pass_in_the_same_autocast() -> None:
    layer = nn.Linear(4, 3)
    with torch.autocast("cpu"):
        before = layer(torch.ones(1, 4))
        plan = zeta.plan(layer, lambda model: nn.init.normal_(model.weight))
        assert torch.equal(layer(torch.ones(1, 4)), before)
        assert torch.is_autocast_enabled("cpu")
    assert plan["bias"].kept


class Tiny(nn.Module):
    """Values and steps below the smallest normal number."""

    def __init__(self) -> None:
        super().__init__()
        x = torch.randn(6, 5)
        self.power = nn.Parameter(x.abs() ** 1.7 * 1e-39)
        self.spaced = nn.Parameter(torch.logspace(-44, -30, 50) * 1.0)
        self.soft = nn.Parameter(torch.softmax(x * 30, 1) * 1e-30)
        self.frame = nn.Parameter(nn.init.orthogonal_(torch.empty(6, 5), 1e-38))


def test_numbers_below_the_smallest_normal_one_are_kept() -> None:
    model, plan = zeta.record(Tiny)
    zeta.materialize_(model, plan, seed=0)
    assert all(0 < tensor[tensor != 0].abs().min() < 1e-38 for tensor in model.parameters())
    again, plan = zeta.record(Tiny)
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor flushes nothing")
        zeta.materialize_(again, plan, seed=0)
        kept = torch.tensor([1e-39]).mul(1).item() == 0  # what the caller wanted holds afterwards
    finally:
        torch.set_flush_denormal(False)
    assert kept
    assert same_values(model, again)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], object]] = {
    "vmap": lambda function: torch.func.vmap(function)(torch.ones(2, 3)),
    "grad": lambda function: torch.func.grad(function)(torch.ones(3)),
    "jvp": lambda function: torch.func.jvp(function, (torch.ones(3),), (torch.ones(3),)),
    "functionalize": lambda function: torch.func.functionalize(function)(torch.ones(3)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inside_a_transform_of_functions_everything_is_refused(transform: str, tmp_path: Path) -> None:
    model, plan = Net(), zeta.plan(Net(), RULES)
    before = [p.detach().clone() for p in model.parameters()]
    calls: dict[str, Callable[[], object]] = {
        "record": lambda: zeta.record(Net),
        "materialize_": lambda: zeta.materialize_(model, plan, seed=0),
        "apply_": lambda: zeta.apply_(model, plan, seed=0),
        "init_": lambda: zeta.init_(model, RULES, seed=0),
        "save": lambda: zeta.save(model, plan, tmp_path, seed=0),
        "verify": lambda: zeta.verify(model, plan, 0),
        "init_zero_": lambda: utils.init_zero_(model),
    }
    for name, call in calls.items():

        def function(x: Tensor, name: str = name, call: Callable[[], object] = call) -> Tensor:
            with pytest.raises(zeta.TargetError, match=r"inside a transform of torch\.func"):
                call()
            return (x * 2).sum()

        TRANSFORMS[transform](function)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert list(tmp_path.iterdir()) == []
