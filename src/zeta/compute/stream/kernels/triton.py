"""The stream as one Triton kernel for NVIDIA GPUs: any region, any strides, in one pass over memory.

The functions have the names of the reference in ``random`` and keep its order of rounding. The compiler must not fuse a
multiplication with an addition; where the stream is fused, the code calls ``fma``. Division and square root are the
correctly rounded ones. Constants are passed to the kernel as their bits, so that no conversion can change them.

This module alone imports triton. With ``TRITON_INTERPRET=1`` set before its import, it runs on tensors of the CPU.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: D103 - each function is documented by the function of the same name in the reference

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import torch
import triton
import triton.language as tl

from zeta.compute.stream import random as stream
from zeta.compute.stream.kernels.tasks import Law, Task, boxes
from zeta.compute.stream.random import Side, fp32, interval

#: dtypes that the kernel writes
DTYPES: Final = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint32})

#: counters, of four words each, that one program of the grid computes
COUNTERS: Final = 256

# -- Philox4x32-10 -------------------------------------------------------------------------------------------------

_MULTIPLIERS = tl.constexpr(stream._MULTIPLIERS)
_WEYL = tl.constexpr(stream._WEYL)
_ROUNDS = tl.constexpr(stream._ROUNDS)
_LOW_WORD = tl.constexpr(stream.LOW_WORD)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Four counter words and two key words to four words, all ``uint32``."""
    for _ in tl.static_range(_ROUNDS):
        product0 = c0.to(tl.uint64) * _MULTIPLIERS[0]
        product1 = c2.to(tl.uint64) * _MULTIPLIERS[1]
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 = k0 + _WEYL[0]
        k1 = k1 + _WEYL[1]
    return c0, c1, c2, c3


@triton.jit
def words_of(counters, key, draw):
    """The four words of each 64-bit counter, side by side: ``uint32 (len(counters), 4)``."""
    low, high = counters.to(tl.uint32), (counters >> 32).to(tl.uint32)
    upper = draw.to(tl.uint32), (draw >> 32).to(tl.uint32)
    w0, w1, w2, w3 = philox(low, high, upper[0], upper[1], key.to(tl.uint32), (key >> 32).to(tl.uint32))
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (counters.shape[0], 4))


# -- fp32 ------------------------------------------------------------------------------------------------------------

_CENTRAL_LIMIT = tl.constexpr(stream._CENTRAL_LIMIT)
_SQRT_2PI = tl.constexpr(stream._SQRT_2PI)
_LN2 = tl.constexpr(stream._LN2)
_CENTRAL = tl.constexpr(stream._CENTRAL)
_TAIL_NUMERATOR = tl.constexpr(stream._TAIL_NUMERATOR)
_TAIL_DENOMINATOR = tl.constexpr(stream._TAIL_DENOMINATOR)
_LOG = tl.constexpr(stream._LOG)
_BITS_SQRT_HALF = tl.constexpr(stream._BITS_SQRT_HALF)

#: whether Triton's interpreter runs this module
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def number32(bits):
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def fma32(a, b, c):
    if INTERPRETED:  # emulated: Triton's interpreter before 3.9 also rounds the product
        return sum_rounded_to_odd(a.to(tl.float64) * b, c).to(tl.float32)
    return tl.fma(a, b, c)


@triton.jit
def sum_rounded_to_odd(x, y):
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    bits = total.to(tl.int64, bitcast=True)
    away = tl.where((error > 0) == (total > 0), 1, -1)
    return number64(tl.where((error != 0) & ((bits & 1) == 0), bits + away, bits))


@triton.jit
def horner32(coefficients: tl.constexpr, DEGREE: tl.constexpr, x):
    value = tl.full(x.shape, coefficients[DEGREE], tl.float32)
    for k in tl.static_range(DEGREE):
        value = fma32(value, x, coefficients[DEGREE - 1 - k])
    return value


