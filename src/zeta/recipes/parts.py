"""What recipes are made of: the decorator, laws with their formula, and sizes that come from the model."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from torch import nn

from zeta.base.modules import check_module, named_modules_of, named_parameters_of
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.base.usage import scales_from_zero
from zeta.errors import SpecError
from zeta.initializers import (
    Blocks,
    Initializer,
    Normal,
    Ones,
    Uniform,
    Zeros,
    kaiming_uniform,
)
from zeta.rules import Kind, Match, Role, Rule, Rules, Where, kind, module, ndim, regex, role
from zeta.rules.adapters import adapters_of, has_adapters
from zeta.rules.match import RESIDUAL_ROLES, depth_of
from zeta.rules.role_names import UP_BEFORE_GATE, WRAPPED

#: names of what leads around a residual branch
SHORTCUT: Final = re.compile(r"(?i).*(down_?sample|short_?cut|skip|identity|proj_conv).*")
Law = Callable[[Match], Initializer]


def from_zero(match: Match) -> bool:
    """Whether a norm multiplies by one plus this parameter, as in Gemma."""
    return scales_from_zero(match.module, match.local_name)


#: also scales that are vectors of the model itself, without a norm module
NORM_SCALE: Final = Where(
    "norm scale", kind("norm_scale") | Where("", from_zero) | (kind("other") & ndim(1) & regex("(?i).*norm.*"))
)
#: torch's recurrent layers
RECURRENT: Final = Where("recurrent layers", module(nn.RNNBase) | module(nn.RNNCellBase))
_IN_A_BLOCK: Final = re.compile(r"(.*\.)?\d+\.[^.]+\..+")
#: what leads back to the residual stream; a rule for each, so that a model without one of them is an error
RESIDUAL: Final = (
    Where("attention outputs", role("attention_output")),
    Where("MLP down projections", role("mlp_down")),
)
READOUT: Final = Where("output head", role("readout"))
EMBEDDINGS: Final = Where("embeddings", role("embedding"))
INTO_ATTENTION: Final = Where(
    "queries, keys, values", role("query") | role("key") | role("value") | role("query_key_value")
)
GATES: Final = Where("MLP gates, also packed with up projections", role("mlp_gate") | role("mlp_gate_up"))
UP: Final = Where("MLP up projections", role("mlp_up"))
ROUTERS: Final = Where("routers", role("router"))
#: the weights of experts, by their names
EXPERTS: Final = Where("experts", regex(r"(.*[._])?experts?[._].*") & kind("weight"))
#: weights of layers that map vectors, and no tokens or tables of three dimensions
MATRICES: Final = Where("matrices", kind("weight") & ndim(2))
#: weights and biases of torch's convolutions
CONVOLUTIONS: Final = Where("convolutions", module(nn.modules.conv._ConvNd))


def recipe(function: Callable[..., Rules]) -> Callable[..., Rules]:
    """Make a function of a model, with options as keywords, a recipe.

    An unknown option is an error that lists those there are. Adapters keep out of every recipe: what LoRA adds stays
    without effect, and parameters of other adapters are refused.
    """
    checked = adapter_recipe(function)

    @functools.wraps(function)
    def made(model: nn.Module, **options: Any) -> Rules:
        rules = checked(model, **options)
        return _of_recipe(adapters_off(model), function) + rules if has_adapters(model) else rules

    return made


def adapter_recipe(function: Callable[..., Rules]) -> Callable[..., Rules]:
    """``recipe`` for one whose own rules are those of an adapter."""
    known, recipe_name, stated = options_of(function), name_of(function), inspect.signature(function).parameters

    @functools.wraps(function)
    def made(model: nn.Module, **options: Any) -> Rules:
        check_module(model)
        for option, value in options.items():
            if option not in known:
                among = (
                    f"; its options are {', '.join(known)}{did_you_mean(option, known)}" if known else ", or any other"
                )
                raise SpecError(f"the recipe {recipe_name!r} has no option {option!r}{among}")
            _check_type(recipe_name, option, value, known[option])
            if known[option] is None and value is not None:
                _check_given(recipe_name, option, value, str(stated[option].annotation))
        return _of_recipe(function(model, **options), function)

    return made


def used_as(name: str) -> Callable[[Callable[..., Rules]], Callable[..., Rules]]:
    """Give a recipe, inside of ``recipe``, a name that its function does not have."""

    def named(function: Callable[..., Rules]) -> Callable[..., Rules]:
        _NAMES[function] = name
        return function

    return named


_NAMES: Final[dict[Callable[..., Rules], str]] = {}


def name_of(function: Callable[..., Rules]) -> str:
    """The name that a recipe is used by."""
    return _NAMES.get(function, function.__name__)


def _of_recipe(rules: Iterable[Rule], function: Callable[..., Rules]) -> Rules:
    return Rules(replace(rule, recipe=name_of(function)) for rule in rules)


def _check_type(name: str, option: str, value: Any, default: Any) -> None:
    """``SpecError`` if the value of an option is of another sort than its default."""
    for sort, expected in ((bool, "True or False"), (str, "a text"), (float, "a number"), (int, "a whole number")):
        if isinstance(default, sort):
            allowed = (int, float) if sort is float else sort
            if not isinstance(value, allowed) or (isinstance(value, bool) and sort is not bool):
                raise SpecError(f"the recipe {name!r}: {option} must be {expected}, got {shown(value)}")
            return


def _check_given(name: str, option: str, value: Any, annotation: str) -> None:
    """The same for an option whose default is ``None``: a whole number is a count, and above 0."""
    sorts = {"float | None": 0.0, "str | None": ""}
    if annotation == "int | None":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"the recipe {name!r}: {option} must be a whole number above 0, got {shown(value)}")
    elif annotation in sorts:
        _check_type(name, option, value, sorts[annotation])


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


def unwrapped(name: str) -> str:
    """A name without what adapters put between a layer and its weight: ``q.base_layer.weight`` is ``q.weight``."""
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def adapters_off(model: nn.Module) -> list[Rule]:
    """Rules for LoRA that leave the model's outputs as they are; all other parameters of adapters are refused."""
    return lora_rules(model, kaiming_uniform(nonlinearity="leaky_relu", a=math.sqrt(5)), optional=True)


