"""What the tests of recipes share: a plan in plain numbers, and a truth in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

import zeta
from zeta import Plan
from zeta.initializers import (
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
)

#: a law in plain numbers: its name, then numbers, or the laws of blocks
Plain = tuple[Any, ...]


def uniform(bound: float) -> Plain:
    return ("uniform", -bound, bound)


def normal(std: float, mean: float = 0.0) -> Plain:
    return ("normal", std, mean)


def constant(value: float) -> Plain:
    return ("constant", value)


ZERO, ONE, KEPT = constant(0.0), constant(1.0), ("keep",)


def plain(law: Initializer) -> Plain:
    """A solved initializer in plain numbers."""
    match law:
        case Keep():
            return KEPT
        case Constant():
            return constant(law.value)
        case Uniform():
            return ("uniform", law.low, law.high)
        case Normal():
            return normal(law.std, law.mean)
        case TruncatedNormal():
            return ("truncated", law.std, *law.bounds())
        case Orthogonal() | DeltaOrthogonal() | Identity() | Dirac():
            return (type(law).__name__.lower(), law.gain)
        case Blocks():
            return ("blocks", law.dim, *map(plain, law.parts))
    raise AssertionError(f"{law!r} has no plain form")


def assert_plan(plan: Plan, truth: Mapping[str, Plain]) -> None:
    """Every parameter of the plan has the law of the truth, and the other way round."""
    found = {entry.name: plain(entry.initializer) for entry in plan.parameters}
    assert sorted(found) == sorted(truth)
    wrong = {name: (law, truth[name]) for name, law in found.items() if not _alike(law, truth[name])}
    assert not wrong, "\n".join(f"{name}: {ours} and not {theirs}" for name, (ours, theirs) in wrong.items())


def _alike(one: Plain, other: Plain) -> bool:
    if len(one) != len(other):
        return False
    return all(
        _alike(a, b)
        if isinstance(a, tuple) and isinstance(b, tuple)
        else a == b
        if isinstance(a, str) or isinstance(b, str)
        else a == pytest.approx(b, rel=1e-9, abs=1e-15)
        for a, b in zip(one, other, strict=True)
    )


def draw(model: nn.Module, recipe: str, **options: Any) -> nn.Module:
    """The model with drawn values; its report is as planned."""
    report = zeta.init_(model, recipe, seed=0, **options)
    assert report.ok, str(report)
    return model
