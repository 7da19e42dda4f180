"""Programs: the same values whole and tile by tile, exact where nothing is random, and through JSON."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

import zeta
from zeta import SpecError
from zeta.base.dtypes import bits
from zeta.compute import programs
from zeta.compute.stream.regions import Region
from zeta.initializers import Data, Draw, Initializer, Normal, Program, Ref, Site, Step, Uniform, regional


class Holder(nn.Module):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("table", make())


def program(make: Callable[[], Tensor]) -> Program:
    _, plan = zeta.record(Holder, make)
    found = plan["table"].initializer
    assert isinstance(found, Program)
    return found


def part(x: Tensor, index: object, value: Tensor | float) -> Tensor:
    x[index] = value  # type: ignore[index]
    return x


RANDOM: dict[str, Callable[[], Tensor]] = {
    "pointwise": lambda: torch.exp(torch.rand(9, 6) * 2 + torch.rand(9, 6)).clamp(min=1.5),
    "broadcast": lambda: torch.rand(9, 1) ** 2 + torch.randn(6).abs(),
    "box": lambda: part(torch.rand(9, 6) ** 2, slice(2, 5), torch.randn(3, 6)),
    "turned box": lambda: part(torch.rand(9, 6), (slice(1, 7), slice(2, 6)), torch.randn(4, 6).t() ** 2),
    "column": lambda: part(torch.rand(9, 6), (slice(None), 3), torch.randn(9) ** 2),
    "read": lambda: (lambda x: x[1:8:2, 1:5].t() + x[2, 1])(torch.rand(9, 6)),
    "expanded": lambda: torch.randn(1, 6).expand(9, 6).clone(),
    "masked": lambda: torch.where(torch.rand(9, 6) < 0.5, torch.randn(9, 6), torch.zeros(())),
    "joined": lambda: torch.cat([torch.rand(9, 2), torch.randn(9, 3) ** 2, torch.rand(9, 1)], dim=1),
    "joined at the end": lambda: torch.cat([torch.rand(9, 2, 2), torch.randn(9, 2, 4) ** 2], dim=-1),
    "data": lambda: torch.rand(3, 2) ** 2 * torch.tensor([[1.0, 2.0]]),
    "bfloat16": lambda: torch.rand(9, 6, dtype=torch.bfloat16) + torch.rand(9, 6, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", RANDOM)
def test_tiles_are_the_whole_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(RANDOM[name])
    assert programs.is_regional(found)
    whole = programs.value(found, name="table", seed=3)
    monkeypatch.setattr(programs, "TILE", 7)
    pieces = torch.full_like(whole, math.nan)
    device = torch.device("cpu")
    for index, tile in programs.tiles(
        found, name="table", seed=3, region=Region.whole(whole.shape), dtype=whole.dtype, device=device
    ):
        pieces[index] = tile
    assert torch.equal(pieces, whole)


def test_a_short_program_with_draws_is_computed_by_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(lambda: torch.rand(9, 6).exp().abs() + 1)
    for longest, expected in ((len(found.steps), True), (len(found.steps) - 1, False)):
        monkeypatch.setattr(regional, "_LONGEST", longest)
        assert programs.is_regional(found) is expected
    assert not programs.is_regional(program(lambda: torch.arange(54.0).view(9, 6)))


def test_a_program_that_needs_few_regions_is_computed_by_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of elementwise steps, each is needed once."""
    found = program(lambda: torch.rand(9, 6).exp().abs() + 1)
    for most, expected in ((len(found.steps), True), (len(found.steps) - 1, False)):
        monkeypatch.setattr(regional, "_MOST_VIEWS", most)
        assert programs.is_regional(found) is expected


def test_a_small_part_of_a_huge_draw_is_computed_alone() -> None:
    """Four petabytes would be the whole of the draw; shared draws agree where the parts overlap."""
    n = 2**25

    def build() -> nn.Module:
        module = nn.Module()
        both = torch.randn(n, n).exp() * torch.rand(n, 1)
        module.a, module.b = nn.Parameter(both[n - 9 : n - 1, 5:9].t().clone()), nn.Parameter(both[-4:, 7].clone())
        return module

    model, plan = zeta.record(build)
    zeta.materialize_(model, zeta.Plan.from_json(plan.to_json()), seed=0)
    assert torch.equal(model.a[2, -3:], model.b[:3])
    assert len({*model.a.flatten().tolist(), *model.b.tolist()}) == 4 * 8 + 1
    assert zeta.verify(model, plan, seed=0).ok


