"""One tensor without a module: ``zeta.fill_`` in place, ``zeta.values`` out of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

import zeta
from tests.helpers import stream_by_the_book as book
from tests.helpers.layers import raw
from tests.helpers.sharded import fake_mesh
from zeta import Axes, Rule, Rules, utils
from zeta.base.reading import shown
from zeta.initializers import (
    Constant,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
    kaiming_normal,
    lecun_normal,
    xavier_uniform,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Holder(nn.Module):
    """A model that has one parameter, of the name that tests use."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.pos = nn.Module()
        self.pos.table = nn.Parameter(torch.empty_like(tensor))


def in_a_model(tensor: Tensor, initializer: Initializer, axes: Axes | None, seed: int) -> Tensor:
    model = Holder(tensor)
    zeta.init_(model, Rules([Rule("pos.table", initializer, axes=axes)]), seed=seed)
    return model.pos.table.detach()  # type: ignore[union-attr, operator]


# -- the values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("initializer", "kind", "numbers"),
    [
        (Normal(0.02, 1.0), "normal", {"std": 0.02, "mean": 1.0}),
        (Uniform(-2.0, 3.0), "uniform", {"low": -2.0, "high": 3.0}),
        (TruncatedNormal(0.5), "truncated_normal", {"std": 0.5, "cutoff": 2.0}),
        (Constant(0.3), "constant", {"value": 0.3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_values_are_those_of_the_document(
    initializer: Initializer, kind: str, numbers: dict[str, float], dtype: torch.dtype
) -> None:
    """Each element, by an implementation that was written from docs/stream.md alone."""
    name = str(dtype).removeprefix("torch.")
    filled = zeta.fill_(torch.empty(2, 3, dtype=dtype), initializer, 11, name="pos.table").flatten()
    key = book.key_of(11, "pos.table")
    for i, value in enumerate(filled):
        parts = [value.real, value.imag] if dtype.is_complex else [value]
        assert [float(part) for part in parts] == book.values(kind, numbers, key, i, name)


EVERY: dict[str, tuple[tuple[int, ...], Initializer, Axes | None]] = {
    "normal": ((2, 3, 4), Normal(0.02), None),
    "scalar": ((), Uniform(), None),
    "empty": ((0, 3), Normal(), None),
    "out, in": ((6, 4), kaiming_normal(), None),
    "in, out": ((4, 6), lecun_normal(), Axes(fan_in=(0,), fan_out=(1,))),
    "kernel": ((6, 4, 3), xavier_uniform(), Axes(fan_in=(1, 2), fan_out=(0, 2))),
    "experts": ((2, 4, 6), Orthogonal(), Axes(batch=(0,), fan_in=(1,), fan_out=(2,))),
    "groups": ((6, 2, 3), Dirac(), Axes(fan_in=(1, 2), fan_out=(0, 2), blocks=((0, 2),))),
    "eye": ((4, 6), Identity(2.0), None),
    "sparse": ((10, 4), Sparse(0.3), None),
    "corrected": ((8, 4), TruncatedNormal(0.02, correct_std=True), None),
    "zeros": ((3,), Zeros(), None),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", EVERY)
def test_the_bits_are_those_of_a_parameter_of_that_name(case: str, dtype: torch.dtype) -> None:
    shape, initializer, axes = EVERY[case]
    tensor = torch.full(shape, 7, dtype=dtype)
    expected = in_a_model(tensor, initializer, axes, seed=5)
    assert zeta.fill_(tensor, initializer, 5, name="pos.table", axes=axes) is tensor
    assert raw(tensor) == raw(expected)
    if len(set(raw(tensor))) > 8:
        assert raw(tensor) != raw(zeta.fill_(tensor.clone(), initializer, 5, axes=axes)), "the name decides"
        assert raw(tensor) != raw(zeta.fill_(tensor.clone(), initializer, 6, name="pos.table", axes=axes))


def test_the_fans_are_those_of_out_and_in() -> None:
    weight = zeta.fill_(torch.empty(400, 900), kaiming_normal(), 0, name="")
    assert float(weight.std()) == pytest.approx((2 / 900) ** 0.5, rel=0.01)
    weight = zeta.fill_(torch.empty(400, 900), kaiming_normal(), 0, name="", axes=Axes(fan_in=(0,), fan_out=(1,)))
    assert float(weight.std()) == pytest.approx((2 / 400) ** 0.5, rel=0.01)


def test_every_kind_of_tensor_is_written_where_its_memory_is() -> None:
    expected = zeta.fill_(torch.empty(6, 4), Normal(), 3, name="w")
    store = torch.full((8, 12), 7.0)
    targets: dict[str, Callable[[], Tensor]] = {
        "transposed": lambda: torch.empty(4, 6).T,
        "part": lambda: store[1:7, 2:10:2],
        "parameter": lambda: nn.Parameter(torch.zeros(6, 4)),
        "frozen": lambda: nn.Parameter(torch.zeros(6, 4), requires_grad=False),
        "part of a parameter": lambda: nn.Parameter(torch.zeros(18, 4))[6:12],
        "buffer": lambda: nn.Buffer(torch.zeros(6, 4)),
        "real part": lambda: torch.zeros(6, 4, dtype=torch.complex64).real,
        "imaginary part of a conjugate": lambda: torch.zeros(6, 4, dtype=torch.complex64).conj().imag,
        "detached": lambda: (nn.Parameter(torch.zeros(6, 4)) * 2).detach(),
    }
    for label, make in targets.items():
        tensor = make()
        memory, strides, version = tensor.data_ptr(), tensor.stride(), tensor._version
        assert zeta.fill_(tensor, Normal(), 3, name="w") is tensor
        assert torch.equal(tensor.detach(), expected), label
        assert (tensor.data_ptr(), tensor.stride()) == (memory, strides), label
        assert tensor._version > version, label
    rest = torch.ones_like(store, dtype=torch.bool)
    rest[1:7, 2:10:2] = False
    assert (store[rest] == 7).all(), "elements beside the view"
    with torch.inference_mode():
        tensor = torch.zeros(6, 4)
    assert torch.equal(zeta.fill_(tensor, Normal(), 3, name="w"), expected)
    conjugate = torch.zeros(6, 4, dtype=torch.complex64).conj()
    assert torch.equal(
        zeta.fill_(conjugate, Normal(), 3, name="").resolve_conj(),
        zeta.fill_(torch.zeros(6, 4) * 1j, Normal(), 3, name=""),
    )


def test_grad_and_requires_grad_stay() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    zeta.fill_(parameter, Normal(), 0)
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert (parameter.grad == 1).all()


def test_autograd_notices_the_write() -> None:
    parameter = nn.Parameter(torch.ones(3))
    loss = (parameter**2).sum()
    zeta.fill_(parameter, Normal(), 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


class Refusing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


def test_modes_around_the_call_change_nothing() -> None:
    expected = zeta.fill_(torch.empty(8, 4), Orthogonal(), 0, name="")
    for mode in (Refusing(), torch.device("meta"), FakeTensorMode(), torch.autocast("cpu"), torch.inference_mode()):
        tensor = torch.empty(8, 4)
        with mode:
            zeta.fill_(tensor, Orthogonal(), 0, name="")
        assert torch.equal(tensor, expected), mode
    with pytest.raises(zeta.TargetError, match=r"inside a transform of torch\.func"):
        torch.func.vmap(lambda t: zeta.fill_(t, Zeros()))(torch.ones(2, 2))


def test_a_recorded_program_is_computed_for_a_tensor_of_its_shape() -> None:
    def cubes() -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            layer.weight.normal_().pow_(3)
        return layer

    model, plan = zeta.record(cubes)
    zeta.materialize_(model, plan, seed=2)
    program = plan["weight"].initializer
    assert torch.equal(zeta.fill_(torch.empty(4, 4), program, 2, name="weight"), model.weight)  # type: ignore[arg-type]
    with pytest.raises(zeta.SpecError, match=r"computes shape \(4, 4\), the parameter has \(2, 2\)"):
        zeta.fill_(torch.empty(2, 2), program, 2)


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_without_a_seed_a_generator_decides() -> None:
    torch.manual_seed(1)
    first, second = zeta.fill_(torch.empty(4), Normal()), zeta.fill_(torch.empty(4), Normal())
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(zeta.fill_(torch.empty(4), Normal()), first)
    untouched = torch.get_rng_state()
    assert torch.equal(zeta.fill_(torch.empty(4), Normal(), generator=torch.Generator().manual_seed(1)), first)
    layer = nn.Module()
    layer.w = nn.Parameter(torch.empty(4))  # the same path from a generator to a seed as for layers
    utils.init_normal_(layer, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        zeta.fill_(torch.empty(4), Normal(), generator=torch.Generator().manual_seed(1), name="w"), layer.w
    )
    for initializer in (Zeros(), Constant(2.0), Keep()):
        zeta.fill_(torch.empty(4), initializer)
    zeta.fill_(torch.empty(4, 4), Identity())
    assert torch.equal(torch.get_rng_state(), untouched), "what draws nothing consumes nothing"


def test_keep_changes_nothing() -> None:
    assert (zeta.fill_(torch.full((3,), 7.0), Keep(), 0) == 7).all()


# -- DTensor -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "placements", [(Shard(0), Replicate()), (Shard(1), Shard(0)), (Replicate(), Shard(1)), (Shard(0), Shard(0))]
)
@pytest.mark.parametrize("initializer", [Normal(), kaiming_normal(), Orthogonal(), Ones()], ids=str)
def test_the_local_shard_of_a_dtensor(initializer: Initializer, placements: tuple[Any, ...]) -> None:
    whole = zeta.fill_(torch.empty(7, 5), initializer, 4, name="w")
    for coordinate in ((0, 0), (0, 1), (1, 0), (1, 1)):
        with fake_mesh((2, 2), coordinate) as mesh:
            expected = distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()
            shard = nn.Parameter(distribute_tensor(torch.zeros(7, 5), mesh, placements, src_data_rank=None))
            version = shard.to_local()._version
            assert zeta.fill_(shard, initializer, 4, name="w") is shard
            assert torch.equal(shard.to_local(), expected)
            assert shard.to_local()._version > version or not expected.numel()


def test_dtensors_need_a_number_and_whole_values() -> None:
    with fake_mesh((2,), (1,)) as mesh:
        shard = distribute_tensor(torch.zeros(4, 2), mesh, [Shard(0)], src_data_rank=None)
        with pytest.raises(zeta.SpecError, match=r"a DTensor \(float32, 4 x 2\): no seed was given.*the same number"):
            zeta.fill_(shard, Normal())
        assert not shard.to_local().any()
        zeta.fill_(shard, Ones())  # draws nothing
        assert shard.to_local().all()
        zeta.fill_(shard, Normal(), generator=torch.Generator().manual_seed(3))
        partial = DTensor.from_local(torch.zeros(4, 2), mesh, [Partial()])
        with pytest.raises(zeta.TargetError, match="leaves no rank with elements"):
            zeta.fill_(partial, Normal(), 0)
        model = fully_shard(nn.Linear(6, 10), mesh=mesh)
        zeta.fill_(model.weight, Normal(), 7, name="weight")  # type: ignore[arg-type]
        plain = utils.init_normal_(nn.Linear(6, 10), seed=7).weight
        assert torch.equal(model.weight.to_local(), plain[5:])  # type: ignore[operator, union-attr]


# -- inside a recording ------------------------------------------------------------------------------------------------


class Vision(nn.Module):
    """A class token and a position table, as many models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(zeta.fill_(torch.empty(1, 1, 8), Normal(0.02), 1))
        self.pos = nn.Parameter(torch.empty(1, 5, 8))
        zeta.fill_(self.pos, TruncatedNormal(0.02), name="pos", seed=3)
        self.register_buffer("scale", zeta.fill_(torch.empty(3), Ones()))
        self.kernel = nn.Parameter(torch.empty(4, 3, 2, 2))
        zeta.fill_(self.kernel, Orthogonal(2.0), axes=Axes(fan_in=(1, 2, 3), fan_out=(0, 2, 3)))


@pytest.mark.keeps_rng
def test_a_write_in_a_constructor_is_recorded() -> None:
    model, plan = zeta.record(Vision)
    assert plan["cls_token"].initializer == Normal(0.02)
    assert plan["pos"].initializer == TruncatedNormal(0.02)
    assert plan["scale"].initializer == Ones()
    assert plan["kernel"].initializer == Orthogonal(2.0)
    assert plan["pos"].rule.endswith("(fill_, Vision)")
    zeta.materialize_(model, plan, seed=9)
    for name, initializer in (("cls_token", Normal(0.02)), ("pos", TruncatedNormal(0.02))):
        expected = zeta.fill_(torch.empty(model.get_parameter(name).shape), initializer, 9, name=name)
        assert torch.equal(model.get_parameter(name), expected)


def test_what_cannot_be_recorded_is_one_error() -> None:
    outside = torch.zeros(3)

    def build() -> nn.Module:
        zeta.fill_(outside, Ones())
        return nn.Linear(2, 2)

    with pytest.raises(zeta.TargetError, match="is real, from before the recording"):
        zeta.record(build)
    assert not outside.any()

    plan = zeta.record(nn.Linear, 2, 2)[1]
    with pytest.raises(zeta.RecordingError, match=r"zeta\.values needs values"):
        zeta.record(lambda: zeta.values(plan, "weight", 0))


# -- what is refused ---------------------------------------------------------------------------------------------------


def lazy() -> Tensor:
    return nn.LazyLinear(3).weight


REFUSED: dict[str, tuple[Callable[[], Tensor], Initializer, type[Exception], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), Normal(), zeta.TargetError, "no memory; fill one that has"),
    "lazy": (lazy, Normal(), zeta.TargetError, "is lazy and has no shape yet"),
    "integer": (lambda: torch.ones(3, dtype=torch.int64), Normal(), zeta.TargetError, "has dtype int64"),
    "integer zeros": (lambda: torch.ones(3, dtype=torch.int64), Zeros(), zeta.TargetError, "has dtype int64"),
    "bool": (lambda: torch.ones(3, dtype=torch.bool), Zeros(), zeta.TargetError, "has dtype bool"),
    "expanded": (lambda: torch.ones(1).expand(3), Zeros(), zeta.TargetError, r"overlapping memory \(strides \(0,\)\)"),
    "unfolded": (lambda: torch.ones(5).unfold(0, 3, 1), Zeros(), zeta.TargetError, "overlapping memory"),
    "sparse": (lambda: torch.ones(3, 3).to_sparse(), Zeros(), zeta.TargetError, "layout sparse_coo"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2)]), Zeros(), zeta.TargetError, "nested tensor"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), Zeros(), zeta.TargetError, "qint8",
    ),
    "fake": (lambda: FakeTensorMode().from_tensor(torch.ones(3)), Zeros(), zeta.TargetError, "without memory"),
    "computed": (lambda: nn.Parameter(torch.ones(3)) * 2, Zeros(), zeta.TargetError, r"is computed \(MulBackward0\)"),
    "view of computed": (
        lambda: (nn.Parameter(torch.ones(3)) * 2)[:2], Zeros(), zeta.TargetError, r"is computed \(MulBackward0\)",
    ),
    "parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(3, 3)).weight, Zeros(), zeta.TargetError, "with zeta.utils",
    ),
    "no fans": (lambda: torch.ones(3), kaiming_normal(), zeta.FanError, "no fans: a bias or a scale is not a map"),
    "unknown fans": (lambda: torch.ones(3, 3, 3), Orthogonal(), zeta.FanError, r"Pass axes=Axes\(fan_in=\.\.\..*\)$"),
    "no kernel": (lambda: torch.ones(3, 3), Dirac(), zeta.SpecError, "Dirac needs a convolution"),
    "range": (lambda: torch.ones(3).half(), Constant(1e6), zeta.SpecError, "float16 ends at 6.55e"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*(nested|prototype):UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written(case: str) -> None:
    make, initializer, error, message = REFUSED[case]
    tensor = make()
    before = None if case in ("meta", "lazy", "nested", "sparse", "fake") else tensor.detach().clone()
    rng = torch.get_rng_state()
    with pytest.raises(error, match=message) as caught:
        zeta.fill_(tensor, initializer, name="some.name")
    assert "zeta.fill_ of a" in str(caught.value)
    assert "named 'some.name': " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before is None or torch.equal(tensor.detach(), before)
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: zeta.fill_(nn.ReLU(), Zeros()), zeta.LayerTypeError, "got a ReLU; zeta.init_ and the"),
        (lambda t: zeta.fill_([1.0], Zeros()), zeta.LayerTypeError, r"expected a torch.Tensor, got \[1.0\]"),
        (lambda t: zeta.fill_(np.ones(3), Zeros()), zeta.LayerTypeError, r"got a ndarray \(float64, 3\)"),
        (lambda t: zeta.fill_(t, Zeros), zeta.SpecError, r"an initializer such as Normal\(0.02\) or Zeros\(\)"),
        (lambda t: zeta.fill_(t, 0.5), zeta.SpecError, "an initializer such as"),
        (lambda t: zeta.fill_(t, Normal(), -1), zeta.SpecError, "seed must be an integer"),
        (lambda t: zeta.fill_(t, Zeros(), -1), zeta.SpecError, "seed must be an integer"),
        (lambda t: zeta.fill_(t, Normal(), 1, generator=torch.Generator()), zeta.SpecError, "not both"),
        (lambda t: zeta.fill_(t, Normal(), generator=3), zeta.SpecError, "must be a torch.Generator, got 3"),
        (lambda t: zeta.fill_(t, Normal(), name=3), zeta.SpecError, "name must be a text, such as 'cls_token', got 3"),
        (lambda t: zeta.fill_(t, Normal(), name="\ud800"), zeta.SpecError, "valid Unicode"),
        (lambda t: zeta.fill_(t, Normal(), axes=(0, 1)), zeta.SpecError, r"axes must be Axes\("),
        (lambda t: zeta.fill_(t, Normal(), axes=Axes(fan_in=(2,), fan_out=(0,))), zeta.FanError, "does not have"),
    ],
)
def test_arguments_that_make_no_sense(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    tensor, rng = torch.full((2, 3), 7.0), torch.get_rng_state()
    with pytest.raises(error, match=message):
        call(tensor)
    assert (tensor == 7).all()
    assert torch.equal(torch.get_rng_state(), rng)


# -- values ------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(9, 4, padding_idx=2)
        self.mix = nn.Linear(4, 6)
        self.conv = nn.Conv1d(4, 4, 3)
        self.cube = nn.Parameter(torch.empty(3, 5).normal_().pow_(3))
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.wte.weight
        nn.init.orthogonal_(self.mix.weight)
        self.register_buffer("table", torch.arange(3.0))


@pytest.fixture(scope="module")
def tied() -> tuple[Any, zeta.Plan]:
    model, plan = zeta.record(Tied)
    zeta.materialize_(model, plan, seed=6)
    return model, plan


REGIONS: list[Any] = [
    None, (), ..., 0, -1, slice(1, 3), (slice(None), 1), (..., -2), (slice(1, 2), slice(-2, None)), (2, slice(0, 0)),
    (slice(None, None, 1), ...), (..., slice(5, 1)), (slice(-100, 100),), (np.int64(1), ...), (torch.Size([1])[0],),
]  # fmt: skip


@pytest.mark.parametrize("region", REGIONS, ids=repr)
@pytest.mark.parametrize("name", ["wte.weight", "head.weight", "mix.weight", "mix.bias", "conv.weight", "cube"])
def test_a_part_is_what_the_model_has_there(tied: tuple[Any, zeta.Plan], name: str, region: Any) -> None:
    model, plan = tied
    whole = model.get_parameter(name).detach()
    indices = 1 if region is None or not isinstance(region, tuple) else sum(item is not ... for item in region)
    if indices > whole.ndim:
        with pytest.raises(zeta.SpecError, match="indices, for a tensor of 1 dimensions"):
            zeta.values(plan, name, 6, region=region)
        return
    found = zeta.values(plan, name, 6, region=region)
    expected = whole if region is None else whole[region]
    assert found.is_contiguous()
    assert not found.requires_grad
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(found, expected)


def test_values_in_another_dtype_are_rounded(tied: tuple[Any, zeta.Plan]) -> None:
    model, plan = tied
    for name in ("wte.weight", "conv.weight", "mix.weight"):
        found = zeta.values(plan, name, 6, dtype=torch.bfloat16)
        assert torch.equal(found, model.get_parameter(name).detach().bfloat16())
    assert zeta.values(plan, "mix.bias", 6, dtype=torch.float64).dtype is torch.float64


def test_a_scalar_a_file_and_a_seed(tied: tuple[Any, zeta.Plan]) -> None:
    model, plan = tied
    again = zeta.Plan.from_json(plan.to_json())
    assert torch.equal(zeta.values(again, "cube", 6), model.cube)
    assert not torch.equal(zeta.values(again, "cube", 7), model.cube)
    assert zeta.values(plan, "cube", 6, region=(1, 2)).shape == ()
    one = nn.Module()
    one.alpha = nn.Parameter(torch.empty(()))
    rules = Rules([Rule("alpha", Normal())])
    zeta.init_(one, rules, seed=1)
    assert torch.equal(zeta.values(zeta.plan(one, rules), "alpha", 1, region=()), one.alpha)


def test_only_the_region_is_computed() -> None:
    plan = zeta.record(nn.Linear, 2**20, 2**20, bias=False)[1]  # 4 TB
    row = zeta.values(plan, "weight", 0, region=(2**19, slice(7, 11)))
    law = plan["weight"].initializer
    key = book.key_of(0, "weight")
    numbers = {"low": law.low, "high": law.high}  # type: ignore[attr-defined]
    assert row.tolist() == [book.values("uniform", numbers, key, 2**39 + i, "float32")[0] for i in range(7, 11)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: zeta.values(p, "wte.wieght", 0), zeta.PlanError, "named 'wte.wieght'; did you mean 'wte.weight'"),
        (lambda p: zeta.values(p, "head.wight", 0), zeta.PlanError, "did you mean 'head.weight'"),
        (lambda p: zeta.values(p, "xyz", 0), zeta.PlanError, r"expected one of cube, table, wte.weight, .*, \.\.\.$"),
        (lambda p: zeta.values(p, torch.full((3,), 7.65), 0), zeta.SpecError, r"got a Tensor \(float32, 3\)"),
        (lambda p: zeta.values(p, "table", 0, dtype="half"), zeta.SpecError, "dtype must be a torch.dtype"),
        (lambda p: zeta.values(p, "cube", -1), zeta.SpecError, "seed must be"),
        (lambda p: zeta.values(p, "cube", None), zeta.SpecError, "seed must be"),
        (lambda p: zeta.values(p, "cube", 0, dtype="half"), zeta.SpecError, "dtype must be a torch.dtype"),
        (lambda p: zeta.values(p, "mix.bias", 0, dtype=torch.int8), zeta.SpecError, "int8"),
        (lambda p: zeta.values(p, "cube", 0, device="meta"), zeta.SpecError, "must not be meta"),
        (lambda p: zeta.values(nn.Linear(2, 2), "weight", 0), zeta.SpecError, "expected a Plan .*, got a Linear"),
        (lambda p: zeta.values(p, "cube", 0, region=3), zeta.SpecError, "dimension 0 has 3 elements"),
        (lambda p: zeta.values(p, "cube", 0, region=(0, -6)), zeta.SpecError, "dimension 1 has 5 elements"),
        (lambda p: zeta.values(p, "cube", 0, region=slice(0, 3, 2)), zeta.SpecError, r"step 1, got slice\(0, 3, 2\)"),
        (lambda p: zeta.values(p, "cube", 0, region=(True,)), zeta.SpecError, "got True"),
        (
            lambda p: zeta.values(p, "cube", 0, region=(torch.ones(1),)),
            zeta.SpecError,
            r"got a Tensor \(float32, 1\)",
        ),
        (lambda p: zeta.values(p, "cube", 0, region=([0, 1],)), zeta.SpecError, r"got \[0, 1\]"),
        (lambda p: zeta.values(p, "cube", 0, region=(0, 1, 2)), zeta.SpecError, "3 indices, for a tensor of 2"),
        (lambda p: zeta.values(p, "cube", 0, region=(..., ...)), zeta.SpecError, "2 indices"),
    ],
)
def test_what_has_no_values(
    tied: tuple[Any, zeta.Plan], call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(tied[1])
    assert "7.65" not in str(caught.value)


def test_a_kept_tensor_has_none() -> None:
    plan = zeta.plan(nn.Linear(2, 2), Rules([Rule("weight", Keep()), Rule("bias", Zeros())]))
    with pytest.raises(zeta.PlanError, match="weight is kept: its values are those that the model has"):
        zeta.values(plan, "weight", 0)
    assert torch.equal(zeta.values(plan, "bias", 0), torch.zeros(2))


class Mixed(nn.Module):
    """A distribution, a program, constants 0 and 1, complex numbers, whole numbers and truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = nn.Parameter(torch.randn(3, 5))
        self.program = nn.Parameter(torch.randn(3, 5).pow(3))
        self.zeros, self.ones = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
        self.turned = nn.Parameter(torch.randn(4, dtype=torch.complex64) * 2j)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.rand(7) > 0.5)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_values_are_given_in_a_dtype_that_holds_them() -> None:
    _, plan = zeta.record(Mixed)
    real = {torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2}
    twofold = {torch.complex64, torch.complex128, torch.complex32}
    whole = {torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool}
    for entry in plan:
        for dtype in real | twofold | whole:
            if dtype == entry.dtype or dtype in (twofold if entry.dtype.is_complex else real):
                assert zeta.values(plan, entry.name, 0, dtype=dtype).dtype is dtype
            else:
                with pytest.raises(zeta.SpecError, match=f"dtype must be the planned .*, got {dtype}"):
                    zeta.values(plan, entry.name, 0, dtype=dtype)


@pytest.mark.parametrize("device", ["nonsense", "", "mps:99", "lazy", None, 1.5, True, torch.device("cuda:99"), 99])
def test_a_device_that_torch_does_not_have(device: Any) -> None:
    model, plan = zeta.record(nn.Linear, 2, 3)
    for call in (partial(zeta.values, plan, "weight", 0), partial(zeta.materialize_, model, plan, 0)):
        with pytest.raises(zeta.SpecError, match="device must be one that torch has here") as refused:
            call(device=device)
        assert f"got {shown(device)}: " in str(refused.value)
    assert model.weight.is_meta
    with pytest.raises(zeta.SpecError, match="device must not be meta"):
        zeta.materialize_(model, plan, 0, device="meta")


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn], ids=str)
def test_a_negated_view_that_torch_cannot_negate_is_refused(dtype: torch.dtype, tmp_path: Any) -> None:
    memory = torch.ones(4).to(dtype)
    for law in (Zeros(), Normal()):
        with pytest.raises(zeta.TargetError, match=r"is a negated view of float8_.*, which torch cannot negate"):
            zeta.fill_(torch._neg_view(memory), law, seed=0)
    model = nn.ParameterDict({"weight": nn.Parameter(torch._neg_view(memory), requires_grad=False)})
    for law in (Zeros(), Keep()):
        plan = zeta.plan(model, Rules([Rule("weight", law)]))
        call = partial(zeta.save, path=tmp_path / "files") if law == Keep() else zeta.apply_
        with pytest.raises(zeta.TargetError, match=r"weight: .*is a negated view of float8_"):
            call(model, plan, seed=0)
    assert memory.float().tolist() == [1.0] * 4
    half = torch.zeros(4, dtype=torch.float16)
    assert zeta.fill_(torch._neg_view(half), Ones()).tolist() == [1.0] * 4
    assert half.tolist() == [-1.0] * 4
