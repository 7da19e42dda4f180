"""When two entries draw the same: by law and numbers, not by spelling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from zeta import Axes, Entry, Kind
from zeta.initializers import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    kaiming_normal,
    xavier_uniform,
)
from zeta.report.distributions import same_distribution

LINEAR = Axes(fan_in=(1,), fan_out=(0,))
TRANSPOSED = Axes(fan_in=(0,), fan_out=(1,))
KERNEL = Axes(fan_in=(1, 2), fan_out=(0, 2))


def entry(
    initializer: Initializer, shape: tuple[int, ...] = (32, 50), axes: Axes | None = LINEAR, **more: Any
) -> Entry:
    given = {"name": "w", "dtype": torch.float32, "kind": Kind.WEIGHT, "rule": "", **more}
    return Entry(shape=shape, axes=axes, initializer=initializer, **given)


BOUND = math.sqrt(6 / 82)
SAME: dict[str, tuple[Initializer, Initializer]] = {
    "kaiming": (kaiming_normal(), Normal(math.sqrt(2 / 50))),
    "kaiming in another order": (Normal(math.sqrt(2) * 50**-0.5), Normal((2 / 50) ** 0.5)),
    "xavier": (xavier_uniform(), Uniform(-BOUND, BOUND)),
    "truncated": (
        VarianceScaling(1.0, "fan_in", "truncated_normal"),
        TruncatedNormal(50**-0.5 / 0.87962566103423978),
    ),
    "cutoff and bounds": (TruncatedNormal(0.02, cutoff=2), TruncatedNormal(0.02, low=-0.04, high=0.04)),
    "bounds that never bite": (TruncatedNormal(0.02, low=-2, high=2), Normal(0.02)),
    "one bound that never bites": (TruncatedNormal(0.02, low=-2, high=0.04), TruncatedNormal(0.02, high=0.04)),
    "no spread": (Normal(0.0, 0.5), Constant(0.5)),
    "zero": (Zeros(), Constant(0.0)),
    "a constant in fp32": (Constant(0.1), Constant(0.10000000149011612)),
    "a std in fp32": (Normal(0.02), Normal(0.019999999552965164)),
    "orthogonal": (Orthogonal(2.0), Orthogonal(-2.0)),
    "sparse": (Sparse(0.1, 0.02), Sparse(0.105, 0.02)),  # 4 zeros of 32 either way
}
DIFFERENT: dict[str, tuple[Initializer, Initializer]] = {
    "std": (Normal(0.02), Normal(0.0201)),
    "std far from zero": (Normal(0.02, 100.0), Normal(0.0201, 100.0)),
    "mean": (Normal(0.02), Normal(0.02, 0.001)),
    "truncation": (Normal(0.02), TruncatedNormal(0.02)),
    "truncation of the same drawn std": (Normal(0.02), TruncatedNormal(0.02, correct_std=True)),
    "cutoff": (TruncatedNormal(0.02, cutoff=2), TruncatedNormal(0.02, cutoff=3)),
    "one bound": (TruncatedNormal(0.02, high=0.04), TruncatedNormal(0.02, low=-0.04)),
    "uniform of the same std": (Uniform(-math.sqrt(3), math.sqrt(3)), Normal(1.0)),
    "bounds": (Uniform(-1, 1), Uniform(-1, 1.001)),
    "a shift of the bounds": (Uniform(1e6, 1e6 + 1), Uniform(1e6 + 0.5, 1e6 + 1.5)),
    "constant": (Ones(), Zeros()),
    "gain": (Orthogonal(2.0), Orthogonal(2.1)),
    "identity": (Identity(), Identity(-1.0)),
    "orthogonal of the same std": (Orthogonal(), Normal(50**-0.5)),
    "sparse": (Sparse(0.1, 0.02), Sparse(0.13, 0.02)),
    "sparse std": (Sparse(0.1, 0.02), Sparse(0.1, 0.03)),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_spellings_of_one_distribution(pair: tuple[Initializer, Initializer]) -> None:
    one, other = map(entry, pair)
    assert same_distribution(one, other)
    assert same_distribution(other, one)


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_distributions(pair: tuple[Initializer, Initializer]) -> None:
    one, other = map(entry, pair)
    assert not same_distribution(one, other)
    assert not same_distribution(other, one)


def test_a_dtype_that_rounds_more_allows_more() -> None:
    constants = Constant(0.1), Constant(0.10009765625)  # as bf16 holds it
    assert not same_distribution(*map(entry, constants))
    assert same_distribution(*(entry(constant, dtype=torch.bfloat16) for constant in constants))
    assert not same_distribution(*(entry(Normal(std), dtype=torch.bfloat16) for std in (0.02, 0.02001)))


def test_the_matrices_in_a_weight_count() -> None:
    assert same_distribution(entry(Orthogonal()), entry(Orthogonal(), axes=TRANSPOSED)), "a transpose"
    gates = Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 4),))
    assert not same_distribution(entry(Orthogonal()), entry(Orthogonal(), axes=gates))
    assert not same_distribution(entry(Sparse(0.5)), entry(Sparse(0.5), axes=TRANSPOSED))
    kernel = {"shape": (8, 4, 3), "axes": KERNEL}
    assert same_distribution(entry(DeltaOrthogonal(), **kernel), entry(DeltaOrthogonal(-1.0), **kernel))
    assert not same_distribution(entry(DeltaOrthogonal(), **kernel), entry(Dirac(), **kernel))


# -- programs ----------------------------------------------------------------------------------------------------------


class Rates(nn.Module):
    """A random program, constants that are computed, and the same written otherwise."""

    def __init__(self, high: float, base: float, written: bool = False) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.log(torch.rand(64) * (high - 1) + 1))
        table = torch.arange(8.0) / base
        if written:
            table = torch.tensor([n / base for n in range(8)])
        self.register_buffer("table", table)
        self.register_buffer("mask", torch.ones(4).cumsum(0) > (0 if written else 0.5))


def plan(*arguments: Any) -> zeta.Plan:
    return zeta.record(Rates, *arguments)[1]


def differing(*arguments: Any) -> list[str]:
    one, other = plan(16.0, 7.0), plan(*arguments)
    return [a.name for a, b in zip(one, other, strict=True) if not same_distribution(a, b)]


def test_programs_are_compared_by_their_steps_and_computed_values_by_value() -> None:
    assert differing(16.0, 7.0) == []
    assert differing(16.0 * (1 + 1e-9), 7.0) == [], "the last digits of a number"
    assert differing(17.0, 7.0) == ["rate"]
    assert differing(16.0, 8.0) == ["table"]
    assert differing(16.0, 7.0, True) == [], "data and a computation of the same values"
    assert differing(16.0, 7.001, True) == ["table"]


def test_a_computed_constant_is_that_constant() -> None:
    computed = plan(16.0, 7.0)["mask"]
    assert same_distribution(computed, entry(Ones(), shape=(4,), axes=None, dtype=torch.bool))
    assert not same_distribution(computed, entry(Zeros(), shape=(4,), axes=None, dtype=torch.bool))
    assert not same_distribution(plan(16.0, 7.0)["rate"], entry(Normal(1.0), shape=(64,), axes=None))


@pytest.mark.parametrize("unlike", [torch.tensor([2**40 + 1, 7]), torch.tensor([2**60, 2**40])])
def test_integers_are_equal_or_others(unlike: torch.Tensor) -> None:
    """Rounding is for distributions: an index that is one off is another index."""

    class Indices(nn.Module):
        def __init__(self, given: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("index", given + torch.arange(2))

    one, same, other = (zeta.record(Indices, x)[1]["index"] for x in (unlike, unlike.clone(), unlike - 1))
    assert same_distribution(one, same)
    assert not same_distribution(one, other)