def turned(levels: int) -> Tensor:
    """Each level adds what it was with two dimensions exchanged, always others: more and more orders are needed."""
    x = torch.rand((2,) * 8)
    for level in range(levels):
        x = x + x.transpose(level % 7, level % 7 + 1)
    return x


@pytest.mark.parametrize(("levels", "by_regions"), [(5, True), (20, False)])
def test_a_program_that_needs_many_orders_of_its_dimensions_is_computed_as_a_whole(
    levels: int, by_regions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = program(lambda: turned(levels))
    assert programs.is_regional(found) is by_regions
    seen: set[tuple[int, Region]] = set()
    region = programs._Run._region
    monkeypatch.setattr(
        programs._Run,
        "_region",
        lambda run, *which: seen.add(which) or region(run, *which),  # type: ignore[func-returns-value]
    )
    corner = Region(shape=(2,) * 8, offsets=(0, 1, 0, 1, 0, 0, 0, 0), sizes=(1, 1, 1, 1, 2, 2, 2, 2))
    programs._Run(program=found, name="x", seed=0).part(corner)
    assert (len(seen) <= regional._MOST_VIEWS) is by_regions


# in torch, the last bits of these depend on whether an element is in a whole vector or left over
INEXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: x.abs() ** 1.7,
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "broadcast": lambda x: (x * torch.randn(1, 61)).sigmoid() + torch.randn(x.shape[0], 1).sin(),
    "rounded": lambda x: (x.bfloat16().abs() + 1).rsqrt().float(),
}


@pytest.mark.parametrize("name", INEXACT)
def test_a_region_has_the_bits_of_the_whole(name: str) -> None:
    found = program(lambda: INEXACT[name](torch.randn(37, 61)))
    assert programs.is_regional(found)
    whole = programs.value(found, name="x", seed=0)
    corners = [((0, 0), (37, 1)), ((3, 5), (20, 3)), ((0, 60), (37, 1)), ((11, 0), (1, 61)), ((7, 9), (13, 17))]
    for offsets, sizes in corners:
        region = Region(shape=(37, 61), offsets=offsets, sizes=sizes)
        values = torch.empty(sizes)
        tiles = programs.tiles(found, name="x", seed=0, region=region, dtype=torch.float32, device=torch.device("cpu"))
        for index, tile in tiles:
            values[index] = tile
        assert torch.equal(values, whole[region.slices]), region


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_region_of_complex_numbers_between_two_has_the_bits_of_the_whole(dtype: torch.dtype) -> None:
    """In torch, the last bits depend on the lane of the vector."""
    found = program(lambda: torch.lerp(*(torch.randn(9, 33, dtype=dtype) for _ in range(3))))
    whole = programs.value(found, name="x", seed=0)
    for offsets, sizes in [((5, 0), (4, 33)), ((0, 1), (9, 1)), ((3, 2), (2, 31))]:
        region, values = Region(shape=(9, 33), offsets=offsets, sizes=sizes), torch.empty(sizes, dtype=dtype)
        for index, tile in programs.tiles(
            found, name="x", seed=0, region=region, dtype=dtype, device=torch.device("cpu")
        ):
            values[index] = tile
        assert torch.equal(values, whole[region.slices]), region


def resampled(shape: tuple[int, ...], times: int) -> Tensor:
    """A truncated normal as many write it: what lies outside is drawn again, so that each step is used twice."""
    x = torch.randn(shape)
    for _ in range(times):
        x = torch.where(x.abs() > 2, torch.randn(shape), x)
    return x