@triton.jit
def log32(p):
    shifted = p.to(tl.int32, bitcast=True) - _BITS_SQRT_HALF
    exponent = (shifted >> 23).to(tl.float32)
    f = number32((shifted & 0x7FFFFF) + _BITS_SQRT_HALF) - 1.0
    return fma32(exponent, _LN2, fma32(f * f, horner32(_LOG, 7, f), f))


@triton.jit
def central32(q):
    r = q * q
    return fma32(q, _SQRT_2PI, (q * r) * horner32(_CENTRAL, 9, r))


@triton.jit
def tail32(p):
    s = tl.sqrt_rn(log32(p) * -2.0)
    return s - tl.div_rn(horner32(_TAIL_NUMERATOR, 4, s), horner32(_TAIL_DENOMINATOR, 4, s))


@triton.jit
def uniform32(words):
    return (words >> 8).to(tl.float32) * 2.0**-24


@triton.jit
def choose(negative, below, above, SYMMETRIC: tl.constexpr):
    return above if SYMMETRIC else tl.where(negative, below, above)


@triton.jit
def normal32(words, split, below, above, SYMMETRIC: tl.constexpr):
    negative = words.to(tl.int64) < split
    first = split.to(tl.uint32)  # if all are negative, 2^32 becomes 0, and the difference below is the same
    j = tl.where(negative, first - 1 - words, words - first)
    mirrored = choose(negative, below[0].to(tl.uint32), above[0].to(tl.uint32), SYMMETRIC) - j
    scale = choose(negative, number32(below[1]), number32(above[1]), SYMMETRIC)
    q = fma32(j.to(tl.float32), scale, choose(negative, number32(below[2]), number32(above[2]), SYMMETRIC))
    p = fma32(mirrored.to(tl.float32), scale, choose(negative, number32(below[3]), number32(above[3]), SYMMETRIC))
    z = tl.where(q >= _CENTRAL_LIMIT, tail32(p), central32(q))
    return tl.where(negative, z * -1.0, z)  # not -z: Triton has computed that as 0 - z, which loses the sign of zero


@triton.jit
def values32(words, affine, split, below, above, KIND: tl.constexpr, SYMMETRIC: tl.constexpr, BOUNDED: tl.constexpr):
    x = uniform32(words) if KIND == "uniform" else normal32(words, split, below, above, SYMMETRIC)
    x = fma32(x, number32(affine[0]), number32(affine[1]))
    if BOUNDED:
        x = clamp(x, number32(affine[2]), number32(affine[3]))
    return x


@triton.jit
def clamp(x, low, high):
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    if dtype == tl.bfloat16:  # rounded by hand: Triton's interpreter truncates
        bits = x.to(tl.uint32, bitcast=True)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        x = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


# -- fp64, without fused operations ----------------------------------------------------------------------------------

# numerator and denominator separately: Triton before 3.8 cannot index a constant that is a tuple of tuples
_CENTRAL_P, _CENTRAL_Q = (tl.constexpr(polynomial) for polynomial in stream._AS241["central"])
_MIDDLE_P, _MIDDLE_Q = (tl.constexpr(polynomial) for polynomial in stream._AS241["middle"])
_FAR_P, _FAR_Q = (tl.constexpr(polynomial) for polynomial in stream._AS241["far"])
_ATANH = tl.constexpr(stream._ATANH)
_LN2_64 = tl.constexpr(math.log(2.0))
_BITS_SQRT_HALF_64 = tl.constexpr(0x3FE6A09E667F3BCD)


@triton.jit
def number64(bits):
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def horner64(coefficients: tl.constexpr, DEGREE: tl.constexpr, x):
    value = tl.full(x.shape, coefficients[DEGREE], tl.float64)
    for k in tl.static_range(DEGREE):
        value = value * x + coefficients[DEGREE - 1 - k]
    return value


@triton.jit
def ratio64(numerator: tl.constexpr, denominator: tl.constexpr, x):
    return horner64(numerator, 7, x) / horner64(denominator, 7, x)


