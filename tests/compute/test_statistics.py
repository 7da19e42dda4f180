"""The stream's values are distributed as they should be, and neighbouring streams know nothing of each other.

Every statistic becomes a p-value. Seeds are fixed, so that a verdict never changes; of a good stream, one p-value in
10,000 lies below ``LEAST``. The last tests give each statistic a flaw of the size that it is there to find, and see it
found: that is the power of the tests above. benchmarks/dieharder.py goes further.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from zeta.compute.sampling import sample
from zeta.compute.stream.random import parameter_key, words_of_run
from zeta.compute.stream.regions import Region
from zeta.initializers import Initializer, Normal, TruncatedNormal, Uniform

Array = NDArray[Any]

LEAST = 1e-4
COUNT = 2**18
STREAMS, LENGTH = 64, 2**13
KEY = parameter_key(0, "weight")


def words(key: int = KEY, start: int = 0, count: int = COUNT, draw: int = 0) -> Array:
    return words_of_run(key, start, count, draw=draw).numpy()


def drawn(initializer: Initializer, dtype: torch.dtype = torch.float32, count: int = COUNT) -> Array:
    return sample(initializer, key=KEY, region=Region.whole((count,)), dtype=dtype).double().numpy()


def two_sided(z: float) -> float:
    return float(2 * scipy.stats.norm.sf(abs(z)))


def of_the_least(p: Array | list[float]) -> float:
    """The p-value of the smallest of independent ones."""
    return float(-np.expm1(np.size(p) * np.log1p(-np.min(p))))


# -- statistics --------------------------------------------------------------------------------------------------------


def by_chi_square(cells: Array, number: int) -> float:
    """Whether all cells are hit equally often."""
    return float(scipy.stats.chisquare(np.bincount(cells, minlength=number)).pvalue)


def by_bits(w: Array) -> float:
    """Whether each of 32 bits is set half the time, whatever the others are, here and in the next word."""
    count, sums, pairs = len(w) - 1, np.zeros(32), np.zeros((32, 64))
    for start in range(0, count, 2**13):
        bits = ((w[start : start + 2**13 + 1, None] >> np.arange(32)) & 1).astype(np.float32) * 2 - 1
        here, following = bits[:-1], bits[1:]
        sums += here.sum(0)
        pairs += here.T @ np.concatenate([here, following], axis=1)
    z = np.concatenate([sums, pairs[:, :32][np.triu_indices(32, 1)], pairs[:, 32:].ravel()]) / math.sqrt(count)
    return of_the_least([two_sided(x) for x in z])


def by_serial_correlation(u: Array, lags: int = 128) -> float:
    """Whether values are uncorrelated with those 1 to ``lags`` places on."""
    x = (u - u.mean()) / u.std()
    z = np.array([x[:-lag] @ x[lag:] / math.sqrt(len(x) - lag) for lag in range(1, lags + 1)])
    return min(1.0, 2 * min(float(scipy.stats.chi2.sf(z @ z, lags)), of_the_least([two_sided(x) for x in z])))


def by_correlation(streams: Array) -> float:
    """Whether the rows are uncorrelated in pairs, element by element and one element apart."""
    count, length = streams.shape
    x = (streams - 0.5) * math.sqrt(12)
    level = (x @ x.T / math.sqrt(length))[np.triu_indices(count, 1)]
    apart = (x[:, :-1] @ x[:, 1:].T / math.sqrt(length - 1)).ravel()
    z = np.concatenate([level, apart])
    return min(1.0, 2 * min(float(scipy.stats.chi2.sf(z @ z, z.size)), of_the_least([two_sided(v) for v in z])))


def by_pairs(streams: Array) -> float:
    """Whether neighbouring rows' values fill the cells of a square evenly: any dependence, not only correlation."""
    cells = (streams * 16).astype(np.int64)
    return by_chi_square((cells[:-1] * 16 + cells[1:]).ravel(), 256)


def by_common_bits(streams: Array) -> float:
    """Whether neighbouring rows' words differ in half of their bits, in every place."""
    differences = (streams[:-1] ^ streams[1:]).ravel()
    ones = np.array([int(((differences >> bit) & 1).sum()) for bit in range(32)])
    z = (2 * ones - differences.size) / math.sqrt(differences.size)
    return of_the_least([two_sided(x) for x in z])


