"""What is recorded is what is built: real constructors on the draws of their recordings give the same values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zeta
from tests.helpers.constructors import Instruction, Random
from tests.helpers.recorded import Awkward
from tests.helpers.twin import near, twin
from tests.resolve.test_recording import LAYERS
from zeta.compute import programs
from zeta.initializers import Program, Uniform
from zeta.resolve.recording.recognition import assembly, laws
from zeta.resolve.recording.recognition.leaves import Simple


class Holder(nn.Module):
    def __init__(self, *makes: Callable[[], Tensor]) -> None:
        super().__init__()
        for number, make in enumerate(makes):
            self.register_buffer(f"made{number}", make())


class Coupled(nn.Module):
    """Values of one draw that belong together."""

    def __init__(self) -> None:
        super().__init__()
        u, z = torch.rand(5, 4), torch.randn(6, 4)
        t = nn.init.trunc_normal_(torch.empty(4, 4), 0.1, 1.0, -1.0, 2.0)
        s = nn.init.sparse_(torch.empty(4, 6), 0.5)
        self.u, self.turned = nn.Parameter(u), nn.Parameter(3 - 2 * u)
        self.mirrored = nn.Parameter(-u.t().clone())
        self.pair = nn.Parameter(torch.cat([z, -z]))
        self.stacked = nn.Parameter(torch.stack([z, 1 - z], 1))
        self.t, self.t_mirrored = nn.Parameter(t), nn.Parameter(0.2 - t)
        self.s, self.s_negative = nn.Parameter(s), nn.Parameter(-s)
        self.part = nn.Parameter(z[2:4] * -0.5)


class Alone(nn.Module):
    """Values of a draw that nothing else sees: a law, of the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = nn.Parameter(1 - torch.randn(4, 4) / 4)
        self.negative = nn.Parameter(-torch.rand(4))
        self.cut = nn.Parameter(torch.randn(8, 4)[2:5].clone().t().contiguous() * -2)
        self.stacked = nn.Parameter(torch.stack([torch.randn(3), torch.randn(3)], 1))
        self.turned = nn.Parameter(nn.init.orthogonal_(torch.empty(4, 4)).t() * 2)
        self.parts = nn.Parameter(torch.empty(12, 8))
        for part in self.parts.chunk(3):
            nn.init.uniform_(part, -0.5, 0.5)
        self.waiting = nn.Parameter(torch.empty(9).exponential_(2.0))
        self.order = nn.Parameter(torch.randperm(9).float())
        self.numbers = nn.Parameter(torch.randint(3, 9, (5,)).float())


MODELS: dict[str, Callable[[], nn.Module]] = {"awkward": Awkward, "coupled": Coupled, "alone": Alone, **LAYERS}


@pytest.mark.parametrize("name", MODELS)
def test_a_constructor_on_the_draws_of_its_recording_gives_the_same_values(name: str) -> None:
    outcome = twin(MODELS[name])
    assert outcome.different == []
    assert len(outcome.equal) >= len(outcome.close)


def test_a_lost_sign_is_found() -> None:
    def careless(leaf: laws.Leaf, factor: float, shift: float) -> laws.Leaf | None:
        return law(leaf, abs(factor), shift)

    law = laws._scaled_and_shifted
    with mock.patch.object(laws, "_scaled_and_shifted", careless):
        assert any(text.startswith("negative") for text in twin(Alone).different)


def test_other_values_of_a_program_are_found() -> None:
    """Where sums may be rounded otherwise, not all may be."""
    values = torch.randn(4, 4).softmax(-1)
    _, plan = zeta.record(Holder, lambda: torch.randn(4, 4).softmax(-1))
    program = plan["made0"].initializer
    assert isinstance(program, Program)
    assert near(values, values * (1 + 1e-7), program)
    for other in (values.T, values * 1.001, values + torch.eye(4) * 1e-3):
        assert not near(values, other, program)
    assert not near(torch.arange(4), torch.arange(4).flip(0), program)


