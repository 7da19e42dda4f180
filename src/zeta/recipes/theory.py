"""Theory: mean field theory, and initializations without random numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers import (
    Data,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Ones,
    Orthogonal,
    Program,
    Ref,
    Step,
    Zeros,
)
from zeta.recipes.parts import NORM_SCALE, RECURRENT, choice, law, recipe
from zeta.rules import Match, Rule, Rules, Where, kind

Activation = Callable[[Tensor], Tensor]

# -- the critical point ------------------------------------------------------------------------------------------------

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sin": torch.sin,
    "hard_tanh": F.hardtanh,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
}
#: of the Gaussian integral: beyond 12 sigma there is nothing; no point is 0, where kinks are; fewer than torch divides
#: among threads
_REACH: Final = 12.0
_POINTS: Final = 24_000
#: variances between which the fixed point is looked for
_LEAST: Final = 1e-12
_MOST: Final = 1e4
#: a remainder of this size, relative to the variance, is an error of the integral
_NOTHING: Final = 1e-9
#: the variance of biases in the papers' experiments
_USUAL: Final = 2.01e-5


@recipe
def critical(model: nn.Module, *, activation: str = "tanh", bias_variance: float | None = None) -> Rules:
    """Delta-orthogonal at the critical point: orthogonal weights times sigma_w, biases N(0, sigma_b²), no norms.

    Convolutions are orthogonal at the kernel's centre and 0 elsewhere, and need at least as many outputs as inputs. For
    the activation f and z ~ N(0, 1), the variance q of the values before each activation stays what it is, and
    gradients neither grow nor shrink, where q = sigma_w² E[f(sqrt(q) z)²] + sigma_b² and sigma_w² E[f'(sqrt(q) z)²] =
    1. These points are a line; the variance of the biases chooses one. The expectations are integrated numerically,
    exact to 1e-4 where the slope jumps elsewhere than at 0, and to 1e-8 otherwise. ReLU has one point, (2, 0). With
    the usual 2.01e-5, tanh has sigma_w² = 1.05, with 0.05 it has 1.76.

    Options:
        activation: of the network: ``tanh``, ``erf``, ``relu``, ``linear``, ``leaky_relu``, ``sin``, ``hard_tanh``,
            ``elu``, ``selu``, ``gelu``, ``silu`` or ``mish``.
        bias_variance: sigma_b². 2.01e-5 by default, and 0 where there is no other: ReLU, leaky ReLU and linear.

    Source: Xiao et al. 2018 (arXiv:1806.05393); Pennington, Schoenholz & Ganguli 2017 (arXiv:1711.04735); Schoenholz
    et al. 2017 (arXiv:1611.01232).
    """
    choice("critical", "activation", activation, _ACTIVATIONS)
    weights, biases = _critical_point(activation, bias_variance)
    gain = math.sqrt(weights)

    def orthogonal(match: Match) -> Initializer:
        axes = match.axes_of()
        return DeltaOrthogonal(gain) if set(axes.fan_in) & set(axes.fan_out) else Orthogonal(gain)

    return Rules(
        [
            Rule(
                Where("weights", kind("weight") & ~RECURRENT),
                law(f"Orthogonal at the centre, gain={gain:.6g}", orthogonal),
            ),
            Rule(Where("biases", kind("bias")), Normal(math.sqrt(biases)) if biases else Zeros(), optional=True),
        ]
    )


@functools.lru_cache
def _critical_point(name: str, bias_variance: float | None) -> tuple[float, float]:
    """``sigma_w²`` and ``sigma_b²``."""
    activation = _ACTIVATIONS[name]
    if bias_variance is not None and not 0 <= bias_variance < math.inf:
        raise SpecError(f"the recipe 'critical': bias_variance must be at least 0, got {shown(bias_variance)}")
    if all(abs(_left_for_biases(activation, q)) < _NOTHING * q for q in (0.01, 1.0, 100.0)):
        if bias_variance:
            raise SpecError(f"the recipe 'critical': {name} is critical without biases alone; leave bias_variance out")
        return _rounded(1 / _moments(activation, 1.0)[1]), 0.0
    wanted = _USUAL if bias_variance is None else bias_variance
    low, high = _LEAST, _MOST
    if wanted > _left_for_biases(activation, high):
        raise SpecError(f"the recipe 'critical': {name} has no critical point with bias_variance={wanted:g}")
    while wanted and high / low > 1 + 1e-10:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _left_for_biases(activation, middle) < wanted else (low, middle)
    return _rounded(1 / _moments(activation, low)[1]), wanted


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def _left_for_biases(activation: Activation, q: float) -> float:
    """The variance of biases with which ``q`` is a fixed point on the critical line. It grows with ``q``."""
    value, slope = _moments(activation, q)
    return q - value / slope


def _moments(activation: Activation, q: float) -> tuple[float, float]:
    """``E[f(sqrt(q) z)²]`` and ``E[f'(sqrt(q) z)²]``, by the midpoint rule."""
    width = 2 * _REACH / _POINTS
    z = (torch.arange(_POINTS, dtype=torch.float64, device="cpu") + 0.5) * width - _REACH
    density = torch.exp(-z * z / 2) * (width / math.sqrt(2 * math.pi))
    with torch.enable_grad():
        x = (math.sqrt(q) * z).requires_grad_()
        values = activation(x)
        [slopes] = torch.autograd.grad(values.sum(), x)
    return float((values.detach() ** 2 * density).sum()), float((slopes**2 * density).sum())


# -- zeros and ones ----------------------------------------------------------------------------------------------------


@recipe
def zer_o(model: nn.Module) -> Rules:
    """ZerO: weights the identity where outputs <= inputs, else columns of a Hadamard matrix / sqrt(p), biases 0.

    With m outputs and n inputs, m > n, the weight is the upper left m x n part of the Hadamard matrix of size p, the
    smallest power of 2 that is at least m, times p^(-1/2): its elements are ±p^(-1/2), and nothing is random. Of a
    convolution, it stands at the kernel's centre, and everything else is 0; packed maps and the groups of a convolution
    have one each. Norms are 1 and 0. The ResNets of the released code have convolutions of 0 besides Hadamard
    transforms in their shortcuts, which are other models; put Rule("...", Zeros()) before these rules for them.

    Source: Zhao, Schäfer & Anandkumar 2022 (arXiv:2110.12661), algorithms 1 and 2; ``example_mnist.ipynb`` of the
    released code.
    """
    return Rules(
        [
            Rule(Where("weights", kind("weight") & ~RECURRENT), law("identity, or Hadamard / sqrt(p)", _zer_o)),
            Rule(Where("norm scales", NORM_SCALE), Ones(), optional=True),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _zer_o(match: Match) -> Initializer:
    axes = match.axes_of().resolved(match.shape)
    kernel = [dim for dim in axes.fan_in if dim in axes.fan_out]
    maps = {dim: match.shape[dim] // n for dim, n in axes.blocks}
    [rows], [columns] = (
        [maps.get(dim, match.shape[dim]) for dim in dims if dim not in kernel] for dims in (axes.fan_out, axes.fan_in)
    )
    if rows <= columns:
        return Dirac() if kernel else Identity()
    return _hadamard(match, axes, rows, columns)


def _hadamard(match: Match, axes: Axes, rows: int, columns: int) -> Program:
    """A program for the weight; the Hadamard matrix is built by doubling, up to the size that the columns need."""
    steps = _Steps(match.dtype)
    matrix = steps.add("data", Data.of(torch.tensor([[1, 1], [1, -1]], dtype=match.dtype)), (2, 2))
    size = 2
    while size < columns:
        minus = steps.add("neg", None, (size, size), matrix)
        upper = steps.add("cat", None, (size, 2 * size), matrix, matrix, dim=1)
        lower = steps.add("cat", None, (size, 2 * size), matrix, minus, dim=1)
        size *= 2
        matrix = steps.add("cat", None, (size, size), upper, lower, dim=0)
    # row i of the whole matrix is row i % size of this one, in its first columns
    times = -(-rows // size)
    tall = steps.add("reshape", None, (1, size, size), matrix, shape=(1, size, size))
    tall = steps.add("expand", None, (times, size, size), tall, shape=(times, size, size))
    tall = steps.add("reshape", None, (times * size, size), tall, shape=(times * size, size))
    part = steps.add("slice", None, (rows, columns), tall, starts=(0, 0), sizes=(rows, columns), steps=(1, 1))
    scaled = steps.add("mul", None, (rows, columns), part, 2 ** (-math.ceil(math.log2(rows)) / 2))
    return steps.placed(scaled, match.shape, axes, rows, columns)


class _Steps:
    """The steps of a program, one after the other."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._steps: list[Step] = []

    def add(self, op: str, leaf: Data | None, result: tuple[int, ...], /, *operands: Any, **attributes: Any) -> Ref:
        step = Step(
            op=op,
            operands=operands,
            attributes=tuple(sorted(attributes.items())),
            leaf=leaf,
            shape=result,
            dtype=self._dtype,
        )
        self._steps.append(step)
        return Ref(len(self._steps) - 1)

    def placed(self, matrix: Ref, shape: tuple[int, ...], axes: Axes, rows: int, columns: int) -> Program:
        """The matrix in each map of the parameter; in a kernel, at the centre."""
        kernel = [dim for dim in axes.fan_in if dim in axes.fan_out]
        [out], [into] = ([dim for dim in dims if dim not in kernel] for dims in (axes.fan_out, axes.fan_in))
        if into < out:
            matrix = self.add("permute", None, (columns, rows), matrix, dims=(1, 0))
        small = [1 if dim in kernel else {out: rows, into: columns}.get(dim, 1) for dim in range(len(shape))]
        matrix = self.add("reshape", None, tuple(small), matrix, shape=tuple(small))
        centre = [extent if dim not in kernel else 1 for dim, extent in enumerate(shape)]
        for dim, extent in enumerate(centre):
            if (times := extent // small[dim]) > 1:
                small[dim] = extent
                matrix = self.add("cat", None, tuple(small), *[matrix] * times, dim=dim)
        if kernel:
            zeros = self.add("full", None, shape, size=shape, value=0.0)
            starts = tuple(extent // 2 if dim in kernel else 0 for dim, extent in enumerate(shape))
            self.add("update", None, shape, zeros, matrix, starts=starts, steps=(1,) * len(shape))
        return Program(tuple(self._steps))
