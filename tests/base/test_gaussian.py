"""Normal quantiles against scipy and mpmath, fused multiply-add against exact fractions, truncation and its moments."""

from __future__ import annotations

import math
from decimal import ROUND_UP, Context, Inexact, localcontext
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.sweep import RUN, all_runs, from_reference, spread_runs, sweep
from zeta.base import dtypes
from zeta.base.gaussian import truncated_moments, upper_tail
from zeta.compute.sampling import sample
from zeta.compute.stream.random import _sqrt64, fma32, interval, normal32, normal64
from zeta.compute.stream.regions import Region
from zeta.initializers import TruncatedNormal

INF = math.inf
ERROR = 4e-7  # the relative error that the stream promises, in fp32

# -- fused multiply-add ------------------------------------------------------------------------------------------------


def exact_fma(a: float, b: float, c: float) -> float:
    """``a * b + c``, rounded to fp32 once: to a multiple of the spacing there, ties to even."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # the sign of a zero
    exponent = math.floor(math.log2(abs(exact.numerator)) - math.log2(exact.denominator))
    while not Fraction(2) ** exponent <= abs(exact) < Fraction(2) ** (exponent + 1):
        exponent += 1 if abs(exact) >= Fraction(2) ** (exponent + 1) else -1
    spacing = Fraction(2) ** max(exponent - 23, -149)
    rounded = round(exact / spacing) * spacing
    size = INF if abs(rounded) >= 2**128 else float(abs(rounded))
    return math.copysign(size, exact)


def double64(values: list[float] | np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def assert_fma_exact(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    got = fma32(double64(a), double64(b), double64(c)).numpy()
    expected = np.array([exact_fma(*map(float, abc)) for abc in zip(a, b, c, strict=True)])
    wrong = got.view(np.int64) != expected.view(np.int64)
    assert not wrong.any(), [(a[i], b[i], c[i], got[i], expected[i]) for i in wrong.nonzero()[0][:3]]


def naive_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (a * b + c).astype(np.float32).astype(np.float64)


def fp32_floats(exponents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = exponents.shape
    return rng.choice([-1.0, 1.0], size) * np.ldexp(rng.integers(2**23, 2**24, size).astype(float), exponents - 23)


fp32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(fp32s, fp32s, fp32s)
@example(0.0, -1.0, 0.0)
@example(-0.0, 1.0, -0.0)
@example(1.5, 2.0, -3.0)
@example(2.0**-149, 2.0**-149, -(2.0**-149))  # a product far below the smallest fp64 normal's fp32 neighbours
@example(2.0**-75, 2.0**-75, 0.0)  # exactly half the smallest subnormal
@example(2.0**-75, 2.0**-75, 2.0**-149)
@example(2.0**127, 2.0, -(2.0**127))  # the product overflows fp32, the sum does not
@example(2.0**127, 2.0, 0.0)
@example(3.0, 5592407.0, 2.0**-40)  # the product is half way between two fp32 numbers, and the rest is below fp64
@example(3.0, 5592407.0, -(2.0**-40))
@example(3.0, -5592409.0, 2.0**-40)
def test_fma_rounds_the_exact_sum_once(a: float, b: float, c: float) -> None:
    assert_fma_exact(np.array([a]), np.array([b]), np.array([c]))


@pytest.mark.parametrize("subnormal", [False, True])
def test_fma_where_rounding_twice_goes_wrong(subnormal: bool) -> None:
    rng = np.random.default_rng(1)
    n = 1000
    exponent = np.full(n, -126) if subnormal else rng.integers(-120, 100, n)
    c = rng.choice([-1.0, 1.0], n) * np.ldexp(rng.integers(2**15, 2**23, n) + (not subnormal) * 2.0**23, exponent - 23)
    # half of c's last place, but for less than fp64 can hold beside c: +-2^e (1 + i 2^-23)(1 - i 2^-23)
    i = np.ldexp(rng.integers(1, 64, n).astype(float), -23)
    a, b = rng.choice([-1.0, 1.0], n) * np.ldexp(1 + i, exponent - 24 + 40), np.ldexp(1 - i, -40)
    assert_fma_exact(a, b, c)
    expected = np.array([exact_fma(*map(float, abc)) for abc in zip(a, b, c, strict=True)])
    assert (naive_fma(a, b, c) != expected).sum() > n / 8  # these are hard indeed


def test_fma_of_ties_among_the_smallest_numbers() -> None:
    rng = np.random.default_rng(3)
    a, b = fp32_floats(rng.integers(-80, -70, 1000), rng), np.ldexp(rng.integers(1, 9, 1000).astype(float), -75)
    a[::2] = np.ldexp(rng.integers(-9, 10, 500).astype(float), -75)  # whole numbers of half the smallest subnormal
    assert_fma_exact(a, b, np.ldexp(rng.integers(-9, 10, 1000).astype(float), -149))


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_a_square_root_is_the_nearest_number_even_if_torchs_is_beside_it(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(4).uniform(0.4, 45, 5000)  # minus logarithms of tails
    expected = np.array([math.sqrt(number) for number in x])  # IEEE 754 demands the nearest
    wrong = expected if steps == 0 else np.nextafter(expected, steps * INF)
    monkeypatch.setattr(Tensor, "sqrt", lambda _: torch.from_numpy(wrong))
    assert _sqrt64(torch.from_numpy(x)).tolist() == expected.tolist()


def test_fma_of_ordinary_numbers_and_scalars() -> None:
    rng = np.random.default_rng(2)
    a, b, c = (fp32_floats(rng.integers(-30, 2, 3000), rng) for _ in range(3))
    assert_fma_exact(a, b, c)
    shared = fma32(double64(a), float(b[0]), float(c[0]))
    assert shared.tolist() == [exact_fma(x, float(b[0]), float(c[0])) for x in a.tolist()]


# -- the quantile ------------------------------------------------------------------------------------------------------

HALF = 2**31
BRANCH = HALF + 25 * 2**26  # where q = 25/64 and the formula changes

# starts of runs of 4096 words: the centre, each power of two from either end, where q leaves 24 bits, the branch
STRATA = sorted(
    {HALF, BRANCH - 2048, HALF + 2**24 - 2048, 2**32 - 4096}
    | {HALF + 2**k for k in range(12, 31)}
    | {2**32 - 2**k - 2048 for k in range(13, 31)}
    # where p passes 2^k sqrt(1/2), and the exponent of the logarithm changes
    | {2**32 - int(2**k * math.sqrt(0.5)) - 2048 for k in range(13, 31)}
)


def run(start: int) -> Tensor:
    return torch.arange(start, start + 4096)


def midpoint_quantile(words: Tensor, bits: int = 32) -> np.ndarray:
    """scipy's quantile of ``(w + 1/2) / 2^bits``, through the smaller tail; exact to some 1e-15 for 32 bits."""
    mirrored = 2**bits - 1 - words
    tail = (torch.minimum(words, mirrored).double().numpy() + 0.5) / 2.0**bits
    return scipy.special.ndtri(tail) * np.where((words < mirrored).numpy(), 1.0, -1.0)


