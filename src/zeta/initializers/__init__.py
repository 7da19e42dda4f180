"""Initializers: frozen descriptions of the values of a parameter, without any tensor.

Each one is validated when built, prints as the expression that builds it, compares by value, can be scaled
(``Normal(0.02) * 0.5``) and has a form in JSON. ``solve`` fills in the numbers that depend on the parameter's shape;
``moments`` and ``bounds`` describe the drawn values. ``compute/sampling`` draws them.
"""

from zeta.initializers.base import Initializer, Keep, Site
from zeta.initializers.blocks import Blocks
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
    "Blocks",
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