def test_a_norm_over_one_channel_is_the_weight_itself() -> None:
    """What has one element may stand anywhere: it hides no weight norm."""
    outcome = twin(lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 6, 7)))
    assert outcome.different == []
    for channels in ((1, 6), (6, 1)):
        _, plan = zeta.record(lambda c=channels: nn.utils.parametrizations.weight_norm(nn.Conv1d(*c, 7)))
        assert isinstance(plan["weight"].initializer, Uniform)


def test_a_lost_coupling_is_found() -> None:
    def careless(results: dict[str, Simple]) -> dict[str, Simple]:
        return {
            name: assembly._without_formula(x) if assembly._law_and_padding(x) else x for name, x in results.items()
        }

    with mock.patch.object(assembly, "_settled", careless):
        assert any(text.startswith("turned") for text in twin(Coupled).different)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "interleaved": lambda: torch.arange(3.0).repeat_interleave(2),
    "a grid": lambda: torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")[0].flatten(),
    "windows": lambda: torch.randn(8, 6).view(2, 4, 3, 2).permute(0, 2, 1, 3).contiguous().view(6, 8),
    "axial": lambda: torch.cat([torch.randn(4, 1, 3).expand(4, 5, 3), torch.randn(1, 5, 3).expand(4, 5, 3)], -1),
    "a factor": lambda: torch.linalg.qr(torch.randn(6, 4))[0].t().reshape(2, 12),
    "a slice of a clone of a slice": lambda: torch.randn(8, 6)[2:].clone()[1:, 2:].clone()[:, 1:],
    "unbound": lambda: torch.randn(3, 4, 5).unbind(1)[2].clone()[1:].chunk(2, 1)[1],
    "narrowed": lambda: torch.randn(9, 4).clone().narrow(0, 3, 4).t().clone()[1:],
    "as strided": lambda: torch.randn(20)[3:].clone().as_strided((3, 2), (5, 2), 1),
    "kron": lambda: torch.kron(torch.randn(2, 3), torch.arange(6.0).view(3, 2)),
    "rolled": lambda: torch.randn(4, 5).roll((1, 2), (0, 1))[1:],
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)[:, 1:],
    "weight norm of a transposed one": lambda: torch._weight_norm(torch.randn(4, 3).t(), torch.ones(3, 1), 0),
    "weight norm of one that is expanded": lambda: torch._weight_norm(
        torch.randn(1, 3).expand(4, 3), torch.ones(1, 1).expand(4, 1), 0
    ),
    "sorted where all are equal": lambda: torch.randn(1, 1).expand(33, 130).contiguous().argsort(1),
    "sorted along the columns": lambda: torch.randn(130).expand(130, 130).contiguous().argsort(0),
    "sums of a contiguous copy": lambda: torch.randn(37, 50).t().contiguous().sum(0),
    "norms of a contiguous copy": lambda: torch.randn(37, 50).t().contiguous().norm(dim=1),
    "bytes over minus one": lambda: torch.arange(256, dtype=torch.uint8) // -1,
    "bytes modulo the largest": lambda: torch.arange(256, dtype=torch.uint8) % torch.tensor([255], dtype=torch.uint8),
    "a short number over minus one": lambda: ((torch.arange(3, dtype=torch.int16) + 5)[2] // -1).expand(2).clone(),
    "true division by minus one": lambda: torch.tensor([-(2**63), 7]) / -1,
    "an empty product": lambda: torch.zeros(0, 3).exp() * 2,
    "an empty part of a constant": lambda: (torch.full((4, 3), 2.0)[4:] + 1).sqrt(),
    "a constant over nothing": lambda: torch.ones(0).div(torch.zeros(())),
    "negated ones": lambda: -torch.ones(3),
    "minus a full": lambda: 2 - torch.full((3,), 0.5, dtype=torch.float64),
    "reciprocal": lambda: torch.full((3,), 4, dtype=torch.int64).reciprocal(),
    "negated integers": lambda: -torch.ones(3, dtype=torch.int32),
    "not": lambda: ~torch.ones(3, dtype=torch.bool),
    "unfolded": lambda: torch.randn(10).unfold(0, 4, 2).clone(),
    "a function of a constant": lambda: nn.functional.gelu(torch.full((67,), 0.3)),
    "its own mirror image": lambda: _mirrored(torch.empty(6, 4)),
    "parts that are alike": lambda: _repeated(torch.empty(6, 4)),
    "signs of a factor": lambda: (lambda qr: qr[0] * torch.diag(qr[1]).sign())(torch.linalg.qr(torch.randn(5, 4))),
    "another diagonal": lambda: torch.diagonal_copy(torch.randn(4, 5, 6), -1, 0, 2),
    "turned by a quarter": lambda: torch.randn(3, 4).rot90(),
    "turned by three": lambda: torch.randn(2, 3, 4).rot90(3, (1, 2)),
    "shifted": lambda: (torch.arange(6) << 2) & 12 | 1,
    "of fewer digits": lambda: torch.rand(400, dtype=torch.bfloat16).half(),
    "rounded twice": lambda: torch.randn(4000, dtype=torch.float16).bfloat16(),
    "moved away and back": lambda: (torch.rand(40) + 1e8) - 1e8,
    "moved where it drowns": lambda: (torch.randn(40) * 1e-9 + 1) - 1,
    "too large and back": lambda: torch.randn(40).half() * 6e4 * 6e4 / 6e4,
    "normed along the other dimension": lambda: (lambda v: torch._weight_norm(v, v.norm(dim=0).view(5, 1), 0))(
        torch.randn(5, 5)
    ),
    "a norm": lambda: (lambda v: torch._weight_norm(v, v.norm(dim=1, keepdim=True), 0))(torch.randn(5, 6)),
    "a mask of two dimensions and an index": lambda: _masked(torch.randn(3, 4, 5, 5)),
    "rows by a list": lambda: _set(torch.randn(5, 4), [0, 3]),
    "columns by a range": lambda: _set(torch.randn(5, 4), (slice(None), range(1, 3))),
    "rows by truth values": lambda: _set(torch.ones(3, 4), [True, False, True]),
    "read by a list": lambda: torch.randn(5, 4)[[4, 1]] * 2,
    "a diagonal": lambda: torch.randn(5, 5).diagonal(1).clone(),
    "written through a diagonal": lambda: _diagonal(torch.randn(5, 5)),
    "numbers in tensors": lambda: torch.tensor([torch.ones(()).exp(), 0.5, torch.arange(3)[2]]),
    "rows of numbers in tensors": lambda: torch.as_tensor([[torch.ones(()).exp().half(), 2], (3, torch.eye(2)[0, 0])]),
    "new of numbers in tensors": lambda: torch.ones(2).new_tensor([torch.ones(()).exp()] * 3),
    **{
        f"resized in {len(size)} dimensions, {mode}": lambda size=size, mode=mode: nn.functional.interpolate(
            torch.randn(2, 3, *(4, 5, 6)[: len(size)]), size, mode=mode
        )
        for size, modes in (
            ((7,), ("nearest", "nearest-exact", "linear")),
            ((7, 3), ("nearest", "nearest-exact", "bilinear", "bicubic")),
            ((7, 3, 8), ("nearest", "nearest-exact", "trilinear")),
        )
        for mode in modes
    },
    "resized smoothly": lambda: nn.functional.interpolate(
        torch.randn(1, 2, 9, 8), (4, 3), mode="bicubic", antialias=True
    ),
    "halved smoothly": lambda: nn.functional.interpolate(
        torch.randn(1, 2, 9, 8), scale_factor=0.5, mode="bilinear", antialias=True
    ),
    "a volume doubled": lambda: nn.functional.interpolate(torch.randn(1, 2, 3, 2, 4), scale_factor=(2, 1.5, 2.0)),
    "waiting in bf16": lambda: torch.empty(4000, dtype=torch.bfloat16).exponential_(),
    "gumbel in fp16": lambda: -torch.empty(4000, dtype=torch.float16).exponential_().log(),
    "eight numbers": lambda: (torch.rand(4000, dtype=torch.bfloat16) * 8).floor(),
    "half open in bf16": lambda: torch.log1p(-torch.rand(4000, dtype=torch.bfloat16)),
    "trials in fp16": lambda: torch.empty(4000, dtype=torch.float16).geometric_(0.5),
    "whole numbers": lambda: torch.empty(40, dtype=torch.uint8).random_(),
    "many whole numbers": lambda: torch.empty(40, dtype=torch.int64).random_(),
    "complex uniform": lambda: torch.rand(40, dtype=torch.complex64),
    "complex normal": lambda: torch.empty(40, dtype=torch.complex64).normal_(2.0, 0.5),
    "conjugated": lambda: torch.view_as_complex(torch.randn(4, 2)).conj() * 2,
    "the imaginary part": lambda: torch.view_as_complex(torch.randn(4, 2)).conj().imag.clone(),
    "the inverse": lambda: torch.linalg.inv(torch.eye(4) * 3 + torch.randn(4, 4) * 0.1),
    "gathered": lambda: torch.randn(5, 4).gather(0, torch.tensor([[0, 1, 2, 4], [4, 3, 2, 0]])),
    "permuted rows": lambda: torch.randn(6, 3)[torch.randperm(6)],
    "filled where": lambda: torch.randn(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -1e9),
}