@pytest.mark.parametrize("start", STRATA)
def test_normal_is_accurate_monotone_and_symmetric(start: int) -> None:
    words = run(start)
    z = normal32(words, interval())
    assert z.float().double().equal(z)  # fp32 values
    assert np.abs(z.numpy() / midpoint_quantile(words) - 1).max() <= ERROR
    assert bool((z.diff() >= 0).all())
    assert normal32(2**32 - 1 - words, interval()).equal(-z)


def test_normal_is_accurate_at_random_words() -> None:
    words = torch.randint(2**32, (200_000,))
    z = normal32(words, interval())
    assert np.abs(z.numpy() / midpoint_quantile(words) - 1).max() <= ERROR
    assert z.unique().numel() > 199_000 * 0.98


def test_the_extreme_values_of_normal() -> None:
    words = torch.tensor([0, HALF - 1, HALF, 2**32 - 1])
    z = normal32(words, interval()).tolist()
    assert z[3] == -z[0] == pytest.approx(6.337957754, rel=ERROR)  # -ndtri(2^-33)
    assert z[2] == -z[1] == pytest.approx(math.sqrt(2 * math.pi) * 2**-33, rel=ERROR)


def test_a_sweep_measures_a_run_and_finds_a_flaw() -> None:
    found = sweep(from_reference, [2**32 - RUN])
    assert (found.words, found.word >> 31) == (2 * RUN, 1)
    assert 1e-7 < found.error <= ERROR  # fp32 itself is not better: something was measured

    def flawed(start: int, count: int) -> np.ndarray:
        z = from_reference(start, count)
        z[count // 2] *= np.float32(1 + 2**-10)
        return z

    with pytest.raises(AssertionError, match="the value falls after word 0xfffe0000"):
        sweep(flawed, [2**32 - RUN], mirrored=False)


@pytest.mark.slow
def test_normal_is_accurate_monotone_and_symmetric_at_the_ends_and_evenly_spread_words() -> None:
    found = sweep(from_reference, spread_runs(32))
    assert found.words > 2**25.9
    assert found.error <= ERROR


@pytest.mark.slow
def test_normal_is_accurate_and_monotone_over_all_words() -> None:
    found = sweep(from_reference, all_runs(), mirrored=False)  # symmetric by construction, which the tests above see
    assert found.words == 2**31
    assert 1e-7 < found.error <= ERROR


# -- the quantile in fp64 ----------------------------------------------------------------------------------------------


def mp_quantile(word: int, bits: int) -> float:
    """The quantile of ``(word + 1/2) / 2^bits`` in 60 digits."""
    with mpmath.workdps(60):
        distance = mpmath.mpf(2 * word + 1 - 2**bits) / 2**bits  # twice the distance from 1/2
        return float(mpmath.sqrt(2) * mpmath.erfinv(distance))


WORDS53 = [
    *(2**52 + d for d in (0, 1, 2**10, 2**30, 2**45, 2**50)),
    *(2**53 - 1 - d for d in (0, 1, 2**10, 2**30, 2**45, 2**50)),
    *(2**52 + int(0.425 * 2**53) + d for d in (-1, 0, 1, 2)),  # where AS 241 changes its formula
    *(2**53 - int(math.exp(-25) * 2**53) + d for d in (-1, 0, 1, 2)),  # and where sqrt(-ln p) = 5
]


def test_normal64_is_accurate_and_symmetric() -> None:
    words = torch.tensor(WORDS53)
    within = interval(bits=53)
    z = normal64(words, within)
    expected = np.array([mp_quantile(word, 53) for word in WORDS53])
    assert np.abs(z.numpy() / expected - 1).max() < 2e-15
    assert normal64(2**53 - 1 - words, within).equal(-z)
    more = torch.randint(2**53, (300,))
    expected = np.array([mp_quantile(word, 53) for word in more.tolist()])
    assert np.abs(normal64(more, within).numpy() / expected - 1).max() < 2e-15


@pytest.mark.parametrize("start", [2**52, 2**52 + 2**40, 2**53 - 4096, 2**53 - 2**45])
def test_normal64_is_monotone_up_to_rounding(start: int) -> None:
    z = normal64(run(start), interval(bits=53))
    assert bool((z.diff() >= -4e-16 * z[1:]).all())
    assert float(z[-1]) > float(z[0])


# -- truncation --------------------------------------------------------------------------------------------------------

CENTRAL = [(-2.0, 2.0), (-1.0, 1.0), (-0.1, 0.1), (-8.0, 8.0), (-30.0, 30.0), (-1.0, 3.0), (-0.001, 5.0)]
ONE_SIDED = [(0.0, INF), (-INF, 0.0), (1.0, 1.5), (-1.5, -1.0), (2.5, INF), (-INF, 1.0), (-INF, 6.0)]
FAR = [(4.0, INF), (8.0, INF), (-INF, -8.0), (8.0, 8.1), (7.9, 30.0), (-30.0, -8.0), (8.0, 8.0001)]
INTERVALS = CENTRAL + ONE_SIDED + FAR


def spread_words(bits: int) -> Tensor:
    """Both ends, both sides of the middle, and many between."""
    total = 2**bits
    near = torch.arange(64)
    return torch.cat([near, total // 2 - 32 + near, total - 64 + near, torch.randint(total, (5000,))])


def allowed(expected: np.ndarray, low: float, high: float, relative: float, bits: int) -> np.ndarray:
    """A relative error of z, plus that of rounding the words' split between the sides of zero to a whole word."""
    phi, cdf = scipy.stats.norm.pdf(expected), scipy.stats.norm.cdf
    mass = cdf(high) - cdf(low) if low < 0 else cdf(-low) - cdf(-high)
    return relative * np.abs(expected) + (mass * 2.0**-bits / phi if low < 0 < high else 0.0)


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_quantiles_are_those_of_scipy(low: float, high: float) -> None:
    words = spread_words(32)
    z = normal32(words, interval(low, high)).numpy()
    expected = scipy.stats.truncnorm.ppf((words.double().numpy() + 0.5) / 2.0**32, low, high)
    assert (np.abs(z - expected) <= allowed(expected, low, high, ERROR, 32)).all()
    assert float(z.min()) < 0 or low >= 0
    assert float(z.max()) > 0 or high <= 0


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_quantiles_are_mirrored_with_the_interval(low: float, high: float) -> None:
    words = spread_words(32)
    assert interval(low, high).split + interval(-high, -low).split == 2**32
    assert normal32(words, interval(low, high)).equal(-normal32(2**32 - 1 - words, interval(-high, -low)))


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (1.0, 1.5), (8.0, INF), (-INF, -7.0)])
def test_truncated_quantiles_in_fp64(low: float, high: float) -> None:
    words = torch.cat([torch.arange(3), 2**53 - 1 - torch.arange(3), torch.randint(2**53, (40,))])
    z = normal64(words, interval(low, high, bits=53)).numpy()
    with mpmath.workdps(50):

        def tail(x: float | mpmath.mpf) -> mpmath.mpf:
            return mpmath.erfc(x / mpmath.sqrt(2)) / 2

        # the probability of each value inside the interval gives the word back, by way of the nearer tail
        mass = tail(low) - tail(high)
        for word, value in zip(words.tolist(), z.tolist(), strict=True):
            target = (mpmath.mpf(word) + 0.5) / 2**53
            got = (tail(low) - tail(mpmath.mpf(value))) / mass
            slope = mpmath.npdf(value) / mass
            assert abs(got - target) <= slope * abs(value) * 4e-15 + 2.0**-53, (word, value)


@pytest.mark.parametrize("dtype", dtypes.REAL)
@pytest.mark.parametrize(("mean", "std", "low", "high"), [
    (0.0, 0.3, 0.1, 0.2), (0.0, 0.3, -0.2, -0.1), (0.5, 0.1, 0.47, 0.53), (0.0, 1.0, 7.9, None), (0.0, 1.0, 0.3, 0.33),
    (1.0, 1.0, None, -6.9), (0.0, 0.02, -0.04, 0.04), (1e-3, 3e-4, 1e-3, 3e-3),
])  # fmt: skip
def test_truncated_values_never_leave_their_bounds(
    dtype: torch.dtype, mean: float, std: float, low: float | None, high: float | None
) -> None:
    spec = TruncatedNormal(std, mean, low=low, high=high)
    values = sample(spec, key=3, region=Region.whole((20_000,)), dtype=dtype).double()
    assert low is None or float(values.min()) >= low
    assert high is None or float(values.max()) <= high


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_hold_where_only_few_numbers_lie_between(dtype: torch.dtype) -> None:
    low, high = 0.1, 0.1 + 4e-8 if dtype is torch.float32 else 0.1 + 6e-17
    spec = TruncatedNormal(0.3, low=low, high=high)
    values = sample(spec, key=3, region=Region.whole((5000,)), dtype=dtype).double()
    assert low <= float(values.min()) <= float(values.max()) <= high


# -- constants in decimal arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "z", [0.0, 1e-300, 0.1, 1.0, 2.0, 2.999999, 3.0, 3.000001, 8.0, 37.5, 100.0, -1.0, -8.0, -40.0]
)
def test_upper_tail_has_30_digits(z: float) -> None:
    with mpmath.workdps(60):
        expected = mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)) / 2
        assert abs(mpmath.mpf(str(upper_tail(z))) / expected - 1) < 1e-30


