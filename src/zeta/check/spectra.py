"""Spectral norms of weights, beside those of Gaussian matrices."""

from __future__ import annotations

import math
from typing import Final

import torch

from zeta.check.duplicates import rows_of
from zeta.check.evidence import Held

_EXACT: Final = 512
_ROUNDS: Final = 40


def spectral(held: tuple[Held, ...]) -> dict[str, tuple[float, float]]:
    """By weight: its largest singular value, and ``rms * (sqrt(rows) + sqrt(columns))``, what random ones have."""
    found: dict[str, tuple[float, float]] = {}
    for one in held:
        rows = rows_of(one, one.values)
        if rows is None or not one.trainable or one.stats.nonfinite or one.stats.rms == 0:
            continue
        expected = one.stats.rms * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
        found[one.name] = (_largest(rows.float()), expected)
    return found


def _largest(matrix: torch.Tensor) -> float:
    if min(matrix.shape) <= _EXACT:
        small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return math.sqrt(max(float(torch.linalg.eigvalsh(small.double())[-1]), 0.0))
    v = torch.ones(matrix.shape[1], device=matrix.device)
    v[::2] = -0.5
    for _ in range(_ROUNDS):
        v = matrix.T @ (matrix @ v)
        v = v / v.norm().clamp_min(1e-30)
    return float((matrix @ v).norm())
