"""Every law in every dtype at the extreme words of the stream, on every backend, beside exact quantiles.

Nobody would ever draw these words by chance. Philox can be inverted: for any four words there is the counter that gives
them, and a kernel that is asked for that element must hold its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mpmath
import pytest
import torch
from torch import nn

import zeta
from tests.compute.test_vectors import FORMATS, quantile
from tests.vectors.philox import word_by_integers
from zeta import Rule, Rules
from zeta.base import dtypes
from zeta.compute.sampling import _law
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels.tasks import Task
from zeta.compute.stream.random import interval, normal64, uniform64
from zeta.compute.stream.regions import Region
from zeta.initializers import Blocks, Constant, Initializer, Normal, TruncatedNormal, Uniform

MASK = 2**32 - 1
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
BLOCKS = [
    (0, 1, 255, 256),
    (0x7FFFFF00, 0x7FFFFFFF, 0x80000000, 0x800000FF),
    (0xFFFFFEFF, 0xFFFFFF00, 0xFFFFFFFE, 0xFFFFFFFF),
]


def counter_of(block: tuple[int, ...], key: int) -> int:
    """The 128-bit counter to which Philox gives the block: its ten rounds, backwards."""
    inverse = [pow(m, -1, 2**32) for m in MULTIPLIERS]
    c0, c1, c2, c3 = block
    for number in reversed(range(10)):
        k0, k1 = ((key + number * WEYL[0]) & MASK, ((key >> 32) + number * WEYL[1]) & MASK)
        b0, b2 = c3 * inverse[0] & MASK, c1 * inverse[1] & MASK
        b1, b3 = c0 ^ (b2 * MULTIPLIERS[1] >> 32) ^ k0, c2 ^ (b0 * MULTIPLIERS[0] >> 32) ^ k1
        c0, c1, c2, c3 = b0, b1, b2, b3
    return c0 | c1 << 32 | c2 << 64 | c3 << 96


def place_of(block: tuple[int, ...]) -> tuple[int, int, int]:
    """A key, a draw and the index of the first element, below 2^62, whose words are the block."""
    for key in range(1000):
        counter = counter_of(block, key)
        if (low := counter & 2**64 - 1) < 2**60 and not counter >> 127:
            return key, counter >> 64, 4 * low
    raise AssertionError


PLACES = {block: place_of(block) for block in BLOCKS}


def test_philox_is_inverted() -> None:
    for block, (key, draw, index) in PLACES.items():
        assert tuple(word_by_integers(key, index + i, draw) for i in range(4)) == block


LAWS: dict[str, Initializer] = {
    "unit": Uniform(),
    "symmetric": Uniform(-0.04, 0.04),
    "beside one": Uniform(1.0, 2.0),
    "far off": Uniform(100.0, 101.0),
    "tiny": Uniform(-1e-6, 1e-6),
    "normal": Normal(1.0),
    "shifted": Normal(0.02, mean=5.0),
    "two sigma": TruncatedNormal(0.02),
    "nine sigma": TruncatedNormal(1.0, cutoff=9.0),
    "absolute": TruncatedNormal(0.02, low=-0.03, high=0.05),
    "below alone": TruncatedNormal(1.0, low=0.0),
    "above alone": TruncatedNormal(1.0, high=-0.7),
    "a tail": TruncatedNormal(1.0, low=3.0, high=4.0),
}


def spacing(value: float, dtype: torch.dtype) -> float:
    """The distance between neighbouring numbers of ``dtype`` around ``value``."""
    form = torch.finfo(dtype)
    eps = 0.25 if dtype in (torch.float8_e5m2, torch.float8_e5m2fnuz) else form.eps  # of fnuz torch says half of it
    return max(2.0 ** (math.frexp(value)[1] - 1), form.smallest_normal) * eps


def exact(law: Any, word: int) -> tuple[mpmath.mpf, float]:
    """The exact value, and what fp32 may add to it before it is rounded to its dtype."""
    if isinstance(law, Uniform):
        value = law.low + (law.high - law.low) * mpmath.mpf(word >> 8) / 2**24
        return value, 2.0**-24 * max(abs(law.low), abs(law.high))
    z, error = quantile(word, *(law.sigmas() if isinstance(law, TruncatedNormal) else (-math.inf, math.inf)), "float32")
    value = law.mean + law.std * z
    return value, law.std * error + 2.0**-23 * (law.std * float(abs(z)) + abs(law.mean) + float(abs(value)))


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    with mpmath.workdps(40):
        yield


@pytest.mark.parametrize("backend", kernels.candidates("cpu"))
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [dtype for dtype in dtypes.REAL if dtype is not torch.float64], ids=dtypes.name_of)
def test_a_law_at_the_ends_of_the_stream(
    dtype: torch.dtype, name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, backend)
    law = LAWS[name]
    if dtype.itemsize == 1 and name == "far off":
        with pytest.raises(zeta.SpecError, match=r"no float8_.* number lies between 100.0 and 101.0"):
            _law(law, dtype)
        return
    for block, (key, draw, index) in PLACES.items():
        out = torch.empty(4, dtype=dtype)
        region = Region(shape=(2**62,), offsets=(index,), sizes=(4,))
        kernels.fill([Task(law=_law(law, dtype), keys=(key,), draw=draw, region=region, outs=(out,))])
        for word, got in zip(block, out.double().tolist(), strict=True):
            value, error = exact(law, word)
            assert law.bounds()[0] <= got <= law.bounds()[1]  # in each of these a number of the dtype lies
            assert abs(got - value) <= spacing(float(value), dtype) + error, (hex(word), got, float(value))


@pytest.mark.parametrize("sigmas", [(-math.inf, math.inf), (-2.0, 2.0), (0.0, math.inf), (3.0, 4.0), (-9.0, 9.0)])
def test_a_normal_law_of_fp64_at_the_ends_of_the_stream(sigmas: tuple[float, float]) -> None:
    words = [0, 1, 2**52 - 1, 2**52, 2**53 - 2, 2**53 - 1]
    found = normal64(torch.tensor(words), interval(*sigmas, bits=53))
    for word, got in zip(words, found.tolist(), strict=True):
        value, error = quantile(word, *sigmas, "float64")
        assert sigmas[0] <= got <= sigmas[1]
        assert abs(got - value) <= error + 1e-15, (word, got, float(value))


def test_a_uniform_number_of_fp64_is_below_one() -> None:
    ones = torch.tensor([MASK])
    assert uniform64(ones, ones).item() == 1 - 2.0**-53


def test_all_formats_are_tried() -> None:
    assert {dtypes.name_of(dtype) for dtype in dtypes.REAL} >= {*FORMATS}


def test_the_sign_of_a_zero_does_not_depend_on_what_was_drawn_before() -> None:
    """Caches of laws are keyed by equality, and -0.0 equals 0.0."""
    pairs = [(Normal(0.0, 0.0), Normal(0.0, -0.0)), (Normal(5e-324, 0.0), Normal(5e-324, -0.0))]
    for one, other in pairs:
        drawn = [
            [torch.signbit(zeta.fill_(torch.empty(64), law, 0, name="w")) for law in order]
            for order in ((one, other), (other, one))
        ]
        assert torch.equal(drawn[0][0], drawn[1][1])
        assert torch.equal(drawn[0][1], drawn[1][0])
        assert not torch.equal(drawn[0][0], drawn[0][1])


def test_the_sign_of_a_zero_in_a_block_does_not_depend_on_what_was_planned_before() -> None:
    for value in (0.0, -0.0, 0.0):
        layer = nn.Linear(3, 4, bias=False)
        zeta.init_(layer, Rules([Rule("weight", Blocks(Constant(value), Constant(value)))]), seed=0)
        assert bool(layer.weight.signbit().all()) is (math.copysign(1.0, value) < 0), value
