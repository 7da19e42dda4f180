"""Adapters: what is added to a model that stays as it is."""

from __future__ import annotations

import math

from torch import nn

from zeta.base.modules import named_parameters_of
from zeta.errors import SpecError
from zeta.initializers import Initializer, Keep, Normal, kaiming_uniform
from zeta.recipes.parts import Law, adapter_recipe, choice, law, lora_rules
from zeta.rules import Match, Rule, Rules, Where, glob
from zeta.rules.adapters import has_adapters

_DISTRIBUTIONS = ("kaiming_uniform", "gaussian")


@adapter_recipe
def lora(model: nn.Module, *, distribution: str = "kaiming_uniform") -> Rules:
    """LoRA: A uniform on ±1/sqrt(fan_in), B 0, of an embedding A 0 and B N(0, 1); the model keeps its values.

    The product B A is 0, so that the adapted model starts as the model itself. The paper's text has a Gaussian A;
    uniform is the released code and peft, which is Kaiming-uniform with a = sqrt(5). Biases of B are 0. All other
    parameters are kept, also peft's copies of layers that are trained as a whole (``modules_to_save``). The
    parameters of other adapters, DoRA's magnitudes among them, are refused.

    Options:
        distribution: ``kaiming_uniform``, or ``gaussian`` for A N(0, 1/r²), r the rank, as peft's
            ``init_lora_weights="gaussian"``.

    Source: Hu et al. 2021 (arXiv:2106.09685); loralib; ``peft/tuners/lora/layer.py``.
    """
    return _lora(model, "lora", distribution)


@adapter_recipe
def rslora(model: nn.Module, *, distribution: str = "kaiming_uniform") -> Rules:
    """Rank-stabilized LoRA: the values of ``lora``, for layers that scale B A by alpha/sqrt(r) and not by alpha/r.

    The scale is the layer's own and no parameter (``use_rslora=True`` in peft); r is the rank. With it, neither outputs
    nor gradients depend on the rank; the initial values are the same.

    Options:
        distribution: ``kaiming_uniform``, or ``gaussian`` for A N(0, 1/r²).

    Source: Kalajdzievski 2023 (arXiv:2312.03732); ``peft/tuners/lora/layer.py``.
    """
    return _lora(model, "rslora", distribution)


def _lora(model: nn.Module, name: str, distribution: str) -> Rules:
    choice(name, "distribution", distribution, _DISTRIBUTIONS)
    if next(named_parameters_of(model), None) is not None and not has_adapters(model):
        raise SpecError(
            f"the recipe {name!r}: the model has no LoRA: no part of a name has the word lora, and no pair of matrices "
            "called A and B leads through a narrow width beside one layer"
        )
    a: Initializer | Law = kaiming_uniform(nonlinearity="leaky_relu", a=math.sqrt(5))
    if distribution == "gaussian":
        a = law("N(0, 1/r²)", lambda match: Normal(1 / _rank(match)))
    saved = Rule(Where("layers that are trained as a whole", glob("*.modules_to_save.*")), Keep(), optional=True)
    rest = Rule(Where("the model itself", lambda match: True), Keep(), optional=True)
    return Rules([saved, *lora_rules(model, a, optional=False), rest])


def _rank(match: Match) -> int:
    """The outputs of A."""
    axes = match.axes_of().resolved(match.shape)
    return math.prod(match.shape[dim] for dim in axes.fan_out if dim not in axes.fan_in)
