"""The kind of a parameter (weight, bias, norm scale, embedding): by its module, and what ``forward`` does with it."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from torch import nn

from zeta.base.usage import multiplies, normalizes, scales_from_zero, uses
from zeta.rules import Kind
from zeta.rules.match import NORMS

_SCALE_NAME: Final = re.compile(r"(?i)(.*_)?(scale|gamma|gain|ls|lambda|g)_?\d*(_parameter)?")
#: where torch has classes that may hold any parameter
_ANYTHING: Final = ("torch.nn.modules.module", "torch.nn.modules.container")
_BIAS_NAME: Final = re.compile(r"(.*_)?bias(_.*)?")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: one of torch's, or one that divides by a norm or std, and only scales and shifts."""
    return isinstance(module, NORMS) or (
        all(name == "parametrizations" for name in module._modules)
        and normalizes(module)
        and all(
            parameter is None or parameter.ndim <= 1 or _is_elementwise(module, name, parameter.ndim)
            for name, parameter in module._parameters.items()
        )
    )


def _is_elementwise(module: nn.Module, name: str, ndim: int) -> bool:
    """Whether ``forward`` multiplies or adds a tensor of several dimensions, and no product sums over one of them."""
    found = uses(module, name, ndim)
    return not found.products and (found.scales or found.adds or found.from_zero) and not multiplies(module)


def kind_of(module: nn.Module, local_name: str, ndim: int | None) -> Kind:
    """Tell what a parameter is for: from its module's type, its local name, and what ``forward`` does with it.

    A scale that one is added to before (Gemma's norms) is ``OTHER``, as it starts at 0 and no rule for scales fits it.
    """
    layer: Any = type(module)
    kind, known = kind_by_class(layer, local_name, ndim)
    if known:
        return kind
    if kind is Kind.NORM_SCALE and scales_from_zero(module, local_name):
        return Kind.OTHER
    if kind is Kind.WEIGHT and _is_beside_its_weight(module, local_name, ndim):
        return Kind.BIAS
    if ndim is None or kind not in (Kind.OTHER, Kind.WEIGHT):
        return kind
    if kind is Kind.WEIGHT and _is_no_matrix(module, local_name):
        return Kind.OTHER
    if kind is Kind.WEIGHT and not (normalizes(module) and is_norm(module)):
        return kind
    found = uses(module, local_name, ndim)
    if found.from_zero:
        return Kind.OTHER
    if found.scales_in_norm or (found.scales and not found.adds and is_norm(module)):
        return Kind.NORM_SCALE
    return Kind.BIAS if found.adds_in_norm or (found.adds and not found.scales and is_norm(module)) else kind


def _is_beside_its_weight(module: nn.Module, local_name: str, ndim: int | None) -> bool:
    """Whether it is the biases of stacked maps: ``down_bias`` beside ``down``, which has one dimension more."""
    stem = local_name.removesuffix("_bias")
    weights = (module._parameters.get(name) for name in (stem, f"{stem}_weight")) if stem != local_name else ()
    return ndim is not None and any(weight is not None and weight.ndim == ndim + 1 for weight in weights)


def _is_no_matrix(module: nn.Module, local_name: str) -> bool:
    """Whether a tensor is a scale by its name and is spread out, as (1, 1, d), or is of a state space."""
    tensor = module._parameters.get(local_name)
    spread = tensor is not None and sum(extent != 1 for extent in tensor.shape) <= 1
    state = "A_log" in module._parameters and local_name in ("A_log", "D")
    return state or (spread and _SCALE_NAME.fullmatch(local_name) is not None)


@functools.lru_cache(maxsize=4096)
def kind_by_class(layer: Any, local_name: str, ndim: int | None) -> tuple[Kind, bool]:
    """The kind by class and name, and whether that is all: ``forward`` of torch's layers says nothing more."""
    known = layer.__module__.startswith("torch.nn.modules.") and layer.__module__ not in _ANYTHING
    return _kind_by_name(layer, local_name, ndim), known


def _kind_by_name(layer: Any, local_name: str, ndim: int | None) -> Kind:
    several = ndim is not None and ndim >= 2 and not issubclass(layer, (*NORMS, nn.MultiheadAttention))
    if local_name == "bias" or (_BIAS_NAME.fullmatch(local_name) and not several):
        return Kind.BIAS
    if issubclass(layer, (nn.Embedding, nn.EmbeddingBag)):
        return Kind.EMBEDDING
    if issubclass(layer, NORMS):
        return Kind.NORM_SCALE
    return Kind.WEIGHT if ndim is None or ndim >= 2 else Kind.OTHER
