"""What recipes are made of: the decorator, laws with their formula, and sizes that come from the model."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.initializers import Initializer, Normal, Ones, Uniform, Zeros, kaiming_uniform
from zeta.rules import Match, Role, Rule, Rules, Where, kind, module, ndim, regex, role
from zeta.rules.role_names import ADAPTER

Law = Callable[[Match], Initializer]

#: also scales that are vectors of the model itself, without a norm module
NORM_SCALE: Final = Where("norm scale", kind("norm_scale") | (kind("other") & ndim(1) & regex("(?i).*norm.*")))
#: what leads back to the residual stream; a rule for each, so that a model without one of them is an error
RESIDUAL: Final = (
    Where("attention outputs", role("attention_output")),
    Where("MLP down projections", role("mlp_down")),
)
#: weights of layers that map vectors, and no tokens or tables of three dimensions
MATRICES: Final = Where("matrices", kind("weight") & ndim(2))
#: weights and biases of torch's convolutions
CONVOLUTIONS: Final = Where("convolutions", module(nn.modules.conv._ConvNd))


def recipe(function: Callable[..., Rules]) -> Callable[..., Rules]:
    """Make a function of a model, with options as keywords, a recipe.

    An unknown option is an error that lists those there are. Adapters keep out of every recipe: what LoRA adds stays
    without effect, and parameters of other adapters are refused.
    """
    known = options_of(function)

    @functools.wraps(function)
    def made(model: nn.Module, **options: Any) -> Rules:
        for option in options:
            if option not in known:
                among = f"its options are {', '.join(known)}" if known else "it has none"
                close = did_you_mean(option, known)
                raise SpecError(f"the recipe {function.__name__!r} has no option {option!r}: {among}{close}")
        rules = function(model, **options)
        return Rules(adapters_off()) + rules if has_adapters(model) else rules

    return made


def options_of(function: Callable[..., Rules]) -> dict[str, Any]:
    """The options of a recipe and their defaults.

    >>> @recipe
    ... def plain(model: nn.Module, *, std: float = 0.02) -> Rules:
    ...     return Rules([Rule("*", Normal(std))])
    >>> options_of(plain)
    {'std': 0.02}
    """
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def has_adapters(model: nn.Module) -> bool:
    """Whether a part of a name is that of an adapter, or the model is one of peft."""
    return any(
        type(module).__module__.startswith("peft.")
        or any(ADAPTER.fullmatch(part) for part in (name.rpartition(".")[2], *module._parameters))
        for name, module in named_modules_of(model)
    )


def adapters_off() -> list[Rule]:
    """Rules for LoRA that leave the model's outputs as they are; all other parameters of adapters are refused."""
    return [
        Rule(Where("LoRA A of an embedding", role("adapter_a") & regex("(?i).*embedding.*")), Zeros(), optional=True),
        Rule(
            Where("LoRA B of an embedding", role("adapter_b") & regex("(?i).*embedding.*")), Normal(1.0), optional=True
        ),
        Rule(Where("LoRA A", role("adapter_a")), kaiming_uniform(a=math.sqrt(5)), optional=True),
        Rule(Where("LoRA B", role("adapter_b")), Zeros(), optional=True),
        Rule(Where("adapter", role("adapter")), law("refused", _refuse), optional=True),
    ]


def _refuse(match: Match) -> Initializer:
    raise SpecError(
        "belongs to an adapter, which no recipe knows, and drawing it may change the outputs of the model: put "
        f'Rule("{match.name}", ...) before the recipe, or leave it as it is with Keep()'
    )


def law(formula: str, function: Law) -> Law:
    """A rule's function of the match, with the formula that tables and pages show for it."""
    function.__doc__ = formula
    return function


def choice(recipe_name: str, option: str, value: Any, known: Any) -> Any:
    """``value`` if it is one of the ``known`` values of an option; ``SpecError`` otherwise."""
    if value not in list(known):
        close = did_you_mean(value, known) if isinstance(value, str) else ""
        names = ", ".join(map(repr, known))
        raise SpecError(f"the recipe {recipe_name!r}: {option} must be one of {names}, got {shown(value)}{close}")
    return value


def layers(match: Match, given: int | None = None, option: str = "layers") -> int:
    """The number of layers: as ``given``, or as the parameter's name counts them."""
    if given is not None:
        return given
    if match.depth is None:
        raise SpecError(f"the number of layers does not follow from its name; give {option}=")
    return match.depth


def layer(match: Match) -> int:
    """The number of the parameter's layer, from 0."""
    if match.layer is None:
        raise SpecError("the number of its layer does not follow from its name")
    return match.layer


def initializer_range(match: Match) -> float:
    """The std in the model's ``config``; 0.02 if it has none."""
    return float(getattr(match.config, "initializer_range", None) or 0.02)


def xavier(match: Match) -> Initializer:
    """Uniform on ±sqrt(6 / (in + out)), in and out as torch counts them."""
    return symmetric(6 / (match.torch_fans.fan_in + match.torch_fans.fan_out))


def xavier_packed(match: Match) -> Initializer:
    """Uniform on ±sqrt(6 / (in + out)); for each of query, key and value, out = 3 d, as if they were in one matrix."""
    fans = match.torch_fans
    packed = 3 if match.role in (Role.QUERY, Role.KEY, Role.VALUE) else 1
    return symmetric(6 / (fans.fan_in + packed * fans.fan_out))


def xavier_of_each(match: Match) -> Initializer:
    """Uniform on ±sqrt(6 / (in + out)), of one of query, key and value: out = 3 d is counted as d."""
    fans = match.torch_fans
    return symmetric(6 / (fans.fan_in + fans.fan_out // (3 if match.role is Role.QUERY_KEY_VALUE else 1)))


def symmetric(square: float) -> Uniform:
    """Uniform on ± the root of ``square``."""
    return Uniform(-math.sqrt(square), math.sqrt(square))


def norms_and_biases() -> list[Rule]:
    """Norms 1, biases 0."""
    return [
        Rule(Where("norm scales", NORM_SCALE), Ones(), optional=True),
        Rule(Where("biases", kind("bias")), Zeros(), optional=True),
    ]
