"""The stream: the function from (seed, name, element) to bits. This readable implementation is the definition.

- A parameter's 64-bit key is ``blake2b(seed, name)``.
- Element ``i``, in row-major order of the global tensor, uses word ``i % 4`` of the Philox4x32-10 block with counter
  ``(i // 4, draw)``; ``draw`` numbers independent draws for the same parameter.
- Values come from one 32-bit word in fp32 arithmetic: add, multiply, divide, square root and fused multiply-add,
  each correctly rounded, in the order written here. fp64 values come from 53 bits, in fp64 without fused operations.

fp32 numbers are carried in fp64 tensors below, which makes every rounding explicit: ``_f32`` rounds, and a product
of two fp32 numbers is exact. All of it runs on any device that torch supports with int64 and fp64.

Source of the generator: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import struct
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Final

import torch
from msgspec import Struct
from torch import Tensor

from zeta.base.gaussian import DECIMALS, upper_tail
from zeta.base.reading import shown
from zeta.errors import SpecError

STREAM_VERSION: Final = 1
_PERSON: Final = b"zeta stream 1"

# -- keys ----------------------------------------------------------------------------------------------------------


def check_seed(seed: int) -> int:
    """Return ``seed`` as an ``int`` if it is an integer in ``[0, 2^64)``; ``SpecError`` otherwise."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise SpecError(f"seed must be an integer from 0 to 2^64 - 1, got {shown(seed)}")
    return number


def draw_seed(generator: torch.Generator | None = None) -> int:
    """Draw a 64-bit seed from ``generator``; by default from torch's global one, which ``torch.manual_seed`` seeds."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise SpecError(f"generator must be a torch.Generator, got {shown(generator)}")
    device = generator.device if generator is not None else "cpu"
    low, high = torch.randint(2**32, (2,), generator=generator, dtype=torch.int64, device=device).tolist()
    return int(low) | int(high) << 32


def parameter_key(seed: int, name: str) -> int:
    """Return the parameter's 64-bit key: BLAKE2b of the seed (8 bytes, little-endian) and the name (UTF-8).

    >>> hex(parameter_key(0, "h.0.attn.c_attn.weight"))
    '0xef9580d9cca4fbe'
    """
    hashed = _hash_of(seed).copy()
    hashed.update(name.encode())
    return int.from_bytes(hashed.digest(), "little")


@functools.lru_cache(maxsize=16, typed=True)  # True, which equals 1, is no seed
def _hash_of(seed: int) -> hashlib.blake2b:
    """The hash of a seed, to which a name is added: most names of a model have the same seed."""
    return hashlib.blake2b(struct.pack("<Q", check_seed(seed)), digest_size=8, person=_PERSON)


# -- Philox4x32-10 -------------------------------------------------------------------------------------------------

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_MASK: Final = 0xFFFFFFFF

#: set in the number of a draw for the words that give fp64 values their lower bits
LOW_WORD: Final = 1 << 63

PhiloxBlock = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> PhiloxBlock:
    """Philox4x32-10: from four counter words (32-bit numbers in int64 tensors) and two key words to four words.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [f"{int(word):08x}" for word in philox((zero, zero, zero, zero), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap, but their 64 bits are those of the unsigned product
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32) & _MASK ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32) & _MASK ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _blocks(key: int, counters: Tensor, draw: int) -> Tensor:
    """The four words of each 64-bit counter, as ``(len(counters), 4)``."""
    upper = torch.full_like(counters, draw & _MASK), torch.full_like(counters, draw >> 32)
    words = philox((counters & _MASK, (counters >> 32) & _MASK, *upper), (key & _MASK, key >> 32))
    return torch.stack(words, dim=-1)


