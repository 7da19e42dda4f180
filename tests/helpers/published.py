"""Published laws written as plain numbers, and the comparison of a recipe's plan with them, parameter by parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

import zeta
from zeta import Plan
from zeta.initializers import Blocks, Constant, Initializer, Keep, Normal, TruncatedNormal, Uniform

Law = tuple[Any, ...]
#: by name of the parameter
Laws = dict[str, Law]

KEPT: Law = ("kept",)


def normal(std: float, mean: float = 0.0) -> Law:
    return ("normal", mean, std)


def uniform(bound: float) -> Law:
    return ("uniform", -bound, bound)


def truncated(parent: float, cutoff: float) -> Law:
    return ("truncated", parent, -cutoff, cutoff)


def constant(value: float) -> Law:
    return ("constant", value)


def blocks(*laws: Law) -> Law:
    return ("blocks", *(number for law in laws for number in law))


ZERO, ONE = constant(0.0), constant(1.0)


def law_of(initializer: Initializer) -> Law:
    """The numbers of an initializer; the law of a truncated normal that cuts nothing is the normal's."""
    match initializer:
        case Keep():
            return KEPT
        case Constant(value):
            return constant(value)
        case Normal(std, mean):
            return normal(std, mean)
        case Uniform(low, high):
            return ("uniform", low, high)
        case TruncatedNormal():
            low, high = initializer.bounds()
            cut = min(-low, high) / initializer.std < 6.4
            return ("truncated", initializer.std, low, high) if cut else normal(initializer.std, initializer.mean)
        case Blocks():
            return blocks(*map(law_of, initializer.parts))
    return ("other", str(initializer))


def differences(plan: Plan, published: Mapping[str, Law]) -> list[str]:
    """How the plan's parameters differ from what is published; a parameter that either side misses is a difference."""
    found = {entry.name: law_of(entry.initializer) for entry in plan.parameters}
    wrong = [f"{name}: is not in the model" for name in published.keys() - found.keys()]
    wrong += [f"{name}: is not published, and gets {found[name]}" for name in found.keys() - published.keys()]
    for name in found.keys() & published.keys():
        (kind, *numbers), (other, *expected) = found[name], published[name]
        if kind != other or len(numbers) != len(expected) or not all(map(_close, numbers, expected)):
            wrong.append(f"{name}: {found[name]} and not {published[name]}")
    return sorted(wrong)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)


def drawn(model: nn.Module, recipe: str, published: Mapping[str, Law], **options: Any) -> list[str]:
    """Draw the recipe's values and measure them: where mean or std misses the published one by 6 standard errors."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    report = zeta.apply_(model, zeta.plan(model, recipe, **options), seed=0)
    assert report.ok, str(report)
    wrong = []
    for name, parameter in model.named_parameters():
        kind, *numbers = published[name]
        values = parameter.detach().double()
        if kind == "constant":
            wrong += [] if bool((values == values.new_tensor(numbers[0]).float()).all()) else [name]
        elif kind in ("normal", "uniform") and len(values.flatten()) > 1:
            low, high = numbers
            mean, std = (low, high) if kind == "normal" else ((low + high) / 2, (high - low) / 12**0.5)
            n = values.numel()
            if abs(float(values.std()) / std - 1) > 6 / (2 * n) ** 0.5 + 1e-4:
                wrong.append(f"{name}: std {float(values.std())} and not {std}")
            if abs(float(values.mean()) - mean) > 6 * std / n**0.5:
                wrong.append(f"{name}: mean {float(values.mean())} and not {mean}")
    return wrong


# -- laws of layers --------------------------------------------------------------------------------------------------


def norm(*names: str, scale: Law = ONE) -> Laws:
    return {f"{name}.{local}": law for name in names for local, law in (("weight", scale), ("bias", ZERO))}


def linear(law: Law, *names: str, bias: Law = ZERO) -> Laws:
    return {f"{name}.{local}": found for name in names for local, found in (("weight", law), ("bias", bias))}


def within(prefixes: Iterable[str], laws: Laws) -> Laws:
    return {f"{prefix}.{name}": law for prefix in prefixes for name, law in laws.items()}


def agrees(factory: Callable[[], nn.Module], recipe: str, published: Laws, **options: Any) -> None:
    """The recipe's plan is what is published, for every parameter, and so are the values that it draws."""
    wrong = differences(zeta.plan(factory(), recipe, **options), published)
    wrong += drawn(factory(), recipe, published, **options) if not wrong else []
    assert wrong == [], "\n".join(wrong)  # pytest rewrites the assertions of test modules only


# -- formulas of torch -------------------------------------------------------------------------------------------------


def torch_default(layer: nn.Linear | nn.modules.conv._ConvNd) -> Law:
    """What torch's own constructor does to the weight and the bias."""
    if isinstance(layer, nn.Linear):
        return uniform(layer.in_features**-0.5)
    into = layer.out_channels if layer.transposed else layer.in_channels
    return uniform((into // layer.groups * math.prod(layer.kernel_size)) ** -0.5)


def xavier(into: int, out: int) -> Law:
    return uniform(math.sqrt(6 / (into + out)))
