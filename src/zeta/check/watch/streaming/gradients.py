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


@dataclass(frozen=True, kw_only=True, eq=False)
class OfProduct(Part):
    """Of ``inputs @ weight.T``: that of the outputs, and the inputs."""

    inputs: Tensor
    gradient: Tensor

    def rows(self, first: int, last: int) -> Tensor | None:
        """As the protocol says."""
        return self.gradient[:, first:last].T @ self.inputs


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
        found = [rows for part in self._parts if (rows := part.rows(first, last)) is not None]
        total = found[0] if found else torch.zeros_like(like)
        for rows in found[1:]:
            total = total + rows
        return total.to(like.dtype)
