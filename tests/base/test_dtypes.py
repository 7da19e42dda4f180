"""What dtypes hold, against all the numbers that they have."""

from __future__ import annotations

import math

import pytest
import torch

from zeta.base import dtypes
from zeta.errors import SpecError
from zeta.initializers import Constant
from zeta.initializers.reach import check_law

NARROW = [dtype for dtype in dtypes.REAL if dtype.itemsize <= 2]
INTEGER = {1: torch.int8, 2: torch.int16}


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """All finite numbers of a narrow dtype, in order, in fp64."""
    patterns = torch.arange(256**dtype.itemsize).to(INTEGER[dtype.itemsize])
    values = patterns.view(dtype).double()
    return values[values.isfinite()].unique()


@pytest.mark.parametrize("dtype", NARROW)
def test_largest_number_and_relative_rounding(dtype: torch.dtype) -> None:
    values = numbers(dtype)
    assert dtypes.largest(dtype) == float(values[-1])
    one = int((values == 1.0).nonzero())
    assert dtypes.relative_rounding(dtype) == float(values[one + 1] - 1.0) / 2


def test_relative_rounding_of_wide_and_complex_dtypes() -> None:
    expected = {torch.float32: 2**-24, torch.complex64: 2**-24, torch.float64: 2**-53, torch.complex32: 2**-11}
    assert {dtype: dtypes.relative_rounding(dtype) for dtype in expected} == expected


@pytest.mark.parametrize("dtype", NARROW)
def test_bounds_are_rounded_inwards_to_the_next_number(dtype: torch.dtype) -> None:
    values = numbers(dtype)
    largest, tiniest = float(values[-1]), float(values[values > 0].min())
    bounds = [0.0, 0.1, 1.0, 1.3, largest, tiniest, 2.5 * tiniest, 1.1 * tiniest, 0.6 * tiniest, 0.4 * tiniest, 1e-60]
    bounds = sorted({*bounds, *(-bound for bound in bounds)})
    for low in bounds:
        for high in bounds:
            inside = values[(values >= low) & (values <= high)]
            if low > high or not inside.numel():
                with pytest.raises(SpecError, match=f"no {dtypes.name_of(dtype)} number lies between"):
                    dtypes.inward(low, high, dtype)
            else:
                inner = dtypes.inward(low, high, dtype)
                assert inner == (float(inside[0]), float(inside[-1])), (low, high)
                assert all(math.copysign(1.0, bound) == 1.0 for bound in inner if bound == 0.0), (low, high)


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.float64])
def test_bounds_beyond_a_dtype_are_infinite(dtype: torch.dtype) -> None:
    largest = dtypes.largest(dtype)
    beyond = math.nextafter(largest, math.inf)
    assert dtypes.inward(-beyond, beyond, dtype) == (-math.inf, math.inf)
    assert dtypes.inward(-largest, largest, dtype) == (-largest, largest)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2.0**64, torch.uint64),
        (2.0**63, torch.int64),
        (-1.0, torch.uint8),
        (256.0, torch.uint8),
        (-129.0, torch.int8),
        (2.0, torch.bool),
    ],
)
def test_whole_numbers_beyond_a_dtype_are_refused(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(SpecError, match="is none of the whole numbers of"):
        check_law(Constant(value), dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint64, torch.bool])
def test_the_ends_of_the_whole_numbers_are_held(dtype: torch.dtype) -> None:
    ends = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    for end in (float(end) for end in ends if float(end) == end):
        check_law(Constant(end), dtype)
        assert torch.full((1,), int(end), dtype=dtype).item() == end
