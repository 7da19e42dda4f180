"""docs/stream.md is complete and true: code from it alone gives the golden vectors, its tables are the source's."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

import pytest
import torch

from tests.helpers import stream_by_the_book as book
from tests.vectors.make import PATH, Case, bits_from_source, values
from zeta.base import dtypes
from zeta.compute.stream import random as stream

CASES = json.loads(PATH.read_text(encoding="utf-8"))["cases"]
PAGE = book.PAGE.read_text(encoding="utf-8")


def by_the_book(case: Case) -> list[str]:
    kind, dtype = case["kind"], case.get("dtype", "")
    if kind == "key":
        return [f"{book.key_of(int(case['seed'], 16), case['name']):016x}"]
    parameters = case["parameters"]
    if kind == "quantile":
        bounds = parameters.get("low", -math.inf), parameters.get("high", math.inf)
        normal = book.normal64 if dtype == "float64" else book.normal32
        return [book.encoded([normal(int(word, 16), *bounds)], dtype) for word in case["words"]]
    key, elements = int(case["key"], 16), range(case["start"], case["start"] + case["count"])
    if kind == "words":
        return [f"{book.word(key, i, case['draw']):08x}" for i in elements]
    if kind == "sparse":
        return [book.encoded(element, dtype) for element in book.sparse(parameters, key, dtype)]
    return [book.encoded(book.values(kind, parameters, key, i, dtype), dtype) for i in elements]


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=f"{case['kind']}-{case.get('dtype', '')}-{i}") for i, case in enumerate(cases)]


# -- the page gives the bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named(CASES))
def test_the_page_gives_the_golden_vectors(case: Case) -> None:
    assert by_the_book(case) == case["bits"]


EVERY = [dtypes.name_of(dtype) for dtype in (*dtypes.REAL, *dtypes.COMPLEX)]
MORE = [
    *(values("constant", count=1, dtype=dtype, value=value) for dtype in EVERY for value in (-1 / 3, 1e-3, -0.0)),
    *(values("uniform", start=2**33 + 1, count=20, low=-0.1, high=0.3, dtype=dtype) for dtype in EVERY),
    *(values("normal", start=5, count=20, std=0.01, mean=-0.003, dtype=dtype) for dtype in EVERY),
    # many values at the bounds; tiny values, where zeros have a sign; far tails
    *(values("truncated_normal", count=20, std=1.0, low=-0.11, high=0.11, dtype=dtype) for dtype in EVERY),
    *(values("truncated_normal", count=20, std=0.3, mean=0.1, low=-0.2, high=0.4, dtype=dtype) for dtype in EVERY),
    *(values("truncated_normal", count=20, std=1e-5, cutoff=1.5, dtype=dtype) for dtype in EVERY),
    *(values("truncated_normal", count=20, std=0.25, high=-1.9, dtype=dtype) for dtype in EVERY[: len(dtypes.REAL)]),
    *(values("truncated_normal", count=20, std=0.25, low=-0.3, dtype=dtype) for dtype in EVERY[: len(dtypes.REAL)]),
    *(values("sparse", count=20, sparsity=0.5, std=0.3, shape=[5, 4], dtype=dtype) for dtype in EVERY),
    values("normal", count=300, std=1.0),
    values("normal", count=600, std=1.0, dtype="float64"),
    values("truncated_normal", count=100, std=0.1, low=-0.1, high=0.3),
    values("truncated_normal", count=100, std=0.1, low=0.5, high=0.6),
]


@pytest.mark.parametrize("case", named(MORE))
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_the_page_gives_what_the_source_gives(case: Case) -> None:
    assert by_the_book(case) == bits_from_source(case)


# -- its tables and numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CENTRAL", "TAIL_NUMERATOR", "TAIL_DENOMINATOR", "LOG"])
def test_the_tables_of_fp32_are_the_sources(name: str) -> None:
    source = getattr(stream, f"_{name}")
    rows = book.table(name)
    assert [int(row[0]) for row in rows] == list(range(len(source)))
    assert [int(row[1], 16) for row in rows] == [book.bits(value, "f") for value in source]
    assert [float(row[2]) for row in rows] == list(source)


@pytest.mark.parametrize("region", ["central", "middle", "far"])
def test_the_tables_of_fp64_are_the_sources(region: str) -> None:
    rows = book.table(f"AS241_{region.upper()}")
    for column, source in enumerate(stream._AS241[region]):
        assert [float(row[1 + column]) for row in rows] == list(source)
        assert [int(row[3 + column], 16) for row in rows] == [book.bits(value, "d") for value in source]


def test_the_single_constants_are_the_sources() -> None:
    assert book.constant("SQRT_2PI") == [stream._SQRT_2PI]
    assert book.constant("LN2") == [stream._LN2, math.log(2.0)]
    assert tuple(book.ATANH) == stream._ATANH
    assert f"0x{stream._BITS_SQRT_HALF:08X}" in PAGE
    for number in (*stream._MULTIPLIERS, *stream._WEYL):
        assert f"0x{number:08X}" in PAGE
    assert f"version {stream.STREAM_VERSION}\n" in PAGE
    assert f'person = "{stream._PERSON.decode()}"' in PAGE


def test_the_table_of_dtypes_is_torchs() -> None:
    names = [dtypes.name_of(dtype) for dtype in dtypes.REAL if dtype is not torch.float64]
    for name in names:
        form, info = book.FORMATS[name], torch.finfo(getattr(torch, name))
        assert form.largest == info.max
        assert 2.0 ** (1 - form.bias) == info.smallest_normal
        (row,) = re.findall(rf"\| {name} \| (\d+), (\d+) \| (\d+) \| 2\^(-\d+) \| 2\^(-\d+) \| ([^|]*) \|", PAGE)
        assert tuple(map(int, row[:3])) == (form.exponent, form.bias, form.fraction)
        assert tuple(map(int, row[3:5])) == (1 - form.bias - form.fraction, 1 - form.bias)
        largest = row[5] if row[5].isdigit() else re.sub(r"\) 2", ") * 2", row[5].replace("^", "**"))
        assert eval(largest) == form.largest


def test_the_book_is_written_from_the_page_alone() -> None:
    with open(book.__file__, encoding="utf-8") as file:  # noqa: PTH123
        tree = ast.parse(file.read())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"zeta", "torch", "numpy", "tests", "mpmath", "scipy"}
