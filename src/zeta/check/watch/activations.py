"""Facts about activation functions: where they are off, and what their bounds are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Activation:
    """When a unit is off, and when an output is saturated.

    ``off_below``: almost no gradient passes if the input is at most this. ``bounds``: an output within ``margin`` of
    one of them is saturated.
    """

    off_below: float | None = None
    bounds: tuple[float, ...] = ()
    margin: float = 0.0


# Off is where the derivative stays below 1%; saturated is where it is below 6% of its largest value for tanh
# (|tanh| > 0.97) and below 2% for the logistic function (within 0.005 of 0 or 1: a focal loss's prior of 0.01 is not).
KNOWN: Final[dict[str, Activation]] = {
    "relu": Activation(off_below=0.0),
    "relu6": Activation(off_below=0.0, bounds=(6.0,)),
    "threshold": Activation(off_below=0.0),
    "gelu": Activation(off_below=-3.4),
    "silu": Activation(off_below=-7.6),
    "mish": Activation(off_below=-7.0),
    "hardswish": Activation(off_below=-3.0),
    "tanh": Activation(bounds=(-1.0, 1.0), margin=0.03),
    "hardtanh": Activation(bounds=(-1.0, 1.0)),
    "softsign": Activation(bounds=(-1.0, 1.0), margin=0.03),
    "sigmoid": Activation(bounds=(0.0, 1.0), margin=0.005),
    "hardsigmoid": Activation(bounds=(0.0, 1.0)),
    **{name: Activation() for name in ("leaky_relu", "rrelu", "prelu", "elu", "celu", "selu", "softplus")},
    **{name: Activation() for name in ("logsigmoid", "tanhshrink", "softshrink", "hardshrink", "glu")},
}
_ALIASES: Final = {"swish": "silu", "hardswish": "hardswish"}


def named(name: str) -> str | None:
    """The known activation of a function's or module's name: ``relu_``, ``ReLU``, ``NewGELUActivation``.

    >>> named("relu_"), named("ReLU6"), named("NewGELUActivation"), named("Linear")
    ('relu', 'relu6', 'gelu', None)
    """
    key = name.lower().rstrip("_").removesuffix("activation")
    key = _ALIASES.get(key, key)
    if key in KNOWN:
        return key
    return next((known for known in ("gelu", "silu") if known in key), None)


def dead_fraction(activation: Activation, given: Tensor, unit: int) -> Tensor | None:
    """The fraction of units that are off for every sample."""
    if activation.off_below is None or given.ndim < 2 or not given.numel():
        return None
    over = [dim for dim in range(given.ndim) if dim != unit % given.ndim]
    return (given.amax(dim=over) <= activation.off_below).double().mean()


def saturated_fraction(activation: Activation, given: Tensor | None, output: Tensor) -> Tensor | None:
    """The fraction of outputs at the function's bounds; masked inputs (minus infinity) are not counted."""
    if not activation.bounds or not output.numel():
        return None
    at = torch.zeros(output.shape, dtype=torch.bool, device=output.device)
    for bound in activation.bounds:
        at |= (output - bound).abs() <= activation.margin
    if given is None or given.shape != output.shape:
        return at.double().mean()
    seen = given != -math.inf
    return (at & seen).double().sum() / seen.double().sum().clamp_min(1)
