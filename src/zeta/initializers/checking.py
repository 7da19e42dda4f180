"""Validate a program before it runs: every step must have the type that it states, and the cost has a limit."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import torch

from zeta.base import dtypes
from zeta.base.language import evaluation, operations
from zeta.base.language.operations import Type
from zeta.errors import SpecError
from zeta.initializers.base import Site
from zeta.initializers.matrix import matrix_shape
from zeta.initializers.reach import check_law
from zeta.initializers.regional import is_regional, needed_regions
from zeta.initializers.steps import MOST_DIMS, Data, Draw, Ref, Step

# The limits of a program's cost, so that no file can make a computer compute or allocate without end: bytes and steps
# of arithmetic for each element of its result. Smaller results count as having the numbers of elements below.
MOST_BYTES: Final = 2**10
MOST_WORK: Final = 2**14
LEAST_FOR_WORK: Final = 2**16
LEAST_FOR_MEMORY: Final = 2**18
_DTYPES: Final = (
    *dtypes.REAL, *dtypes.COMPLEX, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def check_step(step: Step, before: list[Step]) -> None:
    """Raise ``ZetaError`` unless a step uses only earlier steps and its result has the type that it states."""
    if len(step.shape) > MOST_DIMS or not all(_is_extent(n) for n in step.shape) or step.nbytes >= 2**63:
        raise SpecError(f"{step.shape!r} is no shape")
    if step.dtype not in _DTYPES:
        raise SpecError(f"a program does not compute in {dtypes.name_of(step.dtype)}")
    if any(not 0 <= ref < len(before) for ref in step.refs):
        raise SpecError(f"{step.op} uses a step that is not before it")
    if not all(isinstance(item, Ref) or item is None or operations.is_number(item) for item in step.operands):
        raise SpecError(f"{step.op} has an operand that is no earlier step and no number")
    if (step.op in ("draw", "data")) != (step.leaf is not None) or (step.leaf and (step.operands or step.attributes)):
        raise SpecError(f"{step.op} has the wrong parts: draw and data are leaves, without operands and attributes")
    match step.leaf:
        case Draw():
            _check_draw(step.leaf, step)
        case Data():
            if len(step.leaf.content) != step.nbytes:
                raise SpecError(f"{len(step.leaf.content)} bytes of data for {_type_text(step.type)}")
            if step.dtype is torch.bool and step.leaf.content.strip(b"\0\1"):
                raise SpecError("data of truth values has bytes other than 0 and 1")
        case None:
            operands = tuple(before[item.step].type if isinstance(item, Ref) else item for item in step.operands)
            found = evaluation.result_type(step.op, operands, step.attributes, step.dtype)
            if found != step.type:
                raise SpecError(f"{step.op} gives {_type_text(found)}, but states {_type_text(step.type)}")


def _check_draw(draw: Draw, step: Step) -> None:
    law = draw.initializer
    if not law.is_law or law.solve(Site(shape=step.shape, axes=draw.axes)) != law:
        raise SpecError(f"{law!r} is not a law with every number known, which a draw needs")
    if law.needs_axes:
        law.moments(Site(shape=step.shape, axes=draw.axes))  # raises where the axes do not fit
    check_law(law, step.dtype)
    if not 0 <= draw.number < 2**63 or not isinstance(draw.of, str | None):
        raise SpecError(f"a draw has a number from 0 on and a parameter's name, got {draw.number!r} and {draw.of!r}")


def check_cost(steps: tuple[Step, ...]) -> None:
    """Raise ``SpecError`` if a program would take more time or memory than its result justifies."""
    for_work, for_memory = max(steps[-1].numel, LEAST_FOR_WORK), max(steps[-1].numel, LEAST_FOR_MEMORY)
    work = 0
    last_use = {ref: position for position, step in enumerate(steps) for ref in step.refs}
    ending = Counter[int]()
    held = 0
    for position, step in enumerate(steps):
        unused = 0  # bytes of results of the operation that are not the selected part
        if step.leaf is None:
            types = [steps[item.step].type if isinstance(item, Ref) else item for item in step.operands]
            work += operations.work(step.op, types, step.type)
            if any(key == "part" for key, _ in step.attributes):
                unused = evaluation.nbytes_of_parts(step.op, tuple(types), step.attributes, step.dtype) - step.nbytes
        else:
            work += _work_of(step)
        ending[last_use.get(position, position)] += step.nbytes
        held += step.nbytes
        if work > MOST_WORK * for_work or held + unused > MOST_BYTES * for_memory:
            if _is_cheap_by_regions(steps, MOST_WORK * for_work, MOST_BYTES * for_memory):
                return
            raise SpecError(
                f"Program: up to step {position} ({step.op}) it takes {work:,} steps of arithmetic and "
                f"{held + unused:,} bytes; a tensor of {steps[-1].numel:,} elements may take {MOST_WORK * for_work:,} "
                f"and {MOST_BYTES * for_memory:,}"
            )
        held -= ending.pop(position, 0)


def _is_cheap_by_regions(steps: tuple[Step, ...], work: int, memory: int) -> bool:
    """Whether only regions of the steps are computed, and all of them together stay within the limits.

    Data are read as a whole. What has no elements is computed as a whole, too.
    """
    if not steps[-1].numel or not is_regional(steps):
        return False
    regions = needed_regions(steps) or []
    computed = [
        (step.numel if step.op == "data" else math.prod(region), step.dtype.itemsize)
        for step, found in zip(steps, regions, strict=True)
        for region in found
    ]
    return sum(n for n, _ in computed) <= work and sum(n * size for n, size in computed) <= memory


def _work_of(step: Step) -> int:
    """The approximate steps of arithmetic of a draw; orthogonal matrices need products, sparse ones sorting."""
    if not isinstance(step.leaf, Draw) or not step.leaf.initializer.needs_axes:
        return step.numel
    sizes = matrix_shape(Site(shape=step.shape, axes=step.leaf.axes))
    return step.numel * max(32, min(sizes.rows, sizes.columns * math.prod(sizes.kernel)))


def _is_extent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _type_text(of: Type) -> str:
    return f"{dtypes.name_of(of[1])}{list(of[0])}"
