"""The golden vectors: the source gives their bits, and their values are right by formulas that share no code with it.

``tests/vectors/make.py`` describes the file. Here, keys come from hashlib, words from Python's integers, quantiles from
mpmath, and each value must lie within half a step of its dtype of the exact one.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from typing import Any

import mpmath
import pytest
import scipy.stats

from tests.vectors.make import CASES, PATH, bits_from_source
from tests.vectors.philox import word_by_integers
from zeta.compute.stream import kernels
from zeta.compute.stream.random import STREAM_VERSION

FILE = json.loads(PATH.read_text(encoding="utf-8"))
ERROR = 4e-7  # the relative error of a normal value that the stream promises, in fp32
IMAGINARY, MASK, LOW_WORD = 1, 2, 2**63  # draws
PARTS = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}

# bits after the leading one, and the exponent of the smallest normal number
FORMATS = {
    "float64": (52, -1022),
    "float32": (23, -126),
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "float8_e4m3fn": (3, -6),
    "float8_e5m2": (2, -14),
}
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


def cases(*kinds: str) -> list[Any]:
    chosen = [case for case in FILE["cases"] if not kinds or case["kind"] in kinds]
    assert chosen
    return [pytest.param(case, id=f"{case['kind']}-{case.get('dtype', '')}-{i}") for i, case in enumerate(chosen)]


# -- the exact values --------------------------------------------------------------------------------------------------


def decoded(text: str, dtype: str) -> float:
    """The value of IEEE-like bits: a sign, an exponent, a fraction."""
    fraction_bits, smallest = FORMATS[dtype]
    bits, width = int(text, 16), 8 * SIZES[dtype]
    assert len(text) == width // 4
    sign, rest = bits >> width - 1, bits % 2 ** (width - 1)
    exponent, fraction = rest >> fraction_bits, rest % 2**fraction_bits
    size = fraction + (2**fraction_bits if exponent else 0)
    return (-1) ** sign * math.ldexp(size, max(exponent, 1) - 1 + smallest - fraction_bits)


def spacing(value: float, dtype: str) -> float:
    """The distance between neighbouring numbers of ``dtype`` around ``value``."""
    fraction_bits, smallest = FORMATS[dtype]
    return math.ldexp(1.0, max(math.frexp(value)[1] - 1, smallest) - fraction_bits)


def word_of(case: dict[str, Any], index: int, draw: int, dtype: str) -> int:
    key = int(case["key"], 16)
    word = word_by_integers(key, index, draw)
    return word << 21 | word_by_integers(key, index, draw | LOW_WORD) >> 11 if dtype == "float64" else word


def tail(z: float | mpmath.mpf) -> mpmath.mpf:
    return mpmath.erfc(z / mpmath.sqrt(2)) / 2


def quantile(word: int, low: float, high: float, dtype: str) -> tuple[mpmath.mpf, float]:
    """The normal quantile of a word's midpoint, inside the interval, and how exact it can be."""
    bits = 53 if dtype == "float64" else 32
    if word >= 2 ** (bits - 1):  # so that u, as a float, is below 1
        z, error = quantile(2**bits - 1 - word, -high, -low, dtype)
        return -z, error
    u = (mpmath.mpf(word) + 0.5) / 2**bits
    # scipy's value, improved by Newton's method
    mass = tail(low) - tail(high)
    z = mpmath.mpf(float(scipy.stats.truncnorm.ppf(float(u), low, high)))
    for _ in range(3):
        z += (u - (tail(low) - tail(z)) / mass) * mass / mpmath.npdf(z)
    # the two sides of zero share the words, a whole number each
    split = float(mass / mpmath.npdf(z)) * 2.0**-bits if low < 0 < high and low != -high else 0.0
    return z, split + float(abs(z)) * (4e-15 if dtype == "float64" else ERROR)


def sigmas(parameters: dict[str, float]) -> tuple[float, float]:
    mean, std = parameters.get("mean", 0.0), parameters["std"]
    cutoff = parameters.get("cutoff", math.inf if {"low", "high"} & {*parameters} else 2.0)
    low = (parameters["low"] - mean) / std if "low" in parameters else -cutoff
    high = (parameters["high"] - mean) / std if "high" in parameters else cutoff
    return low, high


def exact(case: dict[str, Any], index: int, dtype: str, *, imaginary: bool) -> tuple[mpmath.mpf, float]:
    """The exact value of one part of an element, and the error allowed before it is rounded to ``dtype``."""
    parameters, kind = case["parameters"], case["kind"]
    share = math.sqrt(0.5) if case["dtype"] in PARTS else 1.0  # of the std, in each part
    word = word_of(case, index, IMAGINARY if imaginary else 0, dtype)
    if kind == "uniform":
        low, high = parameters["low"], parameters["high"]
        u = mpmath.mpf(word) / 2**53 if dtype == "float64" else mpmath.mpf(word >> 8) / 2**24
        centre, width = (low + high) / 2, (high - low) * share
        value = (0.0 if imaginary else centre) + (u - 0.5) * width
        return value, 2 * max(abs(low), abs(high)) * 2.0 ** (-53 if dtype == "float64" else -24)
    bounds = sigmas(parameters) if kind == "truncated_normal" else (-math.inf, math.inf)
    z, error = quantile(word, *bounds, dtype)
    std, mean = parameters["std"] * share, 0.0 if imaginary else parameters.get("mean", 0.0)
    rounding = 2.0 ** (-52 if dtype == "float64" else -24)  # of std, mean and the sum
    value = mean + z * std
    return value, error * std + rounding * (abs(float(z)) * std + abs(mean) + abs(float(value))) + 2.0**-149