def lora_rules(model: nn.Module, a: Initializer | Law, *, optional: bool) -> list[Rule]:
    """The rules of LoRA, with the law of A in layers; ``optional``: the model may have no layer with LoRA.

    The product B A is 0: of a layer because B is 0, of an embedding because A is.
    """
    adapters, modules = adapters_of(model), dict(named_modules_of(model))

    def adapted(match: Match) -> str | None:
        """The name of the layer that a part of LoRA adapts; ``None`` for anything else."""
        part = adapters.of(match.name)
        return None if part is None or part.role is Role.ADAPTER else part.layer

    def looked_up(name: str, layer: str) -> bool:
        """Whether A is that of an embedding by its name, or is looked up, or is beside an embedding."""
        holder, owner = modules.get(layer), modules.get(name.rpartition(".")[0])
        beside = [] if holder is None else [
            child
            for local, child in holder._modules.items()
            if child is not None and child._parameters and adapters.of(f"{layer}.{local}" if layer else local) is None
        ]  # fmt: skip
        wrapped = bool(beside) and all(isinstance(each, nn.Embedding) for each in beside)
        named = "embedding" in name[len(layer) :].lower()
        return named or wrapped or isinstance(owner, nn.Embedding) or isinstance(holder, nn.Embedding)

    parts = ((name, adapters.of(name)) for name, _ in named_parameters_of(model))
    lora = [(name, part.layer) for name, part in parts if part is not None and part.role is not Role.ADAPTER]
    embeddings = {layer for name, layer in lora if looked_up(name, layer)}

    def of_embedding(match: Match) -> bool:
        return adapted(match) in embeddings

    def bias(match: Match) -> bool:
        return match.kind is Kind.BIAS and adapted(match) is not None

    return [
        Rule(Where("LoRA A of an embedding", role("adapter_a") & of_embedding), Zeros(), optional=True),
        Rule(Where("LoRA B of an embedding", role("adapter_b") & of_embedding), Normal(1.0), optional=True),
        Rule(Where("LoRA A", role("adapter_a")), a, optional=optional or bool(embeddings)),
        Rule(Where("LoRA B", role("adapter_b")), Zeros(), optional=optional or bool(embeddings)),
        Rule(Where("biases of LoRA", bias), Zeros(), optional=True),
        Rule(Where("other adapters", role("adapter")), law("refused", _refuse), optional=True),
    ]


