"""The stream's bits: keys against hashlib, words against Philox on Python's integers, drawn seeds, constants."""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import reduce
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.vectors.philox import philox_by_integers, word_by_integers
from zeta.compute.stream import random as stream
from zeta.compute.stream.random import (
    STREAM_VERSION,
    check_seed,
    draw_seed,
    fp32,
    parameter_key,
    philox,
    uniform32,
    uniform64,
    word53,
    words_at,
    words_of_run,
)
from zeta.errors import SpecError

KEY = 0x299F31D0A4093822  # the digits of pi of Random123's own vectors

# Random123 1.14, tests/kat_vectors: philox4x32-10, counter words, key words, output words
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
CPP26_SEED = 20111115  # std::philox4x32's default; C++26 requires 1955073260 as its 10000th value


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def philox_of(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    words = philox([torch.tensor([word]) for word in counter], (key[0], key[1]))
    return tuple(int(word) for word in words)


# -- Philox4x32-10 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [philox_of, philox_by_integers])
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(function: Any, counter: str, key: str, expected: str) -> None:
    assert function(integers(counter), integers(key)) == integers(expected)


def test_the_10000th_word_is_that_of_cpp26() -> None:
    assert int(words_of_run(CPP26_SEED, 9999, 1)) == word_by_integers(CPP26_SEED, 9999) == 1955073260


u32 = st.integers(0, 2**32 - 1)


@given(st.tuples(u32, u32, u32, u32), st.tuples(u32, u32))
@example((2**32 - 1, 0, 2**31, 1), (2**31, 2**32 - 1))
def test_philox_agrees_with_unbounded_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    assert philox_of(counter, key) == philox_by_integers(counter, key)


# -- words -------------------------------------------------------------------------------------------------------------

# around each place where a counter word carries over, and where an index leaves 32 bits
STARTS = [0, 1, 2, 3, 4, 2**32 - 5, 2**32 - 2, 2**34 - 6, 2**34 - 1, 2**34, 3 * 2**40 + 1, 2**62 - 16]
DRAWS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 | 1, 2**64 - 1]


@pytest.mark.parametrize("start", STARTS)
def test_runs_of_any_alignment_and_length_are_the_words_of_their_elements(start: int) -> None:
    expected = [word_by_integers(KEY, start + i) for i in range(9)]
    for count in range(10):
        words = words_of_run(KEY, start, count)
        assert words.dtype is torch.int64
        assert words.tolist() == expected[:count]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("key", [0, 1, 2**32, 2**63, KEY, 2**64 - 1])
def test_key_and_draw_use_all_their_64_bits(key: int, draw: int) -> None:
    start = 2**34 - 2
    expected = [word_by_integers(key, start + i, draw) for i in range(5)]
    assert words_of_run(key, start, 5, draw=draw).tolist() == expected
    assert words_at(key, torch.arange(start, start + 5), draw=draw).tolist() == expected


@given(
    key=st.integers(0, 2**64 - 1),
    indices=st.lists(st.integers(0, 2**62), max_size=8),
    draw=st.integers(0, 2**64 - 1),
)
def test_words_at_any_indices(key: int, indices: list[int], draw: int) -> None:
    words = words_at(key, torch.tensor(indices, dtype=torch.int64), draw=draw)
    assert words.tolist() == [word_by_integers(key, index, draw) for index in indices]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3), (2, 1, 5)])
def test_words_at_keeps_the_shape_of_the_indices(shape: tuple[int, ...]) -> None:
    indices = torch.randint(2**40, shape, dtype=torch.int64)
    expected = torch.tensor([word_by_integers(KEY, i) for i in indices.flatten().tolist()], dtype=torch.int64)
    assert torch.equal(words_at(KEY, indices), expected.view(shape))


def test_words_at_takes_indices_in_any_memory_order() -> None:
    indices = torch.arange(12).view(3, 4).t()
    assert words_at(KEY, indices).tolist() == [[word_by_integers(KEY, i) for i in row] for row in indices.tolist()]


