"""The stream as docs/stream.md describes it, on Python's numbers: nothing here comes from the source or from torch.

Every coefficient is read from the tables of that page. fp32 is done by exact fractions, each result rounded once; fp64
by Python's own floats, which are IEEE's. The numbers in comments are the sections of the page.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import struct
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "stream.md"
INF = math.inf


def number(bits: int, letter: str) -> float:
    """The fp32 (``f``) or fp64 (``d``) number that has these bits."""
    return float(struct.unpack(f">{letter}", bits.to_bytes(4 if letter == "f" else 8, "big"))[0])


def bits(value: float, letter: str) -> int:
    return int.from_bytes(struct.pack(f">{letter}", value), "big")


def table(name: str) -> list[list[str]]:
    """The rows of a table of the page, without its header."""
    rows = PAGE.read_text(encoding="utf-8").split(f"Table `{name}`\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def constant(name: str) -> list[float]:
    """Numbers given as ```name` is ..., bits `...```, in the order of the page."""
    found = re.findall(rf"`{name}` is [^.]*?[\s\S]*?bits\s+`([0-9a-f]+)`", PAGE.read_text(encoding="utf-8"))
    return [number(int(text, 16), "f" if len(text) == 8 else "d") for text in found]


# -- 1, 9: rounding ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """A dtype of real numbers: bits of its exponent, their bias, bits of its fraction, largest number."""

    exponent: int
    bias: int
    fraction: int
    largest: float
    signed_zero: bool = True

    def binade(self, size: Fraction) -> int:
        """The exponent of the power of two at or below ``size``; that of the smallest normal number below it."""
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        return max(exponent - (size < Fraction(2) ** exponent), 1 - self.bias) if size else 1 - self.bias

    def rounded(self, exact: Fraction | float, sign: float = 1.0) -> float:
        """To the nearest, ties to even; ``sign`` is that of an exact zero."""
        exact, negative = Fraction(exact), exact < 0 or (exact == 0 and math.copysign(1.0, sign) < 0)
        size = abs(exact)
        spacing = Fraction(2) ** (self.binade(size) - self.fraction)
        result = float(round(size / spacing) * spacing)  # Python rounds halves to even
        assert result <= self.largest, f"{float(exact)} is beyond the dtype"
        return -result if negative and (result or self.signed_zero) else result

    def encoded(self, value: float) -> int:
        """The bits of a number that the format holds."""
        width = self.exponent + self.fraction
        sign, size = int(math.copysign(1.0, value) < 0), abs(Fraction(value))
        binade = self.binade(size)
        units = size / Fraction(2) ** (binade - self.fraction)  # with the leading bit, if the number is normal
        assert units.denominator == 1
        return sign << width | (binade + self.bias - 1 << self.fraction) + int(units)

    def next_up(self, value: float) -> float:
        """The smallest number of the format above a number of it."""
        binade = self.binade(abs(Fraction(value)))
        if value < 0 and abs(Fraction(value)) == Fraction(2) ** binade and binade > 1 - self.bias:
            binade -= 1  # towards zero from a power of two, where the spacing is halved
        return float(Fraction(value) + Fraction(2) ** (binade - self.fraction))


F32 = Format(exponent=8, bias=127, fraction=23, largest=(2 - 2.0**-23) * 2.0**127)
FORMATS = {
    "float64": Format(exponent=11, bias=1023, fraction=52, largest=(2 - 2.0**-52) * 2.0**1023),
    "float32": F32,
    "bfloat16": Format(exponent=8, bias=127, fraction=7, largest=(2 - 2.0**-7) * 2.0**127),
    "float16": Format(exponent=5, bias=15, fraction=10, largest=65504.0),
    "float8_e4m3fn": Format(exponent=4, bias=7, fraction=3, largest=448.0),
    "float8_e5m2": Format(exponent=5, bias=15, fraction=2, largest=57344.0),
    "float8_e4m3fnuz": Format(exponent=4, bias=8, fraction=3, largest=240.0, signed_zero=False),
    "float8_e5m2fnuz": Format(exponent=5, bias=16, fraction=2, largest=57344.0, signed_zero=False),
}
PARTS = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}


def fp32(x: float | Decimal) -> float:
    return F32.rounded(float(x), float(x))


def fma(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return F32.rounded(exact, a * b + c if exact == 0 else 1.0)


def times(a: float, b: float) -> float:
    return fma(a, b, -0.0)


def horner32(c: list[float], x: float) -> float:
    v = c[-1]
    for coefficient in reversed(c[:-1]):
        v = fma(v, x, coefficient)
    return v


def horner64(c: list[float], x: float) -> float:
    v = c[-1]
    for coefficient in reversed(c[:-1]):
        v = v * x + coefficient
    return v


# -- 2, 3: keys and words ---------------------------------------------------------------------------------------------


def key_of(seed: int, name: str) -> int:
    message = seed.to_bytes(8, "little") + name.encode("utf-8")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, person=b"zeta stream 1").digest(), "little")


def word(key: int, i: int, d: int = 0) -> int:
    block, low = i // 4, 2**32
    c0, c1, c2, c3, k0, k1 = block % low, block // low, d % low, d // low, key % low, key // low
    for _ in range(10):
        (h0, l0), (h1, l1) = divmod(c0 * 0xD2511F53, low), divmod(c2 * 0xCD9E8D57, low)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) % low, (k1 + 0xBB67AE85) % low
    return (c0, c1, c2, c3)[i % 4]


def word53(key: int, i: int, d: int = 0) -> int:
    return word(key, i, d) * 2**21 + word(key, i, 2**63 + d) // 2**11


# -- 5: intervals -----------------------------------------------------------------------------------------------------

DECIMALS = Context(prec=60)
TWO_PI = 2 * Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@functools.cache
def Q(x: float) -> Decimal:  # noqa: N802
    """The upper tail: by the series below 3, by the continued fraction from there on."""
    if x == INF:
        return Decimal(0)
    z = Decimal(x)
    phi = (-z * z / 2).exp() / TWO_PI.sqrt()
    if z < 3:
        term, total, odd = z, z, 1
        while abs(term) > Decimal("1e-65"):
            odd += 2
            term *= z * z / odd
            total += term
        return Decimal("0.5") - phi * total
    fraction = z
    for k in range(500, 0, -1):
        fraction = z + k / fraction
    return phi / fraction


def place(w: int, a: float, b: float, size: int) -> tuple[bool, int, int, Decimal, Decimal, Decimal]:
    """Of a word: whether it is negative, ``j``, ``m``, and its side's scale and offsets, exactly."""
    with localcontext(DECIMALS):
        ends = {True: (max(-b, 0.0), max(-a, 0.0)), False: (max(a, 0.0), max(b, 0.0))}
        tails = {negative: (Q(near), Q(far)) for negative, (near, far) in ends.items()}
        mass = {negative: near - far for negative, (near, far) in tails.items()}
        split = round(2**size * (mass[True] / (mass[True] + mass[False])))
        negative = w < split
        count = split if negative else 2**size - split
        j = split - 1 - w if negative else w - split
        scale, (near, far) = mass[negative] / count, tails[negative]
        return negative, j, count - 1 - j, scale, Decimal("0.5") - near + scale / 2, far + scale / 2