def _mirrored(x: Tensor) -> Tensor:
    nn.init.normal_(x[:3])
    x[3:] = -x[:3]
    return x


def _repeated(x: Tensor) -> Tensor:
    x[:3].normal_()
    x[3:] = x[:3]
    return x


def _masked(x: Tensor) -> Tensor:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 2] = mask[0, 3] = True
    x[mask, torch.tensor([0, 2])] = 0.25
    return x


def _set(x: Tensor, index: Any) -> Tensor:
    x[index] = 0.5
    return x


def _diagonal(x: Tensor) -> Tensor:
    x.diagonal(-1).fill_(7.0)
    return x


FINITE = ("waiting in bf16", "gumbel in fp16", "eight numbers", "half open in bf16", "trials in fp16")


@pytest.mark.parametrize("name", FINITE)
def test_values_of_few_digits_stay_inside_of_their_range(name: str) -> None:
    _, plan = zeta.record(lambda: Holder(LAYOUTS[name]))
    for seed in range(8):
        program = plan["made0"].initializer
        assert isinstance(program, Program)
        values = programs.value(program, name="made0", seed=seed)
        assert bool(values.isfinite().all())
        assert name != "eight numbers" or values.unique().tolist() == list(range(8))


WHOLE: dict[torch.dtype, int] = {
    torch.bool: 1, torch.uint8: 255, torch.int8: 127, torch.int16: 2**15 - 1, torch.int32: 2**31 - 1,
    torch.int64: 2**63 - 1, torch.bfloat16: 2**8, torch.float16: 2**11, torch.float32: 2**24, torch.float64: 2**53,
}  # fmt: skip


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_random_has_the_range_of_the_dtype(dtype: torch.dtype) -> None:
    """As torch documents it; of 4000 values, the largest is within 1 % of the end but once in 1e17."""
    _, plan = zeta.record(lambda: Holder(lambda: torch.empty(4000, dtype=dtype).random_()))
    values = programs.value(plan["made0"].initializer, name="made0", seed=0)  # type: ignore[arg-type]
    numbers = [int(value) for value in values.tolist()]
    assert 0 <= min(numbers) <= WHOLE[dtype] // 100
    assert WHOLE[dtype] * 99 // 100 <= max(numbers) <= WHOLE[dtype]


