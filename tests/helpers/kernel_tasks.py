"""Laws and tasks that tell backends apart, and the comparison with the reference."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from zeta.compute.stream.kernels import WORDS, Law, Task, reference
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region

FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def law(kind: str, dtype: torch.dtype, low: float = -math.inf, high: float = math.inf, **numbers: float) -> Law:
    bits = 53 if dtype is torch.float64 else 32
    within = interval(low, high, bits=bits) if kind == "normal" else None
    return Law(kind=kind, dtype=dtype, within=within, **numbers)  # type: ignore[arg-type]


LAWS = {
    "words": lambda dtype: WORDS,
    "uniform": lambda dtype: law("uniform", dtype, scale=3.0, shift=-1.0),
    "uniform, held": lambda dtype: Law(kind="uniform", dtype=dtype, scale=3.0, shift=-1.0, low=-0.5, high=1.5),
    "uniform, held below": lambda dtype: Law(kind="uniform", dtype=dtype, scale=3.0, shift=-1.0, low=-0.5),
    "uniform, held above": lambda dtype: Law(kind="uniform", dtype=dtype, scale=3.0, shift=-1.0, high=1.5),
    "normal": lambda dtype: law("normal", dtype, scale=0.02, shift=0.25),
    "std 0": lambda dtype: law("normal", dtype, scale=0.0, shift=0.25),
    "subnormal": lambda dtype: law("normal", dtype, scale=1e-40),
    "partly subnormal": lambda dtype: law("normal", dtype, scale=1e-37),
    "subnormal bound": lambda dtype: Law(
        kind="uniform", dtype=dtype, scale=1.0, shift=-0.5, low=torch.finfo(dtype).smallest_normal / 2, high=0.5
    ),
    "subnormal shift": lambda dtype: law("normal", dtype, scale=1e-39, shift=1e-38),
    "huge": lambda dtype: law("normal", dtype, scale=1e37 if dtype is not torch.float16 else 1e4),
    "two sigmas": lambda dtype: law("normal", dtype, -2.0, 2.0),
    "lopsided": lambda dtype: law("normal", dtype, -1.0, 3.0, scale=0.5),
    "positive": lambda dtype: law("normal", dtype, 0.0, scale=2.0),
    "negative": lambda dtype: law("normal", dtype, high=-0.5),
    "far": lambda dtype: law("normal", dtype, 7.5, 7.75),
    "narrow": lambda dtype: law("normal", dtype, 1.0, 1.000001),
}


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def assert_same(task: Task, fill: Any) -> None:
    """``fill`` writes what the reference writes, and nothing beside it."""
    memory = torch.empty(0, dtype=torch.uint8).set_(task.outs[0].untyped_storage())
    before = memory.clone()
    reference.fill([task])
    expected = memory.clone()
    memory.copy_(before)
    fill([task])
    assert torch.equal(memory, expected), task.law


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """A box somewhere inside a large tensor, written to memory with gaps, in any order of the dimensions."""
    ndim = draw(st.integers(0, 8))
    sizes = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 9, 40]), min_size=ndim, max_size=ndim))
    while math.prod(sizes) > 5000:
        sizes[sizes.index(max(sizes))] = 1
    whole = [draw(st.booleans()) for _ in sizes]
    offsets = [0 if all_of_it else draw(st.integers(0, 300)) for all_of_it in whole]
    rests = [0 if all_of_it else draw(st.integers(0, 300)) for all_of_it in whole]
    shape = [offset + size + rest for offset, size, rest in zip(offsets, sizes, rests, strict=True)]
    order = draw(st.permutations(range(ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in sizes]
    memory = [sizes[dim] * step for dim, step in zip(order, steps, strict=True)]
    chosen = LAWS[draw(st.sampled_from(list(LAWS)))](draw(st.sampled_from(FLOATS)))
    out = torch.zeros(memory, dtype=chosen.dtype)[tuple(slice(None, None, step) for step in steps)]
    out = out.permute([order.index(dim) for dim in range(ndim)])
    region = Region(shape=tuple(shape), offsets=tuple(offsets), sizes=tuple(sizes))
    key, number = draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**64 - 1))
    return Task(law=chosen, keys=(key,), draw=number, region=region, outs=(out,))
