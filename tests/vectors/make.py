"""Writes the golden vectors of the stream: ``python tests/vectors/make.py``.

The bits belong to a version of the stream. What changes here without a new version is a bug, unless a case is added.

``stream1.json`` is a list of cases that every backend reads. A case has

- ``kind`` and ``parameters``: what is asked for, in the vocabulary of ``zeta.initializers``; bounds left out are
  infinite;
- ``key`` (hexadecimal), ``draw``, ``start`` and ``count`` (all of 64 bits): which words, and so which elements of a
  tensor;
- ``dtype``, and ``bits``: the values, each as the hexadecimal number that its bits make (sign bit first). A complex
  value is its real part's bits, then its imaginary part's.

Four kinds differ: ``key`` has a ``seed`` and a ``name`` and gives the key; ``words`` gives the raw words; ``quantile``
takes its words from the list ``words`` and gives the standard normal quantile between ``low`` and ``high`` in sigmas;
``sparse`` is a whole matrix of ``parameters["shape"]``, outputs by inputs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeta.compute.sampling import sample
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import Task
from zeta.compute.stream.random import STREAM_VERSION, interval, normal32, normal64, parameter_key
from zeta.compute.stream.regions import Region
from zeta.fans import Axes
from zeta.initializers import Constant, Initializer, Normal, Sparse, TruncatedNormal, Uniform

PATH = Path(__file__).with_name(f"stream{STREAM_VERSION}.json")
PI = 0x299F31D0A4093822
FP8 = ("float8_e4m3fn", "float8_e5m2")
REAL = ("float32", "float64", "bfloat16", "float16", *FP8)
COMPLEX = ("complex64", "complex128", "complex32")
INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Case = dict[str, Any]


def bits_of(values: Tensor) -> list[str]:
    """Each value's bits; both parts' for complex values."""
    parts = torch.view_as_real(values) if values.is_complex() else values.unsqueeze(-1)
    size = parts.dtype.itemsize
    numbers = parts.contiguous().view(INTEGER[size]).tolist()
    return ["".join(f"{part % 256**size:0{2 * size}x}" for part in value) for value in numbers]


def initializer_of(case: Case) -> Initializer:
    """The initializer that a case of values asks for."""
    kinds: dict[str, type[Initializer]] = {
        "constant": Constant,
        "uniform": Uniform,
        "normal": Normal,
        "truncated_normal": TruncatedNormal,
        "sparse": Sparse,
    }
    return kinds[case["kind"]](**{name: value for name, value in case["parameters"].items() if name != "shape"})


def bits_from_source(case: Case) -> list[str]:
    """What the source gives for a case."""
    if case["kind"] == "key":
        return [f"{parameter_key(int(case['seed'], 16), case['name']):016x}"]
    if case["kind"] == "quantile":
        words = torch.tensor([int(word, 16) for word in case["words"]])
        bounds = (case["parameters"].get("low", -math.inf), case["parameters"].get("high", math.inf))
        if case["dtype"] == "float64":
            return bits_of(normal64(words, interval(*bounds, bits=53)))
        return bits_of(normal32(words, interval(*bounds)).float())
    key, draw, start, count = int(case["key"], 16), case["draw"], case["start"], case["count"]
    if case["kind"] == "words":
        region = Region(shape=(start + count,), offsets=(start,), sizes=(count,))
        words = torch.empty(count, dtype=torch.uint32)
        kernels.fill([Task(law=kernels.WORDS, keys=(key,), draw=draw, region=region, outs=(words,))])
        return [f"{word:08x}" for word in words.tolist()]
    assert draw == 0, "values of a parameter begin with draw 0"
    if case["kind"] == "sparse":
        region, axes = Region.whole(case["parameters"]["shape"]), Axes(fan_in=(1,), fan_out=(0,))
    else:
        region, axes = Region(shape=(start + count,), offsets=(start,), sizes=(count,)), None
    values = sample(initializer_of(case), key=key, region=region, dtype=getattr(torch, case["dtype"]), axes=axes)
    return bits_of(values.flatten())


# -- the cases ---------------------------------------------------------------------------------------------------------


def key(seed: int, name: str) -> Case:
    return {"kind": "key", "seed": f"{seed:x}", "name": name}


def words(key: int, draw: int, start: int, count: int) -> Case:
    return values("words", start=start, count=count, key=key, draw=draw, dtype="uint32")


def values(
    kind: str,
    *,
    start: int = 0,
    count: int = 5,
    key: int = PI,
    draw: int = 0,
    dtype: str = "float32",
    **parameters: Any,
) -> Case:
    region = {"key": f"{key:016x}", "draw": draw, "start": start, "count": count}
    return {"kind": kind, **region, "dtype": dtype, "parameters": parameters}


def quantile(words: list[int], dtype: str = "float32", **parameters: float) -> Case:
    return {"kind": "quantile", "words": [f"{word:x}" for word in words], "dtype": dtype, "parameters": parameters}


HALF = 2**31
BRANCH32 = HALF + 25 * 2**26  # q = 25/64
LOG32 = 2**32 - 379625063  # p = sqrt(1/2) / 8
BRANCH53 = 2**52 + 3828059683264921  # q = 0.425
FAR53 = 2**53 - 125092  # p = exp(-25)
#: the ends, the middle, and both sides of each change of formula, of rounding, of the logarithm's exponent
WORDS32 = [
    0, 1, 2**24, HALF - 1, HALF, HALF + 1, HALF + 2**24, HALF + 2**24 + 1, BRANCH32 - 1, BRANCH32, BRANCH32 + 1,
    LOG32 - 1, LOG32, LOG32 + 1, 2**32 - 2, 2**32 - 1,
]  # fmt: skip
WORDS53 = [
    0, 1, 2**52 - 1, 2**52, 2**52 + 1, BRANCH53, BRANCH53 + 1, FAR53 - 1, FAR53, FAR53 + 1, 2**53 - 1,
]  # fmt: skip
TRUNCATIONS: list[dict[str, float]] = [
    {"std": 1.0},
    {"std": 0.02, "cutoff": 2.0},
    {"std": 0.5, "mean": 1.0, "cutoff": 0.25},
    {"std": 0.02, "low": -2.0, "high": 2.0},
    {"std": 0.3, "mean": 0.1, "low": -0.2, "high": 0.7},
    {"std": 1.0, "low": 0.0},
    {"std": 2.0, "high": 1.0},
    {"std": 1.0, "low": 8.0},
    {"std": 0.02, "high": -0.15},
    {"std": 1.0, "low": 7.5, "high": 7.75},
    {"std": 1.0, "low": 1.0, "high": 1.000001},
]

CASES: list[Case] = [
    *(key(seed, name) for seed, name in [
        (0, "weight"), (0, "h.0.attn.c_attn.weight"), (1, "weight"), (2**63, ""), (2**64 - 1, "слой.重み.🙂"),
    ]),
    words(0, 0, 0, 4),
    words(20111115, 0, 9999, 1),
    words(PI, 0, 1, 9),
    words(PI, 1, 2**32 - 3, 6),
    words(PI, 2**63, 2**34 - 3, 6),
    words(PI, 2**32 + 7, 2**62 + 2, 3),
    words(2**64 - 1, 2**64 - 1, 3, 2),
    *(values("constant", count=1, dtype=dtype, value=0.1) for dtype in (*REAL, "complex64")),
    *(values("uniform", low=-0.05, high=0.15, dtype=dtype) for dtype in (*REAL, *COMPLEX)),
    values("uniform", start=2**34 - 2, low=0.0, high=1.0),
    *(values("normal", std=0.02, mean=0.5, dtype=dtype) for dtype in (*REAL, *COMPLEX)),
    values("normal", start=2, count=9, std=1.0),
    values("normal", start=2**34 - 2, std=1.0),
    values("normal", start=2**34 - 2, std=1.0, dtype="float64"),
    values("normal", std=1e-40),
    values("normal", std=1e-40, dtype="bfloat16"),
    *(values("truncated_normal", **parameters) for parameters in TRUNCATIONS),
    *(values("truncated_normal", std=0.3, low=0.1, high=0.3, dtype=dtype) for dtype in REAL[1:]),
    *(values("truncated_normal", std=1.0, cutoff=1.5, dtype=dtype) for dtype in COMPLEX),
    values("truncated_normal", std=1.0, low=8.0, dtype="float64"),
    quantile(WORDS32),
    quantile([0, 1, HALF - 1, HALF, 2**32 - 1], low=-2.0, high=2.0),
    quantile([0, 2**29, 2**32 - 1], low=-1.0, high=3.0),
    quantile([0, HALF, 2**32 - 1], low=8.0),
    quantile([0, HALF, 2**32 - 1], low=-30.0, high=-7.0),
    quantile(WORDS53, dtype="float64"),
    quantile([0, 2**52, 2**53 - 1], dtype="float64", low=-1.0, high=3.0),
    quantile([0, 2**52, 2**53 - 1], dtype="float64", low=8.0),
    *(
        values("sparse", count=12, sparsity=0.4, std=0.01, shape=[6, 2], dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ),
]  # fmt: skip


def text() -> str:
    """The file: one case a line."""
    lines = (json.dumps({**case, "bits": bits_from_source(case)}, ensure_ascii=False) for case in CASES)
    return f'{{"version": {STREAM_VERSION}, "cases": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