@pytest.mark.parametrize(
    ("make", "mean", "variance"),
    [
        (lambda: torch.rand(40_000, dtype=torch.complex64), 0.5 + 0.5j, 1 / 12),
        (lambda: torch.empty(40_000, dtype=torch.complex64).uniform_(-1, 1), 0j, 1 / 3),
        (lambda: torch.randn(40_000, dtype=torch.complex64), 0j, 1 / 2),
        (lambda: torch.empty(40_000, dtype=torch.complex64).normal_(2.0, 3.0), 2 + 2j, 4.5),
    ],
)
def test_complex_values_have_torch_s_moments(make: Callable[[], Tensor], mean: complex, variance: float) -> None:
    """Of torch's own values too, so that the numbers are those of torch; 40,000 find 6 %."""
    model, plan = zeta.record(lambda: Holder(make))
    zeta.materialize_(model, plan, seed=0)
    torch.manual_seed(0)
    for values in (model.made0, make()):
        for part, expected in ((values.real, mean.real), (values.imag, mean.imag)):
            assert float(part.var()) == pytest.approx(variance, rel=0.06)
            assert float(part.mean()) == pytest.approx(expected, abs=6 * math.sqrt(variance / 40_000))


@pytest.mark.parametrize("name", LAYOUTS)
def test_views_copies_and_constants(name: str) -> None:
    outcome = twin(lambda: Holder(LAYOUTS[name]))
    assert outcome.different == []
    assert outcome.equal == ["made0"]