@pytest.mark.parametrize("start", [1, 2**34 - 150_001])
def test_a_long_run_is_its_pieces_put_together(start: int) -> None:
    count = 300_000  # across any power of two up to 2^18 that an implementation might work in
    whole = words_of_run(KEY, start, count)
    cuts = [0, 1, 65_535, 65_537, 131_074, 262_143, count]
    pieces = [words_of_run(KEY, start + a, b - a) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(whole, torch.cat(pieces))
    assert torch.equal(whole, words_at(KEY, torch.arange(start, start + count)))
    for i in [*range(0, count, 9973), *(2**k + d for k in range(10, 19) for d in (-2, -1, 0, 1))]:
        assert int(whole[i]) == word_by_integers(KEY, start + i), i


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 0, 0), (2, 0, 0)),  # neighbouring keys
        ((1, 0, 0), (1 + 2**32, 0, 0)),
        ((1, 0, 0), (1, 0, 1)),  # neighbouring draws
        ((1, 0, 0), (1, 0, 2**32)),
        ((1, 0, 1), (1, 2**34, 0)),  # the first counter word after the lower, and after the upper, half
    ],
)
def test_neighbouring_streams_have_nothing_in_common(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    a, b = (words_of_run(key, start, 4096, draw=draw) for key, start, draw in (one, other))
    # 2^24 pairs of random 32-bit words: a common value is expected 1/256 times, 3 with probability 1e-8
    assert len(set(a.tolist()) & set(b.tolist())) < 3
    # the number of common bits is binomial(131072, 1/2): five standard deviations
    equal_bits = sum(32 - (x ^ y).bit_count() for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert abs(equal_bits - 65536) < 5 * 131072**0.5 / 2


# -- keys --------------------------------------------------------------------------------------------------------------

SEEDS = [0, 1, 2**32, 2**63, 2**64 - 1]
NAMES = ["", "weight", "h.0.attn.c_attn.weight", "слой.βias", "層.重み", "🙂", "a\0b", "x" * 1000]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_the_hash_of_the_seed_and_the_name(seed: int, name: str) -> None:
    message = seed.to_bytes(8, "little") + name.encode("utf-8")
    digest = hashlib.blake2b(message, digest_size=8, person=b"zeta stream 1").digest()
    assert parameter_key(seed, name) == sum(byte << 8 * i for i, byte in enumerate(digest))


def test_keys_do_not_collide() -> None:
    names = [*NAMES, "weight ", "Weight", "é", "e\u0301", *(f"h.{i}.weight" for i in range(500))]
    keys = {parameter_key(seed, name) for seed in SEEDS for name in names}
    assert len(keys) == len(SEEDS) * len(names)
    assert max(keys) >= 2**63  # all 64 bits


def test_the_version_names_the_stream_of_the_keys() -> None:
    assert STREAM_VERSION == 1


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "0", np.float64(1), torch.tensor(1.0)])
def test_a_seed_is_an_integer_of_64_bits(seed: Any) -> None:
    for function in (check_seed, lambda seed: parameter_key(seed, "weight")):
        with pytest.raises(SpecError, match=r"seed must be an integer from 0 to 2\^64 - 1, got"):
            function(seed)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint64(7), torch.tensor(7)])
def test_other_integers_are_seeds(seed: Any) -> None:
    assert check_seed(seed) == 7
    assert type(check_seed(seed)) is int
    assert parameter_key(seed, "weight") == parameter_key(7, "weight")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_good_seed_is_returned(seed: int) -> None:
    assert check_seed(seed) == seed


# -- drawn seeds -------------------------------------------------------------------------------------------------------


def test_manual_seed_decides_the_drawn_seed() -> None:
    torch.manual_seed(5)
    first, second = draw_seed(), draw_seed()
    torch.manual_seed(5)
    assert [draw_seed(), draw_seed()] == [first, second]
    assert first != second  # the generator moved on
    torch.manual_seed(6)
    assert draw_seed() != first


@pytest.mark.keeps_rng
def test_a_given_generator_decides_alone() -> None:
    generator, twin = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    assert [draw_seed(generator) for _ in range(3)] == [draw_seed(twin) for _ in range(3)]


def test_every_bit_of_a_drawn_seed_varies() -> None:
    generator = torch.Generator().manual_seed(0)
    seeds = [check_seed(draw_seed(generator)) for _ in range(64)]
    assert reduce(operator.or_, seeds) == 2**64 - 1
    assert reduce(operator.and_, seeds) == 0
    assert len({seed >> 32 for seed in seeds}) == len({seed % 2**32 for seed in seeds}) == 64
    assert all(seed >> 32 != seed % 2**32 for seed in seeds)


@pytest.mark.parametrize("generator", [0, "cpu", np.random.default_rng(0)])
def test_what_is_not_a_torch_generator_is_refused(generator: Any) -> None:
    with pytest.raises(SpecError, match=r"generator must be a torch\.Generator, got"):
        draw_seed(generator)


# -- from words to numbers ---------------------------------------------------------------------------------------------


