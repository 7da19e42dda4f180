"""What may be given as how to initialize a model, and what to write instead of anything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Set
from typing import Any, Final

from torch import nn

from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.initializers import Initializer
from zeta.resolve.plans import Plan
from zeta.rules import Rule

_EXPECTED: Final = "expected Rules([...]), the name of a recipe, or a function that initializes the model, got"
_SEVERAL: Final = (Rule, Mapping, Set, list, tuple)
_WRAPPED: Final = 'Rules([Rule("*.bias", Zeros()), ...])'
#: the verbs' arguments, any of which may be mistyped as an option
_ARGUMENTS: Final = ("seed", "only", "progress", "confirm", "fallback")


class Planner(ABC):
    """What makes the plan of a model by itself, such as a scaling; the verbs take it as they take rules."""

    @abstractmethod
    def plan_for(self, model: nn.Module) -> Plan:
        """The plan for this model; ``PlanError`` if it is made for another."""


def no_how(given: Any) -> SpecError:
    """The error about what is no way to initialize a model."""
    if isinstance(given, _SEVERAL):
        return SpecError(f"{_EXPECTED} a {type(given).__name__}: wrap rules, as in {_WRAPPED}")
    if isinstance(given, Plan):
        return SpecError(f"{_EXPECTED} a plan: zeta.apply_(model, plan, seed) writes its values")
    if isinstance(given, nn.Module):
        advice = "give a function of the model, such as lambda model: model.apply(function)"
        return SpecError(f"{_EXPECTED} a module, {type(given).__name__}: {advice}")
    if isinstance(given, Initializer):
        return SpecError(f'{_EXPECTED} an initializer: Rules([Rule("*", {given})]) gives it to every parameter')
    return SpecError(f"{_EXPECTED} {shown(given)}")


def check_function(how: object, options: Collection[str]) -> None:
    """Raise ``SpecError`` if what can be called is a module, and no function of one, or if there are options."""
    if isinstance(how, nn.Module):
        raise no_how(how)
    check_no_options(options, "a function")


def check_no_options(options: Collection[str], what: str) -> None:
    """Raise ``SpecError`` if there are options, which only recipes have."""
    if options:
        close = next(filter(None, (did_you_mean(option, _ARGUMENTS) for option in options)), "")
        raise SpecError(f"only recipes have options, and this is {what}: got {', '.join(options)}{close}")