def test_upper_tail_at_infinity() -> None:
    assert (upper_tail(INF), upper_tail(-INF)) == (0, 1)


@pytest.mark.parametrize("context", [Context(prec=6), Context(rounding=ROUND_UP), Context(traps=[Inexact])])
def test_the_decimal_context_of_the_caller_does_not_matter(context: Context) -> None:
    def constants() -> list[object]:
        interval.cache_clear()
        upper_tail.cache_clear()
        truncated_moments.cache_clear()
        tails = [upper_tail(z) for z in (-1.0, 2.0, 5.0)]
        return [*tails, interval(-1.0, 3.0), interval(0.3, INF, bits=53), truncated_moments(0.1, 0.5, 0.0, 1.0)]

    expected = constants()
    with localcontext(context):
        assert constants() == expected


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"),
    [
        (0.0, 1.0, -2.0, 2.0),
        (0.0, 0.02, -0.04, 0.04),
        (3.0, 0.5, 2.0, 5.0),
        (0.0, 1.0, 0.0, INF),
        (-1.0, 2.0, -INF, 3.0),
        (0.0, 1.0, -INF, INF),
        (0.0, 1.0, 1.0, 1.0 + 2**-20),
        (0.0, 1.0, 8.0, INF),
        # bounds whose distance in sigmas is no float, close to each other or far out, where errors are enlarged
        (0.1, 0.3, -2.5, -2.0),
        (0.0, 0.3, 0.1, 0.1 + 1e-4),
        (0.1, 0.02, 0.1333, 0.13331),
    ],
)
def test_truncated_moments_are_those_of_the_density(mean: float, std: float, low: float, high: float) -> None:
    with mpmath.workdps(30):
        points = mpmath.linspace(max(low, mean - 30 * std), min(high, mean + 30 * std), 13)

        def expectation(power: int, centre: mpmath.mpf) -> mpmath.mpf:
            def integrand(x: mpmath.mpf) -> mpmath.mpf:
                return (x - centre) ** power * mpmath.npdf(x, mean, std)

            return mpmath.quad(integrand, points, method="gauss-legendre")

        mass = expectation(0, mpmath.mpf(0))
        first = expectation(1, mpmath.mpf(0)) / mass
        second, fourth = (expectation(power, first) / mass for power in (2, 4))
        expected = (float(first), float(mpmath.sqrt(second)), float(fourth / second**2))
    got = truncated_moments(mean, std, low, high)
    assert (got.mean, got.std, got.kurtosis) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("std", [1e3, 1e10, 1e39, 1e300])
