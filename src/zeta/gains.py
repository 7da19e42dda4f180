"""Gains: the factor for a weight's std that keeps the second moment through an activation.

For unit Gaussian pre-activations ``z``, a layer followed by ``f`` keeps ``E[f(z)^2] = 1`` with

    gain(f) = 1 / sqrt(E[f(z)^2]),    z ~ N(0, 1)

(He et al. 2015, eq. 7-10, for ReLU). Names that torch knows have torch's values; any other gain is integrated.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import nn

from zeta.base.reading import shown
from zeta.errors import SpecError

Activation = Callable[[torch.Tensor], torch.Tensor]

# The values of torch.nn.init.calculate_gain, some of which are conventions and not the integral: 1 for sigmoid, 5/3 for
# tanh, 3/4 for selu (https://pytorch.org/docs/stable/nn.init.html).
_CONVENTIONS: Final[dict[str, float]] = {
    **dict.fromkeys(
        (
            "linear", "identity", "sigmoid", "conv1d", "conv2d", "conv3d",
            "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        ),
        1.0,
    ),
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}  # fmt: skip

_INTEGRATED: Final[dict[str, Activation]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "celu": F.celu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "exact_tanh": torch.tanh,
    "exact_sigmoid": torch.sigmoid,
    "exact_selu": F.selu,
}

NONLINEARITIES: Final[tuple[str, ...]] = (*sorted(_CONVENTIONS), "leaky_relu", *sorted(_INTEGRATED))

# The Gaussian density beyond 12 sigma is below 1e-31. The trapezoid rule converges geometrically for such smooth
# integrands, and at second order if f has a kink; one grid point is 0, where the usual kinks are.
_REACH: Final = 12.0
_POINTS: Final = 240_001
# The integral is rounded to this many significant digits, so that a libm with other last bits cannot change a weight.
_DIGITS: Final = 9
# The square of a slope must be finite in fp64.
_LARGEST_SLOPE: Final = 1e150


def gain(nonlinearity: str | Activation, param: float | None = None) -> float:
    """Return the gain that keeps the second moment through ``nonlinearity``.

    ``gain(f) = 1 / sqrt(E[f(z)^2])`` for ``z ~ N(0, 1)``. ``linear``, ``conv*``, ``sigmoid``, ``tanh`` (5/3), ``relu``
    (sqrt 2), ``leaky_relu`` (``sqrt(2 / (1 + a^2))``, ``param`` is ``a``, default 0.01) and ``selu`` (3/4) are
    torch's values. Other names, and any elementwise callable, are integrated in fp64 once and cached.

    Args:
        nonlinearity: a name out of ``NONLINEARITIES`` or a callable from a 1-D fp64 tensor to one of the same shape.
        param: the negative slope of ``leaky_relu``; refused for anything else.

    Raises:
        SpecError: unknown name, a ``param`` that is not used, or a callable whose second moment is 0 or not finite.

    >>> round(gain("gelu"), 4), round(gain("silu"), 4), round(gain("leaky_relu", 0.2), 4)
    (1.5335, 1.6765, 1.3868)
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else _number(param)
        return math.sqrt(2.0 / (1.0 + slope**2))
    if param is not None:
        raise SpecError(
            f"gain: param={shown(param)} is the slope of 'leaky_relu' and means nothing for {shown(nonlinearity)}; "
            "write nonlinearity='leaky_relu'"
        )
    if isinstance(nonlinearity, str):
        if nonlinearity in _CONVENTIONS:
            return _CONVENTIONS[nonlinearity]
        if nonlinearity not in _INTEGRATED:
            raise SpecError(
                f"unknown nonlinearity {shown(nonlinearity)}: expected one of {', '.join(NONLINEARITIES)}, or an "
                "elementwise callable"
            )
        return _integrated(_INTEGRATED[nonlinearity])
    if not callable(nonlinearity):
        raise SpecError(f"nonlinearity must be a name or an elementwise callable, got {shown(nonlinearity)}")
    if isinstance(nonlinearity, nn.Module):
        return _integral(_module(nonlinearity))  # its parameters may change, so it is not cached
    return _integrated(nonlinearity)


def _module(module: nn.Module) -> Activation:
    """A module as a function: a copy in evaluation mode, with parameters in fp64 on the CPU."""
    return copy.deepcopy(module).to("cpu", torch.float64).eval()


def _number(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_SLOPE:
        raise SpecError(
            f"gain: the slope of 'leaky_relu' must be a finite number of at most {_LARGEST_SLOPE:g}, got {shown(value)}"
        )
    return float(value)


@functools.lru_cache(maxsize=256)
def _integrated(function: Activation) -> float:
    return _integral(function)


def _integral(function: Activation) -> float:
    with torch.no_grad():
        z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device="cpu")
        density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        try:
            values, again, part = function(z), function(z), function(z[: _POINTS // 2])
        except Exception as error:  # foreign code
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SpecError(
                f"nonlinearity {shown(function)} fails on a tensor of fp64 values ({reason}); it must be an "
                "elementwise function of one tensor, which GLU and softmax are not"
            ) from error
        if not isinstance(values, torch.Tensor) or values.shape != z.shape:
            raise SpecError(f"nonlinearity {shown(function)} must map a tensor to one of the same shape, elementwise")
        if not torch.equal(values, again):
            raise SpecError(
                f"nonlinearity {shown(function)} draws random numbers; give the function that evaluation uses"
            )
        if part.shape != (_POINTS // 2,) or not torch.allclose(part, values[: _POINTS // 2], rtol=1e-9, atol=0):
            raise SpecError(f"nonlinearity {shown(function)} is not elementwise: a value depends on the others")
        moment = float(torch.trapezoid(values.double() ** 2 * density, z))
    if not (math.isfinite(moment) and moment > 0.0):
        raise SpecError(
            f"nonlinearity {shown(function)} has second moment {moment} under N(0, 1): no gain can keep it at 1"
        )
    return float(f"{moment**-0.5:.{_DIGITS}g}")
