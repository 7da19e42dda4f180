"""Spectral norms of weights, and those of Gaussian matrices for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from zeta.check.facts.evidence import TensorFacts
from zeta.check.measure.duplicates import matrix_of, rows_of
from zeta.check.measure.effort import Course, seconds_of
from zeta.check.watch.moments import TINY

#: the smaller side of a matrix up to which its spectral norm is computed exactly, from its eigenvalues
_EXACT: Final = 512
#: rounds of the power iteration for larger ones
_ROUNDS: Final = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """A weight as a matrix with one row per unit."""

    facts: TensorFacts
    shape: tuple[int, int]

    @property
    def seconds(self) -> float:
        """The estimated seconds to compute its spectral norm, see :mod:`zeta.check.measure.effort`."""
        count, small = math.prod(self.shape), min(self.shape)
        if small <= _EXACT:
            return seconds_of(calls=1, multiplications=count * small + 3.0 * small**3, touched=count)
        return seconds_of(calls=2 * _ROUNDS, multiplications=count, touched=count / 4)


def weights_of(tensors: Sequence[TensorFacts]) -> list[Weight]:
    """The weights whose spectral norm is checked."""
    found: list[Weight] = []
    for one in tensors:
        shape = matrix_of(one.axes, one.slot.shape)
        if shape is not None and one.trainable and not one.stats.nonfinite and one.stats.rms != 0:
            found.append(Weight(facts=one, shape=shape))
    return found


def spectral(weights: Sequence[Weight], course: Course) -> dict[str, tuple[float, float]]:
    """For each weight, its largest singular value, and that of random ones: ``rms * (sqrt(rows) + sqrt(columns))``."""
    found: dict[str, tuple[float, float]] = {}
    for weight in weights:
        name, rows = weight.facts.name, rows_of(weight.facts.axes, weight.facts.values)
        assert rows is not None
        course.take(f"spectral norm of {name}", weight.seconds)
        expected = weight.facts.stats.rms * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
        found[name] = (_largest(rows.float()), expected)
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
