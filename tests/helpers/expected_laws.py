"""Plans of recipes against laws that are written out by hand: every parameter, and the values that are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import zeta
from zeta.initializers import Initializer


def assert_laws(model: nn.Module, how: str, expected: Mapping[str, Initializer], **options: Any) -> None:
    """The plan has these laws, all numbers equal up to rounding, and what is drawn is of them."""
    plan = zeta.plan(model, how, **options)
    found = {entry.name: entry.initializer for entry in plan.parameters}
    assert sorted(found) == sorted(expected)
    wrong = {
        name: f"{found[name]!r} instead of {law!r}" for name, law in expected.items() if not same(found[name], law)
    }
    assert wrong == {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    report = zeta.apply_(model, plan, seed=0)
    assert report.ok, str(report)
    for name, parameter in model.named_parameters():
        assert_spread(name, parameter.detach().double(), expected[name])


def same(found: Initializer, law: Initializer) -> bool:
    """Whether two laws are of one class, with the same numbers up to rounding."""
    if type(found) is not type(law):
        return False
    for field in dataclasses.fields(law):  # type: ignore[arg-type]
        one, other = getattr(found, field.name), getattr(law, field.name)
        if field.name == "parts":
            alike = len(one) == len(other) and all(map(same, one, other))
        elif isinstance(one, float) and isinstance(other, int | float):
            alike = math.isclose(one, other, rel_tol=1e-12)
        else:
            alike = one == other
        if not alike:
            return False
    return True


def assert_spread(name: str, values: torch.Tensor, law: Initializer) -> None:
    """The measured std is that of the law, within five standard errors; known to the test are plain laws alone."""
    match law:
        case zeta.initializers.Normal(std=std):
            error = math.sqrt(0.5 / values.numel())
        case zeta.initializers.Uniform(low=low, high=high):
            std, error = (high - low) / math.sqrt(12), math.sqrt(0.2 / values.numel())
        case zeta.initializers.Constant(value=value):
            assert torch.equal(values, torch.full_like(values, value).float().double()), name
            return
        case _:
            return
    if values.numel() >= 100 and std:
        assert abs(float(values.std()) / std - 1) < 5 * error, name


def assert_recorded(build: Any, how: str, **options: Any) -> None:
    """The recipe says of every parameter what the library's own constructor does."""
    _, recorded = zeta.record(build)
    difference = zeta.diff(recorded, zeta.plan(build(), how, **options))
    assert difference.same, str(difference)