def words_of_run(key: int, start: int, count: int, *, draw: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """The words of elements ``start`` to ``start + count``: int64 ``(count,)``, each in ``[0, 2^32)``."""
    first = start // 4
    counters = torch.arange(first, (start + count + 3) // 4, dtype=torch.int64, device=device)
    offset = start - 4 * first
    return _blocks(key, counters, draw).view(-1)[offset : offset + count]


def words_at(key: int, indices: Tensor, *, draw: int = 0) -> Tensor:
    """The words of the elements at int64 ``indices``, in their shape."""
    flat = indices.reshape(-1)
    words = _blocks(key, flat // 4, draw).gather(1, (flat % 4).unsqueeze(1))
    return words.view(indices.shape)


# -- fp32 arithmetic, exactly rounded --------------------------------------------------------------------------------

_SMALLEST_NORMAL: Final = 2.0**-126


def fp32(value: float | Decimal) -> float:
    """Round a number to fp32, by way of fp64."""
    return float(struct.unpack("<f", struct.pack("<f", float(value)))[0])


def _f32(x: Tensor) -> Tensor:
    """Round an fp64 tensor to fp32 values."""
    return x.float().double()


def fma32(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """``a * b + c`` of fp32 values with one rounding to fp32.

    The product is exact in fp64. Rounding the fp64 sum again to fp32 is wrong only where that sum was inexact and fell
    on the midpoint of two fp32 numbers, or among the subnormals; there, it is first rounded to odd.
    """
    product = a * b
    total = product + c
    bits = total.view(torch.int64)
    doubtful = ((bits & 0x1FFFFFFF) == 0x10000000) | (total.abs() < _SMALLEST_NORMAL)
    if bool(doubtful.any()):
        total = torch.where(doubtful, _sum_rounded_to_odd(product, c), total)
    return _f32(total)


def _sum_rounded_to_odd(x: Tensor, y: Tensor | float) -> Tensor:
    """``x + y`` in fp64; an inexact sum goes to the neighbour with an odd last bit (Boldo & Melquiond 2008)."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)  # Knuth's exact two-sum
    bits = total.view(torch.int64)
    away = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where((error != 0) & ((bits & 1) == 0), bits + away, bits).view(torch.float64)


def _horner32(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = fma32(value, x, coefficient)
    return value


# -- the inverse normal CDF in fp32 ---------------------------------------------------------------------------------
#
# With q the distance of a probability from 1/2 and p = 1/2 - q its tail, |z| is
#   q < 25/64:  sqrt(2 pi) q + q^3 C(q^2)              C interpolates at Chebyshev nodes of [0, (25/64)^2]
#   otherwise:  s - N(s)/D(s), s = sqrt(-2 ln p)       N/D interpolates at Chebyshev nodes, 2^-90 <= p <= 7/64
#   ln p = k ln 2 + f + f^2 G(f), p = 2^k (1 + f)      G interpolates at Chebyshev nodes, 1 + f in [sqrt 1/2, sqrt 2]
# Each step is monotone in fp32, and the noise of the correction terms stays below one step of the leading one, so the
# whole is monotone. tests/compute/test_random.py derives every coefficient again.

_CENTRAL_LIMIT: Final = 25 / 64
_SQRT_2PI: Final = 2.5066282749176025
_LN2: Final = 0.6931471824645996
_CENTRAL: Final = (
    2.6249349117279053, 5.772726058959961, 15.626585006713867, 50.38398742675781, 13.193853378295898,
    3634.548095703125, -40926.84765625, 347559.375, -1493154.75, 3027260.5,
)  # fmt: skip
_TAIL_NUMERATOR: Final = (
    3.026963472366333, 6.439042091369629, 1.5492653846740723, 0.058045271784067154, 7.309807551791891e-05,
)  # fmt: skip
_TAIL_DENOMINATOR: Final = (1.0, 4.275818347930908, 3.0138072967529297, 0.4187026917934418, 0.010067878291010857)
_LOG: Final = (
    -0.4999999701976776, 0.3333367109298706, -0.25001147389411926, 0.19972050189971924, -0.16588488221168518,
    0.148347869515419, -0.1415964663028717, 0.08787265419960022,
)  # fmt: skip
_BITS_SQRT_HALF: Final = 0x3F3504F3


def _log32(p: Tensor) -> Tensor:
    """``ln p`` of normal positive fp32 values."""
    shifted = p.float().view(torch.int32) - _BITS_SQRT_HALF
    exponent = (shifted >> 23).double()
    mantissa = ((shifted & 0x7FFFFF) + _BITS_SQRT_HALF).view(torch.float32).double()
    f = mantissa - 1.0
    logarithm = fma32(_f32(f * f), _horner32(_LOG, f), f)
    return fma32(exponent, _LN2, logarithm)


def _quantile32(q: Tensor, p: Tensor) -> Tensor:
    """``|z|`` for distance ``q`` from 1/2 and tail ``p``, both fp32 values in fp64 tensors."""
    r = _f32(q * q)
    z = fma32(q, _SQRT_2PI, _f32(_f32(q * r) * _horner32(_CENTRAL, r)))
    far = (q >= _CENTRAL_LIMIT).nonzero(as_tuple=True)
    if far[0].numel():
        # division of fp32 values in fp64, then rounded to fp32, is correctly rounded (Figueroa 1995); so is the square
        # root, even if the one in fp64 is off by a unit in its last place
        s = _f32((-2.0 * _log32(p[far])).sqrt())
        correction = _f32(_horner32(_TAIL_NUMERATOR, s) / _horner32(_TAIL_DENOMINATOR, s))
        z[far] = _f32(s - correction)
    return z


# -- the inverse normal CDF in fp64: Wichura 1988, algorithm AS 241, PPND16 -----------------------------------------

_AS241: Final = {
    "central": (
        (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
         4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
        (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
         2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
    ),
    "middle": (
        (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
         1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
        (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
         1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
    ),
    "far": (
        (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
         2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
        (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
         7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
    ),
}  # fmt: skip
_ATANH: Final = tuple(1.0 / (2 * k + 1) for k in range(11))  # atanh(x)/x in x^2; x^2 < 0.0295, so the rest is < 2^-57


def _horner64(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _ratio64(region: str, x: Tensor) -> Tensor:
    numerator, denominator = _AS241[region]
    return _horner64(numerator, x) / _horner64(denominator, x)


def _log64(p: Tensor) -> Tensor:
    """``ln p`` of normal positive fp64 values: ``k ln 2 + 2 atanh(f / (2 + f))``, ``p = 2^k (1 + f)``."""
    sqrt_half = 0x3FE6A09E667F3BCD
    shifted = p.view(torch.int64) - sqrt_half
    exponent = (shifted >> 52).double()
    f = ((shifted & 0xFFFFFFFFFFFFF) + sqrt_half).view(torch.float64) - 1.0
    x = f / (2.0 + f)
    return exponent * math.log(2.0) + 2.0 * x * _horner64(_ATANH, x * x)


def _sqrt64(x: Tensor) -> Tensor:
    """The correctly rounded square root of normal positive fp64 values; torch's own may be off by one unit.

    With ``s`` torch's root, ``x - s^2`` is computed exactly, and compared with what half a unit more or less makes.
    """
    s = x.sqrt()
    high = s * 134217729.0  # 2^27 + 1, Veltkamp's split
    high = high - (high - s)
    low = s - high
    square = s * s
    rest = (x - square) - (((high * high - square) + 2.0 * high * low) + low * low)
    up, down = torch.nextafter(s, torch.full_like(s, math.inf)), torch.nextafter(s, torch.zeros_like(s))
    return torch.where(rest > s * (up - s), up, torch.where(rest <= s * (down - s), down, s))


def _quantile64(q: Tensor, p: Tensor) -> Tensor:
    """``|z|`` for distance ``q`` from 1/2 and tail ``p``, fp64."""
    z = q * _ratio64("central", 0.180625 - q * q)
    outer = (q > 0.425).nonzero(as_tuple=True)
    if outer[0].numel():
        r = _sqrt64(-_log64(p[outer]))
        z[outer] = torch.where(r <= 5.0, _ratio64("middle", r - 1.6), _ratio64("far", r - 5.0))
    return z


# -- distributions ---------------------------------------------------------------------------------------------------


class Side(Struct, frozen=True, kw_only=True):
    """One side of the centre of a normal distribution, on which ``count`` words have equal probability.

    Word number ``j``, counted outwards, lies at distance ``q = j * scale + q_offset`` from 1/2 and has the tail ``p =
    (count - 1 - j) * scale + p_offset``.
    """

    count: int
    scale: Decimal
    q_offset: Decimal
    p_offset: Decimal


class Interval(Struct, frozen=True, kw_only=True):
    """An interval of normal quantiles, as a split of the ``2^bits`` words: below ``split``, ``z`` is negative."""

    bits: int
    split: int
    negative: Side
    positive: Side


@functools.lru_cache(maxsize=1024)
def interval(low: float = -math.inf, high: float = math.inf, *, bits: int = 32) -> Interval:
    """Return the interval ``low <= z <= high`` (in sigmas) for words of ``bits`` bits.

    >>> interval().split == 2**31, float(interval().positive.scale) == 2.0**-32
    (True, True)
    """
    with localcontext(DECIMALS):
        below = max(-low, 0.0), max(-high, 0.0)  # far and near ends of the negative side
        above = max(high, 0.0), max(low, 0.0)
        mass_below = upper_tail(below[1]) - upper_tail(below[0])
        mass_above = upper_tail(above[1]) - upper_tail(above[0])
        split = round(2**bits * (mass_below / (mass_below + mass_above)))
        return Interval(
            bits=bits,
            split=split,
            negative=_side(below[1], below[0], split),
            positive=_side(above[1], above[0], 2**bits - split),
        )


def _side(near: float, far: float, count: int) -> Side:
    width = upper_tail(near) - upper_tail(far)
    scale = width / count if count else Decimal(0)
    return Side(
        count=count,
        scale=scale,
        q_offset=Decimal("0.5") - upper_tail(near) + scale / 2,
        p_offset=upper_tail(far) + scale / 2,
    )


def uniform32(words: Tensor) -> Tensor:
    """``u = floor(w / 2^8) / 2^24`` in ``[0, 1)``: fp32 values in an fp64 tensor."""
    return (words >> 8).double() * 2.0**-24


def uniform64(high: Tensor, low: Tensor) -> Tensor:
    """``u`` in ``[0, 1)`` from 53 bits: all of ``high`` and the upper 21 of ``low``."""
    return word53(high, low).double() * 2.0**-53


def word53(high: Tensor, low: Tensor) -> Tensor:
    """The 53-bit word of two 32-bit ones."""
    return (high << 21) | (low >> 11)


def normal32(words: Tensor, within: Interval) -> Tensor:
    """The standard normal quantile of each word inside ``within``: fp32 values in an fp64 tensor."""
    negative, j, mirrored = _sides(words, within)

    def constant(name: str) -> Tensor | float:
        return _choose(negative, fp32(getattr(within.negative, name)), fp32(getattr(within.positive, name)))

    scale = constant("scale")
    q = fma32(_f32(j.double()), scale, constant("q_offset"))
    p = fma32(_f32(mirrored.double()), scale, constant("p_offset"))
    z = _quantile32(q, p)
    return torch.where(negative, -z, z)


def normal64(words: Tensor, within: Interval) -> Tensor:
    """The standard normal quantile of each 53-bit word inside ``within``, fp64."""
    negative, j, mirrored = _sides(words, within)

    def constant(name: str) -> Tensor | float:
        return _choose(negative, float(getattr(within.negative, name)), float(getattr(within.positive, name)))

    scale = constant("scale")
    q = j.double() * scale + constant("q_offset")
    p = mirrored.double() * scale + constant("p_offset")
    z = _quantile64(q, p)
    return torch.where(negative, -z, z)


def _sides(words: Tensor, within: Interval) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each word is on the negative side, its number counted outwards, and its number from the far end."""
    negative = words < within.split
    j = torch.where(negative, within.split - 1 - words, words - within.split)
    mirrored = torch.where(negative, within.negative.count - 1 - j, within.positive.count - 1 - j)
    return negative, j, mirrored


def _choose(negative: Tensor, below: float, above: float) -> Tensor | float:
    if below == above:
        return below
    # tensors, as plain numbers would take torch's default dtype
    pair = torch.tensor([below, above], dtype=torch.float64, device=negative.device)
    return torch.where(negative, pair[0], pair[1])