def test_what_is_used_twice_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(lambda: resampled((6, 5), times=20))
    assert programs.is_regional(found)
    drawn: list[int] = []
    draw = programs._Run._draw
    monkeypatch.setattr(programs._Run, "_draw", lambda *args: drawn.append(1) or draw(*args))  # type: ignore[func-returns-value]
    monkeypatch.setattr(programs, "TILE", 10)
    region = Region(shape=(6, 5), offsets=(0, 0), sizes=(4, 5))
    tiles = programs.tiles(found, name="x", seed=0, region=region, dtype=torch.float32, device=torch.device("cpu"))
    values = torch.cat([tile for _, tile in tiles])
    assert len(drawn) == 2 * 21  # of each tile, each draw once
    monkeypatch.undo()
    assert torch.equal(values, programs.value(found, name="x", seed=0)[:4])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_element_is_computed(shape: tuple[int, ...]) -> None:
    found = program(lambda: torch.randn(shape).abs() ** 1.7)
    assert programs.is_regional(found)
    assert programs.value(found, name="x", seed=0).shape == shape


SHARED_OUT: dict[str, Callable[[], Tensor]] = {
    "by region": lambda: torch.randn(200_029).abs() ** 1.7,
    "centred": lambda: (lambda x: x - x.mean())(torch.randn(331, 997)),
    "sorted": lambda: torch.rand(331 * 997).sort().values.sigmoid(),
    "factor": lambda: torch.linalg.qr(torch.randn(300, 300))[0],
    "constant": lambda: (torch.arange(331 * 997.0) * 0.01) ** 0.37,
}


@pytest.mark.parametrize("name", SHARED_OUT)
def test_the_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    found = program(SHARED_OUT[name])
    assert programs.is_regional(found) == (name == "by region")
    before = torch.get_num_threads()
    values = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            values.append(programs.value(found, name="x", seed=0))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