def by_kolmogorov(x: Array, distribution: Any) -> float:
    return float(scipy.stats.kstest(x, distribution.cdf).pvalue)


def by_moments(x: Array, distribution: Any) -> float:
    """Whether the first four moments, about the mean and in units of the std, are those of the distribution."""
    mean, std = distribution.mean(), distribution.std()
    y = (x - mean) / std
    exact = [1.0] + [distribution.expect(lambda v, k=k: ((v - mean) / std) ** k) for k in range(1, 9)]
    z = [((y**k).mean() - exact[k]) / math.sqrt((exact[2 * k] - exact[k] ** 2) / len(y)) for k in range(1, 5)]
    return of_the_least([two_sided(v) for v in z])


# -- words -------------------------------------------------------------------------------------------------------------

#: (start, draw): the beginning, elements beyond 32 bits, lower halves of fp64 values
ORIGINS = [(0, 0), (2**34 - 3, 0), (0, 2**63)]


@pytest.mark.parametrize(("start", "draw"), ORIGINS)
@pytest.mark.parametrize("shift", [0, 4, 8, 16, 20, 24])
def test_every_group_of_eight_bits_is_uniform(start: int, draw: int, shift: int) -> None:
    assert by_chi_square((words(start=start, draw=draw) >> shift) & 255, 256) > LEAST


@pytest.mark.parametrize(("start", "draw"), ORIGINS)
def test_bits_are_fair_and_independent(start: int, draw: int) -> None:
    assert by_bits(words(start=start, draw=draw)) > LEAST


@pytest.mark.parametrize(("start", "draw"), ORIGINS)
def test_words_are_not_correlated_with_later_ones(start: int, draw: int) -> None:
    assert by_serial_correlation(words(start=start, draw=draw) / 2.0**32) > LEAST


# -- neighbouring streams ----------------------------------------------------------------------------------------------