def assert_rounded(got: float, value: mpmath.mpf, error: float, dtype: str, *, bounded: bool = False) -> None:
    # a value is held inside its bounds by at most another half step
    step = spacing(float(value), dtype) * (1.0 if bounded else 0.5)
    assert abs(got - value) <= step + error, (got, float(value))


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_belongs_to_this_version_of_the_stream() -> None:
    assert FILE["version"] == STREAM_VERSION
    assert [{k: v for k, v in case.items() if k != "bits"} for case in FILE["cases"]] == CASES


def test_every_kind_and_dtype_is_covered() -> None:
    dtypes: dict[str, set[str]] = {}
    for case in FILE["cases"]:
        dtypes.setdefault(case["kind"], set()).add(case.get("dtype", ""))
    assert dtypes["key"] == {""}
    assert dtypes["words"] == {"uint32"}
    assert dtypes["quantile"] == {"float32", "float64"}
    for kind in ("uniform", "normal", "truncated_normal"):
        assert dtypes[kind] == {*FORMATS, *PARTS}
    assert dtypes["sparse"] == {"float32", "bfloat16"}
    counts = Counter(case["kind"] for case in FILE["cases"] for _ in case["bits"])
    assert 200 < counts.total() < 600


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("backend", kernels.candidates("cpu"))
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_every_backend_gives_the_bits_of_the_file(
    backend: str, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, backend)
    assert bits_from_source(case) == case["bits"]


# -- its contents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("key"))
def test_keys_are_hashes(case: dict[str, Any]) -> None:
    message = struct.pack("<Q", int(case["seed"], 16)) + case["name"].encode()
    digest = hashlib.blake2b(message, digest_size=8, person=b"zeta stream 1").digest()
    assert case["bits"] == [digest[::-1].hex()]


@pytest.mark.parametrize("case", cases("words"))
def test_words_are_those_of_philox(case: dict[str, Any]) -> None:
    indices = range(case["start"], case["start"] + case["count"])
    assert case["bits"] == [f"{word_by_integers(int(case['key'], 16), i, case['draw']):08x}" for i in indices]


@pytest.mark.parametrize("case", cases("constant"))
def test_constants_are_rounded_to_the_nearest(case: dict[str, Any]) -> None:
    dtype = PARTS.get(case["dtype"], case["dtype"])
    digits = 2 * SIZES[dtype]
    (text,) = case["bits"]
    assert_rounded(decoded(text[:digits], dtype), mpmath.mpf(case["parameters"]["value"]), 0.0, dtype)
    assert case["dtype"] not in PARTS or text[digits:] == "0" * digits


@pytest.mark.parametrize("case", cases("uniform", "normal", "truncated_normal"))
def test_values_are_those_of_their_formula(case: dict[str, Any]) -> None:
    dtype = PARTS.get(case["dtype"], case["dtype"])
    parameters, digits = case["parameters"], 2 * SIZES[dtype]
    assert len(case["bits"]) == case["count"]
    for i, text in enumerate(case["bits"]):
        parts = [text[:digits], text[digits:]] if case["dtype"] in PARTS else [text]
        for imaginary, part in enumerate(parts):
            got = decoded(part, dtype)
            with mpmath.workdps(50):
                value, error = exact(case, case["start"] + i, dtype, imaginary=bool(imaginary))
                assert_rounded(got, value, error, dtype, bounded=case["kind"] != "normal")
            if case["dtype"] not in PARTS:
                assert parameters.get("low", -math.inf) <= got <= parameters.get("high", math.inf)


@pytest.mark.parametrize("case", cases("quantile"))
def test_quantiles_are_those_of_the_normal_distribution(case: dict[str, Any]) -> None:
    low, high = case["parameters"].get("low", -math.inf), case["parameters"].get("high", math.inf)
    for word, text in zip(case["words"], case["bits"], strict=True):
        with mpmath.workdps(50):
            z, error = quantile(int(word, 16), low, high, case["dtype"])
            assert abs(decoded(text, case["dtype"]) - z) <= error, word


@pytest.mark.parametrize("case", cases("sparse"))
def test_sparse_columns_are_zero_where_their_words_are_smallest(case: dict[str, Any]) -> None:
    parameters = case["parameters"]
    rows, columns = parameters["shape"]
    for column in range(columns):
        indices = [row * columns + column for row in range(rows)]
        order = sorted(indices, key=lambda i: word_by_integers(int(case["key"], 16), i, MASK))
        zeros = set(order[: math.ceil(parameters["sparsity"] * rows)])
        assert 0 < len(zeros) < rows
        for i in indices:
            got = decoded(case["bits"][i], case["dtype"])
            if i in zeros:
                assert got == 0.0
            else:
                with mpmath.workdps(50):
                    z, error = quantile(word_of(case, i, 0, "float32"), -math.inf, math.inf, "float32")
                    value = z * parameters["std"]
                    rounding = 2.0**-23 * abs(float(value))
                    assert_rounded(got, value, error * parameters["std"] + rounding, case["dtype"])
