"""The gradient of a large parameter, kept as what it is computed from, so that some rows can be computed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """The gradient of one use of a parameter."""

    def rows(self, first: int, last: int) -> Tensor | None:
        """Its rows from ``first`` to ``last``; ``None`` if all of them are zero."""

    def seen(self, first: int, values: Tensor) -> None:
        """Take the parameter's values from row ``first`` on, which somebody has computed."""
        return


@dataclass(frozen=True, kw_only=True, eq=False)
class OfProduct(Part):
    """Of ``inputs @ weight.T``: that of the outputs, and the inputs.

    ``into`` adds up the gradient of the inputs: whoever has rows of the weight, to measure them, hands them over here,
    so that they need not be computed for the product alone.
    """

    inputs: Tensor
    gradient: Tensor
    into: Into | None = None

    def rows(self, first: int, last: int) -> Tensor | None:
        """As the protocol says."""
        return self.gradient[:, first:last].T @ self.inputs

    def seen(self, first: int, values: Tensor) -> None:
        """As the protocol says."""
        if self.into is not None:
            self.into.add(self.gradient, first, values)


class Into:
    """The gradient of a product's inputs, added up over the rows of the weight, in their order.

    Args:
        total: zeros.
        rows: how many there are.
    """

    def __init__(self, total: Tensor, rows: int) -> None:
        self.total = total
        self.next = 0  #: the first row that was not added
        self._rows = rows

    @property
    def done(self) -> bool:
        """Whether all rows were added."""
        return self.next >= self._rows

    def add(self, gradient: Tensor, first: int, values: Tensor) -> None:
        """Add some rows of the weight, unless they were added before."""
        if first == self.next:
            self.next += len(values)
            self.total.addmm_(gradient[:, first : self.next], values.to(self.total.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class OfLookup(Part):
    """Of some rows that were looked up, each perhaps several times: that of each row."""

    indices: Tensor
    gradient: Tensor

    def rows(self, first: int, last: int) -> Tensor | None:
        """As the protocol says."""
        mine = (self.indices >= first) & (self.indices < last)
        if not mine.any():
            return None
        out = self.gradient.new_zeros(last - first, *self.gradient.shape[1:])
        return out.index_add_(0, self.indices[mine] - first, self.gradient[mine])


@dataclass(frozen=True, kw_only=True, eq=False)
class OfRows(Part):
    """Of consecutive rows, or of all of them."""

    gradient: Tensor
    begin: int = 0

    def rows(self, first: int, last: int) -> Tensor | None:
        """As the protocol says."""
        start, stop = max(first, self.begin), min(last, self.begin + len(self.gradient))
        if start >= stop:
            return None
        inside = self.gradient[start - self.begin : stop - self.begin]
        if (start, stop) == (first, last):
            return inside
        out = inside.new_zeros(last - first, *inside.shape[1:])
        out[start - first : stop - first] = inside
        return out


class Whole:
    """The sum of the gradients of all uses."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def rows(self, like: Tensor, first: int) -> Tensor:
        """Its rows from ``first`` on, as many as ``like`` has, which is the values there."""
        last = first + len(like)
        for part in self._parts:
            part.seen(first, like)
        found = [rows for part in self._parts if (rows := part.rows(first, last)) is not None]
        total = found[0] if found else torch.zeros_like(like)
        for rows in found[1:]:
            total = total + rows
        return total.to(like.dtype)