NEIGHBOURS: dict[str, Callable[[int], Array]] = {
    "seeds": lambda i: words(parameter_key(i, "weight"), count=LENGTH),
    "names": lambda i: words(parameter_key(0, f"h.{i}.weight"), count=LENGTH),
    "keys": lambda i: words(KEY + i, count=LENGTH),
    "draws": lambda i: words(draw=i, count=LENGTH),
    "draws of lower bits": lambda i: words(draw=2**63 * (i % 2) + i // 2, count=LENGTH),
    "rows": lambda i: words(start=i * LENGTH, count=LENGTH),
}


@pytest.fixture(scope="module", params=NEIGHBOURS)
def neighbours(request: pytest.FixtureRequest) -> Array:
    return np.stack([NEIGHBOURS[request.param](i) for i in range(STREAMS)])


def test_neighbouring_streams_are_not_correlated(neighbours: Array) -> None:
    assert by_correlation(neighbours / 2.0**32) > LEAST


def test_neighbouring_streams_are_independent(neighbours: Array) -> None:
    assert by_pairs(neighbours / 2.0**32) > LEAST
    assert by_common_bits(neighbours) > LEAST


def test_neighbouring_streams_interleaved_are_one_good_stream(neighbours: Array) -> None:
    interleaved = np.ascontiguousarray(neighbours.T).ravel()
    assert by_bits(interleaved) > LEAST
    assert by_serial_correlation(interleaved / 2.0**32) > LEAST


# -- values ------------------------------------------------------------------------------------------------------------

LAWS: dict[Initializer, Any] = {
    Uniform(-0.1, 0.3): scipy.stats.uniform(-0.1, 0.4),
    Normal(0.02, 0.5): scipy.stats.norm(0.5, 0.02),
    TruncatedNormal(0.02): scipy.stats.truncnorm(-2, 2, 0, 0.02),
    TruncatedNormal(0.3, 0.1, low=-0.2, high=1.0): scipy.stats.truncnorm(-1, 3, 0.1, 0.3),
    TruncatedNormal(1.0, low=0.0): scipy.stats.truncnorm(0, math.inf),
    TruncatedNormal(0.5, high=-2.5): scipy.stats.truncnorm(-math.inf, -5, 0, 0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("initializer", LAWS, ids=str)
def test_values_follow_their_distribution(initializer: Initializer, dtype: torch.dtype) -> None:
    distribution = LAWS[initializer]
    values = drawn(initializer, dtype, COUNT if dtype is torch.float32 else COUNT // 4)
    assert by_kolmogorov(values, distribution) > LEAST
    assert by_moments(values, distribution) > LEAST


def test_the_parts_of_complex_values_are_independent_normals() -> None:
    values = sample(Normal(1.0), key=KEY, region=Region.whole((COUNT,)), dtype=torch.complex64).numpy()
    parts = scipy.stats.norm.cdf(np.stack([values.real, values.imag]).astype(float) * math.sqrt(2))
    assert by_correlation(parts) > LEAST
    assert by_pairs(parts) > LEAST
    assert by_moments(np.abs(values) ** 2.0, scipy.stats.expon()) > LEAST


# -- power: flaws of stated size are found -----------------------------------------------------------------------------


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def random_words(shape: int | tuple[int, ...] = COUNT) -> Array:
    return generator().integers(0, 2**32, shape)


def test_a_byte_value_three_tenths_too_rare_is_found() -> None:
    rare = random_words() & 255
    again = (rare == 7) & (generator().random(COUNT) < 0.3)
    assert by_chi_square(rare, 256) > LEAST > by_chi_square(np.where(again, 8, rare), 256)


@pytest.mark.parametrize(
    ("flaw", "source"),
    [
        ("set in 51 %", lambda w: np.ones_like(w)),
        ("equal to another bit in 51 %", lambda w: w >> 3),
        ("equal to the next word's in 51 %", lambda w: np.roll(w, -1) >> 20),
    ],
)
def test_an_unfair_bit_is_found(flaw: str, source: Callable[[Array], Array]) -> None:
    good, chosen = random_words(), generator().random(COUNT) < 0.02
    flawed = np.where(chosen, good & ~np.int64(1 << 20) | (source(good) & 1) << 20, good)
    assert by_bits(good) > LEAST > by_bits(flawed), flaw


def test_a_serial_correlation_of_two_percent_is_found() -> None:
    good = generator().random(COUNT)
    assert by_serial_correlation(good) > LEAST > by_serial_correlation(good + 0.02 * np.roll(good, 17))


def test_a_correlation_of_one_percent_among_all_streams_is_found() -> None:
    streams = random_words((STREAMS, LENGTH)) / 2.0**32
    common = np.random.default_rng(1).random(LENGTH)
    flawed = np.where(np.random.default_rng(2).random(streams.shape) < math.sqrt(0.01), common, streams)
    assert by_correlation(streams) > LEAST > by_correlation(flawed)


def test_a_correlation_of_a_tenth_between_two_streams_is_found() -> None:
    streams = random_words((STREAMS, LENGTH)) / 2.0**32
    flawed = streams.copy()
    flawed[40] = np.where(np.random.default_rng(2).random(LENGTH) < 0.1, np.roll(streams[7], 1), streams[40])
    assert by_correlation(streams) > LEAST > by_correlation(flawed)


def test_two_percent_of_the_values_mirrored_between_neighbours_are_found() -> None:
    streams = random_words((STREAMS, LENGTH)) / 2.0**32
    mirrored = np.where(np.random.default_rng(2).random(LENGTH) < 0.02, 1 - streams[::2], streams[1::2])
    assert by_pairs(streams) > LEAST > by_pairs(np.stack([streams[::2], mirrored], axis=1).reshape(STREAMS, LENGTH))


def test_a_bit_set_for_all_streams_at_a_hundredth_of_the_elements_is_found() -> None:
    streams = random_words((STREAMS, LENGTH))
    flawed = np.where(np.random.default_rng(3).random(LENGTH) < 0.01, streams | 1 << 9, streams)
    assert by_common_bits(streams) > LEAST > by_common_bits(flawed)


@pytest.mark.parametrize(
    ("flaw", "change", "statistics"),
    [
        ("mean off by two hundredths of the std", lambda z: z + 0.02, (by_moments, by_kolmogorov)),
        ("std two hundredths too large", lambda z: z * 1.02, (by_moments, by_kolmogorov)),
        ("nothing beyond 3 std", lambda z: np.clip(z, -3.0, 3.0), (by_moments,)),
    ],
)
def test_a_flawed_normal_is_found(flaw: str, change: Callable[[Array], Array], statistics: Any) -> None:
    good, normal = generator().standard_normal(COUNT), scipy.stats.norm()
    for statistic in statistics:
        assert statistic(good, normal) > LEAST > statistic(change(good), normal), flaw
