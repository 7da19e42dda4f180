"""Spectral norms of weights, and those of Gaussian matrices for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from zeta.check.facts.evidence import TensorFacts
from zeta.check.measure.duplicates import rows_of
from zeta.check.measure.effort import Course, seconds_of
from zeta.check.watch.moments import TINY

#: the smaller side of a matrix up to which its spectral norm is computed exactly, from its eigenvalues
_EXACT: Final = 512
#: rounds of the power iteration for larger ones
_ROUNDS: Final = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """A weight as a matrix with one row per unit."""

    name: str
    rows: torch.Tensor
    rms: float

    @property
    def seconds(self) -> float:
        """The estimated seconds to compute its spectral norm, see :mod:`zeta.check.measure.effort`."""
        count, small = self.rows.numel(), min(self.rows.shape)
        if small <= _EXACT:
            return seconds_of(calls=1, multiplications=count * small + 3.0 * small**3, touched=count)
        return seconds_of(calls=2 * _ROUNDS, multiplications=count, touched=count / 4)


def weights_of(tensors: Sequence[TensorFacts]) -> list[Weight]:
    """The weights whose spectral norm is checked."""
    found: list[Weight] = []
    for one in tensors:
        rows = rows_of(one.axes, one.values)
        if rows is not None and one.trainable and not one.stats.nonfinite and one.stats.rms != 0:
            found.append(Weight(name=one.name, rows=rows, rms=one.stats.rms))
    return found


def spectral(weights: Sequence[Weight], course: Course) -> dict[str, tuple[float, float]]:
    """For each weight, its largest singular value, and that of random ones: ``rms * (sqrt(rows) + sqrt(columns))``."""
    found: dict[str, tuple[float, float]] = {}
    for weight in weights:
        course.take(f"spectral norm of {weight.name}", weight.seconds)
        expected = weight.rms * (math.sqrt(weight.rows.shape[0]) + math.sqrt(weight.rows.shape[1]))
        found[weight.name] = (_largest(weight.rows.float()), expected)
    return found


def _largest(matrix: torch.Tensor) -> float:
    if min(matrix.shape) <= _EXACT:
        small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return math.sqrt(max(float(torch.linalg.eigvalsh(small.double())[-1]), 0.0))
    v = torch.ones(matrix.shape[1], device=matrix.device)
    v[::2] = -0.5
    for _ in range(_ROUNDS):
        v = matrix.T @ (matrix @ v)
        v = v / v.norm().clamp_min(TINY)
    return float((matrix @ v).norm())