@triton.jit
def log64(p):
    shifted = p.to(tl.int64, bitcast=True) - _BITS_SQRT_HALF_64
    exponent = (shifted >> 52).to(tl.float64)
    f = number64((shifted & 0xFFFFFFFFFFFFF) + _BITS_SQRT_HALF_64) - 1.0
    x = f / (f + 2.0)
    return exponent * _LN2_64 + x * 2.0 * horner64(_ATANH, 10, x * x)


@triton.jit
def quantile64(q, p):
    r = tl.sqrt(log64(p) * -1.0)
    tail = tl.where(r <= 5.0, ratio64(_MIDDLE_P, _MIDDLE_Q, r - 1.6), ratio64(_FAR_P, _FAR_Q, r - 5.0))
    limit = tl.full(q.shape, 0.425, tl.float64)  # Triton before 3.9 rounds a number that it compares with to fp32
    return tl.where(q > limit, tail, q * ratio64(_CENTRAL_P, _CENTRAL_Q, 0.180625 - q * q))


@triton.jit
def word53(high, low):
    return (high.to(tl.int64) << 21) | (low >> 11).to(tl.int64)


@triton.jit
def uniform64(words):
    return words.to(tl.float64) * 2.0**-53


@triton.jit
def normal64(words, split, below, above, SYMMETRIC: tl.constexpr):
    negative = words < split
    j = tl.where(negative, split - 1 - words, words - split)
    mirrored = choose(negative, below[0].to(tl.int64), above[0].to(tl.int64), SYMMETRIC) - j
    scale = choose(negative, number64(below[1]), number64(above[1]), SYMMETRIC)
    q = j.to(tl.float64) * scale + choose(negative, number64(below[2]), number64(above[2]), SYMMETRIC)
    p = mirrored.to(tl.float64) * scale + choose(negative, number64(below[3]), number64(above[3]), SYMMETRIC)
    z = quantile64(q, p)
    return tl.where(negative, z * -1.0, z)


@triton.jit
def values64(words, affine, split, below, above, KIND: tl.constexpr, SYMMETRIC: tl.constexpr, BOUNDED: tl.constexpr):
    x = uniform64(words) if KIND == "uniform" else normal64(words, split, below, above, SYMMETRIC)
    x = x * number64(affine[0]) + number64(affine[1])
    if BOUNDED:
        x = clamp(x, number64(affine[2]), number64(affine[3]))
    return x


# -- the kernel --------------------------------------------------------------------------------------------------------

# Triton specializes: it compiles again for integers that are 1 or multiples of 16. That is worth it only for arguments
# that decide how memory is written; these others are not specialized.
_ANY_VALUE = (
    *("quads", "per_row", "inner", "start", "sizes", "index_strides"),
    *("key", "draw", "affine", "split", "below", "above"),
)


@triton.jit(do_not_specialize=_ANY_VALUE)
def fill_quads(
    out,
    quads: tl.int64,
    per_row,
    inner: tl.int64,
    start: tl.int64,
    sizes,
    index_strides,
    out_strides,
    step,
    key: tl.uint64,
    draw: tl.uint64,
    affine,
    split: tl.int64,
    below,
    above,
    KIND: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    BOUNDED: tl.constexpr,
    WHOLE: tl.constexpr,
    NARROW: tl.constexpr,
    OUTER: tl.constexpr,
    COUNTERS: tl.constexpr,
):
    """Each lane computes the four elements of one counter (a quad), and writes those that lie in its row of the box.

    A box has ``OUTER`` dimensions of rows, the fastest first. A row is ``inner`` consecutive elements, ``step`` apart
    in memory. It gets ``per_row`` lanes, enough for any start within a quad. Rows of 3 elements, from 5 and from 15::

        lane      0        1          2            3
        elements  4 5 6 7  8 9 10 11  12 13 14 15  16 17 18 19
        written     5 6 7                      15  16 17

    ``WHOLE``: every quad lies in its row. ``NARROW``: lanes are counted in 31 bits, which makes divisions cheaper.
    """
    dtype: tl.constexpr = out.dtype.element_ty
    lane = tl.program_id(0).to(tl.int64) * COUNTERS + tl.arange(0, COUNTERS)
    valid = lane < quads
    quad = lane
    first = tl.full((COUNTERS,), 0, tl.int64) + start
    place = tl.full((COUNTERS,), 0, tl.int64)
    if OUTER > 0:
        row = (lane.to(tl.int32) if NARROW else lane) // per_row
        quad = lane - row.to(tl.int64) * per_row
        for dim in tl.static_range(OUTER):
            along = (row % sizes[dim]).to(tl.int64)
            row = row // sizes[dim]
            first += along * index_strides[dim]
            place += along * out_strides[dim]

    counters = (first >> 2) + quad
    key = key.to(tl.uint64)
    draw = draw.to(tl.uint64)
    words = words_of(counters, key, draw)
    if dtype == tl.uint32:
        values = words
    elif dtype == tl.float64:
        both = word53(words, words_of(counters, key, draw | _LOW_WORD))
        values = values64(both, affine, split, below, above, KIND, SYMMETRIC, BOUNDED)
    else:
        values = rounded(values32(words, affine, split, below, above, KIND, SYMMETRIC, BOUNDED), dtype)

    if WHOLE:
        along_row = (quad * 4)[:, None] + tl.arange(0, 4)[None, :]
        mask = valid[:, None]
    else:
        along_row = (quad * 4 - (first & 3))[:, None] + tl.arange(0, 4)[None, :]
        mask = valid[:, None] & (along_row >= 0) & (along_row < inner)
    tl.store(out + place[:, None] + along_row * step, values, mask=mask)