# -- 6, 7: quantiles --------------------------------------------------------------------------------------------------

SQRT_2PI, (LN2_32, LN2_64) = constant("SQRT_2PI")[0], constant("LN2")
COEFFICIENTS = {
    name: [number(int(row[1], 16), "f") for row in table(name)]
    for name in ("CENTRAL", "TAIL_NUMERATOR", "TAIL_DENOMINATOR", "LOG")
}
AS241 = {
    name: tuple([number(int(row[column], 16), "d") for row in table(f"AS241_{name}")] for column in (3, 4))
    for name in ("CENTRAL", "MIDDLE", "FAR")
}
ATANH = [1 / (2 * k + 1) for k in range(11)]


def log32(p: float) -> float:
    t = bits(p, "f") - 0x3F3504F3
    k, f = t >> 23, number((t & 0x7FFFFF) + 0x3F3504F3, "f") - 1
    return fma(k, LN2_32, fma(times(f, f), horner32(COEFFICIENTS["LOG"], f), f))


def sqrt32(x: float) -> float:
    """Correctly rounded, by integers: the root to 80 bits, with a last bit that says whether there is more."""
    exact = Fraction(x) * 4**80
    root = math.isqrt(exact.numerator // exact.denominator)
    return F32.rounded(Fraction(2 * root + (root * root != exact), 2) / 2**80)


def quantile32(q: float, p: float) -> float:
    if Fraction(q) < Fraction(25, 64):
        r = times(q, q)
        return fma(q, SQRT_2PI, times(times(q, r), horner32(COEFFICIENTS["CENTRAL"], r)))
    s = sqrt32(times(-2.0, log32(p)))
    numerator, denominator = (horner32(COEFFICIENTS[f"TAIL_{part}"], s) for part in ("NUMERATOR", "DENOMINATOR"))
    correction = F32.rounded(Fraction(numerator) / Fraction(denominator))
    return fma(1.0, s, -correction)


def normal32(w: int, a: float, b: float) -> float:
    negative, j, m, scale, q_offset, p_offset = place(w, a, b, 32)
    q = fma(fp32(j), fp32(scale), fp32(q_offset))
    p = fma(fp32(m), fp32(scale), fp32(p_offset))
    z = quantile32(q, p)
    return -z if negative else z


def log64(p: float) -> float:
    t = bits(p, "d") - 0x3FE6A09E667F3BCD
    k, f = t >> 52, number((t & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD, "d") - 1
    x = f / (2 + f)
    return k * LN2_64 + 2 * x * horner64(ATANH, x * x)


def ratio(region: str, x: float) -> float:
    numerator, denominator = AS241[region]
    return horner64(numerator, x) / horner64(denominator, x)


def quantile64(q: float, p: float) -> float:
    if q <= 0.425:
        return q * ratio("CENTRAL", 0.180625 - q * q)
    r = math.sqrt(-log64(p))
    return ratio("MIDDLE", r - 1.6) if r <= 5 else ratio("FAR", r - 5)


def normal64(w: int, a: float, b: float) -> float:
    negative, j, m, scale, q_offset, p_offset = place(w, a, b, 53)
    q = j * float(scale) + float(q_offset)
    p = m * float(scale) + float(p_offset)
    z = quantile64(q, p)
    return -z if negative else z


# -- 4, 8: values -----------------------------------------------------------------------------------------------------


def inward(low: float, high: float, form: Format) -> tuple[float, float]:
    def at_least(bound: float) -> float:
        if abs(bound) > form.largest:
            return -INF
        nearest = form.rounded(bound)
        return (nearest if nearest >= bound else form.next_up(nearest)) + 0.0

    return at_least(low), -at_least(-high) + 0.0


def held(value: float, low: float, high: float, dtype: str) -> float:
    """Within the bounds, and rounded to the dtype."""
    low, high = inward(low, high, FORMATS[dtype])
    value = max(value, low)
    value = min(value, high)
    return FORMATS[dtype].rounded(value, value)


def real(kind: str, parameters: dict[str, float], key: int, i: int, d: int, dtype: str) -> float:
    """One value of a real dtype."""
    if kind == "uniform":
        low, high = parameters["low"], parameters["high"]
        if dtype == "float64":
            value = low + word53(key, i, d) * 2.0**-53 * (high - low)
        else:
            value = fma(word(key, i, d) // 2**8 * 2.0**-24, fp32(high - low), fp32(low))
        return held(value, low, high, dtype)
    std, mean = parameters["std"], parameters.get("mean", 0.0)
    low, high, a, b = -INF, INF, -INF, INF
    if kind == "truncated_normal":
        if "low" in parameters or "high" in parameters:
            low, high = parameters.get("low", -INF), parameters.get("high", INF)
            a, b = (low - mean) / std, (high - mean) / std
        else:
            b = parameters.get("cutoff", 2.0)
            a, low, high = -b, mean - b * std, mean + b * std
    if dtype == "float64":
        value = mean + normal64(word53(key, i, d), a, b) * std
    else:
        value = fma(normal32(word(key, i, d), a, b), fp32(std), fp32(mean))
    return held(value, low, high, dtype)


# -- 10: complex values -----------------------------------------------------------------------------------------------

C = math.sqrt(0.5)


def parts_of(kind: str, parameters: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The parameters of the real and of the imaginary part."""
    if kind == "uniform":
        low, high = parameters["low"], parameters["high"]
        centre, half = (low + high) / 2, (high - low) / 2 * C
        return {"low": centre - half, "high": centre + half}, {"low": -half, "high": half}
    mean = parameters.get("mean", 0.0)
    shared = {**parameters, "std": parameters["std"] * C}
    bounds = {name: (parameters[name] - mean) * C for name in ("low", "high") if name in parameters}
    moved = {name: bound + mean for name, bound in bounds.items()}
    return {**shared, **moved, "mean": mean}, {**shared, **bounds, "mean": 0.0}


def values(kind: str, parameters: dict[str, float], key: int, i: int, dtype: str) -> list[float]:
    """One element: its value, or both parts of it."""
    if kind == "constant":  # 9
        value = parameters["value"]
        exact = value if dtype in ("float64", "complex128") else fp32(value)
        rounded = FORMATS[PARTS.get(dtype, dtype)].rounded(exact, exact)
        return [rounded, 0.0] if dtype in PARTS else [rounded]
    if dtype in PARTS:
        both = parts_of(kind, parameters)
        return [real(kind, part, key, i, draw, PARTS[dtype]) for draw, part in enumerate(both)]
    return [real(kind, parameters, key, i, 0, dtype)]


def encoded(element: list[float], dtype: str) -> str:
    """The bits of an element as the golden vectors write them."""
    form = FORMATS[PARTS.get(dtype, dtype)]
    digits = (1 + form.exponent + form.fraction) // 4
    return "".join(f"{form.encoded(value):0{digits}x}" for value in element)


# -- 11: sparse matrices ----------------------------------------------------------------------------------------------


def sparse(parameters: dict[str, Any], key: int, dtype: str) -> list[list[float]]:
    """The elements of a whole matrix, outputs by inputs."""
    (rows, columns), std = parameters["shape"], parameters["std"]
    part, share = PARTS.get(dtype, dtype), [("normal", {"std": 1.0})]
    if dtype in PARTS:
        share = [("normal", {"std": C}), ("normal", {"std": C})]
    draft = "float64" if part == "float64" else "float32"
    elements = []
    for i in range(rows * columns):
        drawn = [real(kind, unit, key, i, draw, draft) * std for draw, (kind, unit) in enumerate(share)]
        elements.append([FORMATS[part].rounded(x, x) for x in (y if part == "float64" else fp32(y) for y in drawn)])
    for column in range(columns):
        of_column = sorted((word(key, i, 2), i) for i in range(column, rows * columns, columns))
        for _, i in of_column[: math.ceil(parameters["sparsity"] * rows)]:
            elements[i] = [0.0] * len(share)
    return elements
