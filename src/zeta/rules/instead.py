"""What to write instead of what is no initializer: torch's functions, a tensor, a name without parentheses."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from torch import Tensor

from zeta import initializers
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.initializers import Initializer
from zeta.rules.match import Match

_OF_A_MATCH: Final = (
    "a rule's function gets a Match (name, shape, kind, module, depth, ...), not a tensor, and returns an initializer, "
    "as in lambda m: Normal(0.02 / m.depth); zeta.from_function(function) runs a function of a tensor"
)
# the functions of torch.nn.init and zeta.utils, without the underscores, whose initializers have other names
_NAMES: Final = {
    "zeros": "Zeros()",
    "zero": "Zeros()",
    "ones": "Ones()",
    "constant": "Constant(value)",
    "uniform": "Uniform(low, high)",
    "normal": "Normal(std)",
    "trunc_normal": "TruncatedNormal(std)",
    "eye": "Identity()",
    "identity": "Identity()",
    "dirac": "Dirac()",
    "orthogonal": "Orthogonal()",
    "sparse": "Sparse(sparsity)",
}


class FunctionError(SpecError):
    """A rule's function is not one from a match to an initializer, for whichever parameter."""


def instead_of(value: Any) -> str | None:
    """What to write instead of ``value``; ``None`` if nothing is known."""
    if isinstance(value, Tensor):
        return "a rule gives the law of the values and not the values: write Normal(0.02), Constant(0.5) and the like"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"write {'Zeros()' if value == 0 else f'Constant({value})'} for this value"
    if isinstance(value, str):
        known = _written(value)
        return None if known is None else f"write {known}, of zeta.initializers, without quotes"
    function = value.func if isinstance(value, functools.partial) else value
    if not callable(function):
        return None
    name, home = getattr(function, "__name__", ""), getattr(function, "__module__", "") or ""
    if home == "torch.nn.init" or (home == "zeta.utils" and name.startswith("init_")):
        scheme = name.removeprefix("init_").rstrip("_")
        written = _written(scheme)
        return f"write {written}, of zeta.initializers: {home}.{name} writes to tensors" if written else _OF_A_MATCH
    if isinstance(function, type) and issubclass(function, Initializer):
        return f"write {_call_of(function)}, with parentheses"
    if home.startswith(f"{initializers.__name__}.") and getattr(initializers, name, None) is function:
        return f"write {name}(), with parentheses"
    return None


def instead_of_a_scheme(name: str) -> str:
    """The end of a message about a text that names no recipe but an initializer: its rules, or nothing."""
    written = _written(name)
    return "" if written is None else f'; rules of {written} are Rules([Rule("*.weight", {written}), ...])'


def instead_of_a_recipe(value: Any) -> str:
    """The end of a message about what is no list of rules: how to get the rules of a recipe, or nothing."""
    if isinstance(value, str):
        return f"; the rules of a recipe are zeta.recipes.rules_for({value!r}, model)"
    home = getattr(value, "__module__", "") or ""
    if not home.startswith("zeta.recipes.") or not callable(value):
        return ""
    return f"; the rules of this recipe are zeta.recipes.{value.__name__}(model)"


def _written(scheme: str) -> str | None:
    """The call of the initializer or scheme that a text names, as ``Zeros``, ``zeros_`` or ``kaiming_normal``."""
    scheme = scheme.removesuffix("()").rstrip("_")
    found = getattr(initializers, scheme, None)
    if isinstance(found, type) and issubclass(found, Initializer):
        return _call_of(found)
    return f"{scheme}()" if inspect.isfunction(found) else _NAMES.get(scheme.lower())


def _call_of(initializer: type[Initializer]) -> str:
    name = initializer.__name__
    needs = [each.name for each in inspect.signature(initializer).parameters.values() if each.default is each.empty]
    return next((text for text in _NAMES.values() if text.startswith(f"{name}(")), f"{name}({', '.join(needs)})")


def instead_of_a_result(result: Any) -> str | None:
    """What a rule's function should return or be, if it returned ``result``; ``None`` if nothing is known."""
    return _OF_A_MATCH if isinstance(result, Tensor) else instead_of(result)


def instead_of_a_tensor(error: Exception) -> str | None:
    """What to say to a function that failed because it took the match for something else; ``None`` otherwise."""
    if isinstance(error, AttributeError) and isinstance(error.obj, Match):
        close = did_you_mean(error.name, (name for name in dir(Match) if not name.startswith("_")))
        return close.removeprefix("; ") or _OF_A_MATCH
    about = isinstance(error, TypeError) and Match.__name__ in str(error).replace("'", " ").split()
    return _OF_A_MATCH if about else None


def named(value: Any) -> str:
    """A value that is no initializer, in few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = getattr(value, "__qualname__", None)
    return shown(value) if name is None else f"{value.__module__}.{name}"
