"""Initializers: frozen descriptions of the values that are wanted, without any tensor.

Each one is validated when built, prints as it was written, compares by value, can be scaled
(``Normal(0.02) * 0.5``) and goes through JSON by its name. ``solve`` fills in what depends on the parameter's shape;
``moments`` and ``bounds`` say what the drawn values will look like. How values are drawn is in ``compute/sampling``.
"""

from zeta.initializers.base import Initializer, Keep, Site
from zeta.initializers.elementwise import (
    FARTHEST_SIGMA,
    LARGEST_SIGMA,
    Constant,
    Normal,
    Ones,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from zeta.initializers.matrix import DeltaOrthogonal, Dirac, Identity, MatrixShape, Orthogonal, Sparse, matrix_shape
from zeta.initializers.program import Program
from zeta.initializers.scaling import (
    Distribution,
    Mode,
    VarianceScaling,
    glorot_normal,
    glorot_truncated_normal,
    glorot_uniform,
    he_normal,
    he_truncated_normal,
    he_uniform,
    kaiming_normal,
    kaiming_truncated_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_truncated_normal,
    lecun_uniform,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)
from zeta.initializers.steps import Data, Draw, Ref, Step

__all__ = [
    "FARTHEST_SIGMA",
    "LARGEST_SIGMA",
    "Constant",
    "Data",
    "DeltaOrthogonal",
    "Dirac",
    "Distribution",
    "Draw",
    "Identity",
    "Initializer",
    "Keep",
    "MatrixShape",
    "Mode",
    "Normal",
    "Ones",
    "Orthogonal",
    "Program",
    "Ref",
    "Site",
    "Sparse",
    "Step",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "Zeros",
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "matrix_shape",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]