def _refuse(match: Match) -> Initializer:
    raise SpecError(
        "belongs to an adapter, which no recipe knows, and drawing it may change the outputs of the model: put "
        f'Rule("{match.name}", ...) before the recipe, or leave it as it is with Keep()'
    )


def of_unknown_role() -> Rule:
    """Refuse the weights of layers whose role is not known: one that leads to the residual stream would be missed."""

    def refuse(match: Match) -> Initializer:
        raise SpecError(
            "lies in a layer, and what it does there is not known: it may lead to the residual stream. Put a rule for "
            "it before the recipe"
        )

    # in a numbered module that holds others; ``decoder.0.weight`` is a layer of a plain network
    unknown = Where("", lambda match: match.role is None and _IN_A_BLOCK.fullmatch(unwrapped(match.name)) is not None)
    weights = Where("weights of layers with unknown roles", kind("weight") & unknown)
    return Rule(weights, law("refused", refuse), optional=True)


def law(formula: str, function: Law) -> Law:
    """A rule's function of the match, with the formula that tables and pages show for it."""
    function.__doc__ = formula
    return function


def choice(recipe_name: str, option: str, value: Any, known: Any) -> Any:
    """``value`` if it is one of the ``known`` values of an option; ``SpecError`` otherwise."""
    known = list(known)
    if value not in known:
        close = did_you_mean(value, known) if isinstance(value, str) else ""
        names = ", ".join(map(repr, known))
        raise SpecError(f"the recipe {recipe_name!r}: {option} must be one of {names}, got {shown(value)}{close}")
    return value


def layers(match: Match, given: int | None = None, option: str = "layers") -> int:
    """The number of layers: as ``given``, or as the blocks of the model count it."""
    return depth_of(match, f"give {option}=") if given is None else given


def layer(match: Match) -> int:
    """The number of the parameter's layer, from 0."""
    if match.layer is None:
        raise SpecError(
            "the number of its layer does not follow from its name, and this law depends on it: put "
            f'Rule("{match.name}", ...) before the recipe'
        )
    return match.layer


def has_experts(model: nn.Module) -> bool:
    """Whether a module is named as experts are."""
    return any(re.search(r"(^|[._])experts?([._]|$)", name) for name, _ in named_modules_of(model))


def is_residual_block(name: str, block: nn.Module) -> bool:
    """Whether a module has a shortcut, or a name of a block, with a number or the word; a stem has not."""
    shortcut = any(map(SHORTCUT.fullmatch, (*block._modules, *vars(block))))
    # without what wrappers add
    [local] = [part for part in name.split(".") if not part.startswith("_")][-1:] or [""]
    return shortcut or re.fullmatch(r"(?i)(?!.*stem)\w*(\d|block|unit|residual)\w*", local) is not None


def positive(recipe_name: str, **options: float | None) -> None:
    """``SpecError`` if an option that is given is no positive number."""
    for option, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise SpecError(f"the recipe {recipe_name!r}: {option} must be a positive number, got {shown(value)}")


