"""The bits of a NaN: those of an elementwise result do not depend on the region that is computed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from zeta.base.dtypes import bits, integer_of, real_part
from zeta.base.language.evaluation import compute, compute_elementwise, result_type
from zeta.base.language.operations import OPERATIONS
from zeta.base.language.state import fixed_state
from zeta.errors import SpecError

COUNT = 300
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
NEEDED: dict[str, dict[str, Any]] = {"threshold": {"threshold": 0.0, "value": 1.0}}
ELEMENTWISE = sorted(name for name, operation in OPERATIONS.items() if operation.elementwise)


def of_any_bits(dtype: torch.dtype, draw: random.Random) -> Tensor:
    """Values of which about every second one is NaN, with many payloads and both signs."""
    part = real_part(dtype)
    size = 8 * part.itemsize
    if dtype.is_complex:
        return torch.complex(of_any_bits(part, draw), of_any_bits(part, draw))
    nan = int(torch.full((1,), math.inf, dtype=part).view(integer_of(part.itemsize))) if size > 8 else 127
    plain = torch.tensor([1.0, -1.0, 0.0, -0.0, math.inf, -math.inf, 2.5, -30.0]).to(part)
    payload = torch.tensor([nan | (draw.getrandbits(8) + 1) for _ in range(COUNT)]).to(integer_of(part.itemsize))
    signs = torch.tensor([draw.choice((0, -(2 ** (size - 1)))) for _ in range(COUNT)]).to(payload.dtype)
    chosen = torch.tensor([draw.random() < 0.5 for _ in range(COUNT)])
    return torch.where(chosen, (payload | signs).view(part), plain[torch.tensor(draw.choices(range(8), k=COUNT))])


def operands_of(name: str, dtype: torch.dtype, number: int | None, draw: random.Random) -> list[Any]:
    """Operands with NaN; that at the place ``number`` is a number."""
    operands: list[Any] = []
    for place, operand in enumerate(OPERATIONS[name].operands):
        if operand in ("condition", "mask"):
            operands.append(torch.tensor([draw.random() < 0.5 for _ in range(COUNT)]))
        else:
            operands.append(1.5 if place == number else of_any_bits(dtype, draw))
    return operands


def cut(operands: list[Any], start: int, size: int) -> list[Any]:
    return [value[start : start + size] if isinstance(value, Tensor) else value for value in operands]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="elsewhere a NaN may have other bits"
)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_part_has_the_bits_of_the_whole(name: str) -> None:
    draw = random.Random(0)
    attributes = tuple(NEEDED.get(name, {}).items())
    for dtype in DTYPES:
        for to in (*DTYPES, *FP8) if name == "cast" else (dtype,):
            for number in (None, 0, 1) if len(OPERATIONS[name].operands) > 1 else (None,):
                operands = operands_of(name, dtype, number, draw)
                types = [(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in operands]
                try:
                    found = result_type(name, types, attributes, to)[1]
                except SpecError:
                    continue
                with fixed_state():
                    whole = bits(compute_elementwise(name, operands, attributes, to, (COUNT,)))
                    for size in range(1, 71, 3):
                        start = draw.randrange(COUNT - size)
                        part = compute_elementwise(name, cut(operands, start, size), attributes, to, (size,))
                        assert part.dtype is found
                        assert torch.equal(bits(part), whole[start : start + size]), (dtype, to, number, start, size)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mish", torch.float32), ("mish", torch.bfloat16), ("lerp", torch.float16), ("div", torch.complex64)],
)
def test_operations_with_an_uneven_nan_have_a_single_one(name: str, dtype: torch.dtype) -> None:
    draw = random.Random(1)
    x = of_any_bits(dtype, draw)
    one = int(bits(torch.full((), math.nan, dtype=real_part(dtype))))
    with fixed_state():
        for shape in ((COUNT,), ()):
            operands = [x if shape else x[x.isnan()][0]] * len(OPERATIONS[name].operands)
            for result in (compute_elementwise(name, operands, (), dtype, shape), compute(name, operands, (), dtype)):
                part = torch.view_as_real(result) if result.is_complex() else result
                assert set(bits(part)[part.isnan()].tolist()) == {one}
        mask = torch.tensor([draw.random() < 0.5 for _ in range(COUNT)])
        assert torch.equal(bits(compute_elementwise("where", [mask, x, x], (), dtype, (COUNT,))), bits(x))