@pytest.mark.parametrize("low", [-0.04, 0.0, -1e-300])
def test_a_wide_normal_between_close_bounds_is_uniform(low: float, std: float) -> None:
    found = truncated_moments(0.0, std, low, 0.04)
    assert found.mean == pytest.approx((low + 0.04) / 2, abs=1e-10)
    assert (found.std, found.kurtosis) == pytest.approx(((0.04 - low) / math.sqrt(12), 1.8), rel=1e-8)


@pytest.mark.parametrize("width", [1e-3, 2.4e-4, 1.6e-4, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("near", [0.0, 1.0, 3.0, -3.0, 7.5])
def test_moments_between_close_bounds_are_those_of_an_integral(near: float, width: float) -> None:
    """On both sides of where the series begins: Gauss-Legendre in s from -1 to 1, exact to fp64 for so smooth a law."""
    low, high = near, near + width
    half = (high - low) / 2
    s, weights = np.polynomial.legendre.leggauss(20)
    middle = low + half
    density = weights * np.exp(-middle * half * s - (half * s) ** 2 / 2)
    density /= density.sum()
    m1 = float(density @ s)
    m2, m4 = (float(density @ (s - m1) ** power) for power in (2, 4))
    found = truncated_moments(0.0, 1.0, low, high)
    assert found.mean - middle == pytest.approx(half * m1, abs=4e-16 * max(abs(near), 1))
    assert found.std == pytest.approx(half * math.sqrt(m2), rel=1e-13)
    assert found.kurtosis == pytest.approx(m4 / m2**2, rel=1e-9)