def size(match: Match, option: str, given: int | None, *attributes: str) -> int:
    """A size of the model: as ``given``, or the first of the ``attributes`` that its ``config`` has."""
    found = given if given is not None else next(
        (value for name in attributes if isinstance(value := getattr(match.config, name, None), int)), None
    )  # fmt: skip
    if found is None:
        raise SpecError(f"no config of the model has {' or '.join(attributes)}; give {option}=")
    return found


def initializer_range(match: Match, std: float | None = None) -> float:
    """``std`` if it is given, else the std in the model's ``config``; 0.02 if it has none."""
    return std or next((float(found) for found in _stds(match.config)), 0.02)


def _stds(config: Any) -> Iterator[float]:
    """What a configuration says: transformers has two names for it, and a configuration of texts inside of others."""
    text = getattr(config, "get_text_config", lambda: None)()
    for each in (config, text):
        for name in ("initializer_range", "init_std"):
            if found := getattr(each, name, None):
                yield found


def gated(gate: Law, up: Law) -> Law:
    """The law of gates; for a gate and an up projection in one tensor, that of each block."""

    def one_or_both(match: Match) -> Initializer:
        if match.role != "mlp_gate_up":
            return gate(match)
        if getattr(match.module, "is_concatenated", True) is False:
            raise SpecError("gates and up projections take turns in this tensor, and no law is for both of them")
        [out] = match.axes_of().resolved(match.shape).fan_out
        local = unwrapped(match.name).removesuffix(".weight").rpartition(".")[2]
        order = (up, gate) if UP_BEFORE_GATE.fullmatch(local) else (gate, up)
        return Blocks(*(each(match) for each in order), dim=out)

    one = (gate.__doc__ or "").strip()
    other = (up.__doc__ or "").strip()
    return law(one if one == other else f"{one}; packed: up projections {other}", one_or_both)


def width(match: Match) -> int:
    """The width of the residual stream, at the end of the weight that is there."""
    if match.role in ("embedding", "position"):
        return match.shape[-1]
    out = match.role in ("attention_output", "mlp_down")
    return int(match.fans.fan_out if out else match.fans.fan_in)


def stream_width(model: nn.Module, given: int | None = None, option: str = "d_model") -> Callable[[Match], int]:
    """The width of the residual stream, for a layer that may be narrower: as ``given``, or as what leads to it ends.

    Where the layers that lead to it end in several widths, the config decides.
    """
    linear = {
        f"{name}.weight": part
        for name, part in named_modules_of(model)
        if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
    }

    @functools.lru_cache(maxsize=1)
    def ends(roles: Callable[[str], Role | None]) -> set[int]:
        """Where what leads to the stream ends: once for all matches of a plan, which have the same ``roles``."""
        return {_outputs(part) for name, part in linear.items() if roles(name) in RESIDUAL_ROLES}

    def found(match: Match) -> int:
        if given is not None or match.role in RESIDUAL_ROLES:
            return given or width(match)
        if len(widths := ends(match.roles)) == 1:
            return next(iter(widths))
        return size(match, option, None, "hidden_size", "n_embd", "d_model", "dim")

    return found


def _outputs(layer: nn.Module) -> int:
    weight = layer._parameters["weight"]
    return layer.out_features if isinstance(layer, nn.Linear) else int(weight.shape[-1])  # type: ignore[union-attr]


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


def norm_scales() -> Rule:
    """Norms 1; 0 where the norm itself adds 1."""

    def start(match: Match) -> Initializer:
        return Zeros() if from_zero(match) else Ones()

    return Rule(Where("norm scales", NORM_SCALE), law("1, or 0 if the norm adds 1 to it", start), optional=True)


def norms_and_biases() -> list[Rule]:
    """Norms 1, biases 0."""
    return [
        norm_scales(),
        Rule(Where("biases", kind("bias")), Zeros(), optional=True),
    ]