instruction = st.tuples(*[st.integers(0, 255)] * 4)


@settings(max_examples=150)
@given(st.lists(instruction, min_size=1, max_size=14))
def test_constructors_at_random(instructions: list[Instruction]) -> None:
    outcome = twin(lambda: Random(instructions))
    assert outcome.different == []


# -- generators that are seeded inside of a constructor ----------------------------------------------------------------


class Seeded(nn.Module):
    """Eleven ways to draw alike, or not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 3)
        torch.manual_seed(0)
        self.b = nn.Linear(4, 3)
        self.c = nn.Linear(4, 3)
        torch.manual_seed(1)
        self.d = nn.Linear(4, 3)
        state = torch.get_rng_state()
        self.e = nn.Parameter(torch.randn(5))
        torch.set_rng_state(state)
        self.f = nn.Parameter(torch.randn(5))
        with torch.random.fork_rng(devices=[]):
            self.g = nn.Parameter(torch.randn(5))
        self.h = nn.Parameter(torch.randn(5))
        self.i = nn.Parameter(torch.empty(5).normal_(generator=torch.Generator().manual_seed(7)))
        generator = torch.Generator().manual_seed(7)
        self.j = nn.Parameter(torch.empty(5).normal_(generator=generator))
        self.k = nn.Parameter(torch.empty(5).normal_(generator=generator))
        torch.manual_seed(0)
        self.m = nn.Parameter(nn.init.trunc_normal_(torch.empty(5)))
        torch.manual_seed(0)
        self.n = nn.Parameter(nn.init.trunc_normal_(torch.empty(5)))


class SeededAfterOthers(nn.Module):
    """The same seed and the same second layer, after first ones of another size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        torch.manual_seed(0)
        self.second = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4))
        torch.manual_seed(0)
        self.third = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))


def same_tensors(model: nn.Module) -> set[tuple[str, str]]:
    named = dict(model.named_parameters())
    pairs = [(a, b) for a in named for b in named if a < b and named[a].shape == named[b].shape]
    return {(a, b) for a, b in pairs if torch.equal(named[a], named[b])}


def test_what_follows_depends_on_what_was_drawn() -> None:
    model, plan = zeta.record(SeededAfterOthers)
    zeta.materialize_(model, plan, seed=5)
    assert same_tensors(model) == same_tensors(SeededAfterOthers())


def test_what_is_seeded_alike_is_alike() -> None:
    model, plan = zeta.record(Seeded)
    zeta.materialize_(model, plan, seed=5)
    real = same_tensors(Seeded())
    assert real == {("a.weight", "b.weight"), ("a.bias", "b.bias"), ("e", "f"), ("g", "h"), ("i", "j"), ("m", "n")}
    assert same_tensors(model) == real
    assert twin(Seeded).different == []
