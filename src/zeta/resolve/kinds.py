"""The kind of a parameter (weight, bias, norm scale, embedding): by its module, and what ``forward`` does with it."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from torch import nn

from zeta.base.usage import normalizes, uses
from zeta.rules import Kind
from zeta.rules.match import NORMS

_BIAS_NAME: Final = re.compile(r"(.*_)?bias(_.*)?")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: one of torch's, or one that holds vectors only and divides by a norm or a std."""
    return isinstance(module, NORMS) or (
        all(name == "parametrizations" for name in module._modules)
        and all(parameter is None or parameter.ndim <= 1 for parameter in module._parameters.values())
        and normalizes(module)
    )


def kind_of(module: nn.Module, local_name: str, ndim: int | None) -> Kind:
    """Tell what a parameter is for: from its module's type, its local name, and what ``forward`` does with a vector."""
    layer: Any = type(module)
    kind = _kind_in(layer, local_name, ndim)
    if kind is Kind.WEIGHT and local_name.endswith("_bias") and _is_beside_its_weight(module, local_name, ndim):
        return Kind.BIAS
    if kind is not Kind.OTHER or ndim is None:
        return kind
    found = uses(module, local_name, ndim)
    if found.scales_in_norm or (ndim == 1 and found.scales and not found.adds and is_norm(module)):
        return Kind.NORM_SCALE
    return Kind.BIAS if found.adds_in_norm or (found.adds and not found.scales and is_norm(module)) else Kind.OTHER


def _is_beside_its_weight(module: nn.Module, local_name: str, ndim: int | None) -> bool:
    """Whether it is the biases of stacked maps: ``down_bias`` beside ``down``, which has one dimension more."""
    weight = module._parameters.get(local_name.removesuffix("_bias"))
    return ndim is not None and weight is not None and weight.ndim == ndim + 1


@functools.lru_cache(maxsize=4096)
def _kind_in(layer: Any, local_name: str, ndim: int | None) -> Kind:
    several = ndim is not None and ndim >= 2 and not issubclass(layer, (*NORMS, nn.MultiheadAttention))
    if local_name == "bias" or (_BIAS_NAME.fullmatch(local_name) and not several):
        return Kind.BIAS
    if issubclass(layer, (nn.Embedding, nn.EmbeddingBag)):
        return Kind.EMBEDDING
    if issubclass(layer, NORMS):
        return Kind.NORM_SCALE
    return Kind.WEIGHT if ndim is None or ndim >= 2 else Kind.OTHER