def test_uniform32_keeps_the_upper_24_bits() -> None:
    words = [0, 255, 256, 511, 2**31, 2**32 - 256, 2**32 - 1, 0x12345678]
    expected = [0.0, 0.0, 2**-24, 2**-24, 0.5, 1 - 2**-24, 1 - 2**-24, 0x123456 / 2**24]
    values = uniform32(torch.tensor(words))
    assert values.tolist() == expected
    assert values.float().double().equal(values)  # fp32 holds them, so that 1 is never reached


@given(u32, u32)
@example(2**32 - 1, 2**32 - 1)
@example(0, 2**11 - 1)
@example(0, 2**11)
def test_uniform64_takes_53_bits_high_word_first(high: int, low: int) -> None:
    bits = (high * 2**32 + low) // 2**11
    assert int(word53(torch.tensor(high), torch.tensor(low))) == bits
    value = float(uniform64(torch.tensor(high), torch.tensor(low)))
    assert value == bits / 2**53 < 1.0


@given(st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-3.4e38, max_value=3.4e38))
@example(1e-46)
@example(1 + 2**-24)
@example(1 + 3 * 2**-24)
def test_fp32_rounds_as_numpy_does(value: float) -> None:
    assert np.float64(fp32(value)).tobytes() == np.float64(np.float32(value)).tobytes()
    assert fp32(Decimal(value)) == fp32(value)


# -- the constants of the fp32 quantile, derived again -----------------------------------------------------------------


def chebyshev_nodes(low: mpmath.mpf, high: mpmath.mpf, n: int) -> list[mpmath.mpf]:
    return [(low + high) / 2 + (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * n)) for i in range(n)]


def interpolated(function: Callable[[mpmath.mpf], mpmath.mpf], low: mpmath.mpf, high: mpmath.mpf, n: int) -> list[Any]:
    """The polynomial's coefficients, from the constant one up."""
    nodes = chebyshev_nodes(low, high, n)
    powers = mpmath.matrix([[x**j for j in range(n)] for x in nodes])
    return list(mpmath.lu_solve(powers, mpmath.matrix([function(x) for x in nodes])))


def assert_nearest_fp32(constants: Sequence[float], exact: Sequence[mpmath.mpf]) -> None:
    assert list(constants) == [float(np.float32(float(x))) for x in exact]


@pytest.fixture
def many_digits() -> Iterator[None]:
    with mpmath.workdps(60):
        yield


@pytest.mark.usefixtures("many_digits")
def test_the_central_coefficients_interpolate_the_quantile() -> None:
    leading = mpmath.sqrt(2 * mpmath.pi)
    assert_nearest_fp32([stream._SQRT_2PI], [leading])

    def rest(r: mpmath.mpf) -> mpmath.mpf:
        q = mpmath.sqrt(r)
        return (mpmath.sqrt(2) * mpmath.erfinv(2 * q) / q - leading) / r

    assert mpmath.mpf(25) / 64 == stream._CENTRAL_LIMIT
    assert_nearest_fp32(stream._CENTRAL, interpolated(rest, mpmath.mpf(0), (mpmath.mpf(25) / 64) ** 2, 10))


@pytest.mark.usefixtures("many_digits")
def test_the_tail_coefficients_interpolate_the_quantile() -> None:
    # s - z = N(s) / D(s) with D(0) = 1: nine unknowns, linear in N(s) - (s - z) (D(s) - 1) = s - z
    nodes = chebyshev_nodes(*(mpmath.sqrt(-2 * mpmath.log(p)) for p in (mpmath.mpf(7) / 64, mpmath.mpf(2) ** -90)), 9)
    rows, right = [], []
    for s in nodes:
        z = mpmath.findroot(lambda z, s=s: mpmath.log(mpmath.erfc(z / mpmath.sqrt(2)) / 2) + s * s / 2, s - 0.5)
        rows.append([s**j for j in range(5)] + [-(s - z) * s**j for j in range(1, 5)])
        right.append(s - z)
    solution = list(mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(right)))
    assert_nearest_fp32(stream._TAIL_NUMERATOR, solution[:5])
    assert_nearest_fp32(stream._TAIL_DENOMINATOR, [1, *solution[5:]])


@pytest.mark.usefixtures("many_digits")
def test_the_logarithm_coefficients_interpolate_it() -> None:
    low, high = mpmath.sqrt(0.5) - 1, mpmath.sqrt(2) - 1
    assert_nearest_fp32(stream._LOG, interpolated(lambda f: (mpmath.log(1 + f) - f) / f**2, low, high, 8))
    assert_nearest_fp32([stream._LN2], [mpmath.log(2)])
    assert np.array([stream._BITS_SQRT_HALF], np.uint32).view(np.float32)[0] == np.float32(math.sqrt(0.5))