WHOLE: dict[str, Callable[[], Tensor]] = {
    "sorted": lambda: torch.rand(6).sort().values,
    "product": lambda: torch.randn(4, 3) @ torch.randn(3, 4),
    "normalized": lambda: nn.functional.normalize(torch.randn(4, 6), dim=0),
    "permutation": lambda: torch.randperm(10),
    "orthogonal part": lambda: part(torch.zeros(8, 4), slice(0, 4), nn.init.orthogonal_(torch.empty(4, 4))),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_the_whole_is_computed_once(name: str) -> None:
    found = program(WHOLE[name])
    assert not programs.is_regional(found)
    first = programs.value(found, name="table", seed=0)
    assert torch.equal(first, programs.value(found, name="table", seed=0))
    assert not torch.equal(first, programs.value(found, name="table", seed=1))


def rope() -> Tensor:
    rate = 1.0 / (10000.0 ** (torch.arange(0, 32, 2, dtype=torch.int64).float() / 32))
    return torch.cat([torch.outer(torch.arange(50).float(), rate).cos()] * 2, dim=-1)


def sinusoids() -> Tensor:
    x = torch.zeros(50, 30)
    angle = torch.arange(50).unsqueeze(1) * torch.exp(torch.arange(0, 30, 2) * (-math.log(10000.0) / 30))
    x[:, 0::2], x[:, 1::2] = angle.sin(), angle.cos()
    return x.unsqueeze(0)


def relative_index() -> Tensor:
    coordinates = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
    relative = (coordinates[:, :, None] - coordinates[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += 3
    relative[:, :, 1] += 3
    relative[:, :, 0] *= 7
    return relative.sum(-1)


def test_what_is_read_again_is_not_overwritten() -> None:
    def make() -> Tensor:
        x = torch.cat([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
        return x + part(x.clone(), 2, 5.0)

    assert programs.value(program(make), name="x", seed=0).tolist() == [2, 4, 8, 8]


CONSTANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add with alpha": lambda x, y: x.add(y, alpha=-0.9),
    "sub with alpha": lambda x, y: x.sub(y, alpha=0.7),
    "rsub with alpha": lambda x, y: torch.rsub(x, y, alpha=0.7),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.7),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=0.7),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "softplus": lambda x, y: nn.functional.softplus(x),
    "sigmoid": lambda x, y: torch.sigmoid(y),
    "pow": lambda x, y: x**y,
    "sqrt and div": lambda x, y: x.sqrt() / y,
    "rsqrt": lambda x, y: y.rsqrt(),
    "remainder": lambda x, y: torch.remainder(y, x),
    "floor_divide": lambda x, y: torch.floor_divide(y, x),
    "add with alpha, of many": lambda x, y: x[0].repeat(2**17).add(y[0].repeat(2**17), alpha=-0.9),
}
EXACT: dict[str, Callable[[], Tensor]] = {
    "rope": rope,
    "sinusoids": sinusoids,
    "relative index": relative_index,
    "causal mask": lambda: torch.full((6, 6), float("-inf")).triu(1),
    "boolean mask": lambda: torch.ones(6, 6, dtype=torch.bool).tril(),
    "position ids": lambda: torch.arange(512).expand((1, -1)),
    "masked fill": lambda: torch.zeros(4, 4).masked_fill(torch.eye(4, dtype=torch.bool), 2.0),
    "complex": lambda: torch.polar(torch.ones(4), torch.arange(4.0)),
    "real parts": lambda: torch.view_as_real(torch.polar(torch.ones(4), torch.arange(4.0))).clone(),
    "bits": lambda: torch.arange(4, dtype=torch.int32).view(torch.float32) + 1,
    "nonzero": lambda: torch.tensor([0.0, 1.0, 0.0, 2.0]).nonzero(),
    "window": lambda: torch.hann_window(64),
    "svd": lambda: torch.linalg.svd(torch.arange(12.0).view(3, 4)).S,
    "index put": lambda: torch.zeros(5).index_put((torch.tensor([1, 3]),), torch.tensor([1.0, 2.0])),
    "scatter": lambda: torch.zeros(3, 4).scatter_(1, torch.tensor([[0], [1], [2]]), 1.0),
    "cumulative": lambda: torch.cumsum(torch.arange(10.0) ** 2, 0),
    "interpolated": lambda: nn.functional.interpolate(torch.arange(16.0).view(1, 1, 4, 4), size=(7, 7)),
    "buckets": lambda: torch.bucketize(torch.arange(10), torch.tensor([3, 6])),
    "float64": lambda: torch.linspace(0, 1, 7, dtype=torch.float64).sqrt(),
    "channels last": lambda: torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last) * 2,
    "off the diagonal": lambda: 1 - torch.eye(5),
    "identity scaled twice": lambda: torch.eye(3) * 0.1 * 0.3,
    "identity divided twice": lambda: torch.eye(3) / 3 / 7,
    "negative identity": lambda: -torch.eye(3),
    "identity beyond the range": lambda: torch.eye(2) * 1e30 * 1e30 * 1e-30,
    "identity below the range": lambda: torch.eye(2) * 1e-40 * 1e40,
    "identity in bf16": lambda: torch.eye(3, dtype=torch.bfloat16) * 0.3 * 0.7,
    "identity rounded twice": lambda: (torch.eye(3) * (1 + 2**-9 + 2**-30)).to(torch.bfloat16),
    "identity widened": lambda: (torch.eye(3) * 0.3).double(),
    "identity through tanh": lambda: torch.tanh(torch.eye(3) * 0.3),
    "identity times zero": lambda: torch.eye(3) * 0.0,
    "identity times minus zero": lambda: torch.eye(3) * -0.0,
    "dirac scaled twice": lambda: nn.init.dirac_(torch.empty(4, 2, 3), groups=2) * 0.1 * 0.3,
    "negative dirac": lambda: -nn.init.dirac_(torch.empty(4, 2, 3)),
    "dirac halved": lambda: nn.init.dirac_(torch.empty(4, 2, 3)).half() / 3,
    **{
        f"{name} of constants in {dtype}": lambda make=make, dtype=dtype: make(
            torch.full((67,), 0.3, dtype=dtype), torch.full((67,), 1.7, dtype=dtype)
        )
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        for name, make in CONSTANTS.items()
    },
    "every element": lambda: _squares(20),
}  # fmt: skip


def _squares(n: int) -> Tensor:
    x = torch.zeros(n, n)
    for number in range(n):
        x[number, number] = number**2
    return x


@pytest.mark.parametrize("name", EXACT)
def test_what_is_not_random_equals_a_real_construction(name: str) -> None:
    real = EXACT[name]()
    model, plan = zeta.record(Holder, EXACT[name])
    again = zeta.Plan.from_json(plan.to_json())
    assert again == plan
    zeta.materialize_(model, again, seed=0)
    assert model.table.dtype is real.dtype
    assert torch.equal(bits(model.table), bits(real))
    if real.is_contiguous():
        assert model.table.stride() == real.stride()


def test_the_default_dtype_of_the_recording_is_kept() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        real = torch.linspace(0, 1, 7) + torch.scalar_tensor(0.1)
        model, plan = zeta.record(Holder, lambda: torch.linspace(0, 1, 7) + torch.scalar_tensor(0.1))
    finally:
        torch.set_default_dtype(torch.float32)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.table, real)


DISTRIBUTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "exponential": (lambda x: x.exponential_(2.0), 0.5, 0.5),
    "log-normal": (lambda x: x.log_normal_(0.0, 0.5), math.exp(0.125), math.exp(0.125) * math.sqrt(math.expm1(0.25))),
    "bernoulli": (lambda x: x.bernoulli_(0.25), 0.25, math.sqrt(0.1875)),
    "bernoulli of a tensor": (lambda x: torch.bernoulli(x.fill_(0.25)), 0.25, math.sqrt(0.1875)),
    "geometric": (lambda x: x.geometric_(0.25), 4.0, math.sqrt(12.0)),
    "random": (lambda x: x.random_(0, 10), 4.5, math.sqrt(99 / 12)),
    "randint": (lambda x: torch.randint(2, 12, x.shape).float(), 6.5, math.sqrt(99 / 12)),
    "randint below": (lambda x: torch.randint(10, x.shape).float(), 4.5, math.sqrt(99 / 12)),
    "random from": (lambda x: x.to(torch.int8).random_(118, None).float(), 122.5, math.sqrt(99 / 12)),
    "random below": (lambda x: x.random_(10), 4.5, math.sqrt(99 / 12)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_that_are_arithmetic_on_uniform_values(name: str) -> None:
    make, mean, std = DISTRIBUTIONS[name]
    n = 40_000
    values = programs.value(program(lambda: make(torch.empty(n))), name="table", seed=0).double()
    assert float(values.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert float(values.std()) == pytest.approx(std, rel=0.05)


WHOLE_NUMBERS: dict[str, Callable[[], Tensor]] = {
    "from a number to the end of int16": lambda: torch.zeros(999, dtype=torch.int16).random_(32_765, None),
    "from a number to the end of fp32": lambda: torch.zeros(999).random_(2**24 - 2, None),
    "truth values": lambda: torch.zeros(999, dtype=torch.bool).random_(0, None),
    "randint in the default dtype": lambda: torch.randint(2, (999,), dtype=torch.float32),
    "randint of no dtype": lambda: torch.randint(2, 4, (999,)),
    "randint_like": lambda: torch.randint_like(torch.zeros(999, dtype=torch.int8), 2, 5),
    "randint_like in another dtype": lambda: torch.randint_like(torch.zeros(999), 2, dtype=torch.int32),
    "randperm in the default dtype": lambda: torch.randperm(9, dtype=torch.float32),
    "randperm of no dtype": lambda: torch.randperm(9),
}


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers_are_those_that_torch_draws(name: str) -> None:
    """The same numbers in the same dtype: of 999 values none is missing that has a probability of 1/4."""
    real = WHOLE_NUMBERS[name]()
    values = programs.value(program(WHOLE_NUMBERS[name]), name="table", seed=0)
    assert values.dtype is real.dtype
    assert sorted(set(values.tolist())) == sorted(set(real.tolist()))


def test_cauchy_has_its_quartiles() -> None:
    values = programs.value(program(lambda: torch.empty(40_000).cauchy_(1.0, 2.0)), name="table", seed=0)
    quartiles = values.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert quartiles.tolist() == pytest.approx([-1.0, 1.0, 3.0], abs=0.15)


def test_leaves_are_independent() -> None:
    found = program(lambda: torch.stack([torch.randn(20_000), torch.rand(20_000) - 0.5]))
    first, second = programs.value(found, name="table", seed=0).double()
    assert abs(float((first * second).mean())) < 5 / math.sqrt(12 * 20_000)


# -- the description -------------------------------------------------------------------------------------------------

SHAPE: dict[str, Any] = {"shape": (2, 2), "dtype": torch.float32}
LEAF = Step(op="draw", leaf=Draw(Uniform(), 0), **SHAPE)
SUM = Step(op="add", operands=(Ref(0), math.inf), attributes=(("alpha", 2),), **SHAPE)
DATA = Step(op="data", leaf=Data.of(torch.arange(4.0)), **SHAPE)
FULL = Step(op="full", attributes=(("size", (2, 2)), ("value", -0.0)), **SHAPE)


def test_steps_go_through_json() -> None:
    leaf = replace(LEAF, leaf=Draw(Normal(0.5), 256, "other", zeta.Axes(fan_in=(1,), fan_out=(0,))))
    complex_sum = Step(op="add", operands=(Ref(2), 1j), shape=(2, 2), dtype=torch.complex64)
    clamped = replace(SUM, op="clamp", operands=(Ref(1), None, math.nan), attributes=())
    described = Program((leaf, SUM, DATA, complex_sum, clamped, FULL))
    text = json.dumps(described.to_json(), allow_nan=False)
    again = Initializer.from_json(json.loads(text))
    assert repr(again) == repr(described)
    assert json.dumps(again.to_json(), allow_nan=False) == text


def test_it_prints_as_an_expression() -> None:
    assert str(Program((LEAF, SUM))) == "Program(add(Uniform(), inf, 2))"
    assert str(Program((DATA,))) == "Program(data[2, 2])"


def test_it_can_be_scaled() -> None:
    twice = Program((LEAF,)) * 2.0
    expected = programs.value(Program((LEAF,)), name="x", seed=0) * 2
    assert torch.equal(programs.value(twice, name="x", seed=0), expected)  # type: ignore[arg-type]


def test_zeros_of_both_signs_stay_apart() -> None:
    def build() -> nn.Module:
        return Holder(lambda: torch.stack([torch.full((2,), 0.0), torch.full((2,), -0.0)]).reciprocal())

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=0)
    assert model.table.tolist() == [[math.inf, math.inf], [-math.inf, -math.inf]]


@pytest.mark.parametrize("bits_of", ["fff8000000000000", "7ff8000000000000", "fff8123400000000"])
def test_a_value_that_is_no_number_keeps_its_bits(bits_of: str, tmp_path: Path) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits_of))[0]

    def build() -> nn.Module:
        module = Holder(lambda: torch.full((3,), value))
        module.register_buffer("other", torch.full((3,), complex(1.0, value)))
        return module

    real = build()
    model, plan = zeta.record(build)
    again = zeta.Plan.from_json(plan.to_json())
    assert again.digest == plan.digest
    zeta.save(model, plan, tmp_path / "model", seed=0)
    assert zeta.verify(tmp_path / "model").ok
    zeta.materialize_(model, again, seed=0)
    assert zeta.verify(model, plan, 0).ok
    assert torch.equal(bits(model.table), bits(real.table))
    assert torch.equal(bits(model.other), bits(real.other))


