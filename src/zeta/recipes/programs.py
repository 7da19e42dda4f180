"""Programs for laws that no initializer has: how they are made, Hadamard matrices, and attention near the identity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers import Data, Dirac, Draw, Identity, Initializer, Normal, Program, Ref, Step
from zeta.initializers.program import DRAWS_PER_LEAF
from zeta.rules import Match


class Steps:
    """A program in the making: each call adds a step and returns its result; all results have one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._steps: list[Step] = []

    def add(self, op: str, result: tuple[int, ...], /, *operands: Any, **attributes: Any) -> Ref:
        """The result of an operation, of this shape; operands are results and numbers."""
        return self._step(op, result, None, operands, attributes)

    def data(self, tensor: Tensor) -> Ref:
        """A constant."""
        return self._step("data", tuple(tensor.shape), Data.of(tensor.to(self.dtype)), (), {})

    def draw(self, law: Initializer, shape: tuple[int, ...], number: int, of: str | None = None) -> Ref:
        """Draw ``number`` of the program's own parameter, or of another."""
        return self._step("draw", shape, Draw(law, number, of=of), (), {})

    def cast(self, value: Ref, shape: tuple[int, ...], dtype: torch.dtype) -> Ref:
        """A result in another dtype, which all further results have."""
        if dtype is self.dtype:
            return value
        self.dtype = dtype
        return self.add("cast", shape, value)

    def stored(self, value: Ref, match: Match) -> Program:
        """The program for a result of the parameter's shape, in its dtype."""
        return self.program(self.cast(value, match.shape, match.dtype))

    def program(self, value: Ref) -> Program:
        """The program for a result."""
        return Program(tuple(self._steps[: value.step + 1]))

    def _step(
        self, op: str, shape: tuple[int, ...], leaf: Data | Draw | None, operands: tuple[Any, ...], attributes: Any
    ) -> Ref:
        named = tuple(sorted(attributes.items()))
        step = Step(op=op, operands=operands, attributes=named, leaf=leaf, shape=shape, dtype=self.dtype)
        self._steps.append(step)
        return Ref(len(self._steps) - 1)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the values of a parameter are computed: fp32 at least."""
    return dtype if dtype.itemsize >= 4 else torch.float32


# -- identities and Hadamard matrices ----------------------------------------------------------------------------------


def identity_or_hadamard(match: Match) -> Initializer:
    """ZerO: of each map, the identity where outputs <= inputs, else columns of a Hadamard matrix."""
    axes = match.axes_of().resolved(match.shape)
    kernel = [dim for dim in axes.fan_in if dim in axes.fan_out]
    maps = {dim: match.shape[dim] // n for dim, n in axes.blocks}
    [rows], [columns] = (
        [maps.get(dim, match.shape[dim]) for dim in dims if dim not in kernel] for dims in (axes.fan_out, axes.fan_in)
    )
    if rows <= columns:
        return Dirac() if kernel else Identity()
    steps = Steps(match.dtype)
    matrix = _hadamard(steps, rows, columns)
    return steps.program(_placed(steps, matrix, match.shape, axes, (rows, columns)))


def _hadamard(steps: Steps, rows: int, columns: int) -> Ref:
    """The first columns of a Hadamard matrix, which is built by doubling, up to the size that the columns need."""
    matrix = steps.data(torch.tensor([[1.0, 1.0], [1.0, -1.0]], device="cpu"))
    size = 2
    while size < columns:
        minus = steps.add("neg", (size, size), matrix)
        upper = steps.add("cat", (size, 2 * size), matrix, matrix, dim=1)
        lower = steps.add("cat", (size, 2 * size), matrix, minus, dim=1)
        size *= 2
        matrix = steps.add("cat", (size, size), upper, lower, dim=0)
    # row i of the whole matrix is row i % size of this one, in its first columns
    times = -(-rows // size)
    tall = steps.add("reshape", (1, size, size), matrix, shape=(1, size, size))
    tall = steps.add("expand", (times, size, size), tall, shape=(times, size, size))
    tall = steps.add("reshape", (times * size, size), tall, shape=(times * size, size))
    part = steps.add("slice", (rows, columns), tall, starts=(0, 0), sizes=(rows, columns), steps=(1, 1))
    return steps.add("mul", (rows, columns), part, 2 ** (-math.ceil(math.log2(rows)) / 2))


def _placed(steps: Steps, matrix: Ref, shape: tuple[int, ...], axes: Axes, extents: tuple[int, int]) -> Ref:
    """The matrix, outputs x inputs, in each map of the parameter; in a kernel, at the centre."""
    rows, columns = extents
    kernel = [dim for dim in axes.fan_in if dim in axes.fan_out]
    [out], [into] = ([dim for dim in dims if dim not in kernel] for dims in (axes.fan_out, axes.fan_in))
    if into < out:
        matrix = steps.add("permute", (columns, rows), matrix, dims=(1, 0))
    size = [{out: rows, into: columns}.get(dim, 1) for dim in range(len(shape))]
    matrix = steps.add("reshape", tuple(size), matrix, shape=tuple(size))
    for dim, extent in enumerate(shape):
        if dim not in kernel and (times := extent // size[dim]) > 1:
            size[dim] = extent
            matrix = steps.add("cat", tuple(size), *[matrix] * times, dim=dim)
    if not kernel:
        return matrix
    zeros = steps.add("full", shape, size=shape, value=0.0)
    starts = tuple(extent // 2 if dim in kernel else 0 for dim, extent in enumerate(shape))
    return steps.add("update", shape, zeros, matrix, starts=starts, steps=(1,) * len(shape))


# -- attention ---------------------------------------------------------------------------------------------------------


class AttentionProgram:
    """The program of one weight of an attention."""

    def __init__(
        self, match: Match, heads: int, parts: int, similar: tuple[tuple[float, float], tuple[float, float]]
    ) -> None:
        axes = match.axes_of().resolved(match.shape)
        [self._out], [into] = axes.fan_out, axes.fan_in
        self._width, outputs = match.shape[into], match.shape[self._out]
        if len(match.shape) != 2 or outputs != parts * self._width or self._width % heads:
            raise SpecError(
                f"is not {parts} x {self._width} outputs of {self._width} inputs, in {heads} heads of the same width"
            )
        self._match, self._heads = match, heads
        self._query_key, self._value_output = similar
        self._steps = Steps(wide(match.dtype))

    def queries(self, of: str) -> Program:
        """Of each head, the left factor."""
        return self._stored(self._joined([self._factors(of, head)[0] for head in range(self._heads)]))

    def keys(self, of: str) -> Program:
        """Of each head, the right factor."""
        return self._stored(self._joined([self._factors(of, head)[1] for head in range(self._heads)]))

    def values(self, of: str) -> Program:
        """The left factor of the product with the outputs."""
        return self._stored(self._factors(of)[0])

    def outputs(self, of: str) -> Program:
        """The right factor, which is stored the other way round, as it maps heads to the width."""
        return self._stored(self._turned(self._factors(of)[1], self._width))

    def packed(self) -> Program:
        """Queries, keys and values."""
        pairs = [self._factors(self._match.name, head) for head in range(self._heads)]
        values = self._factors(self._match.name)[0]
        return self._stored(self._joined([*(pair[0] for pair in pairs), *(pair[1] for pair in pairs), values], 3))

    def _factors(self, of: str, head: int | None = None) -> tuple[Ref, Ref]:
        """``U sqrt(S)`` and ``V sqrt(S)``, transposed: of a head, or of all together."""
        add, d = self._steps.add, self._width
        noise, identity = self._value_output if head is None else self._query_key
        number = (self._heads if head is None else head) * DRAWS_PER_LEAF
        drawn = self._steps.draw(Normal(d**-0.5), (d, d), number, None if of == self._match.name else of)
        diagonal = add("mul", (d, d), add("eye", (d, d), n=d, m=d), identity)
        matrix = add("add", (d, d), add("mul", (d, d), drawn, noise), diagonal)
        left = add("_linalg_svd", (d, d), matrix, full_matrices=False, compute_uv=True, part=0)
        positive = add("sign", (1, d), add("sum", (1, d), left, dim=(0,), keepdim=True))
        left = add("mul", (d, d), left, positive)
        k = d if head is None else d // self._heads
        if k < d:
            left = add("slice", (d, k), left, starts=(0, 0), sizes=(d, k), steps=(1, 1))
        # A^T U = V S, so that no second decomposition could choose other signs
        right = add("mm", (d, k), self._turned(matrix, d), left)
        root = add("sqrt", (1, k), add("linalg_vector_norm", (1, k), right, ord=2, dim=(0,), keepdim=True))
        left, right = add("mul", (d, k), left, root), add("div", (d, k), right, root)
        return self._turned(left, k), self._turned(right, k)

    def _turned(self, matrix: Ref, rows: int) -> Ref:
        """A matrix with this number of columns, or rows of the result, transposed."""
        return self._steps.add("permute", (rows, self._width), matrix, dims=(1, 0))

    def _joined(self, parts: list[Ref], several: int = 1) -> Ref:
        if len(parts) == 1:
            return parts[0]
        return self._steps.add("cat", (several * self._width, self._width), *parts, dim=0)

    def _stored(self, matrix: Ref) -> Program:
        """Outputs x inputs, turned if the parameter is inputs x outputs, in its dtype."""
        shape = self._match.shape
        if self._out == 1:
            matrix = self._steps.add("permute", shape, matrix, dims=(1, 0))
        return self._steps.stored(matrix, self._match)