# -- calls -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _law_arguments(law: Law) -> dict[str, Any]:
    """The kernel's arguments that describe the law."""
    within = law.within or interval()

    def bits(value: float) -> int:
        kinds, number = ("dq", value) if law.dtype is torch.float64 else ("fi", fp32(value))
        return int(struct.unpack(f"<{kinds[1]}", struct.pack(f"<{kinds[0]}", number))[0])

    def side(of: Side) -> tuple[int, ...]:
        return of.count - 1, *(bits(float(value)) for value in (of.scale, of.q_offset, of.p_offset))

    below, above = side(within.negative), side(within.positive)
    return {
        "affine": tuple(bits(value) for value in (law.scale, law.shift, law.low, law.high)),
        "split": within.split,
        "below": below,
        "above": above,
        "KIND": law.kind,
        "SYMMETRIC": below == above,
        "BOUNDED": law.bounded,
    }


def fill(tasks: Sequence[Task]) -> None:
    """Run the tasks in order, with one launch for each tensor on the current stream of its device."""
    for task in tasks:
        if task.region.numel:
            with torch.cuda.device_of(task.outs[0]):
                for key, out in zip(task.keys, task.outs, strict=True):
                    _launch(task, key, out.detach())


def _launch(task: Task, key: int, out: torch.Tensor) -> None:
    region = task.region
    for (index, offset), box, strides in boxes(region.sizes, [region.strides, out.stride()]):
        rows = [dim for dim in zip(box, *strides, strict=True) if dim[0] != 1]
        inner, _, step = rows.pop() if rows and rows[-1][1] == 1 else (1, 1, 1)
        sizes, index_strides, out_strides = zip(*reversed(rows), strict=True) if rows else ((), (), ())
        start = region.start + index
        whole = all(number % 4 == 0 for number in (start, inner, *index_strides))
        per_row = inner // 4 if whole else (inner + 6) // 4  # enough even if the row starts at the last of a quad
        quads = math.prod(sizes) * per_row
        fill_quads[(triton.cdiv(quads, COUNTERS),)](
            out.as_strided((), (), out.storage_offset() + offset),
            quads=quads,
            per_row=per_row,
            inner=inner,
            start=start,
            sizes=sizes,
            index_strides=index_strides,
            out_strides=out_strides,
            step=step,
            key=key,
            draw=task.draw,
            **_law_arguments(task.law),
            WHOLE=whole,
            NARROW=quads < 2**31,
            OUTER=len(rows),
            COUNTERS=COUNTERS,
            enable_fp_fusion=False,
            sanitize_overflow=False,  # 32-bit words wrap around on purpose
        )
