"""Sums over a tensor's elements: against Python's own exact sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zeta.compute.sums import Sums, sums_of, sums_of_all

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.bool]


def values(dtype: torch.dtype, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * 6
    return drawn.to(dtype) if dtype is not torch.bool else drawn > 3


def expected(tensor: Tensor, centre: float) -> tuple[float, float, float, float]:
    numbers = [float(x) for x in tensor.flatten().tolist()]
    shifted = [x - centre for x in numbers]
    return math.fsum(shifted), math.fsum(x * x for x in shifted), min(numbers), max(numbers)


def same(found: Sums, tensor: Tensor, centre: float) -> bool:
    total, squares, low, high = expected(tensor, centre)
    near = math.isclose(found.sum, total, rel_tol=1e-9, abs_tol=1e-9) and math.isclose(
        found.squares, squares, rel_tol=1e-9
    )
    return near and (found.count, found.low, found.high) == (tensor.numel(), low, high)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 64, 1001, 70_001])
def test_sums_are_those_of_exact_arithmetic(dtype: torch.dtype, count: int) -> None:
    tensor = values(dtype, count)
    assert same(sums_of(tensor, 2.5), tensor, 2.5)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x.reshape(20, 50).t(),
        lambda x: x.reshape(20, 50)[3:7, 5:],
        lambda x: x.reshape(20, 50)[:, 0],
        lambda x: x.expand(3, -1),
        lambda x: torch.view_as_complex(x.reshape(-1, 2)).imag,
        lambda x: torch.view_as_complex(x.reshape(-1, 2)).conj().imag,
    ],
)
def test_views_are_summed_by_their_elements(view: object) -> None:
    tensor = view(values(torch.float32, 1000))  # type: ignore[operator]
    assert same(sums_of(tensor, -1.0), tensor, -1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_shows(bad: float) -> None:
    tensor = values(torch.float32, 100)
    tensor[37] = bad
    assert not math.isfinite(sums_of(tensor, 0.0).sum)


def test_many_at_once_are_as_one_by_one() -> None:
    parts = [(values(dtype, count), 1.5) for dtype in DTYPES for count in (1, 50, 999)]
    assert sums_of_all(parts) == [sums_of(*part) for part in parts]
    assert sums_of_all([]) == []


def test_the_sum_of_two_is_that_of_their_elements() -> None:
    tensor = values(torch.float64, 500)
    assert same(sums_of(tensor[:123], 2.0) + sums_of(tensor[123:], 2.0), tensor, 2.0)
    assert Sums() + sums_of(tensor, 2.0) == sums_of(tensor, 2.0) + Sums() == sums_of(tensor, 2.0)
