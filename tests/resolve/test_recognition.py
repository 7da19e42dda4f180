"""Chains of operations are told as the initializer that they are; what is none stays a program."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import Axes, Entry
from zeta.base.language.layouts import Box, box_of
from zeta.initializers import (
    Constant,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Ones,
    Orthogonal,
    Program,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from zeta.resolve.recording.recognition import writes


class Holder(nn.Module):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(make().detach())


def entry(make: Callable[[], Tensor]) -> Entry:
    _, plan = zeta.record(Holder, make)
    return plan["weight"]


def fresh(*shape: int) -> Tensor:
    return torch.empty(*(shape or (16, 8)))


def timm(low: float, high: float, std: float, mean: float) -> Tensor:
    """timm's truncated normal: by the inverse of the error function."""
    a, b = ((1 + math.erf((bound - mean) / std / math.sqrt(2))) / 2 for bound in (low, high))
    x = fresh().uniform_(2 * a - 1, 2 * b - 1)
    return x.erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(min=low, max=high)


KNOWN: dict[str, tuple[Callable[[], Tensor], Initializer]] = {
    "zeros": (lambda: torch.zeros(3, 4), Zeros()),
    "ones": (lambda: torch.ones(3), Ones()),
    "full": (lambda: torch.full((3, 4), 0.5), Constant(0.5)),
    "fill_": (lambda: fresh().fill_(0.25), Constant(0.25)),
    "fill_ by a tensor": (lambda: fresh().fill_(torch.tensor(0.25)), Constant(0.25)),
    "tensor": (lambda: torch.tensor([2.0, 2.0]), Constant(2.0)),
    "arithmetic on constants": (lambda: 0.1 * torch.ones(8) ** 2 + 1, Constant(float(torch.tensor(0.1) + 1))),
    "inverse of softplus": (lambda: torch.full((4,), 1.0).expm1().log(), Constant(0.5413248538970947)),
    "layer scale": (lambda: torch.full((8,), 1e-5) * torch.ones(8), Constant(float(torch.tensor(1e-5)))),
    "randn": (lambda: torch.randn(4, 4), Normal()),
    "rand": (lambda: torch.rand(4, 4), Uniform()),
    "rand_like": (lambda: torch.rand_like(fresh()), Uniform()),
    "normal_": (lambda: fresh().normal_(0.5, 0.02), Normal(0.02, 0.5)),
    "normal_ of std 0": (lambda: fresh().normal_(0.5, 0.0), Constant(0.5)),
    "uniform_": (lambda: fresh().uniform_(-1, 3), Uniform(-1, 3)),
    "torch.normal": (lambda: torch.normal(0.5, 0.02, (4, 4)), Normal(0.02, 0.5)),
    "torch.normal of tensors": (lambda: torch.normal(torch.zeros(4), 0.02), Normal(0.02)),
    "scaled randn": (lambda: torch.randn(4, 4) * 0.02, Normal(0.02)),
    "scaled and moved": (lambda: 1 - torch.randn(4, 4) / 4, Normal(0.25, 1.0)),
    "centred rand": (lambda: torch.rand(4, 4) * 2 - 1, Uniform(-1, 1)),
    "rand of the other sign": (lambda: -torch.rand(4), Uniform(-1, 0)),
    "scaled by a tensor": (lambda: torch.randn(4) * torch.tensor(0.5), Normal(0.5)),
    "scaled by ones": (lambda: torch.randn(4) * torch.full((4,), 0.5), Normal(0.5)),
    "added with alpha": (lambda: torch.randn(4).add(torch.ones(4), alpha=3), Normal(1.0, 3.0)),
    "reshaped": (lambda: torch.randn(32).view(4, 8), Normal()),
    "transposed": (lambda: torch.randn(8, 4).t().contiguous(), Normal()),
    "a slice": (lambda: torch.randn(8, 4)[2:5].clone(), Normal()),
    "every second": (lambda: torch.randn(8, 4)[::2].clone(), Normal()),
    "in parts of one law": (lambda: torch.cat([torch.randn(2, 4), torch.randn(3, 4)]), Normal()),
    "in one part": (lambda: torch.cat([torch.randn(2, 4)]), Normal()),
    "trunc_normal_": (
        lambda: nn.init.trunc_normal_(fresh(), 0.0, 0.02),
        TruncatedNormal(0.02, low=-2.0, high=2.0),
    ),
    "scaled trunc_normal_": (
        lambda: nn.init.trunc_normal_(fresh(), 0.0, 1.0) * 0.5,
        TruncatedNormal(0.5, low=-1.0, high=1.0),
    ),
    "orthogonal_": (lambda: nn.init.orthogonal_(fresh(), 2.0), Orthogonal(2.0)),
    "scaled orthogonal_": (lambda: nn.init.orthogonal_(fresh()) * 0.5, Orthogonal(0.5)),
    "sparse_": (lambda: nn.init.sparse_(fresh(), 0.25, 0.02), Sparse(0.25, 0.02)),
    "eye_": (lambda: nn.init.eye_(fresh()), Identity()),
    "torch.eye": (lambda: torch.eye(4) * 3, Identity(3.0)),
    "dirac_": (lambda: nn.init.dirac_(fresh(8, 4, 3)), Dirac()),
    "scaled dirac_": (lambda: nn.init.dirac_(fresh(8, 4, 3)) * 0.3, Dirac(0.3)),
    "torch.eye scaled twice": (lambda: torch.eye(2) * 0.1 * 0.3, Identity(0.030000001)),
    "torch.eye rounded twice": (lambda: (torch.eye(2) * 0.3).to(torch.bfloat16), Identity(0.3)),
    "torch.eye times zero": (lambda: torch.eye(2) * 0, Zeros()),
    "rounded": (lambda: torch.randn(4, 4).to(torch.bfloat16), Normal()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_laws(name: str) -> None:
    make, expected = KNOWN[name]
    assert entry(make).initializer == expected


PROGRAMS: dict[str, Callable[[], Tensor]] = {
    "a sum of two": lambda: torch.rand(4, 4) + torch.rand(4, 4),
    "a square": lambda: torch.randn(4, 4) ** 2,
    "absolute values": lambda: torch.randn(4, 4).abs(),
    "a clamp that bites": lambda: torch.randn(4, 4).clamp(-1, 1),
    "log-uniform": lambda: torch.exp(torch.rand(4, 4)),
    "repeated rows": lambda: torch.randn(1, 4).expand(4, 4).clone(),
    "symmetric": lambda: (lambda x: x + x.t())(torch.randn(4, 4)),
    "widened": lambda: torch.randn(4, 4, dtype=torch.bfloat16).float(),
    "another row": lambda: _with_row(torch.randn(4, 4), 1.0),
    "sorted": lambda: torch.randn(4, 4).sort().values,
    "arange": lambda: torch.arange(4.0),
    "infinite": lambda: torch.full((4, 4), -math.inf),
    "times zero": lambda: torch.randn(4, 4) * 0,
    "a negative identity": lambda: -torch.eye(4),
    "transposed orthogonal_": lambda: nn.init.orthogonal_(fresh()).t().contiguous(),
}


def _with_row(x: Tensor, value: float) -> Tensor:
    x[1] = value
    return x


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_no_known_law_stays_a_program(name: str) -> None:
    assert isinstance(entry(PROGRAMS[name]).initializer, Program)


@pytest.mark.parametrize(
    ("low", "high", "std", "mean"), [(-2, 2, 1, 0), (-0.04, 0.04, 0.02, 0.0), (-1, 2, 1, 0.25), (-3, 3, 1, 0.0)]
)
def test_timm_s_truncated_normal(low: float, high: float, std: float, mean: float) -> None:
    found = entry(lambda: timm(low, high, std, mean)).initializer
    assert isinstance(found, TruncatedNormal)
    assert found.bounds() == pytest.approx((low, high))
    assert (found.std, found.mean) == pytest.approx((std, mean), abs=1e-9)


def test_timm_s_truncated_normal_with_bounds_that_do_not_bite() -> None:
    found = entry(lambda: timm(-2, 2, 0.02, 0.0)).initializer
    assert isinstance(found, TruncatedNormal)
    assert found == TruncatedNormal(found.std, low=-2.0, high=2.0)
    assert found.std == pytest.approx(0.02)


def test_bounds_are_the_numbers_that_are_meant() -> None:
    """torch computes sqrt(3) * sqrt(1/3) / sqrt(64), which is 0.12499999999999999; in bf16 that would not reach 1/8."""
    model, plan = zeta.record(lambda: nn.Linear(64, 512).to(torch.bfloat16))
    assert plan["weight"].initializer == plan["bias"].initializer == Uniform(-0.125, 0.125)
    zeta.materialize_(model, plan, seed=0)
    assert model.weight.aminmax() == (-0.125, 0.125)
    assert zeta.record(nn.Linear, 63, 2)[1]["bias"].initializer == Uniform(-1 / 63**0.5, 1 / 63**0.5)


def test_a_row_of_zeros_is_padding() -> None:
    found = entry(lambda: _with_row(torch.randn(4, 4), 0.0))
    assert (found.initializer, found.padding_idx) == (Normal(), 1)


def test_groups_of_dirac() -> None:
    found = entry(lambda: nn.init.dirac_(fresh(8, 4, 3), groups=2))
    assert found.axes == Axes(fan_in=(1, 2), fan_out=(0, 2), blocks=((0, 2),))


def test_blocks_of_one_law_are_that_law() -> None:
    def make() -> Tensor:
        x = fresh(12, 8)
        for part in x.chunk(3):
            nn.init.uniform_(part, -0.5, 0.5)
        return x

    assert entry(make).initializer == Uniform(-0.5, 0.5)


def test_interleaved_parts_leave_nothing_of_the_memory_beneath() -> None:
    def make() -> Tensor:
        x = fresh(6, 8)
        x[:, 0::2], x[:, 1::2] = torch.rand(6, 4) ** 2, torch.ones(6, 4)
        return x

    assert isinstance(entry(make).initializer, Program)


def _elements(x: Tensor) -> Tensor:
    for number in range(x.numel()):
        x[divmod(number, x.shape[1])] = math.sin(number)
    return x


def _doubled(x: Tensor) -> Tensor:
    for number in range(1, x.shape[0]):
        x[number] += x[number - 1] * 2
    return x


def _boxes(x: Tensor) -> Tensor:
    """Writes and reads of parts that overlap, in steps and turned around."""
    chosen = random.Random(3)
    for number in range(400):
        rows, columns = (slice(chosen.randrange(6), chosen.randrange(6, 13), chosen.choice([1, 1, 2, 3])) for _ in "ab")
        part = x[rows, columns]
        match number % 5:
            case 0:
                part.fill_(number)
            case 1:
                part += 0.5
            case 2:
                part.copy_(torch.arange(part.numel()).view_as(part))
            case 3:
                x[chosen.randrange(12)] = x[chosen.randrange(12)].clone()
            case 4:
                x[chosen.randrange(12), chosen.randrange(12)] *= 3
    return x


LOOPS: dict[str, Callable[[], Tensor]] = {
    "few elements of memory as it is": lambda: _elements(torch.empty(7, 8)),
    "elements of memory as it is": lambda: _elements(torch.empty(20, 8)),
    "elements of zeros": lambda: _elements(torch.zeros(20, 8)),
    "elements, twice": lambda: _elements(_elements(torch.empty(20, 8)).mul_(2)[:10]),
    "elements of another order": lambda: _elements(torch.empty(8, 20).t()),
    "each from the one before": lambda: _doubled(torch.ones(90)),
    "parts that overlap": lambda: _boxes(torch.zeros(12, 12)),
    "parts that overlap, of data": lambda: _boxes(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(6, 6)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_over_parts_have_the_values_of_a_real_construction(name: str) -> None:
    model, plan = zeta.record(Holder, LOOPS[name])
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, LOOPS[name]())


def test_as_many_parts_as_there_are_are_one_law() -> None:
    def make() -> Tensor:
        x = fresh(200, 4)
        for row in x:
            nn.init.normal_(row, std=0.5)
        return x

    assert entry(make).initializer == Normal(0.5)


def test_a_loop_over_elements_takes_time_and_steps_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Box] = []
    covered = writes._covered
    monkeypatch.setattr(writes, "_covered", lambda target, boxes: looked.append(target) or covered(target, boxes))
    found = entry(lambda: _elements(torch.zeros(64, 32))).initializer
    assert isinstance(found, Program)
    assert len(found.steps) < 3 * 64
    assert looked == []


@pytest.mark.parametrize("look", [lambda x: x[3:9, 1:3], lambda x: x.diagonal(), lambda x: x.t()[5]])
def test_a_small_part_of_large_data_is_data(look: Callable[[Tensor], Tensor]) -> None:
    table = torch.arange(1024 * 1025).view(1024, 1025).float()
    model, plan = zeta.record(Holder, lambda: look(torch.tensor(table.numpy())) * 2)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, look(table) * 2)


def test_overwritten_work_leaves_nothing() -> None:
    def make() -> Tensor:
        x = torch.randn(16, 8)
        x[:4].uniform_()
        x[2:10] = 1.0
        x[:8].normal_()
        x[8:].normal_()
        return x

    assert entry(make).initializer == Normal()


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        base = torch.randn(8, 8)
        self.z = nn.Parameter(base)
        self.a = nn.Parameter(base.clone())
        self.smaller = nn.Parameter(base / 2)
        self.turned = nn.Parameter(base.t().clone())
        self.other = nn.Parameter(torch.randn(8, 8))


def test_a_value_that_several_share_is_drawn_once() -> None:
    model, plan = zeta.record(Shared)
    zeta.materialize_(model, plan, seed=0)
    assert [e.name for e in plan if not isinstance(e.initializer, Program)] == ["a", "other"]
    assert torch.equal(model.z, model.a)
    assert torch.equal(model.smaller, model.a / 2)
    assert torch.equal(model.turned, model.a.t())
    assert not torch.equal(model.other, model.a)


def test_draws_of_one_parameter_are_numbered_apart() -> None:
    found = entry(lambda: torch.rand(4, 4) + torch.rand(4, 4) * torch.rand(4, 4)).initializer
    assert isinstance(found, Program)
    assert [draw.number for draw in found.draws] == [0, 256, 512]
    assert {draw.of for draw in found.draws} == {None}


@pytest.mark.parametrize(
    ("base", "view"),
    [
        ((6, 4), lambda x: x[2]),
        ((6, 4), lambda x: x[1:3]),
        ((6, 4), lambda x: x[:, 0::2]),
        ((6, 4), lambda x: x.t()),
        ((6, 4), lambda x: x[1:5:3, 1:3].t()),
        ((2, 3, 4), lambda x: x[1, :, 2]),
        ((2, 3, 4), lambda x: x.permute(2, 0, 1)[1:]),
        ((6, 1, 4), lambda x: x[2:4, 0]),
        ((5,), lambda x: x[4]),
    ],
)
def test_views_are_told_as_boxes(base: tuple[int, ...], view: Callable[[Tensor], Tensor]) -> None:
    whole = torch.arange(math.prod(base)).view(base)
    part = view(whole)
    box = box_of(base, part.shape, part.stride(), part.storage_offset())
    assert isinstance(box, Box)
    ends = zip(box.starts, box.sizes, box.steps, strict=True)
    cut = whole[tuple(slice(a, a + n * s, s) for a, n, s in ends)]
    order = [dim for dim in box.order if dim is not None]
    order += [dim for dim in range(len(base)) if dim not in order]
    assert torch.equal(cut.permute(order).reshape(part.shape), part)


@pytest.mark.parametrize("view", [lambda x: x.diagonal(), lambda x: x.view(-1)[2:9], lambda x: x.unfold(0, 2, 1)])
def test_other_views_are_no_boxes(view: Callable[[Tensor], Tensor]) -> None:
    part = view(torch.zeros(4, 4))
    assert box_of((4, 4), part.shape, part.stride(), part.storage_offset()) is None