@pytest.mark.parametrize("text", ["fff8", "FFF8000000000000", "7ff0000000000000", "+ff8000000000000"])
def test_bits_of_what_is_a_number_are_refused(text: str) -> None:
    data = Program((FULL,)).to_json()
    data["steps"][0]["attributes"]["value"] = {"nan": text}
    with pytest.raises(SpecError, match="is no operand and no attribute"):
        Initializer.from_json(data)


def test_another_shape_is_refused() -> None:
    with pytest.raises(SpecError, match=r"computes shape \(2, 2\), the parameter has \(3,\)"):
        Program((LEAF,)).solve(Site(shape=(3,)))


def test_a_part_inside_of_a_region_is_placed_by_the_regions_offset() -> None:
    def block(t: Tensor) -> None:
        t.uniform_(2, 3)
        t[3:5, 1:4] = torch.zeros(2, 3).uniform_(0, 1)

    layer = nn.Module()
    layer.p = nn.Parameter(torch.empty(8, 6))
    plan = zeta.plan(layer, zeta.Rules([zeta.Rule("p", zeta.from_function(block))]))
    whole = zeta.values(plan, "p", 0)
    inside = torch.zeros(8, 6, dtype=torch.bool)
    inside[3:5, 1:4] = True
    assert torch.equal(whole < 1, inside)
    for rows, columns in ((slice(1, 8), slice(0, 6)), (slice(2, 6), slice(1, 5)), (slice(4, 8), slice(2, 6))):
        assert torch.equal(zeta.values(plan, "p", 0, region=(rows, columns)), whole[rows, columns])
